"""Trees: which leaves are optimized, which ride along, and the way to the flat vector and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._core.errors import shorten
from .._core.types import FlatVector, Tracer

Kind = Literal["free", "data", "static"]


@dataclass(frozen=True)
class LeafSpec:
    """What is fixed about a leaf once a program is compiled.

    `free` leaves are optimized, `data` enters the program as it is, `static` values are part of it.
    """

    kind: Kind
    shape: tuple[int, ...] = ()
    dtype: Any = None
    tag: Hashable = None  # for data: weak type and placement; for free: placement; for static: the value

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class TreeSpec:
    """A tree without its arrays; hashable, so that equal structures share a program."""

    treedef: Any
    leaves: tuple[LeafSpec, ...]

    @property
    def free(self) -> list[LeafSpec]:
        """The leaves that are optimized, in the order in which they lie in the flat vector."""
        return [leaf for leaf in self.leaves if leaf.kind == "free"]

    @property
    def is_free(self) -> tuple[bool, ...]:
        """For each leaf whether it is optimized."""
        return tuple(leaf.kind == "free" for leaf in self.leaves)

    @property
    def size(self) -> int:
        """The length of the flat vector."""
        return sum(leaf.size for leaf in self.free)

    def ravel(self, free: Sequence[Any], dtype: Any) -> FlatVector:
        """The free leaves as one vector."""
        return jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in free])

    def ravel_on_host(self, free: Sequence[Any], dtype: Any) -> np.ndarray:
        """The same as a NumPy array; nothing is compiled for it."""
        return np.concatenate([np.asarray(leaf).ravel().astype(dtype) for leaf in free])

    def unravel(self, x: Any) -> list[Any]:
        """The free leaves, each in its own shape and type; views of `x` if that is a NumPy vector."""
        ends = np.cumsum([leaf.size for leaf in self.free])
        parts = [x[end - leaf.size : end] for end, leaf in zip(ends, self.free, strict=True)]
        return [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, self.free, strict=True)]

    def combine(self, free: Sequence[Any], data: Sequence[Any]) -> PyTree:
        """The tree again, from its free leaves and its data."""
        sources = {"free": iter(free), "data": iter(data)}
        leaves = [_value(leaf.tag) if leaf.kind == "static" else next(sources[leaf.kind]) for leaf in self.leaves]
        return jax.tree.unflatten(self.treedef, leaves)

    def to_device(self, value: Any, *vectors: Any) -> list[Any]:
        """A value and the free leaves of each vector, or None, on the device: in one transfer, or each where it was.

        A vector may lie on the device already; there, slicing its leaves would compile a program for each.
        """
        free = self.free
        if len(free) == 1 and all(_is_leaf(x, free[0]) for x in vectors):
            return [jax.device_put(value), *([x] for x in vectors)]
        parts = [None if x is None else self.unravel(np.asarray(x)) for x in vectors]
        if all(leaf.tag is None for leaf in free):
            return jax.device_put([value, *parts])
        placed = [part and [jax.device_put(x, leaf.tag) for x, leaf in zip(part, free, strict=True)] for part in parts]
        return [jax.device_put(value), *placed]

    def to_params(self, x: np.ndarray, data: Sequence[Any]) -> PyTree:
        """The tree at a vector of the host."""
        return self.combine(self.to_device(None, x)[1], data)

    def params_or_none(self, free: Sequence[Any]) -> PyTree:
        """The tree of the free leaves alone, None in the place of all others.

        If a class refuses to be made of these, the whole is a dict of the free leaves by their position.
        """
        values = iter(free)
        leaves = [next(values) if leaf.kind == "free" else None for leaf in self.leaves]
        try:
            return jax.tree.unflatten(self.treedef, leaves)
        except Exception:
            return {index: leaf for index, leaf in enumerate(leaves) if leaf is not None}


def partition_params(params: PyTree, held: Sequence[bool] | None) -> tuple[TreeSpec, list[Any], list[Any]]:
    """The structure of `params`, its free leaves and its data.

    Arguments:
        params: floating-point arrays and Python floats are free, other arrays are data, all else is static.
        held: for each leaf whether it stays at its start, as data; None holds nothing.

    Errors:
        TypeError: a complex leaf, or one of a type that JAX does not have, named by its path.
    """
    described, treedef = _describe_all(params, "params", static_numbers=True)
    for position, (value, leaf) in enumerate(described):
        if leaf.kind == "static":
            continue
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            path = leaf_paths(params)[position]
            raise TypeError(f"{path} is complex. Optimize its real and imaginary parts as two real leaves instead.")
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not (held and held[position]):
            described[position] = (value, LeafSpec("free", leaf.shape, leaf.dtype, leaf.tag[1]))  # type: ignore[index]
        elif isinstance(value, float) and not isinstance(value, np.generic):
            described[position] = (jnp.asarray(value), leaf)  # it comes back as an array, held or not
    kinds = [(value, leaf.kind) for value, leaf in described]
    free, data = ([value for value, kind in kinds if kind == wanted] for wanted in ("free", "data"))
    return TreeSpec(treedef, tuple(leaf for _, leaf in described)), free, data


def partition_args(args: tuple[Any, ...]) -> tuple[TreeSpec, list[Any]]:
    """The structure of `args` and its data: arrays and numbers; all other leaves are static."""
    described, treedef = _describe_all(args, "args", static_numbers=False)
    data = [value for value, leaf in described if leaf.kind == "data"]
    return TreeSpec(treedef, tuple(leaf for _, leaf in described)), data


def describe_unknown(params: PyTree) -> str:
    """What to do about the first leaf that may hold parameters out of JAX's sight; empty if there is none."""
    for value, path in zip(jax.tree.leaves(params), leaf_paths(params), strict=True):
        name = type(value).__qualname__
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return (
                f"{path} is a {name}, a dataclass that JAX takes for a single leaf: "
                "register it with jax.tree_util.register_dataclass."
            )
        if hasattr(value, "__dict__") and not callable(value) and not isinstance(value, ModuleType):
            return (
                f"{path} is a {name}, an object that JAX takes for a single leaf: pass a dict of its arrays, or "
                "register the class with jax.tree_util.register_pytree_node_class."
            )
    return ""


def describe_integers(params: PyTree, held: Sequence[bool] | None) -> str:
    """What to do about scalar integers, which look like parameters and are none; empty if there is none to speak of.

    Those that are held on purpose are left out, and arrays, which count or index.
    """
    held = held or [False] * len(jax.tree.leaves(params))
    found = [
        (path, value)
        for path, value, known in zip(leaf_paths(params), jax.tree.leaves(params), held, strict=True)
        if not known and (type(value) is int or isinstance(value, np.integer))
    ]
    if not found:
        return ""
    path, value = found[0]
    more = f" So do {join_short([path for path, _ in found[1:]])}." if found[1:] else ""
    return (
        f"{path} is an integer and stays {value}; write {float(value)!r} to fit it, or say with fixed=True there that "
        f"it shall stay.{more}"
    )


def join_short(names: Sequence[str], shown: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def leaf_paths(tree: PyTree, root: str = "params") -> list[str]:
    """Where each leaf lies, such as params['weights'][0]."""
    return [root + jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def spread_prefix(prefix: PyTree, tree: PyTree, name: str) -> list[Any]:
    """For each leaf of `tree` the leaf of `prefix` at or above it.

    Arguments:
        prefix: a tree with the shape of an upper part of `tree`; None is a leaf.
        tree: the whole tree.
        name: what the prefix is called in errors.

    Errors:
        ValueError: a leaf of `tree` has nothing above it, or a leaf of `prefix` nothing below it.
    """
    above = jax.tree_util.tree_leaves_with_path(prefix, is_leaf=lambda node: node is None)
    below = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    places: dict[tuple[Any, ...], list[int]] = {}  # of the leaves at or below a path
    for place, path in enumerate(below):
        for length in range(len(path) + 1):
            places.setdefault(path[:length], []).append(place)
    values: list[Any] = [_MISSING] * len(below)
    for path, value in above:
        if path not in places and value is not None and path not in _empty_parts(tree):
            where = jax.tree_util.keystr(path)
            raise ValueError(f"{name}{where} has no counterpart params{where}. {_PREFIX_CURE}")
        for place in places.get(path, ()):
            values[place] = value
    for path, value in zip(below, values, strict=True):
        if value is _MISSING:
            raise ValueError(f"{name} says nothing of params{jax.tree_util.keystr(path)}. {_PREFIX_CURE}")
    return values


def _empty_parts(tree: PyTree) -> set[tuple[Any, ...]]:
    """Where the tree has a part without leaves."""
    parts = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: not jax.tree.leaves(node))
    return {path for path, node in parts if not jax.tree.leaves(node)}


_MISSING = object()
_PREFIX_CURE = (
    "It must be one value for all, or have the tree of params or of an upper part of it; "
    "inside, None leaves a part out, and arrays are NumPy or JAX arrays, not lists."
)


_NUMBERS = (float, int, complex)


class _ByIdentity:
    """A static value that cannot be hashed: equal only to itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.value is self.value


def _describe_all(tree: PyTree, root: str, *, static_numbers: bool) -> tuple[list[tuple[Any, LeafSpec]], Any]:
    """Every leaf as `_describe` has it, and the tree without them."""
    leaves, treedef = jax.tree.flatten(tree)
    for position, value in enumerate(leaves):
        if isinstance(value, (np.ndarray, np.generic)) and (cure := _find_cure(value.dtype)):
            path = leaf_paths(tree, root)[position]
            raise TypeError(f"{path} is of type {value.dtype}, which JAX does not have. {cure}")
        if isinstance(value, int) and not static_numbers and not _fits(value):
            path = leaf_paths(tree, root)[position]
            raise ValueError(
                f"{path} is {shorten(value)}, more than {_int_type()} holds. Write it as a float, or scale it."
            )
    return [_describe(leaf, static_numbers=static_numbers) for leaf in leaves], treedef


def _int_type() -> np.dtype:
    """Of Python's integers in a program."""
    return jax.dtypes.canonicalize_dtype(np.int64)


def _fits(value: int) -> bool:
    limits = np.iinfo(_int_type())
    return bool(limits.min <= value <= limits.max)


def _find_cure(dtype: np.dtype) -> str:
    """What to do about a type of numbers that JAX does not have; empty if it has it, or if it is none of numbers."""
    if dtype.names is not None:
        return "Make it a dict of one array a field."
    longest = {"f": 8, "c": 16}.get(dtype.kind, dtype.itemsize)
    return "Convert it with .astype(float)." if dtype.itemsize > longest else ""


def _describe(value: Any, *, static_numbers: bool) -> tuple[Any, LeafSpec]:
    """A leaf as a program sees it. Numbers of `params` other than floats are settings, those of `args` are data."""
    if isinstance(value, jax.Array):
        return value, LeafSpec(
            "data", value.shape, value.dtype, (getattr(value, "weak_type", False), _placement(value))
        )
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufcV":
        dtype = jax.dtypes.canonicalize_dtype(value.dtype)
        return value, LeafSpec("data", value.shape, dtype, (False, None))
    is_number = isinstance(value, (int, float, complex)) and not isinstance(value, bool)
    if is_number and (isinstance(value, (float, complex)) or not static_numbers):
        dtype = jax.dtypes.canonicalize_dtype(type(value) if type(value) in _NUMBERS else jnp.asarray(value).dtype)
        if isinstance(value, float) and dtype == np.float32:
            with np.errstate(over="ignore"):  # as JAX does
                value = float(np.float32(value))
        return value, LeafSpec("data", (), dtype, (True, None))
    try:
        hash(value)
    except TypeError:
        return value, LeafSpec("static", tag=_ByIdentity(value))
    return value, LeafSpec("static", tag=(type(value), value))  # the type, since 1 == 1.0 == True


def _is_leaf(x: Any, leaf: LeafSpec) -> bool:
    """Whether the vector is the leaf as it stands."""
    return isinstance(x, jax.Array) and leaf.tag is None and (x.shape, x.dtype) == (leaf.shape, leaf.dtype)


def _placement(value: jax.Array) -> Hashable:
    """Where an array lies, if it was put there on purpose: a program is compiled for it."""
    if isinstance(value, Tracer) or not getattr(value, "committed", True):
        return None
    return value.sharding


def _value(tag: Any) -> Any:
    return tag.value if isinstance(tag, _ByIdentity) else tag[1]
