"""Solve inside `jax.shard_map`, which knows of every value over which axes of the mesh it varies.

A loop carries values that vary over the same axes from turn to turn. So what a solve begins with is made to vary
over the axes over which the objective does.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

Tree = TypeVar("Tree", bound=PyTree)


def is_manual() -> bool:
    """Return whether the caller runs inside `jax.shard_map`."""
    return bool(getattr(jax.sharding.get_abstract_mesh(), "manual_axes", ()))


def vary_with(tree: Tree, *others: PyTree) -> Tree:
    """Return the same values, which vary over the axes over which the others do."""
    if not is_manual():
        return tree
    mark = jnp.ones((), bool)
    for leaf in jax.tree.leaves(others):
        mark &= jnp.all(jnp.ravel(leaf)[:0] == 0)  # of no element: true
    return jax.tree.map(lambda leaf: jnp.where(mark, leaf, leaf), tree)
