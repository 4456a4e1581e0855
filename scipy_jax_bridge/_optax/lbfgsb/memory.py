"""The pairs that L-BFGS remembers: written once into a slot, never moved.

s_i = x_{i+1} - x_i and y_i = g_{i+1} - g_i lie in the slot they were written to until m newer pairs have come.
Slots hold zeros before, and what is computed from an empty slot is zero, so a half-full memory needs no
special case.

`optax.scale_by_lbfgs` keeps such pairs too. It does not serve here: it stores a pair whatever the sign of
s'y (L-BFGS-B skips those), weighs them in the default float type rather than the parameters' own, applies
them leaf by leaf in 2 m dependent passes, and hands out no products between pairs, which bounds need.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int

from ..loop_tools import write_rows
from .lanes import (
    Flag,
)

SHORT = 1024  # vectors up to this length are summed term after term

Scalar = Float[Array, ""]
Vector = Float[Array, " n"]
Square = Float[Array, "m m"]
Rows = Float[Array, "two_m n"]
Half = Float[Array, " m"]
Halves = tuple[Half, Half]  # of S and of Y


class NewPair(NamedTuple):
    """A step, the change of the gradient over it, and s'y, for a slot of the memory.

    `keep` tells whether it is worth remembering, `drop` that all others are to be forgotten.
    """

    s: Vector
    y: Vector
    curvature: Scalar
    slot: Int[Array, ""]
    keep: Flag
    drop: Flag


def empty_rows(xp: Any, size: int, maxcor: int, dtype: jnp.dtype) -> Any:
    """Room for `maxcor` pairs of vectors of length `size`: s_0, y_0, s_1, y_1, .., so that one pass multiplies all."""
    return xp.zeros((2 * maxcor, size), dtype)


def write_pair(rows: Rows, new: NewPair) -> Rows:
    """The rows with the new pair over the oldest one, in place."""
    return write_rows(rows, 2 * new.slot, jnp.stack([new.s, new.y]), new.keep)


def newest_slot(new: NewPair, slots: int) -> Bool[Array, " m"]:
    """Where `new` goes: true in one slot, in none if it is not kept."""
    return (jnp.arange(slots) == new.slot) & new.keep


def new_scale(theta: Scalar, new: NewPair, here: Bool[Array, " m"], y_products: Float[Array, " m"]) -> Scalar:
    """theta of B_0 = theta I: y'y / s'y of the newest pair, (3.5) in Byrd et al. 1995; 1 without pairs."""
    newest = jnp.sum(jnp.where(here, y_products, 0)) / new.curvature
    return jnp.where(new.drop, 1, jnp.where(new.keep, newest, theta))


def multiply_rows(rows: Rows, vector: Vector) -> Halves:
    """S'v and Y'v in one pass over the memory."""
    products = multiply(rows, vector)
    return products[0::2], products[1::2]


def combine_rows(of_s: Float[Array, " m"], of_y: Float[Array, " m"], rows: Rows) -> Vector:
    """S a + Y b in one pass over the memory."""
    return multiply(jnp.stack([of_s, of_y], axis=1).reshape(-1), rows)


def multiply(left: Array, right: Array) -> Array:
    """left @ right, in full precision: accelerators would multiply float32 in fewer bits."""
    return jnp.dot(left, right, precision=lax.Precision.HIGHEST)


def sum_products(along: Vector, left: Vector, right: Vector, *largest: Vector) -> tuple[Scalar, ...]:
    """along'left, along'right, and the largest absolute value of each of `largest`.

    In one pass if they are short: one kernel to compile and to run instead of nine. Term after term that pass
    would be slow, and inexact, if they are long.
    """
    if along.size > SHORT:
        return multiply(along, left), multiply(along, right), *(jnp.max(jnp.abs(each)) for each in largest)
    zero = jnp.zeros((), along.dtype)

    def join(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        return a[0] + b[0], a[1] + b[1], *map(jnp.maximum, a[2:], b[2:])

    operands = (along * left, along * right, *map(jnp.abs, largest))
    return tuple(lax.reduce(operands, (zero,) * len(operands), join, (0,)))


@custom_vmap
def multiply_small(left: Array, right: Array) -> Half:
    """left @ right for a vector and a few rows: a sum joins its neighbors in one kernel, a product does not.

    A batch of such sums is slower than a batch of products.
    """
    return jnp.sum(left * right, axis=1) if right.ndim == 1 else jnp.sum(left[:, None] * right, axis=0)


@multiply_small.def_vmap
def _multiply_many_small(size: int, batched: list[bool], left: Array, right: Array) -> tuple[Array, bool]:
    return jax.vmap(multiply, [0 if each else None for each in batched])(left, right), True


def put(matrix: Square, slot: Bool[Array, " m"], row: Float[Array, " m"], column: Float[Array, " m"]) -> Square:
    """`matrix` with the slot's row and then its column replaced."""
    matrix = jnp.where(slot[:, None], row[None, :], matrix)
    return jnp.where(slot[None, :], column[:, None], matrix)
