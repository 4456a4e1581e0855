"""The derivative of a solution, by implicit differentiation at the solution; nothing is unrolled.

At a minimizer x(a) the projected gradient vanishes. With F the components that no bound holds, A the others, H the
Hessian of the objective and g its gradient, differentiating g_F(x(a), a) = 0 gives

    dx_F = -H_FF^+ ((dg/da da)_F + H_FA dx_A),        dx_A = the change of the bounds that hold A.

The pseudo-inverse H_FF^+ chooses the shortest change where the Hessian is singular. The value changes by its partial
derivative alone, since g_F = 0. Source: A. V. Fiacco, "Introduction to Sensitivity and Stability Analysis in Nonlinear
Programming", 1983, section 3.2; M. Blondel et al., "Efficient and modular implicit differentiation", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, PyTree

from .._core.manual import is_manual, vary_with
from .._core.outcome import FlatOutcome
from .._core.promotion import standard_promotion
from .._core.types import FlatVector, Leaf, Scalar
from .._problem.objective import Data, FlatObjective
from .linear import Multiply, solve_symmetric
from .warning import REFUSED, Sides, make_residual_report


class Point(NamedTuple):
    """The point at which the solution is differentiated, and what it depends on."""

    x: FlatVector
    grad: FlatVector
    data: Data
    bounds: Sides | None


class Derivative:
    """The derivative of the minimizer of one objective. Its functions are compiled at their first call.

    Args:
        objective: with its gradient.
        rounding: the relative rounding of the value.
    """

    def __init__(self, objective: FlatObjective, rounding: float) -> None:
        self._objective, self._rounding = objective, rounding
        self._report = make_residual_report(rounding)
        self._gradient, self._right_side, self._multiply, self._invert, self._follow = map(
            jax.jit, (self._find_gradient, self._find_right_side, self._times_hessian, self._solve, self._move)
        )

    def tangents(
        self,
        solution: FlatOutcome,
        inputs: tuple[Data, Sides | None],
        tangents: tuple[PyTree, PyTree],
        *,
        reports: bool,
    ) -> FlatOutcome:
        """Return the tangents of the solution. Those of the counters and of the trace are zero.

        Args:
            solution: where the solve ended.
            inputs: the data of the objective with the values it closes over, and the bounds.
            tangents: their tangents.
            reports: whether to warn of an inaccurate derivative; only if the values are known.
        """
        x, value, grad, aux = solution[:4]
        grad = self._gradient(x, inputs[0]) if grad is None else grad
        point, real = Point(x, grad, *inputs), _real_leaves(tangents)

        def solve(_: Multiply, b: FlatVector) -> FlatVector:
            y, residual = self._invert(point, b)
            if reports:
                self._report(residual)  # outside of what is compiled
            return y

        b, d_held, d_value = self._right_side(point, real)
        step = lax.custom_linear_solve(partial(self._multiply, point), b, solve, symmetric=True)
        dx, d_value, d_grad, d_aux = _complete(self._follow(point, step, d_held, d_value, real), (x, value, grad, aux))
        zeros = jax.tree.map(_zero_tangent, solution[4:])
        return FlatOutcome(dx, d_value, None if solution.grad is None else d_grad, d_aux, *zeros)

    def _find_gradient(self, x: FlatVector, data: Data) -> FlatVector:
        return self._objective.value_and_grad(x, data)[1]

    def _find_right_side(self, point: Point, real_tangents: list[Leaf]) -> tuple[FlatVector, FlatVector, Scalar]:
        """Return the right side of the linear system, dx_A, and the tangent of the value."""
        with standard_promotion():
            x, _, data, bounds = point
            d_data, d_bounds = _complete(real_tangents, (data, bounds))
            held, d_held = _find_held(point), _move_held(point, d_bounds)
            _, (d_value, d_grad, _) = jax.jvp(self._objective.value_and_grad, (x, data), (d_held, d_data))
            return jnp.where(held, 0, -d_grad), d_held, d_value

    def _multiplier(self, point: Point) -> Multiply:
        """Return v -> H_FF v."""
        held, product = _find_held(point), _hessian_at(lambda x: self._find_gradient(x, point.data), point.x)
        return lambda v: jnp.where(held, 0, product(jnp.where(held, 0, v)))

    def _times_hessian(self, point: Point, v: FlatVector) -> FlatVector:
        with standard_promotion():
            return self._multiplier(point)(v)

    def _solve(self, point: Point, b: FlatVector) -> tuple[FlatVector, Scalar]:
        """Return H_FF^+ b, NaN where it is too inaccurate, and its relative residual."""
        with standard_promotion():
            b = jnp.where(_find_held(point), 0, b)
            y, residual = solve_symmetric(self._multiplier(point), b, self._rounding)
            return jnp.where(residual <= REFUSED, y, jnp.nan), residual

    def _move(
        self, point: Point, step: FlatVector, d_held: FlatVector, d_value: Scalar, real_tangents: list[Leaf]
    ) -> list[Leaf]:
        """Return the real tangents of x, of the value, which is passed in, of gradient and aux."""
        with standard_promotion():
            x, _, data, bounds = point
            d_data, _ = _complete(real_tangents, (data, bounds))
            held = _find_held(point)
            dx = jnp.where(held, d_held, step)
            d_value += jnp.sum(jnp.where(held & ~held, step, 0))  # 0: JAX 0.6 cannot transpose an unused linear solve
            _, (_, d_grad, d_aux) = jax.jvp(self._objective.value_and_grad, (x, data), (dx, d_data))
            return _real_leaves((dx, d_value, d_grad, d_aux))


def _find_active(point: Point, bounds: Sides) -> tuple[Bool[Array, " n"], Bool[Array, " n"]]:
    """Return which components lie at the lower and at the upper bound with a gradient that keeps them there."""
    lower, upper = (side.astype(point.x.dtype) for side in bounds)
    return (point.x <= lower) & (point.grad >= 0), (point.x >= upper) & (point.grad <= 0)


def _find_held(point: Point) -> Bool[Array, " n"]:
    """Return which components are in A."""
    if point.bounds is None:
        return jnp.zeros(point.x.shape, bool)
    at_lower, at_upper = _find_active(point, point.bounds)
    return at_lower | at_upper


def _move_held(point: Point, d_bounds: Sides | None) -> FlatVector:
    """Return dx_A: a component that a bound holds moves with it."""
    if point.bounds is None or d_bounds is None:
        return jnp.zeros_like(point.x)
    at_lower, at_upper = _find_active(point, point.bounds)
    d_lower, d_upper = (side.astype(point.x.dtype) for side in d_bounds)
    return jnp.where(at_lower, d_lower, jnp.where(at_upper, d_upper, 0))


def _hessian_at(gradient: Callable[[FlatVector], FlatVector], x: FlatVector) -> Multiply:
    """Return v -> H v, by reverse differentiation of the gradient; H is symmetric.

    Unlike forward differentiation, it works through rules of jax.custom_vjp. Loops of unknown length in the gradient
    have no reverse derivative: differentiate those forward.
    """
    try:
        _, pull = jax.vjp(gradient, x)
        jax.eval_shape(pull, x)
    except ValueError:
        return jax.linearize(gradient, x)[1]
    return lambda v: pull(vary_with(v, x))[0]


def _zero_tangent(value: Array | np.ndarray) -> Array | np.ndarray:
    if is_manual():  # it has to vary as the value does
        return jax.custom_derivatives.zero_from_primal(value)
    return np.zeros(value.shape, value.dtype if _is_real(value) else jax.dtypes.float0)


def _is_real(value: Array | np.ndarray) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))


def _real_leaves(tangents: PyTree) -> list[Leaf]:
    """Drop the tangents of integers, which have type float0: a jitted function does not accept them."""
    return [tangent for tangent in jax.tree.leaves(tangents) if tangent.dtype != jax.dtypes.float0]


def _complete(real_tangents: list[Leaf], values: PyTree) -> PyTree:
    """Put the tangents of integers back: the inverse of `_real_leaves` for tangents of these values."""
    real = iter(real_tangents)
    return jax.tree.map(lambda value: next(real) if _is_real(value) else _zero_tangent(value), values)
