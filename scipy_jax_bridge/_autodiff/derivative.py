"""The derivative of a solution: implicit differentiation at the solution, never unrolling.

At a minimizer x(a) the projected gradient vanishes. With F the components that no bound holds, H the Hessian of
the objective and g its gradient, differentiating g_F(x(a), a) = 0 gives

    dx_F = -H_FF^+ ((dg/da da)_F + H_FA dx_A),        dx_A = the change of the bounds that hold A.

The pseudo-inverse H_FF^+ chooses the shortest change where the Hessian is singular. The value moves by its partial
derivative alone, since g_F = 0. Source: A. V. Fiacco, "Introduction to Sensitivity and Stability Analysis in Nonlinear
Programming", 1983, section 3.2; M. Blondel et al., "Efficient and modular implicit differentiation", NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from .._core.errors import warn
from .._core.options import Options
from .._core.promotion import standard_promotion
from .._core.status import Status
from .._core.stopping import projected_norm
from .linear import solve_symmetric

REFUSED = 1e-2  # relative residual of the linear system above which the derivative is NaN
DOUBTED = 0.5  # of the digits: a residual above that is told


class DerivativeWarning(UserWarning):
    """The derivative of a solve is NaN or inaccurate: the solve stopped early, or its Hessian is no good."""


class Point(NamedTuple):
    """Where the solution is differentiated."""

    x: Any
    grad: Any
    extended: Any  # the data of the objective, with those that it closes over
    bounds: Any  # lower and upper, or None


class Derivative:
    """The derivative of where an objective is minimal, made of functions that are compiled when they are called.

    Arguments:
        objective: of the flat vector, the data, and what it closes over.
        rounding: the relative rounding of its value.
    """

    def __init__(self, objective: Callable[..., Any], rounding: float) -> None:
        self._objective, self._rounding = objective, rounding
        self._report = _make_report(rounding)
        self._gradient, self._right_side, self._multiply, self._invert, self._follow = map(
            jax.jit, (self._find_gradient, self._find_right_side, self._times_hessian, self._solve, self._move)
        )

    def tangents(self, solution: tuple[Any, ...], inputs: Any, tangents: Any, *, reports: bool) -> tuple[Any, ...]:
        """How the solution moves with the data and the bounds; counters and the trace do not.

        Arguments:
            solution: x, value, gradient, aux, and what does not move.
            inputs, tangents: the data of the objective and the bounds, and how they move.
            reports: whether somebody is there to be warned: the values are known.
        """
        x, value, grad, aux = solution[:4]
        grad = self._gradient(x, inputs[0]) if grad is None else grad
        point, real = Point(x, grad, *inputs), _real_leaves(tangents)

        def solve(_: Any, b: Any) -> Any:
            y, residual = self._invert(point, b)
            if reports:
                self._report(residual)  # outside of what is compiled
            return y

        b, d_held, d_value = self._right_side(point, real)
        step = lax.custom_linear_solve(partial(self._multiply, point), b, solve, symmetric=True)
        dx, d_value, d_grad, d_aux = _complete(self._follow(point, step, d_held, d_value, real), (x, value, grad, aux))
        moved = (dx, d_value, None if solution[2] is None else d_grad, d_aux)
        return (*moved, *jax.tree.map(_zero_tangent, solution[4:]))

    def _evaluate(self, x: Any, extended: Any) -> tuple[Any, Any, Any]:
        data, hoisted = extended
        (value, aux), grad = jax.value_and_grad(self._objective, has_aux=True)(x, data, *hoisted)
        return value, grad, aux

    def _find_gradient(self, x: Any, extended: Any) -> Any:
        return self._evaluate(x, extended)[1]

    def _find_right_side(self, point: Point, real_tangents: list[Any]) -> tuple[Any, Any, Any]:
        """Of the linear system; and the changes of the components that bounds hold, and of the value."""
        with standard_promotion():
            x, _, extended, bounds = point
            d_extended, d_bounds = _complete(real_tangents, (extended, bounds))
            held, d_held = _find_held(point), _move_held(point, d_bounds)
            _, (d_value, d_grad, _) = jax.jvp(self._evaluate, (x, extended), (d_held, d_extended))
            return jnp.where(held, 0, -d_grad), d_held, d_value

    def _multiplier(self, point: Point) -> Callable[[Any], Any]:
        """v -> H_FF v."""
        held, product = _find_held(point), _hessian_at(lambda x: self._find_gradient(x, point.extended), point.x)
        return lambda v: jnp.where(held, 0, product(jnp.where(held, 0, v)))

    def _times_hessian(self, point: Point, v: Any) -> Any:
        with standard_promotion():
            return self._multiplier(point)(v)

    def _solve(self, point: Point, b: Any) -> tuple[Any, Any]:
        """H_FF^+ b, NaN where that cannot be trusted, and the relative residual."""
        with standard_promotion():
            b = jnp.where(_find_held(point), 0, b)
            y, residual = solve_symmetric(self._multiplier(point), b, self._rounding)
            return jnp.where(residual <= REFUSED, y, jnp.nan), residual

    def _move(self, point: Point, step: Any, d_held: Any, d_value: Any, real_tangents: list[Any]) -> list[Any]:
        """The changes of params, of the value as given, of gradient and aux."""
        with standard_promotion():
            x, _, extended, bounds = point
            d_extended, _ = _complete(real_tangents, (extended, bounds))
            held = _find_held(point)
            dx = jnp.where(held, d_held, step)
            d_value += jnp.sum(jnp.where(held & ~held, step, 0))  # 0: JAX 0.6 cannot transpose an unused linear solve
            _, (_, d_grad, d_aux) = jax.jvp(self._evaluate, (x, extended), (dx, d_extended))
            return _real_leaves((dx, d_value, d_grad, d_aux))


def warn_of_early_end(status: Any, x: Any, grad: Any, bounds: Any) -> None:
    """A solve that was stopped is at no minimum, for which alone the derivative is right.

    NOISE_FLOOR is as near as rounding allows; a line search that failed is near enough if the default gtol holds.
    """
    end = Status(int(status))
    if end.success or end == Status.NOISE_FLOOR:
        return
    if end == Status.LINESEARCH and grad is not None and _norm(x, grad, bounds) <= Options().gtol:
        return
    warn(
        f"A derivative is taken of a solve that ended {end.name}. It is that of the point reached, and may be far from "
        f"that of the minimum. Let the solve converge first: {end.sentence}",
        DerivativeWarning,
    )


def _norm(x: Any, grad: Any, bounds: Any) -> float:
    """Of the projected gradient."""
    infinite = np.full(np.shape(x), np.inf)
    vectors = (x, grad, *((-infinite, infinite) if bounds is None else bounds))
    return projected_norm(*(np.asarray(each, np.float64) for each in vectors))


def _make_report(rounding: float) -> Callable[[Any], Any]:
    """Warns of a residual, or of the largest one of a batch: on the caller's thread, in the reverse pass too."""

    def tell(residual: Any) -> None:
        if not residual <= rounding**DOUBTED:
            warn(_describe(float(residual)), DerivativeWarning)

    @custom_vmap
    def report(residual: Any) -> Any:
        jax.debug.callback(tell, residual)
        return residual

    @report.def_vmap
    def report_most(size: int, batched: list[bool], residuals: Any) -> tuple[Any, bool]:
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


def _find_active(point: Point) -> tuple[Any, Any]:
    """The components that lie at a bound, and whose gradient keeps them there."""
    x, grad, _, bounds = point
    lower, upper = (side.astype(x.dtype) for side in bounds)
    return (x <= lower) & (grad >= 0), (x >= upper) & (grad <= 0)


def _find_held(point: Point) -> Any:
    if point.bounds is None:
        return jnp.zeros(point.x.shape, bool)
    at_lower, at_upper = _find_active(point)
    return at_lower | at_upper


def _move_held(point: Point, d_bounds: Any) -> Any:
    """The components that a bound holds move with it."""
    if d_bounds is None:
        return jnp.zeros_like(point.x)
    at_lower, at_upper = _find_active(point)
    d_lower, d_upper = (side.astype(point.x.dtype) for side in d_bounds)
    return jnp.where(at_lower, d_lower, jnp.where(at_upper, d_upper, 0))


def _hessian_at(gradient: Callable[[Any], Any], x: Any) -> Callable[[Any], Any]:
    """v -> H v, by the gradient's derivative in reverse, which rules of jax.custom_vjp allow; H is symmetric.

    Loops of unknown length inside the gradient have none in reverse; then forward.
    """
    try:
        _, pull = jax.vjp(gradient, x)
        jax.eval_shape(pull, x)
    except ValueError:
        return jax.linearize(gradient, x)[1]
    return lambda v: pull(v)[0]


def _zero_tangent(value: Any) -> Any:
    return np.zeros(value.shape, value.dtype if _is_real(value) else jax.dtypes.float0)


def _is_real(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))


def _real_leaves(tangents: Any) -> list[Any]:
    """Without those of integers, which a jitted function does not take."""
    return [tangent for tangent in jax.tree.leaves(tangents) if tangent.dtype != jax.dtypes.float0]


def _complete(real_tangents: list[Any], values: Any) -> Any:
    """The tangents of these values again."""
    real = iter(real_tangents)
    return jax.tree.map(lambda value: next(real) if _is_real(value) else _zero_tangent(value), values)
