"""When is a function the one it was before? If it is the same object, and what it reads from outside is the same.

A compiled program holds what the objective found outside its arguments: in its closure, among the globals, in the
attributes of its object. Arrays, containers and objects are known by their identity, so what is changed in place is
not seen; numbers and strings by their value. What a function itself writes, such as a counter, is no input of it,
nor is what changes while it is traced.
"""

from __future__ import annotations

import dis
import functools
import types
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._core.types import is_traced

DEPTH = 3  # functions called by functions
MAX_SIZE_BY_VALUE = 1000  # a larger array in a transformation is known by its identity
PLAIN = (int, float, complex, bool, str, bytes, type(None), np.generic)
READS = ("LOAD_GLOBAL", "LOAD_NAME")
WRITES = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "DELETE_GLOBAL", "DELETE_ATTR")


class Identity(NamedTuple):
    """What a function is known by."""

    owners: tuple[Any, ...]  # the objects whose life it shares
    key: Hashable  # their places in memory
    state: Hashable  # what it reads from outside


class ById:
    """A value by its identity; equal to nothing once the value is gone."""

    def __init__(self, value: Any) -> None:
        self._id = id(value)
        try:
            self._value: Any = weakref.ref(value)
        except TypeError:
            self._value = None

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ById) or self._id != other._id:
            return False
        return self._value is None or (self._value() is not None and self._value() is other._value())


class _Code(NamedTuple):
    """What the code of a function names: globals that it reads, and all that it writes."""

    reads: tuple[str, ...]
    writes: frozenset[str]


_codes: weakref.WeakKeyDictionary[types.CodeType, _Code] = weakref.WeakKeyDictionary()


def fingerprint_of(fun: Callable[..., Any]) -> Identity:
    """What the function is known by. A bound method is new at each access; its object and its function are not."""
    owners = (fun.__self__, fun.__func__) if isinstance(fun, types.MethodType) else (fun,)
    return Identity(owners, tuple(map(id, owners)), tuple(_read_state(fun, DEPTH)))


def _read_state(fun: Any, depth: int) -> Iterator[Hashable]:
    """The marks of all that the function reads."""
    if isinstance(fun, functools.partial):
        yield from _read_state(fun.func, depth)
    elif isinstance(fun, types.MethodType):
        yield from _read_attributes(fun.__self__, fun.__func__)
        yield from _read_state(fun.__func__, depth)
    elif isinstance(fun, types.FunctionType):
        yield from _read_surroundings(fun, depth)
    elif isinstance(call := vars(type(fun)).get("__call__"), types.FunctionType):
        yield from _read_attributes(fun, call)
        yield from _read_surroundings(call, depth)


def _read_attributes(owner: Any, function: Any) -> Iterator[Hashable]:
    writes = _read_code(function.__code__).writes if isinstance(function, types.FunctionType) else ()
    yield from (_mark(value) for name, value in getattr(owner, "__dict__", {}).items() if name not in writes)


def _read_surroundings(fun: types.FunctionType, depth: int) -> Iterator[Hashable]:
    """Closure, defaults and globals, and those of the functions found there."""
    code = _read_code(fun.__code__)
    values = [*(fun.__defaults__ or ()), *(fun.__kwdefaults__ or {}).values()]
    for name, cell in zip(fun.__code__.co_freevars, fun.__closure__ or (), strict=True):
        try:
            values += [] if name in code.writes else [cell.cell_contents]
        except ValueError:  # not filled yet
            continue
    values += [fun.__globals__[name] for name in code.reads if name in fun.__globals__ and name not in code.writes]
    for value in values:
        if isinstance(value, (types.ModuleType, type)):
            continue
        yield _mark(value)
        if depth > 0 and value is not fun and isinstance(value, (types.FunctionType, types.MethodType)):
            yield from _read_state(value, depth - 1)


def _mark(value: Any) -> Hashable:
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    if isinstance(value, (tuple, dict)):  # also what is in them, since a place in memory is soon taken again
        values = value.values() if isinstance(value, dict) else value
        return ById(value), tuple(_mark(each) for each in values if isinstance(each, (jax.Array, np.ndarray)))
    return ById(value)


def _read_code(code: types.CodeType) -> _Code:
    found = _codes.get(code)
    if found is None:
        names, writes = set(), set()
        for instruction in dis.get_instructions(code):
            if instruction.opname in READS:
                names.add(instruction.argval)
            elif instruction.opname in WRITES:
                writes.add(instruction.argval)
        for const in code.co_consts:  # of functions inside
            if isinstance(const, types.CodeType):
                inner = _read_code(const)
                names |= set(inner.reads)
                writes |= inner.writes
        found = _codes[code] = _Code(tuple(sorted(names)), frozenset(writes))
    return found


_structures: weakref.WeakKeyDictionary[Any, tuple[Any, Hashable]] = weakref.WeakKeyDictionary()


def structure_of(method: optax.GradientTransformation | None) -> Hashable:
    """A key that two transformations share if they are made of the same code and the same numbers.

    `optax.adam(0.1)` makes new functions at each call; they compute the same, and share a program.
    """
    if method is None:
        return None
    init, key = _structures.get(method.update, (None, None))
    if init is None or init() is not method.init:
        key = _describe(tuple(method), set())
        try:
            _structures[method.update] = weakref.ref(method.init), key
        except TypeError:
            return key
    return key


def _describe(value: Any, open_functions: set[int]) -> Hashable:
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    if isinstance(value, functools.partial):
        return "partial", _describe((value.func, value.args, value.keywords), open_functions)
    if isinstance(value, dict):
        return dict, tuple((repr(name), _describe(each, open_functions)) for name, each in value.items())
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_describe(each, open_functions) for each in value)
    if isinstance(value, (jax.Array, np.ndarray)) and _is_readable(value):
        details = (value.dtype, value.shape, getattr(value, "weak_type", False), str(getattr(value, "sharding", "")))
        return type(value), *details, np.asarray(value).tobytes()
    if not isinstance(value, types.FunctionType) or id(value) in open_functions:
        return ById(value)
    outside: list[Any] = [value.__defaults__, value.__kwdefaults__]
    for cell in value.__closure__ or ():
        try:
            outside.append(cell.cell_contents)
        except ValueError:  # not filled yet
            outside.append(cell)
    inside = _describe(outside, open_functions | {id(value)})
    return value.__code__, id(value.__globals__), inside


def _is_readable(array: jax.Array | np.ndarray) -> bool:
    """Whether the array is small, and its values are known here."""
    if is_traced(array) or array.size > MAX_SIZE_BY_VALUE or not getattr(array, "is_fully_addressable", True):
        return False
    return array.dtype != object and not jnp.issubdtype(array.dtype, jax.dtypes.extended)
