"""What ends a solve and bounds it, as inputs of the program: a new tolerance compiles nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._core.options import COUNT_MAX, Options
from .._core.types import FlatVector, Number, Tracer
from .._problem.problem import Problem

Scalar = Float[Array, ""]


class Box(NamedTuple):
    """Lower and upper bounds, infinite where there is none."""

    lower: FlatVector
    upper: FlatVector


class Tolerances(NamedTuple):
    """What ends a solve. The values are traced, so a new tolerance compiles nothing."""

    gtol: Scalar
    ftol: Scalar
    maxiter: Int[Array, ""]
    maxfun: Int[Array, ""]
    maxls: Scalar
    maxcor: Scalar
    rounding: Scalar  # the relative rounding error of the objective


def tolerances_of(problem: Problem, options: Options) -> Tolerances:
    """Return the tolerances as inputs of the program, in the type of its arithmetic."""
    dtype = np.dtype(problem.spec.dtype)
    return Tolerances(
        gtol=_as(options.gtol, dtype),
        ftol=_as(options.ftol, dtype),
        maxiter=_as_count(options.maxiter),
        maxfun=_as_count(options.maxfun),
        maxls=_as(options.maxls, dtype),
        maxcor=_as(options.maxcor, dtype),
        rounding=_as(problem.spec.rounding, dtype),
    )


def _as_count(value: Number) -> Any:
    if not isinstance(value, Tracer):
        return np.int32(value)
    if jnp.issubdtype(value.dtype, jnp.floating):
        # An int32 holds less than 2**31. The limit here is below that in float32 too.
        value = value.astype(jnp.float32 if value.dtype.itemsize < 4 else value.dtype)
        value = jnp.minimum(value, jnp.asarray(2.0**31 - 128, value.dtype))
    elif value.dtype.itemsize > 4 or jnp.issubdtype(value.dtype, jnp.unsignedinteger):
        value = jnp.minimum(value, jnp.asarray(COUNT_MAX, value.dtype))
    return value.astype(jnp.int32)


def _as(value: Number, dtype: np.dtype) -> Any:
    return value.astype(dtype) if isinstance(value, Tracer) else dtype.type(value)


def box_of(problem: Problem) -> Box | None:
    """Return the bounds as inputs of the program, in the type of its arithmetic."""
    bounds = problem.bounds
    if bounds is None:
        return None
    return Box(bounds.lower.astype(problem.spec.dtype), bounds.upper.astype(problem.spec.dtype))
