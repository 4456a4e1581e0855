"""Pack the solver's scalars into one array, so that XLA compiles one fused kernel instead of thirty.

One step of the solver computes some thirty numbers. As separate values of a compiled loop, each becomes a kernel of
its own, with a copy of everything that it is computed from: most of the loop's compile time, and much of its run
time if the objective is small. As the lanes of one array they are one kernel. A batch of solves fills its kernels
anyway, so under `vmap` each number is an array of its own again.
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
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from ..._core.promotion import standard_promotion
from ..loop_tools import select

Flag = Bool[Array, "..."]  # a scalar, or one value for each lane
Scalars = tuple[ArrayLike, ...]  # a NamedTuple whose fields are scalars and flags
Kinds = tuple[type, ...]  # NamedTuple classes
Rule = Callable[..., tuple[Scalars, ...]]
SIMD_WIDTH = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """Several NamedTuples of scalars in one array.

    Each number has a lane of its own. The flags of a NamedTuple, which are its fields annotated as `Flag`, share one
    more lane, a bit each. Lanes at the end may be unused.
    """

    values: Any  # an array, its ShapeDtypeStruct, or whatever JAX puts into a pytree in place of an array
    kinds: Kinds = field(metadata={"static": True})

    def read(self) -> tuple[Any, ...]:
        """Return the NamedTuples."""
        records, lane = [], 0
        for kind in self.kinds:
            numbers, flags = _fields(kind)
            found = {name: self._lane(lane + position) for position, name in enumerate(numbers)}
            lane += _lanes(kind)
            bits = self._lane(lane - 1).astype(jnp.int32)  # not used if there are no flags
            found |= {name: bits & (1 << position) != 0 for position, name in enumerate(flags)}
            records.append(kind(**found))
        return tuple(records)

    def _lane(self, position: int) -> Array:
        return jax.lax.index_in_dim(self.values, position, keepdims=False)

    def take(self, *kinds: type) -> Packed:
        """Keep the first NamedTuples, which are of these kinds. The lanes of the others become unused."""
        return Packed(self.values, kinds)

    def or_else(self, condition: Flag, other: Packed) -> Packed:
        """Select these values where `condition` holds, else the `other` ones.

        The NamedTuples in `other` are the first of these; the rest is zero in it.
        """
        known = jnp.arange(self.values.size) < sum(map(_lanes, other.kinds))
        return Packed(jnp.where(condition, self.values, jnp.where(known, other.values, 0)), self.kinds)

    def number(self, name: str) -> float:
        """Return one number, on the host."""
        return float(np.asarray(self.values)[self._lane_of(name)])

    def with_number(self, name: str, value: float) -> Packed:
        """Replace one number, on the host."""
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


def pack(dtype: jnp.dtype, capacity: Kinds, *records: Scalars) -> Packed:
    """Pack NamedTuples of traced scalars into one array as wide as `capacity` needs."""
    lanes = [lane.astype(dtype) for record in records for lane in _as_lanes(record)]
    spare = [jnp.zeros((), dtype)] * (_width(capacity) - len(lanes))
    return Packed(jnp.stack(lanes + spare), tuple(type(record) for record in records))


def pack_constants(dtype: jnp.dtype, capacity: Kinds, *records: Scalars) -> Packed:
    """Pack NamedTuples of plain numbers, on the host."""
    lanes: list[float] = []
    for record in records:
        numbers, flags = _fields(type(record))
        lanes += [getattr(record, name) for name in numbers]
        lanes += [sum(1 << position for position, name in enumerate(flags) if getattr(record, name))] if flags else []
    values = np.zeros(_width(capacity), dtype)
    values[: len(lanes)] = lanes
    return Packed(values, tuple(type(record) for record in records))


def select_fused(first: Flag, rule: Rule, other: Rule, kinds: Kinds, packed: Packed, *records: Scalars) -> Packed:
    """Apply one of two functions of scalars, in one kernel.

    Args:
        first: whether to apply `rule`, not `other`.
        rule: a function of (tuple of the NamedTuples in `packed`, *records) that returns a tuple of NamedTuples. It
            must be elementwise: every lane computes all results and keeps its own.
        other: a function like `rule`.
        kinds: the NamedTuple classes that they return.
        packed: the packed input.
        records: inputs that are not packed yet.

    Returns:
        The results, packed.
    """
    dtype, lanes, packed_kinds, size = packed.values.dtype, _width(kinds), packed.kinds, packed.values.size
    asked = [(type(each), len(each)) for each in records]  # no closure below may hold an array: it would outlive it
    # Operands below are `Any`: JAX may hand over its own literals, which are no arrays by type.

    @custom_vmap
    def single(first: Any, values: Any, *scalars: Any) -> Array:
        # All operands enter the branch as one table. If they entered as scalars, the compiler would compute
        # number by number and join the results only at the end.
        joined = jnp.concatenate([values, jnp.stack(scalars)])
        table = jnp.broadcast_to(joined[:, None], (joined.size, lanes))
        return jax.lax.cond(first, branch(rule), branch(other), table)

    def branch(rule: Rule) -> Callable[[Array], Array]:
        def run(table: Array) -> Array:
            return _side_by_side(rule(*operands(table[:size], list(table[size:]))), lanes, dtype)

        return run

    @single.def_vmap
    def batch(many: int, batched: list[bool], *arrays: Any) -> tuple[Array, bool]:
        def one(first: Any, values: Any, *scalars: Any) -> Array:
            inputs = operands(values, list(scalars))
            chosen = select(first, rule(*inputs), other(*inputs))
            return pack(dtype, kinds, *chosen).values

        # The results are stored number by number, so that the lanes of all solves lie next to each other.
        axes = [0 if is_batched else None for is_batched in batched]
        with standard_promotion():
            return jax.vmap(one, in_axes=axes, out_axes=1, axis_size=many)(*arrays).T, True

    def operands(values: Any, scalars: list[Any]) -> list[Any]:
        left = map(jnp.asarray, scalars)
        return [Packed(values, packed_kinds).read(), *(kind(*islice(left, count)) for kind, count in asked)]

    scalars = [jnp.asarray(each).astype(dtype) for record in records for each in record]
    return Packed(single(first, packed.values, *scalars), kinds)


def _side_by_side(records: tuple[Scalars, ...], lanes: int, dtype: jnp.dtype) -> Array:
    """Pack results of which every lane holds a copy: each lane selects its own."""
    position = jnp.arange(lanes)
    values = jnp.zeros(lanes, dtype)
    for lane, each in enumerate(lane for record in records for lane in _as_lanes(record)):
        values = jax.lax.select(position == lane, jnp.broadcast_to(each.astype(dtype), lanes), values)
    return values


@cache
def _fields(kind: type) -> tuple[list[str], list[str]]:
    """Return the names of the number fields and of the flag fields."""
    notes = {name: "Flag" in str(note) for name, note in kind.__annotations__.items()}
    return [name for name in notes if not notes[name]], [name for name in notes if notes[name]]


def _as_lanes(record: Scalars) -> list[Array]:
    """Return the numbers, followed by the flags as the bits of one number."""
    numbers, flags = _fields(type(record))
    bits = [jnp.where(getattr(record, name), 1 << position, 0) for position, name in enumerate(flags)]
    return [jnp.asarray(getattr(record, name)) for name in numbers] + ([sum(bits[1:], bits[0])] if bits else [])


def _lanes(kind: type) -> int:
    numbers, flags = _fields(kind)
    return len(numbers) + bool(flags)


def _width(kinds: Kinds) -> int:
    """Return the number of lanes that these kinds need, rounded up to a multiple of SIMD_WIDTH."""
    return -(-sum(map(_lanes, kinds)) // SIMD_WIDTH) * SIMD_WIDTH
