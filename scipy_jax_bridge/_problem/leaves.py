"""The leaves of a tree as a compiled program sees them: its inputs, and the values that are part of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding
from jaxtyping import PyTree

from .._core.errors import shorten
from .._core.types import Leaf, Tracer, TreeDef
from .prefix import leaf_paths

Kind = Literal["free", "data", "static"]
NUMBERS = (float, int, complex)


class StaticValue:
    """A static leaf. Values are equal if their types are too (1 == 1.0 == True); unhashable ones if identical."""

    def __init__(self, value: Any) -> None:
        self.value = value
        try:
            hash(value)
        except TypeError:
            self._is_hashable, self._key = False, id(value)
        else:
            self._is_hashable, self._key = True, (type(value), value)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StaticValue) and self._key == other._key

    def __repr__(self) -> str:
        return repr(self.value) if self._is_hashable else super().__repr__()


@dataclass(frozen=True)
class LeafSpec:
    """What is fixed about a leaf when a program is compiled.

    Args:
        kind: "free" leaves are optimized, "data" leaves are inputs of the program, "static" values are part of it.
        shape, dtype: of a free or data leaf. Random keys have one of JAX's extended dtypes.
        weak_type: whether the type of a data leaf gives way to others in promotion, as that of a Python number.
        sharding: where the caller committed the array; None if JAX may choose.
        static: the value of a static leaf.
    """

    kind: Kind
    shape: tuple[int, ...] = ()
    dtype: Any = None
    weak_type: bool = False
    sharding: Sharding | None = None
    static: StaticValue | None = None

    @cached_property
    def size(self) -> int:
        """The number of components."""
        return math.prod(self.shape)


Described = tuple[PyTree, LeafSpec]  # a leaf of the user's tree, as the program takes it, and its spec


def describe_leaves(tree: PyTree, root: str, *, static_numbers: bool) -> tuple[list[Described], TreeDef]:
    """Describe every leaf as "data" or "static", and return the tree without its leaves.

    Args:
        tree: params or args.
        root: its name in errors.
        static_numbers: whether Python integers and booleans are static, as in params, or data, as in args.

    Raises:
        TypeError: a NumPy array has a type that JAX lacks, or a mask; the message names its path.
        ValueError: an integer of args is too large.
    """
    leaves, treedef = jax.tree.flatten(tree)
    for position, value in enumerate(leaves):
        if isinstance(value, np.ma.MaskedArray):
            path = leaf_paths(tree, root)[position]
            raise TypeError(f"{path} is a masked array. Pass .filled(value), and its mask as an array of its own.")
        if isinstance(value, (np.ndarray, np.generic)) and (cure := _find_cure(value.dtype)):
            path = leaf_paths(tree, root)[position]
            raise TypeError(f"{path} is of type {value.dtype}, which JAX does not have. {cure}")
        if isinstance(value, int) and not static_numbers and not _fits(value):
            path = leaf_paths(tree, root)[position]
            raise ValueError(
                f"{path} is {shorten(value)}, more than {_int_type()} holds. Write it as a float, or scale it."
            )
    return [_describe(leaf, static_numbers=static_numbers) for leaf in leaves], treedef


def _describe(value: PyTree, *, static_numbers: bool) -> Described:
    if isinstance(value, jax.Array) and _is_too_wide(value):
        value = np.asarray(value)
    if isinstance(value, jax.Array):
        weak_type = bool(getattr(value, "weak_type", False))
        return value, LeafSpec("data", value.shape, value.dtype, weak_type, sharding_of(value))
    if isinstance(value, np.ndarray) and not value.dtype.isnative:  # as a file of another machine holds it
        value = value.astype(value.dtype.newbyteorder("="))
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufcV":
        return value, LeafSpec("data", value.shape, jax.dtypes.canonicalize_dtype(value.dtype))
    is_number = isinstance(value, NUMBERS) and not isinstance(value, bool)
    if is_number and (isinstance(value, (float, complex)) or not static_numbers):
        dtype = jax.dtypes.canonicalize_dtype(type(value) if type(value) in NUMBERS else jnp.asarray(value).dtype)
        if isinstance(value, float) and dtype == np.float32:
            with np.errstate(over="ignore"):  # JAX rounds to infinity without a warning
                value = float(np.float32(value))
        return value, LeafSpec("data", (), dtype, weak_type=True)
    return value, LeafSpec("static", static=StaticValue(value))


def _is_too_wide(value: jax.Array) -> bool:
    """Whether it is of a type that JAX has only in double precision: the result of a solve with `precision`."""
    if isinstance(value, Tracer) or not isinstance(value.dtype, np.dtype):  # random keys have no such type
        return False
    return jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype


def sharding_of(value: Leaf) -> Sharding | None:
    """Return where the caller committed the array, for which a program is compiled; None if it is not committed."""
    if isinstance(value, Tracer) or not isinstance(value, jax.Array) or not getattr(value, "committed", True):
        return None
    return value.sharding


def _int_type() -> np.dtype:
    """The type of a Python integer in a program."""
    return jax.dtypes.canonicalize_dtype(np.int64)


def _fits(value: int) -> bool:
    limits = np.iinfo(_int_type())
    return bool(limits.min <= value <= limits.max)


def _find_cure(dtype: np.dtype) -> str:
    """Return how to convert a numeric type that JAX lacks; empty for any other type."""
    if dtype.names is not None:
        return "Make it a dict of one array a field."
    longest = {"f": 8, "c": 16}.get(dtype.kind, dtype.itemsize)
    return "Convert it with .astype(float)." if dtype.itemsize > longest else ""


def to_device(arrays: list[Leaf]) -> list[Leaf]:
    """Move NumPy arrays to the device, once per call instead of once per evaluation.

    Copies of them, since a device that is the CPU takes the memory of an array as it is, which its owner may change.
    """
    places = [place for place, each in enumerate(arrays) if isinstance(each, (np.ndarray, np.generic))]
    moved = list(arrays)
    if places:
        for place, each in zip(places, jax.device_put([np.array(arrays[place]) for place in places]), strict=True):
            moved[place] = each
    return moved


def has_explicit_axes(mesh: Any) -> bool:
    """Whether an axis of the mesh is explicit: the types of arrays say how they are split over it."""
    kinds = getattr(mesh, "axis_types", None)
    return isinstance(kinds, tuple) and jax.sharding.AxisType.Explicit in kinds


def place_at(array: Leaf, sharding: Sharding | None) -> Leaf:
    """Move an array of the host to where its leaf was. Every process has all of it: nothing is sent, and none waits."""
    if isinstance(array, jax.Array) and array.sharding == sharding:
        return array
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(np.shape(array), sharding, lambda part: np.asarray(array)[part])


def shared_mesh(leaves: Iterable[Leaf]) -> Mesh | None:
    """Return the mesh of the arrays that JAX must be told where results lie: over several processes, or explicit axes.

    None if there are no such arrays.
    """
    for each in map(sharding_of, leaves):
        mesh = each.mesh if isinstance(each, NamedSharding) else None
        if isinstance(mesh, Mesh) and (has_explicit_axes(mesh) or (each and not each.is_fully_addressable)):
            return mesh
    return None


@contextmanager
def explain_meshes(leaves: Iterable[Leaf]) -> Iterator[None]:
    """Say of an error while an objective is traced whose it may be, if arrays lie on a mesh with explicit axes."""
    try:
        yield
    except Exception as error:
        if any(has_explicit_axes(getattr(sharding_of(leaf), "mesh", None)) for leaf in leaves):
            error.add_note(
                "Arrays of this call lie on a mesh with explicit axes, and jax.grad of the objective raises such an "
                "error too. Call it inside `with jax.set_mesh(mesh):`, or make the mesh with jax.sharding.Mesh, whose "
                "axes are not explicit."
            )
        raise
