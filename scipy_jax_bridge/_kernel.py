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
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool

Flag = Bool[Array, "..."]  # one, or one in each lane
Record = tuple[Any, ...]  # a named tuple of scalars, flags and whole numbers
Rule = Callable[..., tuple[Record, ...]]
VECTOR = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Records in one array, a lane for each field; some lanes at the end may be left over."""

    values: Any  # an array of lanes, or its shape and type
    kinds: tuple[type, ...] = field(metadata={"static": True})

    def read(self) -> tuple[Any, ...]:
        """The records; a field annotated as `Flag` is true where its lane is not zero."""
        lanes = iter(range(_count(self.kinds)))
        notes = [(kind, kind.__annotations__.values()) for kind in self.kinds]
        return tuple(kind(*(self._lane(next(lanes), note) for note in fields)) for kind, fields in notes)

    def take(self, *kinds: type) -> Packed:
        """The first records alone."""
        return Packed(self.values[: _count(kinds)], kinds)

    def or_else(self, condition: Flag, other: Packed) -> Packed:
        """These where `condition`, else the `other`, whose records are the first of these, and zeros after them."""
        rest = self.values.size - other.values.size
        return Packed(jnp.where(condition, self.values, jnp.pad(other.values, (0, rest))), self.kinds)

    def with_lane(self, name: str, value: float) -> Packed:
        """These with another value of one field; on the host."""
        names = [field for kind in self.kinds for field in kind.__annotations__]
        values = np.array(self.values)
        values[names.index(name)] = value
        return Packed(values, self.kinds)

    def _lane(self, position: int, note: Any) -> Array:
        return self.values[position] != 0 if "Flag" in str(note) else self.values[position]


def pack(dtype: jnp.dtype, *records: Record) -> Packed:
    """These records in one array."""
    fields = [jnp.asarray(each).astype(dtype) for record in records for each in record]
    return Packed(jnp.stack(fields), tuple(type(record) for record in records))


def choose(first: Flag, rule: Rule, other: Rule, kinds: tuple[type, ...], *operands: Packed) -> Packed:
    """The records that `rule` makes of the operands where `first`, else those of `other`.

    Arguments:
        first: which rule holds.
        rule: a function of tuples of records, one for each operand, to a tuple of records. Elementwise
            operations only, since every lane computes all of it and keeps its own field.
        other: the same.
        kinds: the records that come out.
        operands: what the rules read.
    """
    dtype = operands[0].values.dtype
    lanes = _width(kinds)

    @custom_vmap
    def single(first: Array, *arrays: Array) -> Array:
        # All operands go into the branch as one table: as scalars there, the compiler would compute
        # number by number and put them side by side only at the end.
        joined = jnp.concatenate(arrays)
        table = jnp.broadcast_to(joined[:, None], (joined.size, lanes))
        return jax.lax.cond(first, branch(rule), branch(other), table)

    def branch(rule: Rule) -> Callable[[Array], Array]:
        def run(table: Array) -> Array:
            ends = np.cumsum([each.values.size for each in operands])[:-1]
            return _side_by_side(rule(*read_all(jnp.split(table, ends))), lanes, dtype)

        return run

    @single.def_vmap
    def batch(size: int, batched: Any, first: Array, *arrays: Array) -> tuple[Array, bool]:
        def one(first: Array, *arrays: Array) -> Array:
            inputs = read_all(list(arrays))
            return jnp.where(first, _one_by_one(rule(*inputs), lanes, dtype), _one_by_one(other(*inputs), lanes, dtype))

        axes = [0 if is_batched else None for is_batched in batched]
        return jax.vmap(one, in_axes=axes, axis_size=size)(first, *arrays), True

    def read_all(arrays: list[Array]) -> list[tuple[Any, ...]]:
        return [Packed(array, each.kinds).read() for array, each in zip(arrays, operands, strict=True)]

    return Packed(single(first, *(each.values for each in operands)), kinds)


def _side_by_side(records: tuple[Record, ...], lanes: int, dtype: jnp.dtype) -> Array:
    lane = jnp.arange(lanes)
    values = jnp.zeros(lanes, dtype)
    for position, each in enumerate(each for record in records for each in record):
        values = jnp.where(lane == position, jnp.asarray(each).astype(dtype), values)
    return values


def _one_by_one(records: tuple[Record, ...], lanes: int, dtype: jnp.dtype) -> Array:
    values = pack(dtype, *records).values
    return jnp.pad(values, (0, lanes - values.size))


def _count(kinds: tuple[type, ...]) -> int:
    return sum(len(kind.__annotations__) for kind in kinds)


def _width(kinds: tuple[type, ...]) -> int:
    """As many lanes as fields, rounded up to what a vector unit takes at once."""
    return -(-_count(kinds) // VECTOR) * VECTOR


@custom_vmap
def any_goes_on(flag: Array) -> Array:
    """Whether a loop goes on: in a batch as long as any of its solves does.

    The one answer for all spares the batch what a loop with an answer for each would do after every turn: choose
    between old and new for every array of the carry. So the turn itself must leave alone what has ended (`runs`).
    """
    return flag


@any_goes_on.def_vmap
def _any_of_many_goes_on(size: int, batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return any_goes_on(jnp.any(flag, axis=0)), False


@custom_vmap
def runs(flag: Array) -> Array:
    """In the turn of a loop that goes on by `any_goes_on(flag)`: whether this solve does. Always, if it is alone."""
    return jnp.ones_like(flag)


@runs.def_vmap
def _runs_of_many(size: int, batched: list[bool], flag: Array) -> tuple[Array, bool]:
    return flag, True


@custom_vmap
def write_row(rows: Array, place: Array, row: Array, keep: Array) -> Array:
    """`rows` with the one at `place` replaced if `keep`; in a loop, in place.

    Only that row is read and written. A batch writes all rows instead: faster than a scatter.
    """
    old = jax.lax.dynamic_index_in_dim(rows, place, keepdims=False)
    return jax.lax.dynamic_update_index_in_dim(rows, jnp.where(keep, row, old), place, 0)


@write_row.def_vmap
def _write_row_of_many(size: int, batched: list[bool], *operands: Any) -> tuple[Array, bool]:
    rows, place, row, keep = (
        operand if is_batched else jnp.broadcast_to(operand, (size, *jnp.shape(operand)))
        for operand, is_batched in zip(operands, batched, strict=True)
    )
    here = (jnp.arange(rows.shape[1]) == place[:, None]) & keep[:, None]
    return jnp.where(here[:, :, None], row[:, None, :], rows), True
