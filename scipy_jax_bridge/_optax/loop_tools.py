"""Operations for compiled loops that stay efficient under `vmap`: the loop condition, and writing the trace."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

COUNT_MODULUS = 2**24  # the trace stores counts modulo this, because float32 holds integers exactly up to it

Tree = TypeVar("Tree")
Held = Bool[Array, " n"] | None  # the components that stay where they are


def select(condition: bool | Array, new: Tree, old: Tree) -> Tree:
    """Return the tree `new` if the condition holds, else the tree `old`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def hold(held: Held, at: ArrayLike, x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return x with the numbers of `at` in its held components."""
    return x if held is None else jnp.where(held, at, x)


@custom_vmap
def any_active(flag: Array) -> Array:
    """Return the loop condition; in a batch, whether any of the solves goes on.

    With one condition per solve, `vmap` would select between old and new for every array of the carry. With one
    condition for all it does not, so the loop body must leave finished solves unchanged itself: see `is_active`.
    """
    return flag


@any_active.def_vmap
def _any_active_in_batch(size: int, batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return any_active(jnp.any(flag, axis=0)), False


@custom_vmap
def is_active(flag: Array) -> Array:
    """Return whether this solve goes on, in the body of a loop with the condition `any_active(flag)`.

    Without a batch that is always true there, and the compiler drops the selections that depend on it.
    """
    return flag | True


@is_active.def_vmap
def _is_active_in_batch(size: int, batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return flag, True


@custom_vmap
def write_rows(rows: Array, place: Array, new: Array, keep: Array) -> Array:
    """Replace the rows from `place` on by `new` if `keep`. Inside a loop this happens in place.

    Only the replaced rows are read and written. A batch writes all rows instead, which is faster than a scatter.
    """
    old = jax.lax.dynamic_slice_in_dim(rows, place, new.shape[0])
    return jax.lax.dynamic_update_slice_in_dim(rows, jnp.where(keep, new, old), place, 0)


@write_rows.def_vmap
def _write_rows_in_batch(size: int, batched: list[bool], *operands: Any) -> tuple[Array, bool]:
    rows, place, new, keep = (
        operand if is_batched else jnp.broadcast_to(operand, (size, *jnp.shape(operand)))
        for operand, is_batched in zip(operands, batched, strict=True)
    )
    for position in range(new.shape[1]):
        here = (jnp.arange(rows.shape[1], dtype=place.dtype)[None, :] == place[:, None] + position) & keep[:, None]
        rows = jnp.where(here[:, :, None], new[:, position, None, :], rows)
    return rows, True
