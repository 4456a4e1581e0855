"""The step of a problem with bounds: to the generalized Cauchy point, then to the minimum over the free variables.

A variable is free if it is not at a bound at the Cauchy point.

Sources: R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, "A limited memory algorithm for bound constrained
optimization", SIAM J. Scientific Computing 16 (1995), 1190-1208 [BLNZ]; J. L. Morales and J. Nocedal, "Remark
on Algorithm 778", ACM Transactions on Mathematical Software 38 (2011) [MN]. The model is in `compact`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from ..._core.manual import vary_with
from ..limits import Box
from .cauchy import CauchyPoint, find_cauchy_point
from .cauchy_parts import count_parts
from .compact import (
    BoundedMemory,
    CompactMatrix,
    Mask,
    empty_memory,
    filled_slots,
    middle_matrix,
    newer,
    times_w,
    update_memory,
    w_times,
)
from .direction import Direction
from .memory import Rows, Vector, multiply

LONG = 8192  # vectors that are longer are multiplied in parts
PART = 512  # components of a part; those of all pairs stay in the cache


def bounded_direction(box: Box) -> Direction:
    """Return the step inside this box."""
    return Direction(empty_memory, update_memory, lambda memory, x, grad: full_step(memory, x, grad, box))


def full_step(memory: BoundedMemory, x: Vector, grad: Vector, box: Box) -> Vector:
    """Return the minimum of the model over the free variables, or the Cauchy point if there is nothing to minimize."""
    middle = middle_matrix(memory)
    cauchy = find_cauchy_point(memory, middle, x, grad, box.lower, box.upper)
    minimum = _subspace_minimum(memory, middle, cauchy, x, grad, box.lower, box.upper)
    return jnp.where(jnp.any(filled_slots(memory)) & jnp.any(cauchy.free), minimum, cauchy.x)


def _subspace_minimum(
    memory: BoundedMemory,
    middle: CompactMatrix,
    cauchy: CauchyPoint,
    x: Vector,
    grad: Vector,
    lower: Vector,
    upper: Vector,
) -> Vector:
    """Minimize by the direct primal method of section 5.1 of BLNZ, then project as in MN.

    If the projected step is not a descent direction, shorten the Newton step to stay in the box instead.
    """
    theta = memory.theta
    reduced = w_times(memory, multiply(middle, cauchy.offset)) - theta * (cauchy.x - x) - grad
    reduced = jnp.where(cauchy.free, reduced, 0)  # minus (5.4)
    inner = jnp.linalg.solve(_subspace_matrix(memory, cauchy.free), times_w(memory, reduced))
    newton = (reduced + w_times(memory, inner) / theta) / theta  # (5.11)
    newton = jnp.where(cauchy.free, newton, 0)
    projected = jnp.clip(cauchy.x + newton, lower, upper)
    # (5.8): the longest part of the Newton step inside the box
    gap = jnp.where(newton < 0, lower - cauchy.x, upper - cauchy.x)
    ratio = jnp.where(newton != 0, gap / newton, jnp.inf)
    longest = jnp.minimum(jnp.min(ratio, initial=1.0), 1.0)
    edge = jnp.where(newton < 0, lower, upper)
    shortened = jnp.where(ratio <= longest, jnp.where(longest < 1, edge, projected), cauchy.x + longest * newton)
    ascends = jnp.sum((projected - x) * grad) > 0
    return jnp.where(ascends, jnp.clip(shortened, lower, upper), projected)


def _subspace_matrix(memory: BoundedMemory, free: Mask) -> CompactMatrix:
    """Return M^-1 - W'Z Z'W / theta, where the columns of Z are the unit vectors of the free variables.

    The sums are arranged so that no large terms cancel: S'Z Z'S is needed over the variables that are not free,
    Y'Z Z'Y over the free ones, S'Z Z'Y over both.
    """
    theta, filled = memory.theta, filled_slots(memory)
    products = _masked_products(memory.rows, free)
    ss_fixed, sy_fixed = products[0::2, 0::2], products[0::2, 1::2]
    sy_free, yy_free = products[1::2, 0::2].T, products[1::2, 1::2]
    corner = jnp.where(newer(memory), sy_fixed, -sy_free)
    both = filled[:, None] & filled[None, :]
    blocks = (theta * ss_fixed, corner, -yy_free / theta - jnp.diag(jnp.diagonal(memory.sy)))
    first, corner, last = (jnp.where(both, block, 0) for block in blocks)
    unit = jnp.diag(jnp.where(filled, 0, 1).astype(theta.dtype))
    return jnp.block([[first + unit, corner], [corner.T, last - unit]])


def _masked_products(rows: Rows, free: Mask) -> CompactMatrix:
    """Return the products of all rows, with s_i over the variables that are not free and y_i over the free ones.

    One pass over the memory, in parts, so that no masked copy of it is made.
    """
    count, size = rows.shape
    is_y = jnp.arange(count) % 2 == 1

    def multiply_part(rows: Rows, free: Mask, counted: Mask | bool) -> CompactMatrix:
        return multiply(jnp.where((is_y[:, None] == free) & counted, rows, 0), rows.T)

    if size <= LONG or count_parts() > 1:  # a part of vectors that are split over devices would have to be gathered
        return multiply_part(rows, free, True)

    def add_part(place: Int[Array, ""], total: CompactMatrix) -> CompactMatrix:
        first = jnp.minimum(place * PART, size - PART)  # the last part repeats some of the one before
        of_rows, of_free = (lax.dynamic_slice_in_dim(each, first, PART, axis) for each, axis in ((rows, 1), (free, 0)))
        return total + multiply_part(of_rows, of_free, first + jnp.arange(PART) >= place * PART)

    zeros = vary_with(jnp.zeros((count, count), rows.dtype), rows)
    return lax.fori_loop(0, -(-size // PART), add_part, zeros)
