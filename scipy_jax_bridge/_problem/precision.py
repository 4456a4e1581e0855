"""How finely an objective is computed, read off its program: the narrowest type on the way from params to value."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


class NarrowestDtype(NamedTuple):
    """A floating-point type, and the operation that works in it."""

    dtype: Any
    operation: str


def find_narrowest_dtype(program: ClosedJaxpr, free: int) -> NarrowestDtype | None:
    """The narrowest type in which the first output is computed from the first `free` inputs.

    What does not lie between them does not count: data that come in float32 are exact numbers in float64, auxiliary
    output may be as coarse as it likes, and so may what a loop carries beside the value. Nor does the test that ends
    a loop or chooses a branch. None if no operation lies between them, or if a later JAX writes its programs in
    another way: this is a diagnosis, and no solve depends on it.
    """
    _, found = _find_ways(program, free)
    return max(found, key=lambda each: float(jnp.finfo(each.dtype).eps), default=None)


def find_unread(program: ClosedJaxpr, free: int) -> tuple[int, ...]:
    """Which of the first `free` inputs the first output does not depend on, by their places."""
    inputs, _ = _find_ways(program, free)
    return tuple(place for place, reads in enumerate(inputs[:free]) if not reads)


def _find_ways(program: ClosedJaxpr, free: int) -> tuple[Flags, list[NarrowestDtype]]:
    """What the value depends on and what lies between; all and nothing where it cannot be told."""
    try:
        return _read_ways(program.jaxpr, free)
    except Exception:
        return (True,) * free, []


def _read_ways(jaxpr: Jaxpr, free: int) -> tuple[Flags, list[NarrowestDtype]]:
    sources = tuple(place < free for place in range(len(jaxpr.invars)))
    targets = tuple(place == 0 for place in range(len(jaxpr.outvars)))
    return _Ways().between(jaxpr, sources, targets)


Flags = tuple[bool, ...]  # of variables, in their order


class _Part(NamedTuple):
    """A program inside an operation, whose outputs are the operation's.

    Its inputs are the operation's after the first `skipped`; of them those from `first` on come again, as the first
    `carried` of its outputs.
    """

    jaxpr: Jaxpr
    skipped: int = 0
    first: int = 0
    carried: int = 0

    def feed_back(self, inputs: Flags, outputs: Flags) -> Flags:
        """The inputs, and those to which one of the outputs comes back."""
        end = self.first + self.carried
        again = map(operator.or_, inputs[self.first : end], outputs)
        return (*inputs[: self.first], *again, *inputs[end:])

    def ask_again(self, outputs: Flags, inputs: Flags) -> Flags:
        """The outputs, and those that come back as one of the inputs."""
        again = map(operator.or_, outputs, inputs[self.first : self.first + self.carried])
        return (*again, *outputs[self.carried :])


class _Ways:
    """The floating-point results on the ways from sources to targets. What is known of a program is kept."""

    def __init__(self) -> None:
        self._moved: dict[Any, set[Any]] = {}
        self._between: dict[Any, tuple[Flags, list[NarrowestDtype]]] = {}

    def moved(self, jaxpr: Jaxpr, sources: Flags) -> set[Any]:
        """The variables that depend on the sources."""
        key = jaxpr, sources
        if key not in self._moved:
            moved = {each for each, source in zip(jaxpr.invars, sources, strict=True) if source}
            for equation in jaxpr.eqns:
                given = _flags(equation.invars, moved)
                if any(given):
                    parts = _parts(equation)
                    reached = [self._settle(part, given)[1] for part in parts] or [(True,) * len(equation.outvars)]
                    moved.update(each for each, *hit in zip(equation.outvars, *reached, strict=True) if any(hit))
            self._moved[key] = moved
        return self._moved[key]

    def between(self, jaxpr: Jaxpr, sources: Flags, targets: Flags) -> tuple[Flags, list[NarrowestDtype]]:
        """The inputs from which a way leads to the targets, and the results on them, the first one first."""
        key = jaxpr, sources, targets
        if key not in self._between:
            moved = self.moved(jaxpr, sources)
            ends = [each for each, target in zip(jaxpr.outvars, targets, strict=True) if target]
            wanted: set[Any] = {each for each in ends if not isinstance(each, Literal) and each in moved}
            found = []
            for equation in reversed(jaxpr.eqns):
                asked = _flags(equation.outvars, wanted)
                if any(asked):
                    needs, inside = self._inside(equation, _flags(equation.invars, moved), asked)
                    wanted.update(each for each, need in zip(equation.invars, needs, strict=True) if need)
                    results: list[Any] = [each.aval for each, ask in zip(equation.outvars, asked, strict=True) if ask]
                    own = [NarrowestDtype(each.dtype, equation.primitive.name) for each in filter(_is_real, results)]
                    found.append(inside + own)
            self._between[key] = _flags(jaxpr.invars, wanted), [each for group in reversed(found) for each in group]
        return self._between[key]

    def _inside(self, equation: Any, given: Flags, asked: Flags) -> tuple[Flags, list[NarrowestDtype]]:
        """The inputs of an operation that matter to the outputs asked for, and the results inside."""
        parts, found = _parts(equation), list[NarrowestDtype]()
        if not parts:
            for jaxpr in _inner(equation.params.values()):  # nobody knows which input is which
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
        """The inputs and outputs of a part that depend on the sources, after any number of rounds of a loop."""
        sources = given[part.skipped :]
        while True:
            reached = _flags(part.jaxpr.outvars, self.moved(part.jaxpr, sources))
            before, sources = sources, part.feed_back(sources, reached)
            if sources == before:
                return sources, reached


def _parts(equation: Any) -> list[_Part]:
    """The programs inside an operation, as far as it is known which input of theirs is which of the operation's."""
    try:
        return _read_parts(equation)
    except (KeyError, AttributeError):  # the names are JAX's own, and may change
        return []


def _read_parts(equation: Any) -> list[_Part]:
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


def _flags(variables: Sequence[Any], among: set[Any]) -> Flags:
    return tuple(not isinstance(each, Literal) and each in among for each in variables)


def _is_real(aval: Any) -> bool:
    return bool(jnp.issubdtype(getattr(aval, "dtype", jnp.int32), jnp.floating))


def _inner(values: Any) -> Iterator[Jaxpr]:
    """The programs inside an operation: of a jitted function, the body of a loop, the branches of a condition."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _inner(value)


def describe_narrowest(narrowest: NarrowestDtype) -> str:
    """Which operation of the objective is coarser than the solve."""
    return (
        f"The objective itself computes in {narrowest.dtype} (first in the operation {narrowest.operation!r}), "
        "whatever its parameters are: remove the cast, or the data and constants of that type."
    )


def describe_digits(dtype: Any) -> str:
    """To how many digits a solve has converged whose last iteration changed nothing but the rounding."""
    kind = jnp.finfo(dtype)
    digits = round(-math.log10(float(kind.eps)))
    return (
        f"The last iteration changed the objective by rounding alone: it is converged to the about {digits} digits "
        f"of {kind.dtype}."
    )


def describe_gain(dtype: Any, norm: float) -> str:
    """What double precision would buy a solve in this type that ended at this norm of the gradient; empty if nothing.

    Near a minimum the objective lies above it by about the square of the gradient, so the norm that rounding hides
    goes as the square root of the rounding.
    """
    own, double = jnp.finfo(dtype), jnp.finfo(jnp.float64)
    if own.eps <= double.eps or math.isnan(norm):
        return ""
    reached = math.sqrt(float(double.eps) / float(own.eps)) * norm
    return (
        f"{own.dtype} has {own.precision} digits and float64 has {double.precision}: with it, the gradient norm could "
        f"go from {norm:.1g} to about {reached:.1g}."
    )
