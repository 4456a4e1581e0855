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

from typing import NamedTuple

import jax.numpy as jnp

from ._memory import (
    Flag,
    NewPair,
    Pairs,
    Square,
    Vector,
    combine,
    empty_pairs,
    forget,
    multiply,
    newest_slot,
    put,
    write_pair,
)


class FreeMemory(NamedTuple):
    """The pairs, R^-1 and Y'Y, all by slot."""

    pairs: Pairs
    r_inverse: Square
    yy: Square


def empty_memory(size: int, maxcor: int, dtype: jnp.dtype) -> FreeMemory:
    """A memory that makes the step -g."""
    zeros = jnp.zeros((maxcor, maxcor), dtype)
    return FreeMemory(empty_pairs(size, maxcor, dtype), zeros, zeros)


def update_memory(memory: FreeMemory, new: NewPair, drop: Flag) -> FreeMemory:
    """With the new pair if it is to be kept; emptied where `drop`."""
    slot = newest_slot(memory.pairs, new)
    pairs, products = write_pair(memory.pairs, new)
    s_products, y_products = jnp.split(products, 2)
    others = jnp.where(slot[:, None] | slot[None, :], 0, memory.r_inverse)
    column = -multiply(others, s_products) / new.curvature
    r_inverse = put(others, slot, column=jnp.where(slot, 1 / new.curvature, column))
    yy = put(memory.yy, slot, row=y_products, column=y_products)
    return FreeMemory(forget(pairs, drop), jnp.where(drop, 0, r_inverse), yy)


def find_target(memory: FreeMemory, x: Vector, grad: Vector, box: None) -> tuple[FreeMemory, Vector]:
    """x - H g, where the full step leads; x - g and an empty memory where that would ascend."""
    pairs, r_inverse, yy = memory
    gamma = 1 / pairs.theta
    s_grad, y_grad = jnp.split(multiply(pairs.rows, grad), 2)
    first = multiply(r_inverse, s_grad)
    inner = pairs.curvature * first + gamma * (multiply(yy, first) - y_grad)
    weights = jnp.concatenate([combine(inner, r_inverse), -gamma * first])
    product = gamma * grad + combine(weights, pairs.rows)
    ascends = ~(jnp.dot(product, grad) > 0)
    target = x - jnp.where(ascends, grad, product)
    return FreeMemory(forget(pairs, ascends), jnp.where(ascends, 0, r_inverse), yy), target
