"""Solve symmetric linear systems that may be singular: the least-squares solution of minimum norm, H^+ b.

The pseudo-inverse H^+ is symmetric, so forward and reverse derivatives that apply it are transposes of each other.
A small matrix is formed and decomposed into eigenvectors, which shows every negative and every vanishing eigenvalue.
A large matrix is only multiplied: conjugate gradients stay in the range of H. There are two cases.

1. b lies in the range of H: one solve suffices.
2. Otherwise the curvature of the search directions vanishes. Then v = H^+ H b, the projection of b, solves
   H v = H b, and H y = v has the solution y = H^+ b. Both right sides lie in the range.

Source: M. R. Hestenes and E. Stiefel, J. Research of the National Bureau of Standards 49 (1952), 409-436; for
singular systems E. F. Kaasschieter, J. Computational and Applied Mathematics 24 (1988), 265-275.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from .._core.manual import vary_with
from .._core.types import FlatVector, Scalar

Multiply = Callable[[FlatVector], FlatVector]  # v -> H v

DENSE = 64  # largest number of unknowns for which the matrix is formed; conjugate gradients may need as many products
ACCURACY = 0.85  # relative residual wanted: rounding**ACCURACY. Ill-conditioned systems never get closer to rounding
RANK = 0.75  # curvature below rounding**RANK, relative to the largest, counts as zero
CG_MAXITER = 20_000  # products of one solve by conjugate gradients, however many unknowns


class Solution(NamedTuple):
    """The solution, and its relative residual in the range of H: infinite if H has negative curvature."""

    y: FlatVector
    residual: Scalar


class _State(NamedTuple):
    """State of conjugate gradients.

    Args:
        y, r, p: iterate, residual and search direction.
        best, best_r: the best point, and the norm of its residual.
        norm: estimate of the norm of H.
        curvature: p' H p / p' p of the last search direction.
        products: number of products with H so far.
    """

    y: FlatVector
    r: FlatVector
    p: FlatVector
    best: FlatVector
    best_r: Scalar
    norm: Scalar
    curvature: Scalar
    products: Int[Array, ""]


class _Stages(NamedTuple):
    """State of the three solves; `stage` 3 is the end.

    Args:
        stage: 0 solves H y = b, 1 solves H v = H b, 2 solves H y = v.
        solution: of the last stage.
        right: right side of the stage; before stage 1 without the factor H.
        norm: estimate of the norm of H.
    """

    stage: Int[Array, ""]
    solution: Solution
    right: FlatVector
    norm: Scalar


def solve_symmetric(multiply: Multiply, b: FlatVector, rounding: float) -> Solution:
    """Compute H^+ b.

    Args:
        multiply: the product with the symmetric matrix H.
        b: the right side, a vector; it need not lie in the range of H.
        rounding: the relative accuracy of the products.
    """
    solve = _by_eigenvectors if b.size <= DENSE else _by_conjugate_gradients
    size = jnp.max(jnp.abs(b))
    unit = jnp.where(size == 0, 1, size)  # so that no square overflows or vanishes
    y, residual = solve(multiply, b / unit, rounding)
    return Solution(y * unit, jnp.where(size == 0, 0, residual))


def _by_eigenvectors(multiply: Multiply, b: FlatVector, rounding: float) -> Solution:
    matrix = lax.map(multiply, jnp.eye(b.size, dtype=b.dtype))
    matrix = (matrix + matrix.T) / 2
    values, vectors = jnp.linalg.eigh(matrix)
    flat = jnp.abs(values) <= rounding**RANK * jnp.max(jnp.abs(values))
    with jax.default_matmul_precision("highest"):
        parts = jnp.where(flat, 0, vectors.T @ b)
        y = vectors @ (parts / jnp.where(flat, 1, values))
        residual = _ratio(_norm(vectors @ parts - matrix @ y), _norm(parts))
    return Solution(y, jnp.where(jnp.any(~flat & (values < 0)), jnp.inf, residual))


def _by_conjugate_gradients(multiply: Multiply, b: FlatVector, rounding: float) -> Solution:
    """Solve in up to three stages of one loop, so that XLA compiles `_descend` once."""
    size, tolerance = _norm(b), rounding**ACCURACY

    def goes_on(state: _Stages) -> Bool[Array, ""]:
        return state.stage < 3

    def step(state: _Stages) -> _Stages:
        stage, solution, right, norm = state
        right = lax.cond(stage == 1, multiply, lambda v: v, right)
        scale = jnp.where(stage == 1, norm * size, _norm(right))
        end = _descend(multiply, right, tolerance * scale, norm, rounding)
        residual = _ratio(end.best_r, scale)
        lost = end.curvature < -(rounding**RANK) * end.norm
        residual = jnp.where(lost, jnp.inf, jnp.maximum(residual, jnp.where(stage == 2, solution.residual, 0)))
        singular = (residual > tolerance) & (end.curvature <= rounding**RANK * end.norm)
        following = jnp.where(lost | (stage == 0) & ~singular, 3, stage + 1)
        return _Stages(following, Solution(end.best, residual), jnp.where(stage == 1, end.best, b), end.norm)

    zero = jnp.zeros((), b.dtype)
    start = _Stages(jnp.int32(0), Solution(jnp.zeros_like(b), zero), b, zero)
    return lax.while_loop(goes_on, step, vary_with(start, b)).solution


def _descend(multiply: Multiply, b: FlatVector, enough: Scalar, norm: Scalar, rounding: float) -> _State:
    """Run conjugate gradients on H y = b from 0, until the residual is at most `enough` or the curvature vanishes.

    A point becomes the best if its residual is less than half that of the best before. In a system that is consistent
    only up to rounding, the residual stagnates and the iterates drift along the kernel.
    """
    most = min(20 * b.size, CG_MAXITER)

    def goes_on(state: _State) -> Bool[Array, ""]:
        curved = state.curvature > rounding**RANK * state.norm
        return curved & (_norm(state.r) > enough) & (state.products < most)

    def step(state: _State) -> _State:
        product, squared = multiply(state.p), _dot(state.p, state.p)
        curvature = _dot(state.p, product) / squared
        norm = jnp.maximum(state.norm, _norm(product) / jnp.sqrt(squared))
        curved = curvature > rounding**RANK * norm
        before = _dot(state.r, state.r)
        length = jnp.where(curved, before / jnp.where(curved, curvature * squared, 1), 0)
        y, r = state.y + length * state.p, state.r - length * product
        after = _dot(r, r)
        better = (after <= enough**2) | (jnp.sqrt(after) < state.best_r / 2)
        best, best_r = jnp.where(better, y, state.best), jnp.where(better, jnp.sqrt(after), state.best_r)
        return _State(y, r, r + after / before * state.p, best, best_r, norm, curvature, state.products + 1)

    zeros, one = jnp.zeros_like(b), jnp.ones((), b.dtype)
    start = _State(zeros, b, b, zeros, _norm(b), norm, norm + one, jnp.int32(0))
    return lax.while_loop(goes_on, step, vary_with(start, b))


def _dot(a: FlatVector, b: FlatVector) -> Scalar:
    return jnp.sum(a * b)


def _norm(a: FlatVector) -> Scalar:
    return jnp.sqrt(jnp.sum(a * a))


def _ratio(part: Scalar, whole: Scalar) -> Scalar:
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))
