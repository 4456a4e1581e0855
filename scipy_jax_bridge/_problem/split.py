"""Params that are split over devices, as one flat vector of which each device holds the part of its own shards.

The vector is a matrix with a row for each device, read row by row: the row joins what the device holds of each leaf. So
making the vector of the leaves, and the leaves of the vector, moves nothing. A leaf that several devices share is
divided among them, and padded with zeros where it does not divide; a zero stays zero, since its gradient is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from .._core.types import FlatVector, HostVector, Leaf, Vector
from .bounds import FlatBounds
from .leaves import LeafSpec, has_explicit_axes, place_at
from .params import TreeSpec
from .problem import Problem

Axes = tuple[str, ...]  # of a mesh


@dataclass(frozen=True)
class SplitSpec(TreeSpec):
    """A tree whose optimized leaves are split over the devices of a mesh.

    Args:
        mesh: the devices.
        axes: the axes over which a leaf is split; along the others each device holds the same.
    """

    mesh: Mesh
    axes: Axes

    @functools.cached_property
    def size(self) -> int:
        """The length of the flat vector, with its padding."""
        return self.devices * sum(self._width(leaf) for leaf in self.optimized)

    def place(self, *dims: Axes | None) -> NamedSharding:
        """Return the sharding of an array that is split along these dimensions."""
        return NamedSharding(self.mesh, PartitionSpec(*dims))

    def place_leaf(self, leaf: LeafSpec) -> NamedSharding:
        """Return where a leaf lies: a copy on each device if nothing was said."""
        return self.place(*_dims(leaf))

    def ravel(self, optimized: Sequence[Leaf], dtype: DTypeLike) -> FlatVector:
        """Join the optimized leaves into one vector, each device its own shards."""
        parts = []
        for leaf, value in zip(self.optimized, optimized, strict=True):
            there = jax.lax.with_sharding_constraint(jnp.asarray(value).astype(dtype), self.place_leaf(leaf))
            parts.append(jax.lax.with_sharding_constraint(self._fold(jnp, leaf, there), self.place(self.axes)))
        return jax.lax.with_sharding_constraint(jnp.concatenate(parts, axis=1).reshape(-1), self.place(self.axes))

    def ravel_on_host(self, optimized: Sequence[Leaf], dtype: DTypeLike) -> HostVector:
        """Join the optimized leaves into a vector of NumPy."""
        pairs = zip(self.optimized, optimized, strict=True)
        return np.concatenate([self._fold(np, leaf, np.asarray(x).astype(dtype)) for leaf, x in pairs], 1).ravel()

    def unravel(self, x: Vector) -> list[Leaf]:
        """Split the vector into the optimized leaves, each in its shape and type."""
        matrix, leaves, begin = x.reshape(self.devices, -1), [], 0
        xp: Any = np if isinstance(x, np.ndarray) else jnp
        for leaf in self.optimized:
            width = self._width(leaf)
            part, begin = matrix[:, begin : begin + width], begin + width
            if xp is jnp:
                part = jax.lax.with_sharding_constraint(part, self.place(self.axes))
            value = self._unfold(xp, leaf, part).astype(leaf.dtype)
            leaves.append(value if xp is np else jax.lax.with_sharding_constraint(value, self.place_leaf(leaf)))
        return leaves

    def in_order(self, x: Vector) -> HostVector:
        """Return a vector on the host in the order of the leaves, without padding."""
        return TreeSpec(self.treedef, self.leaves).ravel_on_host(self.unravel(np.asarray(x)), x.dtype)

    def to_device(
        self, value: np.ndarray | None, *vectors: Vector | None
    ) -> tuple[Array | None, list[list[Leaf] | None]]:
        """Return the vectors as leaves where params were, and the value on the device; None stays None."""
        return jax.device_put(value), [None if x is None else self.snapshot(x) for x in vectors]

    def snapshot(self, x: Any) -> Any:
        """Return the leaves of a vector, which stay when the loop takes over the vector."""
        if isinstance(x, np.ndarray):
            return [place_at(part, leaf.sharding) for part, leaf in zip(self.unravel(x), self.optimized, strict=True)]
        leaves = _unravel_program(replace(self, treedef=jax.tree.structure(None), leaves=tuple(self.optimized)))(x)
        pairs = zip(leaves, self.optimized, strict=True)
        return [part if leaf.sharding is not None else jax.device_put(np.asarray(part)) for part, leaf in pairs]

    def to_params(self, x: Any, data: Sequence[Leaf]) -> PyTree:
        """Rebuild the tree from a snapshot."""
        return self.combine(x if isinstance(x, list) else self.snapshot(x), data)

    @property
    def devices(self) -> int:
        """The number of parts of the flat vector."""
        return math.prod(self.mesh.shape[name] for name in self.axes)

    def _sizes(self, names: Sequence[str]) -> tuple[int, ...]:
        return tuple(self.mesh.shape[name] for name in names)

    def _used(self, leaf: LeafSpec) -> tuple[Axes, Axes]:
        """Return the axes over which the leaf is split, and the others over which the vector is, in their order."""
        used = {name for names in _dims(leaf) for name in names or ()}
        return tuple(a for a in self.axes if a in used), tuple(a for a in self.axes if a not in used)

    def _width(self, leaf: LeafSpec) -> int:
        """Return how many numbers of the leaf a device holds in the vector."""
        return -(-leaf.size // self.devices)

    def _fold(self, xp: Any, leaf: LeafSpec, value: Any) -> Any:
        """Return the leaf as a matrix with a row for each device."""
        used, others = self._used(leaf)
        cut, local = _cut(leaf, self.mesh)
        places = [place for place, name in enumerate(cut) if name is None]
        value = value.reshape(local).transpose([cut.index(name) for name in used] + places)
        value = value.reshape(*self._sizes(used), -1)
        missing = self._width(leaf) * math.prod(self._sizes(others)) - value.shape[-1]
        value = xp.pad(value, [(0, 0)] * len(used) + [(0, missing)]) if missing else value
        value = value.reshape(*self._sizes((*used, *others)), -1)
        order = [(*used, *others).index(name) for name in self.axes]
        return value.transpose([*order, len(order)]).reshape(self.devices, -1)

    def _unfold(self, xp: Any, leaf: LeafSpec, matrix: Any) -> Any:
        """Return the leaf of such a matrix."""
        used, others = self._used(leaf)
        cut, local = _cut(leaf, self.mesh)
        places = [place for place, name in enumerate(cut) if name is None]
        value = matrix.reshape(*self._sizes(self.axes), -1)
        value = value.transpose([*(self.axes.index(name) for name in (*used, *others)), len(self.axes)])
        value = value.reshape(*self._sizes(used), -1)[..., : leaf.size // math.prod(self._sizes(used))]
        order = [cut.index(name) for name in used] + places
        value = value.reshape([local[place] for place in order])
        return value.transpose(np.argsort(order).tolist()).reshape(leaf.shape)


def _dims(leaf: LeafSpec) -> tuple[Axes | None, ...]:
    """Return for each dimension the axes over which the leaf is split."""
    spec = leaf.sharding.spec if isinstance(leaf.sharding, NamedSharding) else ()
    names = [each if isinstance(each, tuple | None) else (each,) for each in spec]
    return tuple(each or None for each in names) + (None,) * (len(leaf.shape) - len(names))


def _cut(leaf: LeafSpec, mesh: Mesh) -> tuple[list[str | None], list[int]]:
    """Return the dimensions of the leaf, each cut by its axes: their names, None for what a device holds; the sizes."""
    names: list[str | None] = []
    sizes: list[int] = []
    for size, axes in zip(leaf.shape, _dims(leaf), strict=True):
        counts = [mesh.shape[name] for name in axes or ()]
        names += [*(axes or ()), None]
        sizes += [*counts, size // math.prod(counts)]
    return names, sizes


@functools.lru_cache(maxsize=64)
def _unravel_program(spec: SplitSpec) -> Any:
    return jax.jit(spec.unravel, out_shardings=[leaf.sharding or spec.place() for leaf in spec.optimized])


def split_of(params: TreeSpec) -> SplitSpec | None:
    """Return the tree as one of split leaves; None if no leaf is split, or not by one mesh and named axes."""
    placed = [leaf.sharding for leaf in params.optimized if leaf.sharding is not None]
    if not any(isinstance(each, NamedSharding) and not each.is_fully_replicated for each in placed):
        return None
    meshes = {each.mesh if isinstance(each, NamedSharding) else None for each in placed}
    mesh = meshes.pop()
    if meshes or not isinstance(mesh, Mesh) or has_explicit_axes(mesh):
        return None
    split = {name for leaf in params.optimized for names in _dims(leaf) for name in names or ()}
    return SplitSpec(params.treedef, params.leaves, mesh, tuple(name for name in mesh.axis_names if name in split))


def arrange(problem: Problem) -> Problem:
    """Return the problem with the flat vector in the order of the devices, if its params are split over some."""
    params, bounds = problem.spec.params, problem.bounds
    if jax.device_count() == 1:
        return problem
    split = None if isinstance(params, SplitSpec) or problem.spec.is_host else split_of(params)
    if split is None:
        return problem
    if bounds is not None:
        sides = (params.unravel(side) for side in (bounds.lower, bounds.upper))
        bounds = FlatBounds(*(split.ravel_on_host(side, np.float64) for side in sides))
    return replace(problem, spec=replace(problem.spec, params=split), bounds=bounds)
