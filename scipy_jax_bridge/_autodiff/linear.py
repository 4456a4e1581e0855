"""Symmetric linear systems that may be singular: the least-squares solution of minimum norm, H^+ b.

The pseudo-inverse H^+ is symmetric, so forward and reverse derivatives that apply it are transposes of each other.
A small matrix is written out and decomposed into eigenvectors, which shows every negative and every vanishing
eigenvalue. A large one is only multiplied: by conjugate gradients, which stay in the range of H, in two cases.

1. b lies in the range of H: one solve.
2. It does not, and the curvature of the search directions vanishes. Then v = H^+ H b, the projection of b, solves
   H v = H b, and H y = v has the wanted solution y. Both right sides lie in the range.

Source: M. R. Hestenes and E. Stiefel, J. Research of the National Bureau of Standards 49 (1952), 409-436; for
singular systems E. F. Kaasschieter, J. Computational and Applied Mathematics 24 (1988), 265-275.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Multiply = Callable[[Any], Any]  # v -> H v

DENSE = 64  # unknowns up to which the matrix is written out: as many products as conjugate gradients may take
ACCURACY = 0.85  # of the digits: closer to rounding, an ill-conditioned residual never gets
RANK = 0.75  # of the digits: curvature below that, relative to the largest, is taken for rounding
MOST = 20_000  # products of one solve by conjugate gradients, however many unknowns


class Solution(NamedTuple):
    """The solution, and its relative residual in the range of H; infinite if H has negative curvature."""

    y: Any
    residual: Any


class _State(NamedTuple):
    """Of conjugate gradients; `norm` estimates that of H, `curvature` is the last one of a search direction."""

    y: Any
    r: Any
    p: Any
    best: Any
    best_r: Any  # the residual's norm at the best point
    norm: Any
    curvature: Any
    products: Any


def solve_symmetric(multiply: Multiply, b: Any, rounding: float) -> Solution:
    """H^+ b.

    Arguments:
        multiply: the product with the symmetric matrix H.
        b: the right side, a vector; it need not lie in the range of H.
        rounding: the relative accuracy of the products.
    """
    solve = _by_eigenvectors if b.size <= DENSE else _by_conjugate_gradients
    size = jnp.max(jnp.abs(b))
    unit = jnp.where(size == 0, 1, size)  # so that no square overflows or vanishes
    y, residual = solve(multiply, b / unit, rounding)
    return Solution(y * unit, jnp.where(size == 0, 0, residual))


def _by_eigenvectors(multiply: Multiply, b: Any, rounding: float) -> Solution:
    matrix = lax.map(multiply, jnp.eye(b.size, dtype=b.dtype))
    matrix = (matrix + matrix.T) / 2
    values, vectors = jnp.linalg.eigh(matrix)
    flat = jnp.abs(values) <= rounding**RANK * jnp.max(jnp.abs(values))
    with jax.default_matmul_precision("highest"):
        parts = jnp.where(flat, 0, vectors.T @ b)
        y = vectors @ (parts / jnp.where(flat, 1, values))
        residual = _ratio(_norm(vectors @ parts - matrix @ y), _norm(parts))
    return Solution(y, jnp.where(jnp.any(~flat & (values < 0)), jnp.inf, residual))


def _by_conjugate_gradients(multiply: Multiply, b: Any, rounding: float) -> Solution:
    """The two cases as stages of one loop: of b itself, then H v = H b, then H y = v."""
    size, tolerance = _norm(b), rounding**ACCURACY

    def goes_on(state: tuple[Any, ...]) -> Any:
        return state[0] < 3

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        stage, solution, right, norm = state
        right = lax.cond(stage == 1, multiply, lambda v: v, right)
        scale = jnp.where(stage == 1, norm * size, _norm(right))
        end = _descend(multiply, right, tolerance * scale, norm, rounding)
        residual = _ratio(end.best_r, scale)
        lost = end.curvature < -(rounding**RANK) * end.norm
        residual = jnp.where(lost, jnp.inf, jnp.maximum(residual, jnp.where(stage == 2, solution.residual, 0)))
        singular = (residual > tolerance) & (end.curvature <= rounding**RANK * end.norm)
        following = jnp.where(lost | (stage == 0) & ~singular, 3, stage + 1)
        return following, Solution(end.best, residual), jnp.where(stage == 1, end.best, b), end.norm

    zero = jnp.zeros((), b.dtype)
    return lax.while_loop(goes_on, step, (jnp.int32(0), Solution(jnp.zeros_like(b), zero), b, zero))[1]


def _descend(multiply: Multiply, b: Any, enough: Any, norm: Any, rounding: float) -> _State:
    """Conjugate gradients on H y = b from 0, until the residual is small enough or a direction has no curvature.

    The best point is that of the last residual less than half of the best before: in a system that is consistent
    only up to rounding, the residual stagnates and the iterates go astray along the kernel.
    """
    most = min(20 * b.size, MOST)

    def goes_on(state: _State) -> Any:
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
    return lax.while_loop(goes_on, step, _State(zeros, b, b, zeros, _norm(b), norm, norm + one, jnp.int32(0)))


def _dot(a: Any, b: Any) -> Any:
    return jnp.sum(a * b)


def _norm(a: Any) -> Any:
    return jnp.sqrt(jnp.sum(a * a))


def _ratio(part: Any, whole: Any) -> Any:
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))
