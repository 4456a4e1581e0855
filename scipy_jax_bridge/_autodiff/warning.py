"""Warnings about a derivative that is NaN or inaccurate, with the cause and the cure."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from .._core.errors import warn
from .._core.options import Options
from .._core.outcome import Count
from .._core.status import Status
from .._core.stopping import projected_norm
from .._core.types import Scalar, Vector

REFUSED = 1e-2  # relative residual of the linear system above which the derivative is NaN
DOUBTED = 0.5  # a relative residual above rounding**DOUBTED is reported

Sides = tuple[Array | np.ndarray, Array | np.ndarray]  # the lower and the upper bounds of the flat vector


class DerivativeWarning(UserWarning):
    """The derivative of a solve is NaN or inaccurate: the solve stopped early, or its Hessian is singular or bad."""


def warn_of_early_end(status: Count, x: Vector, grad: Vector | None, bounds: Sides | None) -> None:
    """Warn if the solve was stopped early: the derivative is right at a minimum only.

    NOISE_FLOOR is as near as rounding allows. After LINESEARCH the point is near enough if the default gtol holds.
    """
    end = Status(int(status))
    if end.success or end == Status.NOISE_FLOOR:
        return
    if end == Status.LINESEARCH and grad is not None and _projected_norm(x, grad, bounds) <= Options().gtol:
        return
    warn(
        f"A derivative is taken of a solve that ended {end.name}. It is that of the point reached, and may be far from "
        f"that of the minimum. Let the solve converge first: {end.sentence}",
        DerivativeWarning,
    )


def _projected_norm(x: Vector, grad: Vector, bounds: Sides | None) -> float:
    infinite = np.full(np.shape(x), np.inf)
    vectors = (x, grad, *((-infinite, infinite) if bounds is None else bounds))
    return projected_norm(*(np.asarray(each, np.float64) for each in vectors))


def make_residual_report(rounding: float) -> Callable[[Scalar], Scalar]:
    """Return a function that warns of a large residual; of the largest one in a batch.

    It warns on the caller's thread, also during the reverse pass.
    """

    def warn_of(residual: Array | np.ndarray) -> None:
        if not residual <= rounding**DOUBTED:
            warn(_describe(float(residual)), DerivativeWarning)

    @custom_vmap
    def report(residual: Scalar) -> Scalar:
        jax.debug.callback(warn_of, residual)
        return residual

    @report.def_vmap
    def report_largest(size: int, batched: list[bool], residuals: Float[Array, " batch"]) -> tuple[Scalar, bool]:
        return report(jnp.max(residuals)), False

    return report


def _describe(residual: float) -> str:
    if residual == math.inf:
        return (
            "The derivative of the solve is NaN: the Hessian where it ended has a negative eigenvalue, so this is no "
            "minimum. Solve to a smaller gtol, or from another start."
        )
    if math.isnan(residual):
        return (
            "The derivative of the solve is NaN: the Hessian where it ended, or what is differentiated, is not finite. "
            "Look for 0 / 0, sqrt(0) and abs in the objective, and mend them with jnp.where on the argument."
        )
    what = f"the linear system for the derivative of the solve was left with a relative residual of {residual:.1e}"
    cure = (
        "The Hessian is ill-conditioned. Scale the parameters alike, take away those that change nothing, or compute "
        "in float64."
    )
    if residual > REFUSED:
        return f"The derivative is NaN: {what}. {cure}"
    return f"The derivative is inaccurate: {what}. {cure}"
