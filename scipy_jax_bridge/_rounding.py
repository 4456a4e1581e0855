"""How finely an objective is computed, read off its program: the coarsest type on the way from params to value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


class Coarsest(NamedTuple):
    """A floating-point type, and the operation that works in it."""

    dtype: Any
    operation: str


def find_coarsest(program: ClosedJaxpr, free: int) -> Coarsest | None:
    """The coarsest type in which the first output is computed from the first `free` inputs.

    What does not lie between them does not count: data that come in float32 are exact numbers in float64, and
    auxiliary output may be as coarse as it likes. None if no operation lies between them.
    """
    jaxpr = program.jaxpr
    found = list(_operations(jaxpr, jaxpr.invars[:free], jaxpr.outvars[:1]))[::-1]  # the first one first
    return max(found, key=lambda each: float(jnp.finfo(each.dtype).eps), default=None)


def _operations(jaxpr: Jaxpr, sources: Sequence[Any], targets: Sequence[Any]) -> Iterator[Coarsest]:
    """The floating-point results on the ways from sources to targets."""
    moved = set(sources)
    after = []
    for equation in jaxpr.eqns:
        if any(not isinstance(each, Literal) and each in moved for each in equation.invars):
            moved.update(equation.outvars)
            after.append(equation)
    wanted = {each for each in targets if not isinstance(each, Literal)}
    for equation in reversed(after):
        if not any(each in wanted for each in equation.outvars):
            continue
        inputs = [each for each in equation.invars if not isinstance(each, Literal)]
        wanted.update(inputs)
        for result in equation.outvars:
            if jnp.issubdtype(getattr(result.aval, "dtype", jnp.int32), jnp.floating):
                yield Coarsest(result.aval.dtype, equation.primitive.name)
        for inner in _inner(equation.params.values()):
            same = len(inner.invars) == len(equation.invars)
            paired = zip(inner.invars, equation.invars, strict=False)
            reached = [own for own, given in paired if not isinstance(given, Literal) and given in moved]
            yield from _operations(inner, reached if same else inner.invars, inner.outvars)


def _inner(values: Any) -> Iterator[Jaxpr]:
    """The programs inside an operation: of a jitted function, the body of a loop, the branches of a condition."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _inner(value)


def describe_coarsest(coarsest: Coarsest) -> str:
    """Which operation of the objective is coarser than the solve."""
    return (
        f"The objective itself computes in {coarsest.dtype} (first in the operation {coarsest.operation!r}), whatever "
        "its parameters are: remove the cast, or the data and constants of that type."
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
