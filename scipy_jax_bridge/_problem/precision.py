"""Find the narrowest floating-point type between params and value in the objective's jaxpr, and explain what it costs.

The jaxpr is read as a dataflow graph: which variables depend on the params, and which of them the value depends on.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.typing import DTypeLike

Flags = tuple[bool, ...]  # one for each variable of a list


class NarrowestDtype(NamedTuple):
    """A floating-point type, and the operation that computes in it."""

    dtype: Any
    operation: str


def find_narrowest_dtype(program: ClosedJaxpr, optimized: int) -> NarrowestDtype | None:
    """Find the narrowest type in which the first output is computed from the first `optimized` inputs.

    Only operations between these inputs and this output count. Ignored are data, auxiliary output, what a loop
    carries beside the value, and the conditions of loops and branches.

    Returns:
        None if there is no such operation, or if a later JAX writes its programs in another way. This is a
        diagnosis: no solve depends on it.
    """
    _, found = _find_dataflow(program, optimized)
    return max(found, key=lambda each: float(jnp.finfo(each.dtype).eps), default=None)


def find_unread(program: ClosedJaxpr, optimized: int) -> tuple[int, ...]:
    """Return the positions of those of the first `optimized` inputs on which the first output does not depend."""
    inputs, _ = _find_dataflow(program, optimized)
    return tuple(place for place, is_read in enumerate(inputs[:optimized]) if not is_read)


def _find_dataflow(program: ClosedJaxpr, optimized: int) -> tuple[Flags, list[NarrowestDtype]]:
    """Return which inputs the value depends on and the results between. If unreadable: all inputs, no results."""
    try:
        jaxpr = program.jaxpr
        sources = tuple(place < optimized for place in range(len(jaxpr.invars)))
        targets = tuple(place == 0 for place in range(len(jaxpr.outvars)))
        return _Dataflow().between(jaxpr, sources, targets)
    except Exception:
        return (True,) * optimized, []


class _Part(NamedTuple):
    """A program inside an operation, such as the body of a loop. Its outputs are those of the operation.

    Args:
        jaxpr: the program.
        skipped: its inputs are those of the operation after the first `skipped`.
        first, carried: of these inputs, `carried` from position `first` on are fed back from the first outputs.
    """

    jaxpr: Jaxpr
    skipped: int = 0
    first: int = 0
    carried: int = 0

    def feed_back(self, inputs: Flags, outputs: Flags) -> Flags:
        """Flag the inputs too that are fed back from flagged outputs."""
        end = self.first + self.carried
        again = map(operator.or_, inputs[self.first : end], outputs)
        return (*inputs[: self.first], *again, *inputs[end:])

    def ask_again(self, outputs: Flags, inputs: Flags) -> Flags:
        """Flag the outputs too that feed flagged inputs."""
        again = map(operator.or_, outputs, inputs[self.first : self.first + self.carried])
        return (*again, *outputs[self.carried :])


class _Dataflow:
    """The floating-point results between sources and targets. Results for a program are cached."""

    def __init__(self) -> None:
        self._reached: dict[tuple[Jaxpr, Flags], set[Var]] = {}
        self._between: dict[tuple[Jaxpr, Flags, Flags], tuple[Flags, list[NarrowestDtype]]] = {}

    def reached(self, jaxpr: Jaxpr, sources: Flags) -> set[Var]:
        """Return the variables that depend on the sources, which are inputs of the program."""
        key = jaxpr, sources
        if key not in self._reached:
            reached = {each for each, source in zip(jaxpr.invars, sources, strict=True) if source}
            for equation in jaxpr.eqns:
                given = _flags(equation.invars, reached)
                if any(given):
                    outputs = [self._settle(part, given)[1] for part in _parts(equation)]
                    outputs = outputs or [(True,) * len(equation.outvars)]
                    reached.update(each for each, *hit in zip(equation.outvars, *outputs, strict=True) if any(hit))
            self._reached[key] = reached
        return self._reached[key]

    def between(self, jaxpr: Jaxpr, sources: Flags, targets: Flags) -> tuple[Flags, list[NarrowestDtype]]:
        """Return the inputs that lead from the sources to the targets, and the results between, in program order."""
        key = jaxpr, sources, targets
        if key not in self._between:
            reached = self.reached(jaxpr, sources)
            ends = [each for each, target in zip(jaxpr.outvars, targets, strict=True) if target]
            wanted = {each for each in ends if not isinstance(each, Literal) and each in reached}
            found = []
            for equation in reversed(jaxpr.eqns):
                asked = _flags(equation.outvars, wanted)
                if any(asked):
                    needs, inside = self._inside(equation, _flags(equation.invars, reached), asked)
                    inputs = zip(equation.invars, needs, strict=True)
                    wanted.update(each for each, need in inputs if need and not isinstance(each, Literal))
                    results = [each.aval for each, ask in zip(equation.outvars, asked, strict=True) if ask]
                    dtypes = [getattr(each, "dtype", jnp.int32) for each in results]
                    name = equation.primitive.name
                    found.append(inside + [NarrowestDtype(each, name) for each in dtypes if _is_real(each)])
            self._between[key] = _flags(jaxpr.invars, wanted), [each for group in reversed(found) for each in group]
        return self._between[key]

    def _inside(self, equation: JaxprEqn, given: Flags, asked: Flags) -> tuple[Flags, list[NarrowestDtype]]:
        """Return the inputs of an operation that lead to the outputs asked for, and the results inside it."""
        parts, found = _parts(equation), list[NarrowestDtype]()
        if not parts:
            for jaxpr in _inner(equation.params.values()):  # it is unknown which input is which: take all
                found += self.between(jaxpr, (True,) * len(jaxpr.invars), (True,) * len(jaxpr.outvars))[1]
            return given, found
        needs = [False] * len(given)
        for part in parts:
            sources, _ = self._settle(part, given)
            targets = asked
            inputs, inside = self.between(part.jaxpr, sources, targets)
            while (again := part.ask_again(targets, inputs)) != targets:
                targets = again
                inputs, inside = self.between(part.jaxpr, sources, targets)
            found += inside
            for place, need in enumerate(inputs, part.skipped):
                needs[place] |= need and given[place]
        return tuple(needs), found

    def _settle(self, part: _Part, given: Flags) -> tuple[Flags, Flags]:
        """Return the inputs and outputs of a part that depend on the sources, after any number of loop iterations."""
        sources = given[part.skipped :]
        while True:
            outputs = _flags(part.jaxpr.outvars, self.reached(part.jaxpr, sources))
            before, sources = sources, part.feed_back(sources, outputs)
            if sources == before:
                return sources, outputs


def _parts(equation: JaxprEqn) -> list[_Part]:
    """Return the programs inside an operation whose inputs can be matched with those of the operation."""
    try:
        return _read_parts(equation)
    except (KeyError, AttributeError):  # the names of the parameters are internal to JAX and may change
        return []


def _read_parts(equation: JaxprEqn) -> list[_Part]:
    name, params = equation.primitive.name, equation.params
    if name == "while":
        body, first = params["body_jaxpr"].jaxpr, params["body_nconsts"]
        parts = [_Part(body, params["cond_nconsts"], first, len(body.outvars))]
    elif name == "scan":
        parts = [_Part(params["jaxpr"].jaxpr, 0, params["num_consts"], params["num_carry"])]
    elif name == "cond":
        parts = [_Part(branch.jaxpr, 1) for branch in params["branches"]]
    else:
        parts = [_Part(jaxpr) for jaxpr in _inner(params.values())]
    sizes = len(equation.invars), len(equation.outvars)
    fits = all((part.skipped + len(part.jaxpr.invars), len(part.jaxpr.outvars)) == sizes for part in parts)
    return parts if fits else []


def _flags(variables: Sequence[Var | Literal], among: set[Var]) -> Flags:
    return tuple(not isinstance(each, Literal) and each in among for each in variables)


def _is_real(dtype: DTypeLike) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


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
