"""Compute the solver's scalars as the lanes of one array, so that XLA compiles one kernel instead of thirty.

One step of the solver computes some thirty numbers and flags. As separate values of a compiled loop, each becomes a
kernel of its own, with a copy of everything that it is computed from. As the lanes of one array they are one kernel.
A batch of solves fills its kernels anyway, so under `vmap` each number is an array of its own again.

Measured against NamedTuples of plain scalars in the carry, with a `lax.cond` between the two functions, and with a
selection in its place (Rosenbrock's function in float64, least of three turns, two busy CPU cores, JAX 0.10.2):

    n                          lanes    cond     selection
    10    compile, no bounds   1.4 s    1.8 s    4.3 s      processor time
    10    compile, bounds      4.1 s    3.9 s    6.9 s
    20    an evaluation        4.3 us   5.7 us   12 us      no bounds
    20    an evaluation        26 us    29 us    71 us      bounds
    1000  an evaluation        16 us    34 us    57 us      no bounds
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import count, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from ..._core.promotion import standard_promotion
from ..loop_tools import select

SIMD_WIDTH = 8

Flag = Bool[Array, "..."]  # a scalar, or one value for each lane
Lanes = Float[Array, " lanes"]  # first one with a bit for each flag, then one for each number; the last may be unused
Scalars = tuple[ArrayLike, ...]  # a NamedTuple whose fields are scalars and flags
Kinds = tuple[type, ...]  # NamedTuple classes
Rule = Callable[..., tuple[Scalars, ...]]
RowRule = Callable[[Sequence[Array]], list[ArrayLike]]


def pack(kinds: Kinds, records: Iterable[Scalars]) -> list[ArrayLike]:
    """Return a scalar for each lane that NamedTuples of these kinds need. The lanes of kinds left out are 0."""
    records = list(records)
    flags, numbers = ([each for record in records for each in _take(record, is_flag)] for is_flag in (True, False))
    bits = sum(flag * 2**place for place, flag in enumerate(flags))
    width = 1 + sum(not is_flag for kind in kinds for is_flag in _are_flags(kind))
    return [bits, *numbers] + [0] * (-(-width // SIMD_WIDTH) * SIMD_WIDTH - 1 - len(numbers))


def unpack(kinds: Kinds, lanes: Iterable[Array | np.generic]) -> tuple[Any, ...]:
    """Return NamedTuples of these kinds, the first of those that were packed."""
    first, *rest = lanes
    bits, numbers = first.astype(jnp.int32), iter(rest)
    flags = (bits & 2**place != 0 for place in count())
    return tuple(kind(*(next(flags if is_flag else numbers) for is_flag in _are_flags(kind))) for kind in kinds)


def _take(record: Scalars, is_flag: bool) -> list[ArrayLike]:
    return [each for each, flag in zip(record, _are_flags(type(record)), strict=True) if flag == is_flag]


@cache
def _are_flags(kind: type) -> list[bool]:
    return ["Flag" in str(note) for note in kind.__annotations__.values()]


def split(lanes: Array) -> list[Array]:
    """Return the lanes one by one."""
    return [jax.lax.index_in_dim(lanes, place, keepdims=False) for place in range(lanes.shape[0])]


def select_fused(
    first: Flag, rule: Rule, other: Rule, taken: Kinds, returned: Kinds, lanes: Lanes, *records: Scalars
) -> Lanes:
    """Apply one of two functions of scalars, in one kernel.

    Args:
        first: whether to apply `rule`, not `other`.
        rule: a function of (tuple of NamedTuples, *records) that returns a tuple of NamedTuples. It must be
            elementwise: every lane computes all results and keeps its own.
        other: a function like `rule`.
        taken: the NamedTuple classes that they take from `lanes`.
        returned: the NamedTuple classes that they return.
        lanes: the packed NamedTuples, with as many lanes as the result.
        records: inputs that are not packed yet.
    """
    dtype, size = lanes.dtype, lanes.size
    kinds = [type(each) for each in records]  # no closure below may hold an array: it would outlive it
    apply, apply_other = (_on_rows(each, size, taken, kinds, returned) for each in (rule, other))
    # Operands below are `Any`: JAX may hand over its own literals, which are no arrays by type.

    @custom_vmap
    def single(first: Any, lanes: Any, *scalars: Any) -> Array:
        # All operands enter the branch as one table. If they entered as scalars, the compiler would compute
        # number by number and join the results only at the end.
        joined = jnp.concatenate([lanes, jnp.stack(scalars)])
        table = jnp.broadcast_to(joined[:, None], (joined.size, size))
        branches = (partial(_side_by_side, each, dtype) for each in (apply, apply_other))
        return jax.lax.cond(first, *branches, table)

    @single.def_vmap
    def batch(many: int, batched: list[bool], *arrays: Any) -> tuple[Array, bool]:
        def one(first: Any, lanes: Any, *scalars: Any) -> Array:
            rows = [*split(jnp.asarray(lanes)), *map(jnp.asarray, scalars)]
            return jnp.stack([jnp.asarray(each, dtype) for each in select(first, apply(rows), apply_other(rows))])

        # The results are stored number by number, so that the lanes of all solves lie next to each other.
        axes = [0 if is_batched else None for is_batched in batched]
        with standard_promotion():
            return jax.vmap(one, in_axes=axes, out_axes=1, axis_size=many)(*arrays).T, True

    return single(first, lanes, *(jnp.asarray(each).astype(dtype) for record in records for each in record))


def _on_rows(rule: Rule, size: int, taken: Kinds, kinds: Sequence[type], returned: Kinds) -> RowRule:
    """Return the rule as a function of a list: `size` lanes, then the fields of the NamedTuples of these kinds."""

    def run(rows: Sequence[Array]) -> list[ArrayLike]:
        rest = iter(rows[size:])
        records = [kind(*islice(rest, len(kind.__annotations__))) for kind in kinds]
        return pack(returned, rule(unpack(taken, rows[:size]), *records))

    return run


def _side_by_side(rule: RowRule, dtype: jnp.dtype, table: Array) -> Lanes:
    """Return lane k of the result k of the rule, for all k. Every lane computes all results."""
    results = rule(split(table))
    position = jnp.arange(len(results))
    lanes = jnp.zeros(len(results), dtype)
    for place, each in enumerate(results):
        lanes = jnp.where(position == place, jnp.asarray(each, dtype), lanes)
    return lanes
