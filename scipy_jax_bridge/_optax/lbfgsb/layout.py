"""Trees of floating-point arrays as flat vectors, and what `optax.apply_updates` makes of an update to them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..._core.types import TreeDef
from ..limits import Box
from .lanes import Flag
from .memory import Vector


@dataclass(frozen=True)
class Layout:
    """Where the leaves of a tree lie in a flat vector.

    Args:
        treedef: the tree without its leaves.
        leaves: the shape and the type of each leaf.
        dtype: the type of the vector: the widest of the leaves, at least float32.
    """

    treedef: TreeDef
    leaves: tuple[tuple[tuple[int, ...], np.dtype], ...]
    dtype: np.dtype

    @classmethod
    def of(cls, tree: PyTree) -> Layout:
        """Return the layout of a tree of arrays. Call it with JAX's standard promotion."""
        leaves, treedef = jax.tree.flatten(tree)
        kinds = tuple((leaf.shape, np.dtype(leaf.dtype)) for leaf in leaves)
        return Layout(treedef, kinds, jnp.result_type(jnp.float32, *(dtype for _, dtype in kinds)))

    def ravel(self, tree: PyTree) -> Vector:
        """Return the leaves as one vector."""
        leaves = [jnp.ravel(leaf).astype(self.dtype) for leaf in jax.tree.leaves(tree)]
        return jnp.concatenate(leaves) if leaves else jnp.zeros(0, self.dtype)

    def unravel(self, x: Vector) -> PyTree:
        """Return the vector as a tree."""
        parts = zip(self._split(x), self.leaves, strict=True)
        return self.treedef.unflatten([part.reshape(shape).astype(dtype) for part, (shape, dtype) in parts])

    def round(self, x: Vector) -> Vector:
        """Round each part of the vector to the type of its leaf."""
        if all(dtype == self.dtype for _, dtype in self.leaves):
            return x
        kinds = [jnp.finfo(dtype) for _, dtype in self.leaves]
        parts = zip(self._split(x), kinds, strict=True)
        return jnp.concatenate([jax.lax.reduce_precision(part, kind.nexp, kind.nmant) for part, kind in parts])

    @property
    def eps(self) -> float | Array:
        """The relative rounding of the components."""
        found = {float(jnp.finfo(dtype).eps) for _, dtype in self.leaves}
        if len(found) <= 1:
            return max(found, default=0.0)
        sized = [(int(np.prod(shape)), jnp.finfo(dtype).eps) for shape, dtype in self.leaves]
        return jnp.concatenate([jnp.full(size, eps, self.dtype) for size, eps in sized])

    def _split(self, x: Vector) -> list[Array]:
        ends = accumulate((int(np.prod(shape)) for shape, _ in self.leaves), initial=0)
        return [x[begin:end] for begin, end in pairwise(ends)]

    def reach(self, at: Vector, target: Vector, box: Box | None, inside: Flag) -> Vector:
        """Return an update with which `at + update`, rounded, is the target to rounding, and within the bounds.

        A sum that rounds beyond a bound is moved inside. A component whose box is narrower than the rounding of the
        sum stays where it is.
        """
        update = self.round(self.round(target) - at)
        if box is None:
            return update
        total = self.round(at + update)
        margin = 2 * self.eps * jnp.maximum(jnp.abs(at), jnp.abs(update))
        inward = jnp.where(total < box.lower, margin, jnp.where(total > box.upper, -margin, 0))
        nudged = self.round(update + inward)
        total = self.round(at + nudged)
        beyond = (total < box.lower) | (total > box.upper)
        return jnp.where(beyond & inside, 0, nudged)
