"""Convert between a parameter tree and the flat vector of its optimized leaves.

The leaves of a tree are partitioned into optimized leaves, data and static values. The optimized leaves are ravelled
and concatenated into the flat vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from .._core.context import is_debugging
from .._core.types import FlatVector, HostVector, Leaf, TreeDef, Vector
from .leaves import Described, LeafSpec, describe_leaves, place_at, sharding_of
from .prefix import leaf_paths

SMALL = (
    2**16
)  # numbers that a compiled program moves faster than `jax.device_put`, which takes long vectors as they are


@dataclass(frozen=True)
class TreeSpec:
    """A tree without its arrays. It is hashable: calls with equal specs share a compiled program."""

    treedef: TreeDef
    leaves: tuple[LeafSpec, ...]

    @cached_property
    def optimized(self) -> list[LeafSpec]:
        """The leaves that are optimized, in their order in the flat vector."""
        return [leaf for leaf in self.leaves if leaf.kind == "free"]

    @cached_property
    def is_optimized(self) -> tuple[bool, ...]:
        """For each leaf whether it is optimized."""
        return tuple(leaf.kind == "free" for leaf in self.leaves)

    @cached_property
    def size(self) -> int:
        """The length of the flat vector."""
        return sum(leaf.size for leaf in self.optimized)

    def placed(self, optimized: Iterator[Leaf], data: Iterator[Leaf]) -> TreeSpec:
        """Return the spec of a tree whose next arrays lie where these do."""
        sources = {"free": optimized, "data": data}
        leaves = (
            leaf if leaf.kind == "static" else replace(leaf, sharding=sharding_of(next(sources[leaf.kind])))
            for leaf in self.leaves
        )
        return replace(self, leaves=tuple(leaves))

    def ravel(self, optimized: Sequence[Leaf], dtype: DTypeLike) -> FlatVector:
        """Concatenate the optimized leaves into one vector."""
        return jnp.concatenate([jnp.ravel(jnp.asarray(leaf)).astype(dtype) for leaf in optimized])

    def ravel_on_host(self, optimized: Sequence[Leaf], dtype: DTypeLike) -> HostVector:
        """Concatenate the optimized leaves into a NumPy vector; nothing is compiled for it."""
        return np.concatenate([np.asarray(leaf).ravel().astype(dtype) for leaf in optimized])

    def unravel(self, x: Vector) -> list[Leaf]:
        """Split the vector into the optimized leaves, each in its shape and type; views of `x` if it is NumPy's."""
        leaves = self.optimized
        if len(leaves) == 1:
            return [x.reshape(leaves[0].shape).astype(leaves[0].dtype)]
        ends = accumulate(leaf.size for leaf in leaves)
        parts = [x[end - leaf.size : end] for end, leaf in zip(ends, leaves, strict=True)]
        return [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]

    def in_order(self, x: Vector) -> HostVector:
        """Return a vector on the host in the order of the leaves."""
        return np.asarray(x)

    def snapshot(self, x: Vector) -> Any:
        """Return what `to_params` makes params of, which stays when the loop takes over the vector."""
        return np.array(x)

    def combine(self, optimized: Sequence[Leaf], data: Sequence[Leaf]) -> PyTree:
        """Rebuild the tree from its optimized leaves and its data."""
        sources = {"free": iter(optimized), "data": iter(data)}
        leaves = [next(sources[leaf.kind]) if leaf.static is None else leaf.static.value for leaf in self.leaves]
        return jax.tree.unflatten(self.treedef, leaves)

    def to_device(
        self, value: np.ndarray | None, *vectors: Vector | None
    ) -> tuple[Array | None, list[list[Leaf] | None]]:
        """Move a value and vectors to the device, each vector as its leaves; None stays None.

        All go in one transfer, unless the caller committed a leaf to a device. A vector that is one leaf as it is
        stays. A vector on the device is split on the host, since slicing it would compile a program for each leaf.
        """
        explicit = value is None or self.size > SMALL or is_debugging()  # outside a solve a transfer guard may hold
        specs, move = self.optimized, jax.device_put if explicit else _move
        if len(specs) == 1 and all(_is_leaf(x, specs[0]) for x in vectors):
            return move(value), [[x] for x in vectors if isinstance(x, jax.Array)]
        parts = [None if x is None else self.unravel(np.asarray(x)) for x in vectors]
        if all(leaf.sharding is None for leaf in specs):
            return move((value, parts))
        placed = [part and [place_at(x, leaf.sharding) for x, leaf in zip(part, specs, strict=True)] for part in parts]
        return jax.device_put(value), placed

    def to_params(self, x: Any, data: Sequence[Leaf]) -> PyTree:
        """Rebuild the tree, on the device, from a vector on the host."""
        return self.combine(self.to_device(None, x)[1][0] or [], data)

    def params_or_none(self, optimized: Sequence[PyTree]) -> PyTree:
        """Return the tree of params with the optimized leaves, and None in place of all others.

        If a class of the tree refuses None, return a dict of the optimized leaves by their position instead.
        """
        values = iter(optimized)
        leaves = [next(values) if leaf.kind == "free" else None for leaf in self.leaves]
        try:
            return jax.tree.unflatten(self.treedef, leaves)
        except Exception:
            return {index: leaf for index, leaf in enumerate(leaves) if leaf is not None}


@jax.jit
def _move(parts: PyTree) -> PyTree:
    """Return the arrays as they are, on the device."""
    return parts


def partition_params(params: PyTree, fixed: Sequence[bool] | None) -> tuple[TreeSpec, list[Leaf], list[Leaf]]:
    """Return the spec of `params`, its optimized leaves and its data.

    Args:
        params: floating-point arrays and Python floats are optimized, other arrays are data, all else is static.
        fixed: for each leaf whether it stays at its start, as data; None for no fixed leaf.

    Raises:
        TypeError: a leaf is complex or of a type that JAX lacks; the message names its path.
    """
    described, treedef = describe_leaves(params, "params", static_numbers=True)
    for position, (value, leaf) in enumerate(described):
        if leaf.kind == "static":
            continue
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            path = leaf_paths(params)[position]
            raise TypeError(f"{path} is complex. Optimize its real and imaginary parts as two real leaves instead.")
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not (fixed and fixed[position]):
            described[position] = value, LeafSpec("free", leaf.shape, leaf.dtype, sharding=leaf.sharding)
        elif isinstance(value, float) and not isinstance(value, np.generic):
            described[position] = jnp.asarray(value), leaf  # a result holds arrays, also in place of a fixed float
        elif isinstance(value, np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating):
            described[position] = np.array(value), leaf  # a result does not change when the caller's array does
    return _spec_of(described, treedef), _leaves_of(described, "free"), _leaves_of(described, "data")


def partition_args(args: tuple[PyTree, ...]) -> tuple[TreeSpec, list[Leaf]]:
    """Return the spec of `args` and its data: arrays and numbers. All other leaves are static."""
    described, treedef = describe_leaves(args, "args", static_numbers=False)
    return _spec_of(described, treedef), _leaves_of(described, "data")


def _spec_of(described: list[Described], treedef: TreeDef) -> TreeSpec:
    return TreeSpec(treedef, tuple(leaf for _, leaf in described))


def _leaves_of(described: list[Described], kind: str) -> list[Leaf]:
    return [value for value, leaf in described if leaf.kind == kind]


def _is_leaf(x: Vector | None, leaf: LeafSpec) -> bool:
    """Whether the vector is on the device and equal to the leaf in shape and type."""
    return isinstance(x, jax.Array) and leaf.sharding is None and (x.shape, x.dtype) == (leaf.shape, leaf.dtype)
