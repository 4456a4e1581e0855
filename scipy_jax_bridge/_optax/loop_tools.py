"""Tools for compiled loops that also run in a batch: when a loop goes on, and how it writes its trace."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array

COUNT_MODULUS = 2**24  # the trace holds counts modulo this: what float32 holds exactly


@custom_vmap
def any_active(flag: Array) -> Array:
    """Whether a loop goes on: in a batch as long as any of its solves does.

    The one answer for all spares the batch what a loop with an answer for each would do after every turn: choose
    between old and new for every array of the carry. So the turn itself must leave alone what has ended (`runs`).
    """
    return flag


@any_active.def_vmap
def _any_of_many_goes_on(size: int, batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return any_active(jnp.any(flag, axis=0)), False


@custom_vmap
def runs(flag: Array) -> Array:
    """In the turn of a loop that goes on by `any_active(flag)`: whether this solve does. Always, if it is alone."""
    return flag | True


@runs.def_vmap
def _runs_of_many(size: int, batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return flag, True


@custom_vmap
def write_rows(rows: Array, place: Array, new: Array, keep: Array) -> Array:
    """`rows` with those from `place` on replaced by `new` if `keep`; in a loop, in place.

    Only those are read and written. A batch writes all rows instead: faster than a scatter.
    """
    old = jax.lax.dynamic_slice_in_dim(rows, place, new.shape[0])
    return jax.lax.dynamic_update_slice_in_dim(rows, jnp.where(keep, new, old), place, 0)


@write_rows.def_vmap
def _write_rows_of_many(size: int, batched: list[bool], *operands: Any) -> tuple[Array, bool]:
    rows, place, new, keep = (
        operand if is_batched else jnp.broadcast_to(operand, (size, *jnp.shape(operand)))
        for operand, is_batched in zip(operands, batched, strict=True)
    )
    for position in range(new.shape[1]):
        here = (jnp.arange(rows.shape[1], dtype=place.dtype)[None, :] == place[:, None] + position) & keep[:, None]
        rows = jnp.where(here[:, :, None], new[:, position, None, :], rows)
    return rows, True
