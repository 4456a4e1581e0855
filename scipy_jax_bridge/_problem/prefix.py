"""Paths of leaves, and values for parts of a tree: a prefix tree, a partial tree, or a dict by path."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jaxtyping import PyTree

from .._core.errors import suggest

Path = tuple[Hashable, ...]

CURE = (
    "It must be one value for all, or have the tree of params or of an upper part of it, or be a dict by path such as "
    "{'kernel.variance': ...}; inside, None leaves a part out, and arrays are NumPy or JAX arrays, not lists."
)


class PerLeaf(tuple[Any, ...]):
    """One value for each leaf of params, in their order, in place of a prefix tree."""


def leaf_paths(tree: PyTree, root: str = "params") -> list[str]:
    """Return the path of each leaf, such as params['weights'][0]."""
    return [root + jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def dotted_paths(tree: PyTree) -> list[str]:
    """Return the path of each leaf in short, such as kernel.variance or layers.0; empty for a tree that is a leaf."""
    return [_dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def spread_prefix(prefix: PyTree, tree: PyTree, name: str) -> list[PyTree]:
    """Return for each leaf of `tree` the value of `prefix` at or above it; None where there is none.

    Args:
        prefix: one value; a tree with the structure of an upper part of `tree`, in which dicts may leave out keys; or
            a dict whose keys are paths, such as "kernel.variance" or "layers.0". None is a leaf.
        tree: the whole tree.
        name: name of the prefix in errors.

    Raises:
        ValueError: a value has no part of `tree` below it, or can be read in two ways.
    """
    if isinstance(prefix, PerLeaf):
        return list(prefix)
    nodes = _Nodes(tree)
    values: dict[int, PyTree] = {}
    for path, value in _assign(prefix, (), nodes, name):
        for place in nodes.places.get(path, ()):
            if place in values:
                raise ValueError(f"{name} names params{jax.tree_util.keystr(nodes.leaves[place])} twice.")
            values[place] = value
    return [values.get(place) for place in range(len(nodes.leaves))]


@dataclass
class _Nodes:
    """The nodes of a tree by path.

    Args:
        tree: the tree.
        leaves: the paths of its leaves.
        places: for each path the positions of the leaves at or below it.
    """

    tree: PyTree
    leaves: list[Path] = field(init=False)
    places: dict[Path, list[int]] = field(init=False, default_factory=dict)
    _names: dict[Path, dict[str, list[Path]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.leaves = [path for path, _ in jax.tree_util.tree_leaves_with_path(self.tree)]
        for place, path in enumerate(self.leaves):
            for length in range(len(path) + 1):
                self.places.setdefault(path[:length], []).append(place)

    def __contains__(self, path: Path) -> bool:
        return path in self.places or path in self._empty_parts

    def keys(self, base: Path) -> set[Hashable]:
        """Return the keys of the children of a node that have leaves."""
        return {self.leaves[place][len(base)] for place in self.places.get(base, ()) if self.leaves[place] != base}

    def names(self, base: Path) -> dict[str, list[Path]]:
        """Return the nodes below a node by their names from there, such as kernel.variance."""
        if base not in self._names:
            names = self._names.setdefault(base, {})
            for path in [*self.places, *self._empty_parts]:
                if len(path) > len(base) and path[: len(base)] == base:
                    names.setdefault(_dotted(path[len(base) :]), []).append(path)
        return self._names[base]

    def is_empty(self, path: Path) -> bool:
        """Whether the part of the tree at this path has no leaves."""
        return path in self._empty_parts

    @functools.cached_property
    def _empty_parts(self) -> set[Path]:
        """Return the paths of the parts of the tree that have no leaves."""
        parts = jax.tree_util.tree_leaves_with_path(self.tree, is_leaf=lambda node: not jax.tree.leaves(node))
        return {path for path, node in parts if not jax.tree.leaves(node)}


def _assign(prefix: PyTree, base: Path, nodes: _Nodes, name: str) -> Iterator[tuple[Path, PyTree]]:
    """Yield the paths that a prefix of the part at `base` names, each with its value."""
    if nodes.is_empty(base) and not jax.tree.leaves(prefix):
        return
    if isinstance(prefix, Mapping):
        full = nodes.keys(base) == {jax.tree_util.DictKey(key) for key in prefix}  # a prefix tree beyond doubt
        for key, value in prefix.items():
            if _is_empty(value):
                continue
            path = (*base, jax.tree_util.DictKey(key)) if full else _find(key, base, nodes, name)
            yield from _assign(value, path, nodes, name)
        return
    children = jax.tree_util.tree_leaves_with_path(prefix, is_leaf=lambda node: node is not prefix)
    if prefix is None or (len(children) == 1 and not children[0][0]):
        yield base, prefix
        return
    named = {path[0] for path, _ in children}
    for path, value in children:
        where = jax.tree_util.keystr(base + path)
        if _is_empty(value):
            continue
        if base + path not in nodes and value is not None:
            raise ValueError(f"{name}{where} has no counterpart params{where}. {CURE}")
        yield from _assign(value, base + path, nodes, name)
    for place in nodes.places.get(base, ()):  # only a dict may leave parts out
        if nodes.leaves[place] == base or nodes.leaves[place][len(base)] not in named:
            raise ValueError(f"{name} says nothing of params{jax.tree_util.keystr(nodes.leaves[place])}. {CURE}")


def _find(key: Any, base: Path, nodes: _Nodes, name: str) -> Path:
    """Return the path of the part below `base` that a key of a dict names."""
    child = (*base, jax.tree_util.DictKey(key))
    if child in nodes.places and not (isinstance(key, str) and "." in key):
        return child
    found = nodes.names(base).get(str(key), [])
    if child in nodes and child not in found:
        found = [child, *found]
    place = jax.tree_util.keystr(child)
    if not found:
        hint = suggest(str(key), nodes.names(base))
        raise ValueError(f"{name}{place} has no counterpart in params{jax.tree_util.keystr(base)}{hint} {CURE}")
    if len(found) > 1:
        readings = " or ".join(f"params{jax.tree_util.keystr(path)}" for path in found)
        raise ValueError(
            f"{name}{place} can be read in two ways: {readings}. Use nested dicts; a dict that names every key of its "
            "part is read as the tree."
        )
    return found[0]


def _is_empty(value: PyTree) -> bool:
    """Whether a part of a prefix says nothing: it has no leaves, of which None is one."""
    return not jax.tree.leaves(value, is_leaf=lambda node: node is None)


def _dotted(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(path), simple=True, separator=".")
