"""Find the narrowest floating-point type between params and value in the objective's jaxpr, and explain what it costs.

The jaxpr is read as one graph: which values are computed from which. The programs inside operations, such as the body
of a loop, are part of the graph. What a loop feeds back is a cycle in it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.typing import DTypeLike

MAX_VALUES = 50_000  # of the largest program that is read; programs inside operations count once per operation
CONSTANT, WRITTEN = 0, 1  # values that stand for all constants, and for all that operations with side effects write


class NarrowestDtype(NamedTuple):
    """A floating-point type, and the operation that computes in it."""

    dtype: Any
    operation: str


class Diagnosis(NamedTuple):
    """What reading the traced objective tells.

    Args:
        narrowest: where it computes in a narrower type than that of the flat vector; None if nowhere.
        unread: positions of the optimized leaves on which the value does not depend.
    """

    narrowest: NarrowestDtype | None
    unread: tuple[int, ...]


def diagnose(program: ClosedJaxpr | None, optimized: int, dtype: DTypeLike) -> Diagnosis:
    """Read a traced objective, whose first inputs are the optimized leaves; None tells nothing."""
    if program is None:
        return Diagnosis(None, ())
    narrowest = find_narrowest_dtype(program, optimized)
    if narrowest is not None and jnp.finfo(narrowest.dtype).eps <= jnp.finfo(dtype).eps:
        narrowest = None
    return Diagnosis(narrowest, find_unread(program, optimized))


def find_narrowest_dtype(program: ClosedJaxpr, optimized: int) -> NarrowestDtype | None:
    """Find the narrowest type in which the first output is computed from the first `optimized` inputs.

    Only operations between these inputs and this output count. Ignored are data, auxiliary output, what a loop
    carries beside the value, and the conditions of loops and branches.

    Returns:
        None if there is no such operation, if the program is too large, or if a later JAX writes its programs in
        another way. This is a diagnosis: no solve depends on it.
    """
    try:
        graph = _Dataflow(has_conditions=False)
        inputs, value = graph.read(program.jaxpr)
    except Exception:
        return None
    uses: list[list[int]] = [[] for _ in graph.sources]
    for place, sources in enumerate(graph.sources):
        for source in sources:
            uses[source].append(place)
    between = _reachable(graph.sources, [value]) & _reachable(uses, inputs[:optimized])
    results = [graph.results[place] for place in sorted(between)]
    found = [each for each in results if each is not None and jnp.issubdtype(each.dtype, jnp.floating)]
    return max(found, key=lambda each: float(jnp.finfo(each.dtype).eps), default=None)


def find_unread(program: ClosedJaxpr, optimized: int) -> tuple[int, ...]:
    """Return the positions of those of the first `optimized` inputs on which the first output does not depend.

    In doubt a leaf counts as read, as in the condition of a loop or of a branch.
    """
    try:
        graph = _Dataflow(has_conditions=True)
        inputs, value = graph.read(program.jaxpr)
    except Exception:
        return ()
    read = _reachable(graph.sources, [value])
    return tuple(place for place, each in enumerate(inputs[:optimized]) if each not in read)


class _Dataflow:
    """The values of a program, numbered in its order.

    Args:
        has_conditions: whether what a loop or a branch computes is computed from its condition, too.

    Attributes:
        sources: the values from which each value is computed.
        results: what computes it; None for inputs and for what a loop carries.
    """

    def __init__(self, has_conditions: bool) -> None:
        self._has_conditions = has_conditions
        self.sources: list[list[int]] = [[], []]  # of CONSTANT and WRITTEN
        self.results: list[NarrowestDtype | None] = [None, None]

    def read(self, jaxpr: Jaxpr) -> tuple[list[int], int]:
        """Read the program. Return its inputs and its first output."""
        inputs = [self._add([]) for _ in jaxpr.invars]
        return inputs, self._include(jaxpr, inputs)[0]

    def _add(self, sources: Iterable[int], result: NarrowestDtype | None = None) -> int:
        if len(self.sources) > MAX_VALUES:
            raise ValueError("The program is too large.")
        self.sources.append(list(sources))
        self.results.append(result)
        return len(self.sources) - 1

    def _include(self, jaxpr: Jaxpr, inputs: Sequence[int]) -> list[int]:
        """Read a program that is given these values. Return its outputs."""
        values: dict[Var, int] = dict(zip(jaxpr.invars, inputs, strict=True))

        def find(variables: Sequence[Var | Literal]) -> list[int]:
            return [CONSTANT if isinstance(each, Literal) else values.get(each, CONSTANT) for each in variables]

        for equation in jaxpr.eqns:
            name = equation.primitive.name
            sources = self._apply(equation, find(equation.invars))
            for variable, each in zip(equation.outvars, sources, strict=True):
                dtype = getattr(variable.aval, "dtype", jnp.int32)
                values[variable] = self._add(each, NarrowestDtype(dtype, name))
        return find(jaxpr.outvars)

    def _apply(self, equation: JaxprEqn, given: list[int]) -> list[list[int]]:
        """Return the sources of each output of an operation."""
        name, params, count = equation.primitive.name, equation.params, len(equation.outvars)
        inner = list(_inner(params.values()))
        if not inner and equation.effects:  # it may write or read a mutable array
            self.sources[WRITTEN] += given
            return [[*given, WRITTEN]] * count
        if not inner:
            return [given] * count
        if name == "while":
            first, test = params["cond_nconsts"], params["cond_jaxpr"].jaxpr
            carried = self._loop(params["body_jaxpr"].jaxpr, given[first:], params["body_nconsts"], count)
            condition = self._include(test, given[:first] + carried) if self._has_conditions else []
            return [[each, *condition] for each in carried]
        if name == "scan":
            body = inner[0]  # with one axis less of what is scanned
            carried = _count_alike(equation.outvars, body.outvars)
            scanned = len(given) - _count_alike(equation.invars, body.invars)
            return [[each] for each in self._loop(body, given, len(given) - scanned - carried, carried)]
        if name == "cond":
            branches, condition = [self._include(each, given[1:]) for each in inner], given[: self._has_conditions]
            return [[*each, *condition] for each in zip(*branches, strict=True)]
        if len(inner) == 1 and (len(inner[0].invars), len(inner[0].outvars)) == (len(given), count):
            return [[each] for each in self._include(inner[0], given)]
        # It is unknown which input is which: take all. A result inside leads to all outputs.
        joined = self._add(given)
        inside = [end for each in inner for end in self._include(each, [joined] * len(each.invars))]
        return [[joined, *inside]] * count

    def _loop(self, body: Jaxpr, given: list[int], first: int, carried: int) -> list[int]:
        """Read a loop whose body feeds back `carried` of its inputs from position `first` on. Return its outputs.

        What it carries is its input, too: the loop may end before its first round.
        """
        end = first + carried
        carry = [self._add([each]) for each in given[first:end]]
        outputs = self._include(body, [*given[:first], *carry, *given[end:]])
        for each, again in zip(carry, outputs[:carried], strict=True):
            self.sources[each].append(again)
        return carry + outputs[carried:]


def _count_alike(outside: Iterable[Var | Literal], inside: Iterable[Var | Literal]) -> int:
    """Count the values that have the same shape outside and inside of a loop."""
    shapes = [[getattr(each.aval, "shape", ()) for each in values] for values in (outside, inside)]
    return sum(map(operator.eq, *shapes))


def _reachable(edges: Sequence[Sequence[int]], starts: Iterable[int]) -> set[int]:
    """Return the values to which the edges lead from the starts, with these."""
    reached, waiting = set[int](), list(starts)
    while waiting:
        each = waiting.pop()
        if each not in reached:
            reached.add(each)
            waiting += edges[each]
    return reached


def _inner(values: Iterable[Any]) -> Iterator[Jaxpr]:
    """Find the programs among the parameters of an operation, such as the branches of a condition."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _inner(value)


def describe_narrowest(narrowest: NarrowestDtype) -> str:
    """Name the operation of the objective that computes in a narrower type than the solve."""
    return (
        f"The objective itself computes in {narrowest.dtype} (first in the operation {narrowest.operation!r}), "
        "whatever its parameters are: remove the cast, or the data and constants of that type."
    )


def describe_digits(dtype: DTypeLike) -> str:
    """Say to how many digits a solve converged whose last iteration changed only the rounding."""
    kind = jnp.finfo(dtype)
    digits = round(-math.log10(float(kind.eps)))
    return (
        f"The last iteration changed the objective by rounding alone: it is converged to the about {digits} digits "
        f"of {kind.dtype}."
    )


def describe_gain(dtype: DTypeLike, norm: float) -> str:
    """Estimate the gradient norm that float64 could reach, from the norm reached in `dtype`; empty for no gain.

    Near a minimum, f - f_min ~ |g|^2. So the norm at which rounding hides the decrease goes as sqrt(eps).
    """
    own, double = jnp.finfo(dtype), jnp.finfo(jnp.float64)
    if own.eps <= double.eps or math.isnan(norm):
        return ""
    reached = math.sqrt(float(double.eps) / float(own.eps)) * norm
    return (
        f"{own.dtype} has {own.precision} digits and float64 has {double.precision}: with it, the gradient norm could "
        f"go from {norm:.1g} to about {reached:.1g}."
    )
