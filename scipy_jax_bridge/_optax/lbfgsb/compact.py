"""The quadratic model of a problem with bounds in compact form: the memory, and the matrices B, W and M.

The source is [BLNZ], see `bounded`. Around the iterate x with value f and gradient g, the model is

    m(z) = f + g'(z - x) + (z - x)'B (z - x) / 2,   B = theta I - W M W',   W = [theta S  Y],

    M^-1 = [ theta S'S   L  ]     L_ij = s_i'y_j where pair i is newer than pair j, else 0,
           [ L'          -D ]

by (3.2) to (3.4). The paper has the halves of W the other way round, and orders the pairs by age, not by slot.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .memory import (
    NewPair,
    Rows,
    Scalar,
    Square,
    Vector,
    combine_rows,
    empty_rows,
    multiply,
    multiply_rows,
    new_scale,
    newest_slot,
    put,
    write_pair,
)

Compact = Float[Array, " two_m"]
CompactMatrix = Float[Array, "two_m two_m"]
Mask = Bool[Array, " n"]


class BoundedMemory(NamedTuple):
    """The pairs by slot, and the products that B is computed from."""

    rows: Rows
    theta: Scalar
    newest: Int[Array, ""]  # the slot of the newest pair
    sy: Square  # s_i'y_j; the diagonal is zero for empty slots
    ss: Square  # s_i's_j


def empty_memory(xp: ModuleType, size: int, maxcor: int, dtype: jnp.dtype) -> BoundedMemory:
    """Make a memory without pairs, for which B is the identity, in NumPy or in JAX."""
    zeros, rows = xp.zeros((maxcor, maxcor), dtype), empty_rows(xp, size, maxcor, dtype)
    return BoundedMemory(rows, xp.ones((), dtype), xp.zeros((), jnp.int32), zeros, zeros)


def update_memory(memory: BoundedMemory, new: NewPair) -> BoundedMemory:
    """Store the new pair if `new.keep`. Empty the memory if `new.drop`."""
    here = newest_slot(new, memory.sy.shape[0])
    rows = write_pair(memory.rows, new)
    s, y = lax.dynamic_slice_in_dim(rows, 2 * new.slot, 2)  # read back, so that s and y need not stay alive
    sy_new, yy_new = multiply_rows(rows, y)
    ss_new, ys_new = multiply_rows(rows, s)
    known = filled_slots(memory) | here  # dropped pairs are still in `rows`
    sy_new, ss_new, ys_new = (jnp.where(known, each, 0) for each in (sy_new, ss_new, ys_new))
    sy = put(memory.sy, here, ys_new, jnp.where(here, new.curvature, sy_new))
    ss = put(memory.ss, here, ss_new, ss_new)
    return BoundedMemory(
        rows=rows,
        theta=new_scale(memory.theta, new, here, yy_new),
        newest=jnp.where(new.keep, new.slot, memory.newest),
        sy=jnp.where(new.drop, 0, sy),
        ss=jnp.where(new.drop, 0, ss),
    )


def times_w(memory: BoundedMemory, vector: Vector) -> Compact:
    """Return W'v."""
    filled = filled_slots(memory)
    of_s, of_y = (jnp.where(filled, each, 0) for each in multiply_rows(memory.rows, vector))
    return jnp.concatenate([memory.theta * of_s, of_y])


def w_times(memory: BoundedMemory, weights: Compact) -> Vector:
    """Return W w."""
    of_s, of_y = jnp.split(weights, 2)
    return combine_rows(memory.theta * of_s, of_y, memory.rows)


def filled_slots(memory: BoundedMemory) -> Bool[Array, " m"]:
    """Return which slots hold a pair."""
    return jnp.diagonal(memory.sy) > 0


def newer(memory: BoundedMemory) -> Bool[Array, "m m"]:
    """Return a matrix that is true where the row's pair is newer than the column's."""
    slots = memory.sy.shape[0]
    age = (memory.newest - jnp.arange(slots)) % slots
    return age[:, None] < age[None, :]


def middle_matrix(memory: BoundedMemory) -> CompactMatrix:
    """Return M, by the Cholesky factor of theta S'S + L D^-1 L', section 3 of BLNZ. It is zero for empty slots."""
    filled = filled_slots(memory)
    inverse_d = jnp.where(filled, 1 / jnp.diagonal(memory.sy), 0)
    below = jnp.where(newer(memory), memory.sy, 0)
    weighted = below * inverse_d
    unit = jnp.diag(jnp.where(filled, 0, 1).astype(weighted.dtype))
    factor = jnp.linalg.cholesky(memory.theta * memory.ss + multiply(weighted, below.T) + unit)
    inverse = jsl.cho_solve((factor, True), jnp.diag(filled.astype(weighted.dtype)))
    corner = multiply(inverse, weighted)
    last = multiply(weighted.T, corner) - jnp.diag(inverse_d)
    return jnp.block([[inverse, corner], [corner.T, last]])
