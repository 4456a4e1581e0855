"""The step of a problem with bounds: the generalized Cauchy point, then the minimum over the free variables.

Sources: R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, "A limited memory algorithm for bound constrained
optimization", SIAM J. Scientific Computing 16 (1995), 1190-1208 [BLNZ]; J. L. Morales and J. Nocedal, "Remark
on Algorithm 778", ACM Transactions on Mathematical Software 38 (2011) [MN]. The model is in `_compact`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from .cauchy import CauchyPoint, find_cauchy_point
from .compact import (
    BoundedMemory,
    CompactMatrix,
    Mask,
    empty_memory as empty_memory,
    filled_slots,
    middle_matrix,
    newer,
    times_w,
    update_memory as update_memory,
    w_times,
)
from .memory import Flag, Halves, Vector, multiply, multiply_rows


def find_target(memory: BoundedMemory, x: Vector, grad: Vector, box: Any) -> Vector:
    """Where the full step leads: the Cauchy point, and from there the minimum over what is free."""
    middle = middle_matrix(memory)
    cauchy = find_cauchy_point(memory, middle, x, grad, box.lower, box.upper)
    target = _subspace_minimum(memory, middle, cauchy, x, grad, box.lower, box.upper)
    return jnp.where(jnp.any(filled_slots(memory)) & jnp.any(cauchy.free), target, cauchy.x)


def _subspace_minimum(
    memory: BoundedMemory,
    middle: CompactMatrix,
    cauchy: CauchyPoint,
    x: Vector,
    grad: Vector,
    lower: Vector,
    upper: Vector,
) -> Vector:
    """The direct primal method of section 5.1 of BLNZ, then the projection of MN or the way back to the box."""
    theta = memory.theta
    reduced = w_times(memory, multiply(middle, cauchy.offset)) - theta * (cauchy.x - x) - grad
    reduced = jnp.where(cauchy.free, reduced, 0)  # minus (5.4)
    inner = jnp.linalg.solve(_subspace_matrix(memory, cauchy.free), times_w(memory, reduced))
    newton = (reduced + w_times(memory, inner) / theta) / theta  # (5.11)
    newton = jnp.where(cauchy.free, newton, 0)
    projected = jnp.clip(cauchy.x + newton, lower, upper)
    # (5.8): as far along the Newton step as the box allows
    room = jnp.where(newton < 0, lower - cauchy.x, upper - cauchy.x)
    ratio = jnp.where(newton != 0, room / newton, jnp.inf)
    reach = jnp.minimum(jnp.min(ratio, initial=1.0), 1.0)
    edge = jnp.where(newton < 0, lower, upper)
    shortened = jnp.where(ratio <= reach, jnp.where(reach < 1, edge, projected), cauchy.x + reach * newton)
    ascends = jnp.sum((projected - x) * grad) > 0
    return jnp.where(ascends, jnp.clip(shortened, lower, upper), projected)


def _subspace_matrix(memory: BoundedMemory, free: Mask) -> CompactMatrix:
    """M^-1 - W'Z Z'W / theta, over the free variables Z, summed so that nothing large cancels.

    Vector by vector, so that no masked copy of the memory is made.
    """
    rows, theta = memory.rows, memory.theta

    def products(of: tuple[Int[Array, ""], Flag]) -> Halves:
        index, held = of
        return multiply_rows(rows, jnp.where(free == held, 0, rows[index]))

    filled = filled_slots(memory)
    of_s = 2 * jnp.arange(filled.size)
    wanted = (jnp.concatenate([of_s, of_s + 1, of_s + 1]), jnp.repeat(jnp.array([True, False, True]), filled.size))
    s_products, y_products = lax.map(products, wanted)
    ss_held, sy_free, sy_held = jnp.split(s_products, 3)
    _, yy_free, _ = jnp.split(y_products, 3)
    corner = jnp.where(newer(memory), sy_held.T, -sy_free.T)
    both = filled[:, None] & filled[None, :]
    blocks = (theta * ss_held, corner, -yy_free / theta - jnp.diag(jnp.diagonal(memory.sy)))
    first, corner, last = (jnp.where(both, block, 0) for block in blocks)
    unit = jnp.diag(jnp.where(filled, 0, 1).astype(theta.dtype))
    return jnp.block([[first + unit, corner], [corner.T, last - unit]])
