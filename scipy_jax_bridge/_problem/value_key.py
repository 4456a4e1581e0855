"""Descriptions of values that enter a key: equal if programs that depend on the values are the same.

What cannot be compared is described by its identity.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.types import Tracer

PLAIN = (str, bytes, bool, int, float, complex, type(None), np.generic, np.dtype, enum.Enum)
KNOWN = frozenset({"builtins", "functools", "types"})  # modules of plain values, containers and functions
LIBRARIES = frozenset({"jax", "jaxlib", "numpy"})  # their objects compare by value where they say so
FUNCTIONS = (types.FunctionType, functools.partial, types.MethodType, types.BuiltinMethodType)
SMALL = 256  # bytes of an array that are kept as they are


class ById:
    """A value by its identity. A weak reference holds it where possible, so that no place in memory is mistaken."""

    def __init__(self, value: Any) -> None:
        self._id = id(value)
        try:
            self._read: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            self._read = lambda: value

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ById) or self._id != other._id:
            return False
        value = self._read()
        return value is not None and value is other._read()

    def __repr__(self) -> str:
        return f"another {type(self._read()).__name__} each time"


def is_known(kind: type) -> bool:
    """Whether values of this type are described by what they hold: built-in ones, enumerations and JAX's own."""
    return kind.__module__ in KNOWN or issubclass(kind, enum.Enum) or _is_of_library(kind.__module__)


def describe_object(value: Any) -> Hashable:
    """Describe an object by its value if its library compares it so, else by its identity."""
    if isinstance(value, type):
        return value
    if _is_of_library(type(value).__module__) and type(value).__eq__ is not object.__eq__:
        try:
            hash(value)
        except TypeError:
            return ById(value)
        return type(value), value
    return ById(value)


def describe_array(value: Any) -> Hashable:
    """Describe an array by its type and bytes; a large one by their digest, so that no copy of it is kept."""
    if isinstance(value, Tracer) or jnp.issubdtype(jnp.result_type(value), jax.dtypes.extended):
        return ById(value)
    array = np.asarray(value)
    content = array.tobytes() if array.nbytes <= SMALL else hashlib.sha256(array.tobytes()).digest()
    return str(array.dtype), array.shape, getattr(value, "weak_type", None), content


def describe_function(value: Any) -> Hashable:
    """Describe a function that the host calls, by its code, and by identity what that reads from outside.

    A program holds such a function in any case, so what it reads may be held here. A cell is not known by its
    content, which may change under the function that the program holds; but JAX's own functions keep theirs.
    """
    if not is_known(type(value)):
        return _Held(value)
    if isinstance(value, functools.partial):
        parts = (value.func, *value.args, *(each for item in sorted(value.keywords.items()) for each in item))
        return "partial", tuple(map(describe_function, parts))
    if isinstance(value, types.MethodType):
        return describe_function(value.__func__), _Held(value.__self__)
    if isinstance(value, types.BuiltinMethodType):
        return value.__name__, _Held(value.__self__)
    if isinstance(value, types.FunctionType):
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        cells = value.__closure__ or ()
        if _is_of_library(value.__globals__.get("__name__")):
            return value.__code__, tuple(_describe_cell(cell.cell_contents) for cell in cells)
        return value.__code__, tuple(map(_Held, (value.__globals__, *cells, *defaults)))
    if isinstance(value, tuple):
        return type(value), tuple(map(describe_function, value))
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    found = describe_object(value)
    return _Held(value) if isinstance(found, ById) else found


def _describe_cell(value: Any) -> Hashable:
    """Describe what a function of JAX's closes over. It does not change its own containers later."""
    kind = type(value)
    if kind in (set, frozenset):
        return kind, frozenset(map(describe_function, value))
    if kind is dict:
        return kind, tuple((repr(name), _describe_cell(each)) for name, each in value.items())
    if kind in (tuple, list):
        return kind, tuple(map(_describe_cell, value))
    return describe_function(value)


def is_library_function(function: Any) -> bool:
    """Whether this is a function of JAX or NumPy that closes over plain values, as a policy of what to save does."""
    if not isinstance(function, types.FunctionType) or not _is_of_library(function.__globals__.get("__name__")):
        return False
    if function.__defaults__ or function.__kwdefaults__:
        return False
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    values = [each for cell in cells for each in (cell if isinstance(cell, set | frozenset | tuple) else (cell,))]
    return all(isinstance(each, PLAIN) for each in values)


def _is_of_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in LIBRARIES


class _Held:
    """A value by its identity, kept alive."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and self.value is other.value
