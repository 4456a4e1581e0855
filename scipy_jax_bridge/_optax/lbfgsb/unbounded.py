"""The step of an unbounded problem: -H g, by the compact form of the inverse L-BFGS matrix.

Source: R. H. Byrd, J. Nocedal and R. B. Schnabel, "Representations of quasi-Newton matrices and their use in
limited memory methods", Mathematical Programming 63 (1994), 129-156, section 3. With R_ij = s_i'y_j where
pair i is not newer than pair j (else 0), D = diag(s_i'y_i) and gamma = 1 / theta, equation (3.1) is

    H = gamma I + [S  gamma Y] [ R^-T (D + gamma Y'Y) R^-1   -R^-T ] [ S'       ]
                               [ -R^-1                        0    ] [ gamma Y' ]

R^-1 is kept instead of R: a new pair adds a column to it, -R^-1 (S'y) / s'y above 1 / s'y, and the oldest
pair leaves by zeroing its row and column. So nothing is solved, a step is three passes over the pairs, and
a batch of solves is as vectorized as one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

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


class FreeMemory(NamedTuple):
    """The pairs by slot, and what H is made of."""

    rows: Rows
    gamma: Scalar  # s'y / y'y of the newest pair; 1 without pairs
    curvatures: Half  # the diagonal of D; zero where a slot is empty, as are its row and column of R^-1
    r_inverse: Square
    yy: Square  # y_i'y_j


def empty_memory(xp: Any, size: int, maxcor: int, dtype: jnp.dtype) -> FreeMemory:
    """A memory that makes the step -g, of NumPy or of JAX."""
    zeros, none = xp.zeros((maxcor, maxcor), dtype), xp.zeros(maxcor, dtype)
    return FreeMemory(empty_rows(xp, size, maxcor, dtype), xp.ones((), dtype), none, zeros, zeros)


def update_memory(memory: FreeMemory, new: NewPair) -> FreeMemory:
    """With the new pair if it is to be kept; emptied if the others are to be dropped."""
    here = newest_slot(new, memory.yy.shape[0])
    rows = write_pair(memory.rows, new)
    s_products, y_products = multiply_rows(rows, new.y)
    column = jnp.where(here, 1, -multiply_small(memory.r_inverse, jnp.where(here, 0, s_products)))
    newest = new.curvature / jnp.sum(jnp.where(here, y_products, 0))
    return FreeMemory(
        rows=rows,
        gamma=jnp.where(new.drop, 1, jnp.where(new.keep, newest, memory.gamma)),
        curvatures=jnp.where(new.drop, 0, jnp.where(here, new.curvature, memory.curvatures)),
        r_inverse=jnp.where(new.drop, 0, put(memory.r_inverse, here, jnp.zeros_like(column), column / new.curvature)),
        yy=put(memory.yy, here, y_products, y_products),
    )


def find_target(memory: FreeMemory, x: Vector, grad: Vector, box: None) -> Vector:
    """x - H g, where the full step leads."""
    rows, gamma, curvatures, r_inverse, yy = memory
    s_grad, y_grad = multiply_rows(rows, grad)
    first = multiply_small(r_inverse, s_grad)
    inner = curvatures * first + (multiply_small(yy, first) - y_grad) * gamma
    second = multiply_small(inner, r_inverse)
    theta = 1 / gamma
    return x - (grad / theta + combine_rows(second, -first / theta, rows))
