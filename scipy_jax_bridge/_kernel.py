"""Many numbers in one array: how the engine keeps its scalar logic cheap to compile and to run.

A solver's turn decides with some thirty numbers. As separate values of a compiled loop each of them becomes
a kernel of its own, with a copy of all it is computed from: most of the loop's compile time, and much of its
run time where the objective is small. Computed side by side, one lane of one array each, they are one kernel.
A batch of solves fills its kernels anyway, so under `vmap` each number is its own array again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float

Flag = Bool[Array, ""]
Record = tuple[Any, ...]  # a named tuple of scalars, flags and whole numbers


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Records in one array, a lane for each field."""

    values: Float[Array, " lanes"]
    kinds: tuple[type[Record], ...] = field(metadata={"static": True})

    def read(self) -> tuple[Any, ...]:
        """The records; a field annotated as `Flag` is true where its lane is not zero."""
        lanes = iter(range(self.values.shape[0]))
        return tuple(kind(*(self._lane(next(lanes), "Flag" in str(note)) for note in kind.__annotations__.values()))
                     for kind in self.kinds)

    def _lane(self, position: int, is_flag: bool) -> Array:
        return self.values[position] != 0 if is_flag else self.values[position]


def blank(dtype: jnp.dtype, *kinds: type[Record]) -> Packed:
    """Zeros in every field."""
    return Packed(jnp.zeros(_count(kinds), dtype), kinds)


def compute(rule: Callable[..., Any], kinds: tuple[type[Record], ...], dtype: jnp.dtype, *operands: Any) -> Packed:
    """`rule(*operands)`, a tuple of records of these kinds, packed.

    Arguments:
        rule: elementwise operations only, since every lane computes all of it and keeps its own field.
        kinds: the named tuples that come out.
        dtype: the floating type of the lanes; flags become 0 and 1.
        operands: records, or `Packed` ones, which the rule gets as the tuple of records that they hold.
    """
    lanes = _count(kinds)

    def fields_of(operands: Any) -> list[Array]:
        records = rule(*operands)
        return [jnp.asarray(each).astype(dtype) for record in records for each in record]

    @custom_vmap
    def side_by_side(operands: Any) -> Array:
        spread = jax.tree.map(lambda each: jnp.broadcast_to(each, (lanes,)), _unpack(operands))
        lane = jnp.arange(lanes)
        values = jnp.zeros(lanes, dtype)
        for position, each in enumerate(fields_of(spread)):
            values = jnp.where(lane == position, each, values)
        return values

    @side_by_side.def_vmap
    def one_by_one(size: int, batched: Any, operands: Any) -> tuple[Array, bool]:
        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)
        one = jax.vmap(lambda each: jnp.stack(fields_of(_unpack(each))), in_axes=(axes[0],), axis_size=size)
        return one(operands), True

    return Packed(side_by_side(operands), kinds)


def _count(kinds: tuple[type[Record], ...]) -> int:
    return sum(len(kind.__annotations__) for kind in kinds)


def _unpack(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.read() if isinstance(each, Packed) else each for each in operands)


@custom_vmap
def write_row(rows: Array, place: Array, row: Array, keep: Array) -> Array:
    """`rows` with the row at `place` replaced if `keep`; in a loop, in place.

    Only that row is read and written. A batch writes all rows instead: faster than a scatter.
    """
    old = jax.lax.dynamic_slice_in_dim(rows, place, 1)
    return jax.lax.dynamic_update_slice_in_dim(rows, jnp.where(keep, row[None], old), place, 0)


@write_row.def_vmap
def _write_rows(size: int, batched: list[bool], *operands: Array) -> tuple[Array, bool]:
    rows, place, row, keep = (
        operand if is_batched else jnp.broadcast_to(operand, (size, *jnp.shape(operand)))
        for operand, is_batched in zip(operands, batched, strict=True)
    )
    here = (jnp.arange(rows.shape[1]) == place[:, None]) & keep[:, None]
    return jnp.where(here[:, :, None], row[:, None, :], rows), True
