"""The pairs that L-BFGS remembers: written once into a slot, never moved.

s_i = x_{i+1} - x_i and y_i = g_{i+1} - g_i lie in the slot they were written to until m newer pairs have come.
Slots hold zeros before, and what is computed from an empty slot is zero, so a half-full memory needs no
special case.

`optax.scale_by_lbfgs` keeps such pairs too. It does not serve here: it stores a pair whatever the sign of
s'y (L-BFGS-B skips those), weighs them in the default float type rather than the parameters' own, applies
them leaf by leaf in 2 m dependent passes, and hands out no products between pairs, which bounds need.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._kernel import Flag, write_row

Scalar = Float[Array, ""]
Vector = Float[Array, " n"]
Square = Float[Array, "m m"]
Compact = Float[Array, " two_m"]


class Pairs(NamedTuple):
    """At most m pairs, by slot, and the scale of B_0 = theta I."""

    rows: Float[Array, "two_m n"]  # s_0 .. s_{m-1}, then y_0 .. y_{m-1}: one pass multiplies all
    curvature: Float[Array, " m"]  # s_i'y_i, zero where a slot is empty
    theta: Scalar  # y'y / s'y of the newest pair
    count: Int[Array, ""]  # pairs ever written


class NewPair(NamedTuple):
    """A step, the change of the gradient over it, and s'y; `keep` tells whether it is worth remembering."""

    s: Vector
    y: Vector
    curvature: Scalar
    keep: Flag


def empty_pairs(size: int, maxcor: int, dtype: jnp.dtype) -> Pairs:
    """No pairs yet, room for `maxcor` of vectors of length `size`."""
    return Pairs(
        rows=jnp.zeros((2 * maxcor, size), dtype),
        curvature=jnp.zeros(maxcor, dtype),
        theta=jnp.ones((), dtype),
        count=jnp.zeros((), jnp.int32),
    )


def newest_slot(pairs: Pairs, new: NewPair) -> Bool[Array, " m"]:
    """Where `new` goes: true in one slot, in none if it is not kept."""
    slots = pairs.curvature.size
    return (jnp.arange(slots) == pairs.count % slots) & new.keep


def write_pair(pairs: Pairs, new: NewPair) -> tuple[Pairs, Compact]:
    """Over the oldest pair, in place; also the products of all rows with the new y."""
    slots = pairs.curvature.size
    place = pairs.count % slots
    rows = write_row(pairs.rows, place, new.s, new.keep)
    rows = write_row(rows, slots + place, new.y, new.keep)
    products = multiply(rows, new.y)
    here = newest_slot(pairs, new)
    square = jnp.sum(jnp.where(here, products[slots:], 0))
    written = Pairs(
        rows=rows,
        curvature=jnp.where(here, new.curvature, pairs.curvature),
        theta=jnp.where(new.keep, square / new.curvature, pairs.theta),
        count=pairs.count + new.keep,
    )
    return written, products


def forget(pairs: Pairs, drop: Flag) -> Pairs:
    """An empty memory where `drop`; the rows stay and are weighed by zeros until they are written over."""
    return pairs._replace(
        curvature=jnp.where(drop, 0, pairs.curvature),
        theta=jnp.where(drop, 1, pairs.theta),
        count=jnp.where(drop, 0, pairs.count),
    )


def multiply(rows: Float[Array, "k n"], vector: Vector) -> Float[Array, " k"]:
    """rows @ vector, in full precision: accelerators would multiply float32 in fewer bits."""
    return jnp.dot(rows, vector, precision=lax.Precision.HIGHEST)


def combine(weights: Float[Array, " k"], rows: Float[Array, "k n"]) -> Vector:
    """The sum of the rows times their weights, in full precision."""
    return jnp.dot(weights, rows, precision=lax.Precision.HIGHEST)


def put(matrix: Square, slot: Bool[Array, " m"], *, row: Array | None = None, column: Array | None = None) -> Square:
    """`matrix` with the slot's row or column replaced."""
    if row is not None:
        matrix = jnp.where(slot[:, None], row[None, :], matrix)
    if column is not None:
        matrix = jnp.where(slot[None, :], column[:, None], matrix)
    return matrix
