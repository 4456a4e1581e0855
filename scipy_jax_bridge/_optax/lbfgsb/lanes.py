"""Many numbers in one array: how the engine keeps its scalar logic cheap to compile and to run.

A solver's turn decides with some thirty numbers. As separate values of a compiled loop each of them becomes
a kernel of its own, with a copy of all it is computed from: most of the loop's compile time, and much of its
run time where the objective is small. Computed side by side, one lane of one array each, they are one kernel.
A batch of solves fills its kernels anyway, so under `vmap` each number is its own array again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool

from ..._core.promotion import standard_promotion

Flag = Bool[Array, "..."]  # one, or one in each lane
Record = tuple[Any, ...]  # a named tuple of scalars, flags and whole numbers
Rule = Callable[..., tuple[Record, ...]]
VECTOR = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Records in one array: a lane for each number of a record, and one more for its flags, each a bit of it.

    A field annotated as `Flag` is a flag. Some lanes at the end may be left over.
    """

    values: Any  # an array of lanes, or its shape and type
    kinds: tuple[type, ...] = field(metadata={"static": True})

    def read(self) -> tuple[Any, ...]:
        """The records."""
        records, lane = [], 0
        for kind in self.kinds:
            numbers, flags = _fields(kind)
            found = {name: self._lane(lane + position) for position, name in enumerate(numbers)}
            lane += _lanes(kind)
            bits = self._lane(lane - 1).astype(jnp.int32)  # of flags, if the record has any
            found |= {name: bits & (1 << position) != 0 for position, name in enumerate(flags)}
            records.append(kind(**found))
        return tuple(records)

    def _lane(self, position: int) -> Array:
        return jax.lax.index_in_dim(self.values, position, keepdims=False)

    def take(self, *kinds: type) -> Packed:
        """The first records alone; the lanes of the others are left over."""
        return Packed(self.values, kinds)

    def or_else(self, condition: Flag, other: Packed) -> Packed:
        """These where `condition`, else the `other`, whose records are the first of these, and zeros after them."""
        known = jnp.arange(self.values.size) < sum(map(_lanes, other.kinds))
        return Packed(jnp.where(condition, self.values, jnp.where(known, other.values, 0)), self.kinds)

    def number(self, name: str) -> float:
        """One number; on the host."""
        return float(np.asarray(self.values)[self._lane_of(name)])

    def with_number(self, name: str, value: float) -> Packed:
        """These with another value of one number; on the host."""
        values = np.array(self.values)
        values[self._lane_of(name)] = value
        return Packed(values, self.kinds)

    def _lane_of(self, name: str) -> int:
        lane = 0
        for kind in self.kinds:
            numbers, _ = _fields(kind)
            if name in numbers:
                return lane + numbers.index(name)
            lane += _lanes(kind)
        raise KeyError(name)


def pack(dtype: jnp.dtype, room: tuple[type, ...], *records: Record) -> Packed:
    """These records in one array that has room for records of the kinds in `room`."""
    lanes = [lane.astype(dtype) for record in records for lane in _as_lanes(record)]
    spare = [jnp.zeros((), dtype)] * (_width(room) - len(lanes))
    return Packed(jnp.stack(lanes + spare), tuple(type(record) for record in records))


def pack_constants(dtype: jnp.dtype, room: tuple[type, ...], *records: Record) -> Packed:
    """The same of plain numbers, on the host."""
    lanes: list[float] = []
    for record in records:
        numbers, flags = _fields(type(record))
        lanes += [getattr(record, name) for name in numbers]
        lanes += [sum(1 << position for position, name in enumerate(flags) if getattr(record, name))] if flags else []
    values = np.zeros(_width(room), dtype)
    values[: len(lanes)] = lanes
    return Packed(values, tuple(type(record) for record in records))


def choose(first: Flag, rule: Rule, other: Rule, kinds: tuple[type, ...], numbers: Packed, *records: Record) -> Packed:
    """The records that `rule` makes of its operands where `first`, else those of `other`.

    Arguments:
        first: which rule holds.
        rule: a function of the tuple of records in `numbers`, and of `records`, to a tuple of records. Elementwise
            operations only, since every lane computes all of it and keeps its own.
        other: the same.
        kinds: the records that come out.
        numbers: what the rules read.
        records: what else they read, not packed yet.
    """
    dtype, lanes, held, size = numbers.values.dtype, _width(kinds), numbers.kinds, numbers.values.size
    asked = [(type(each), len(each)) for each in records]  # no closure below holds an array, which would outlive it

    @custom_vmap
    def single(first: Any, values: Any, *scalars: Any) -> Array:
        # All operands go into the branch as one table: as scalars there, the compiler would compute
        # number by number and put them side by side only at the end.
        joined = jnp.concatenate([values, jnp.stack(scalars)])
        table = jnp.broadcast_to(joined[:, None], (joined.size, lanes))
        return jax.lax.cond(first, branch(rule), branch(other), table)

    def branch(rule: Rule) -> Callable[[Array], Array]:
        def run(table: Array) -> Array:
            return _side_by_side(rule(*operands(table[:size], list(table[size:]))), lanes, dtype)

        return run

    @single.def_vmap
    def batch(many: int, batched: Any, *arrays: Any) -> tuple[Array, bool]:
        def one(first: Any, values: Any, *scalars: Any) -> Array:
            inputs = operands(values, list(scalars))
            chosen = jax.tree.map(lambda a, b: jnp.where(first, a, b), rule(*inputs), other(*inputs))
            return pack(dtype, kinds, *chosen).values

        # Number by number the lanes of all solves lie side by side.
        axes = [0 if is_batched else None for is_batched in batched]
        with standard_promotion():
            return jax.vmap(one, in_axes=axes, out_axes=1, axis_size=many)(*arrays).T, True

    def operands(values: Array, scalars: list[Any]) -> list[Any]:
        left = map(jnp.asarray, scalars)
        return [Packed(values, held).read(), *(kind(*islice(left, count)) for kind, count in asked)]

    scalars = [jnp.asarray(each).astype(dtype) for record in records for each in record]
    return Packed(single(first, numbers.values, *scalars), kinds)


def _side_by_side(records: tuple[Record, ...], lanes: int, dtype: jnp.dtype) -> Array:
    position = jnp.arange(lanes)
    values = jnp.zeros(lanes, dtype)
    for lane, each in enumerate(lane for record in records for lane in _as_lanes(record)):
        values = jax.lax.select(position == lane, jnp.broadcast_to(each.astype(dtype), lanes), values)
    return values


@cache
def _fields(kind: type) -> tuple[list[str], list[str]]:
    """The names of the numbers of a record and of its flags."""
    notes = {name: "Flag" in str(note) for name, note in kind.__annotations__.items()}
    return [name for name in notes if not notes[name]], [name for name in notes if notes[name]]


def _as_lanes(record: Record) -> list[Array]:
    """The numbers of a record, and after them its flags as the bits of one."""
    numbers, flags = _fields(type(record))
    bits = [jnp.where(getattr(record, name), 1 << position, 0) for position, name in enumerate(flags)]
    return [jnp.asarray(getattr(record, name)) for name in numbers] + ([sum(bits[1:], bits[0])] if bits else [])


def _lanes(kind: type) -> int:
    numbers, flags = _fields(kind)
    return len(numbers) + bool(flags)


def _width(kinds: tuple[type, ...]) -> int:
    """As many lanes as these kinds take, rounded up to what a vector unit takes at once."""
    return -(-sum(map(_lanes, kinds)) // VECTOR) * VECTOR
