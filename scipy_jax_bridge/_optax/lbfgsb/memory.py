"""The pairs of L-BFGS, each written once into a slot and never moved.

s_i = x_{i+1} - x_i and y_i = g_{i+1} - g_i stay in their slot until m newer pairs have been stored. An empty slot
holds zeros and contributes zero to every result, so a memory that is not full needs no special case.

`optax.scale_by_lbfgs` keeps such pairs too, but cannot be used here: it stores a pair whatever the sign of s'y
(L-BFGS-B skips pairs without positive curvature), weighs the pairs in the default float type instead of the type of
the parameters, applies them leaf by leaf in 2 m dependent passes, and does not provide the products between pairs
that bounds need.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..loop_tools import write_rows
from .lanes import Flag

SHORT = 1024  # vectors up to this length are summed in one sequential pass

Scalar = Float[Array, ""]
Vector = Float[Array, " n"]
Square = Float[Array, "m m"]
Rows = Float[Array, "two_m n"]
Half = Float[Array, " m"]
Halves = tuple[Half, Half]  # one number for each s_i, and one for each y_i


class NewPair(NamedTuple):
    """A step s, the change y of the gradient over it, the curvature s'y, and the slot for them.

    If `keep`, the pair is stored. If `drop`, the memory is emptied.
    """

    s: Vector
    y: Vector
    curvature: Scalar
    slot: Int[Array, ""]
    keep: Flag
    drop: Flag


def empty_rows(xp: ModuleType, size: int, maxcor: int, dtype: jnp.dtype) -> PyTree:
    """Make the rows s_0, y_0, s_1, y_1, ... as zeros of length `size`. In this order one pass multiplies all pairs."""
    return xp.zeros((2 * maxcor, size), dtype)


def write_pair(rows: Rows, new: NewPair) -> Rows:
    """Overwrite the oldest pair with the new one, in place."""
    return write_rows(rows, 2 * new.slot, jnp.stack([new.s, new.y]), new.keep)


def newest_slot(new: NewPair, slots: int) -> Bool[Array, " m"]:
    """Return a mask that is true at the slot of `new`, and nowhere if it is not kept."""
    return (jnp.arange(slots) == new.slot) & new.keep


def new_scale(theta: Scalar, new: NewPair, here: Bool[Array, " m"], y_products: Float[Array, " m"]) -> Scalar:
    """Return theta of B_0 = theta I: y'y / s'y of the newest pair, (3.5) in Byrd et al. 1995; 1 without pairs."""
    newest = jnp.sum(jnp.where(here, y_products, 0)) / new.curvature
    return jnp.where(new.drop, 1, jnp.where(new.keep, newest, theta))


def multiply_rows(rows: Rows, vector: Vector) -> Halves:
    """Return S'v and Y'v, in one pass over the memory."""
    products = multiply(rows, vector)
    return products[0::2], products[1::2]


def combine_rows(of_s: Float[Array, " m"], of_y: Float[Array, " m"], rows: Rows) -> Vector:
    """Return S a + Y b, in one pass over the memory."""
    return multiply(jnp.stack([of_s, of_y], axis=1).reshape(-1), rows)


def multiply(left: Array, right: Array) -> Array:
    """Return left @ right in full precision. By default, accelerators multiply float32 with fewer bits."""
    return jnp.dot(left, right, precision=lax.Precision.HIGHEST)


def sum_products(along: Vector, left: Vector, right: Vector, *largest: Vector) -> tuple[Scalar, ...]:
    """Return along'left, along'right, and the max abs of each of `largest`.

    Short vectors take one pass: one kernel to compile and to run instead of nine. That pass is sequential, so for
    long vectors it would be slow and inexact.
    """
    if along.size > SHORT:
        return multiply(along, left), multiply(along, right), *(jnp.max(jnp.abs(each)) for each in largest)
    zero = jnp.zeros((), along.dtype)

    def join(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        return a[0] + b[0], a[1] + b[1], *map(jnp.maximum, a[2:], b[2:])

    operands = (along * left, along * right, *map(jnp.abs, largest))
    return tuple(lax.reduce(operands, (zero,) * len(operands), join, (0,)))


def largest(left: Vector, right: Vector) -> tuple[Scalar, Scalar]:
    """Return the largest component of each; short vectors take one kernel, as in `sum_products`."""
    if left.size > SHORT or not left.size:
        return jnp.max(left, initial=-jnp.inf), jnp.max(right, initial=-jnp.inf)
    start = jnp.full((), -jnp.inf, left.dtype)
    return tuple(lax.reduce((left, right), (start, start), lambda a, b: tuple(map(jnp.maximum, a, b)), (0,)))


@custom_vmap
def multiply_small(left: Array, right: Array) -> Half:
    """Return left @ right for a vector and a small matrix.

    It is written as a sum, which XLA fuses with its neighbors; it does not fuse a matrix product. A batch uses
    matrix products, which are faster there.
    """
    return jnp.sum(left * right, axis=1) if right.ndim == 1 else jnp.sum(left[:, None] * right, axis=0)


@multiply_small.def_vmap
def _multiply_many_small(size: int, batched: list[bool], left: Array, right: Array) -> tuple[Array, bool]:
    return jax.vmap(multiply, [0 if each else None for each in batched])(left, right), True


def put(matrix: Square, slot: Bool[Array, " m"], row: Float[Array, " m"], column: Float[Array, " m"]) -> Square:
    """Replace the slot's row of `matrix`, then its column."""
    matrix = jnp.where(slot[:, None], row[None, :], matrix)
    return jnp.where(slot[None, :], column[:, None], matrix)
