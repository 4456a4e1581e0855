"""The compact model of the objective with bounds: what is remembered, and what B, W and M are made of it.

Sources and notation as in `_bounded`:

    m(z) = f + g'(z - x) + (z - x)'B (z - x) / 2,   B = theta I - W M W',   W = [theta S  Y],

    M^-1 = [ theta S'S   L  ]     L_ij = s_i'y_j where pair i is newer than pair j, else 0,
           [ L'          -D ]

(3.2) to (3.4) in BLNZ, with the two halves of W in the order in which the pairs lie in the memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    """The pairs by slot, and what B is made of."""

    rows: Rows
    theta: Scalar
    newest: Int[Array, ""]  # the slot of the newest pair
    sy: Square  # s_i'y_j; the diagonal is zero where a slot is empty
    ss: Square  # s_i's_j


def empty_memory(xp: Any, size: int, maxcor: int, dtype: jnp.dtype) -> BoundedMemory:
    """A memory that makes B the identity, of NumPy or of JAX."""
    zeros, rows = xp.zeros((maxcor, maxcor), dtype), empty_rows(xp, size, maxcor, dtype)
    return BoundedMemory(rows, xp.ones((), dtype), xp.zeros((), jnp.int32), zeros, zeros)


def update_memory(memory: BoundedMemory, new: NewPair) -> BoundedMemory:
    """With the new pair if it is to be kept; emptied if the others are to be dropped."""
    here = newest_slot(new, memory.sy.shape[0])
    rows = write_pair(memory.rows, new)
    s, y = lax.dynamic_slice_in_dim(rows, 2 * new.slot, 2)  # read back, so that no vector of the turn is kept for it
    sy_new, yy_new = multiply_rows(rows, y)
    ss_new, ys_new = multiply_rows(rows, s)
    known = filled_slots(memory) | here  # the rows of pairs that were dropped are still there
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
    """W'v."""
    filled = filled_slots(memory)
    of_s, of_y = (jnp.where(filled, each, 0) for each in multiply_rows(memory.rows, vector))
    return jnp.concatenate([memory.theta * of_s, of_y])


def w_times(memory: BoundedMemory, weights: Compact) -> Vector:
    """W w."""
    of_s, of_y = jnp.split(weights, 2)
    return combine_rows(memory.theta * of_s, of_y, memory.rows)


def filled_slots(memory: BoundedMemory) -> Bool[Array, " m"]:
    """Which slots hold a pair."""
    return jnp.diagonal(memory.sy) > 0


def newer(memory: BoundedMemory) -> Bool[Array, "m m"]:
    """Whether the row's pair is newer than the column's."""
    slots = memory.sy.shape[0]
    age = (memory.newest - jnp.arange(slots)) % slots
    return age[:, None] < age[None, :]


def middle_matrix(memory: BoundedMemory) -> CompactMatrix:
    """M, by the Cholesky factor of theta S'S + L D^-1 L' as in section 3 of BLNZ; zero for empty slots."""
    filled = filled_slots(memory)
    inverse_d = jnp.where(filled, 1 / jnp.diagonal(memory.sy), 0)
    below = jnp.where(newer(memory), memory.sy, 0)
    weighed = below * inverse_d
    unit = jnp.diag(jnp.where(filled, 0, 1).astype(weighed.dtype))
    factor = jnp.linalg.cholesky(memory.theta * memory.ss + multiply(weighed, below.T) + unit)
    inverse = jsl.cho_solve((factor, True), jnp.diag(filled.astype(weighed.dtype)))
    corner = multiply(inverse, weighed)
    last = multiply(weighed.T, corner) - jnp.diag(inverse_d)
    return jnp.block([[inverse, corner], [corner.T, last]])
