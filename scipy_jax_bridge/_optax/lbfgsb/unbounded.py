"""The step -H g of an unbounded problem, by the compact form of the inverse L-BFGS matrix.

Source: R. H. Byrd, J. Nocedal and R. B. Schnabel, "Representations of quasi-Newton matrices and their use in
limited memory methods", Mathematical Programming 63 (1994), 129-156, section 3. With R_ij = s_i'y_j where
pair i is not newer than pair j (else 0), D = diag(s_i'y_i) and gamma = 1 / theta, equation (3.1) is

    H = gamma I + [S  gamma Y] [ R^-T (D + gamma Y'Y) R^-1   -R^-T ] [ S'       ]
                               [ -R^-1                        0    ] [ gamma Y' ]

The memory holds R^-1 instead of R. A new pair adds the column -R^-1 (S'y) / s'y with 1 / s'y on the diagonal; the
oldest pair is removed by zeroing its row and column. So no system is solved, a step takes three passes over the
pairs, and a batch of solves vectorizes as well as one solve.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp

from .direction import Direction
from .memory import (
    Half,
    NewPair,
    Rows,
    Scalar,
    Square,
    Vector,
    combine_rows,
    empty_rows,
    multiply_rows,
    multiply_small,
    newest_slot,
    put,
    write_pair,
)


class UnboundedMemory(NamedTuple):
    """The pairs by slot, and the products that H is computed from."""

    rows: Rows
    gamma: Scalar  # s'y / y'y of the newest pair; 1 without pairs
    curvatures: Half  # the diagonal of D; zero for an empty slot, as are its row and column of R^-1
    r_inverse: Square
    yy: Square  # y_i'y_j


def empty_memory(xp: ModuleType, size: int, maxcor: int, dtype: jnp.dtype) -> UnboundedMemory:
    """Make a memory without pairs, for which H is the identity, in NumPy or in JAX."""
    zeros, none = xp.zeros((maxcor, maxcor), dtype), xp.zeros(maxcor, dtype)
    return UnboundedMemory(empty_rows(xp, size, maxcor, dtype), xp.ones((), dtype), none, zeros, zeros)


def update_memory(memory: UnboundedMemory, new: NewPair) -> UnboundedMemory:
    """Store the new pair if `new.keep`. Empty the memory if `new.drop`."""
    here = newest_slot(new, memory.yy.shape[0])
    rows = write_pair(memory.rows, new)
    s_products, y_products = multiply_rows(rows, new.y)
    column = jnp.where(here, 1, -multiply_small(memory.r_inverse, jnp.where(here, 0, s_products)))
    newest = new.curvature / jnp.sum(jnp.where(here, y_products, 0))
    return UnboundedMemory(
        rows=rows,
        gamma=jnp.where(new.drop, 1, jnp.where(new.keep, newest, memory.gamma)),
        curvatures=jnp.where(new.drop, 0, jnp.where(here, new.curvature, memory.curvatures)),
        r_inverse=jnp.where(new.drop, 0, put(memory.r_inverse, here, jnp.zeros_like(column), column / new.curvature)),
        yy=put(memory.yy, here, y_products, y_products),
    )


def full_step(memory: UnboundedMemory, x: Vector, grad: Vector) -> Vector:
    """Return x - H g."""
    rows, gamma, curvatures, r_inverse, yy = memory
    s_grad, y_grad = multiply_rows(rows, grad)
    first = multiply_small(r_inverse, s_grad)
    inner = curvatures * first + (multiply_small(yy, first) - y_grad) * gamma
    second = multiply_small(inner, r_inverse)
    theta = 1 / gamma
    return x - (grad / theta + combine_rows(second, -first / theta, rows))


UNBOUNDED = Direction(empty_memory, update_memory, full_step)
