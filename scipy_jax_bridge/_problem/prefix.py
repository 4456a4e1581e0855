"""Paths of leaves, and prefix trees: one value for all leaves below a node."""

from __future__ import annotations

from collections.abc import Hashable

import jax
from jaxtyping import PyTree

Path = tuple[Hashable, ...]

MISSING = object()
CURE = (
    "It must be one value for all, or have the tree of params or of an upper part of it; "
    "inside, None leaves a part out, and arrays are NumPy or JAX arrays, not lists."
)


def leaf_paths(tree: PyTree, root: str = "params") -> list[str]:
    """Return the path of each leaf, such as params['weights'][0]."""
    return [root + jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def dotted_paths(tree: PyTree) -> list[str]:
    """Return the path of each leaf in short, such as kernel.variance or layers.0; empty for a tree that is a leaf."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]


def spread_prefix(prefix: PyTree, tree: PyTree, name: str) -> list[PyTree]:
    """Return for each leaf of `tree` the leaf of `prefix` at or above it.

    Args:
        prefix: a tree with the structure of an upper part of `tree`; None is a leaf.
        tree: the whole tree.
        name: name of the prefix in errors.

    Raises:
        ValueError: a leaf of `tree` has nothing above it, or a leaf of `prefix` has nothing below it.
    """
    prefix_leaves = jax.tree_util.tree_leaves_with_path(prefix, is_leaf=lambda node: node is None)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    places: dict[Path, list[int]] = {}  # path -> positions of the leaves at or below it
    for place, path in enumerate(paths):
        for length in range(len(path) + 1):
            places.setdefault(path[:length], []).append(place)
    values: list[PyTree] = [MISSING] * len(paths)
    for path, value in prefix_leaves:
        if path not in places and value is not None and path not in _empty_parts(tree):
            where = jax.tree_util.keystr(path)
            raise ValueError(f"{name}{where} has no counterpart params{where}. {CURE}")
        for place in places.get(path, ()):
            values[place] = value
    for path, value in zip(paths, values, strict=True):
        if value is MISSING:
            raise ValueError(f"{name} says nothing of params{jax.tree_util.keystr(path)}. {CURE}")
    return values


def _empty_parts(tree: PyTree) -> set[Path]:
    """Return the paths of the parts of the tree that have no leaves."""
    parts = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: not jax.tree.leaves(node))
    return {path for path, node in parts if not jax.tree.leaves(node)}
