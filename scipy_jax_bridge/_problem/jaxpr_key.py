"""A key that two jaxprs share if they compute the same: equations, parameters, types, shapes and literals.

The constants of the outermost jaxpr enter by type and shape alone, since a program takes them as inputs. What cannot
be compared enters by identity: at worst a program is compiled once too often.
"""

from __future__ import annotations

import dataclasses
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
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from .._core.types import Tracer
from .hoisting import JIT

PLAIN = (str, bytes, bool, int, float, complex, type(None), np.generic, np.dtype, enum.Enum)
EXACT = frozenset({str, bytes, bool, int, type(None)})  # whose values compare as they are
KNOWN = frozenset({"builtins", "functools", "types"})  # modules of plain values, containers and functions
LIBRARIES = frozenset({"jax", "jaxlib", "numpy"})  # their objects compare by value where they say so
FUNCTIONS = (types.FunctionType, functools.partial, types.MethodType, types.BuiltinMethodType)
SMALL = 256  # bytes of an array that are kept as they are
HOLDERS = ("callback", "custom_partitioning")  # ends of the names of primitives whose programs hold a function
RULES = ("custom_jvp_call", "custom_vjp_call")  # primitives whose rules of differentiation are no part of a program


class JaxprKey:
    """The key of a jaxpr. Equal keys have equal `tokens`.

    Args:
        tokens: everything that enters a program, nested in tuples; one for each equation at the top level.
    """

    def __init__(self, tokens: tuple[Hashable, ...]) -> None:
        self.tokens = tokens
        self._hash = hash(tokens)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JaxprKey) and self._hash == other._hash and self.tokens == other.tokens


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


def key_of(closed: ClosedJaxpr) -> JaxprKey:
    """Return the key of a jaxpr."""
    return JaxprKey(_Reader().read(closed.jaxpr))


_read: weakref.WeakKeyDictionary[Jaxpr, tuple[Hashable, ...]] = weakref.WeakKeyDictionary()
"""The tokens of nested jaxprs. JAX keeps those of its own functions, and finds them again in the next trace."""


class _Reader:
    """Reads one jaxpr and those nested in it. Most equations share one context."""

    def __init__(self) -> None:
        self._contexts: dict[int, Hashable] = {}
        self._holds = False  # whether a program holds the functions of the equation that is read

    def read(self, jaxpr: Jaxpr) -> tuple[Hashable, ...]:
        """Return the inputs, then each equation, then the outputs. Variables are known by the order of definition."""
        numbers: dict[Var, int] = {}

        def define(variables: list[Var]) -> tuple[Hashable, ...]:
            for each in variables:
                numbers[each] = len(numbers)
            return tuple([_read_aval(each.aval) for each in variables])

        def use(atoms: list[Var | Literal]) -> tuple[Hashable, ...]:
            return tuple([_read_literal(each) if isinstance(each, Literal) else numbers[each] for each in atoms])

        tokens: list[Hashable] = [(define(jaxpr.constvars), define(jaxpr.invars))]
        for equation in jaxpr.eqns:
            inputs = use(equation.invars)
            tokens.append((equation.primitive.name, inputs, self._read_params(equation), define(equation.outvars)))
        return *tokens, use(jaxpr.outvars)

    def _read_params(self, equation: JaxprEqn) -> tuple[Hashable, ...]:
        name, tokens = equation.primitive.name, list[Hashable]([equation.primitive])
        has_rules, is_jit = name.startswith(RULES), name in JIT
        for param, value in equation.params.items():
            self._holds = name.endswith(HOLDERS)
            is_rule = has_rules and not isinstance(value, (ClosedJaxpr, *PLAIN))
            if not (is_rule or (is_jit and param == "name")):
                tokens.append((param, self._describe(value)))
        if equation.effects:
            tokens.append(tuple(sorted(type(each).__name__ for each in equation.effects)))
        return *tokens, self._describe_context(getattr(equation, "ctx", None))

    def _describe_context(self, context: Any) -> Hashable:
        """Describe what holds around an equation, such as the place of a computation."""
        if id(context) not in self._contexts:
            names = [name for name in getattr(type(context), "__slots__", ()) if not name.startswith("_")]
            self._contexts[id(context)] = tuple(self._describe(getattr(context, name, None)) for name in names)
        return self._contexts[id(context)]

    def _describe(self, value: Any) -> Hashable:
        """Describe a parameter of an equation."""
        kind = type(value)
        if kind in EXACT:
            return kind, value
        if not _is_known(kind):  # it may have attributes, or change
            return _describe_object(value)
        if isinstance(value, PLAIN):
            return kind, repr(value) if isinstance(value, float | complex | np.generic) else value
        if isinstance(value, ClosedJaxpr):
            return "jaxpr", self._describe(value.jaxpr), tuple(map(describe_array, value.consts))
        if isinstance(value, Jaxpr):
            if value not in _read:
                _read[value] = self.read(value)
            return _read[value]
        if isinstance(value, tuple | list):
            return kind, tuple(map(self._describe, value))
        if isinstance(value, frozenset):
            return kind, frozenset(map(self._describe, value))
        if isinstance(value, dict):
            return kind, tuple((repr(name), self._describe(each)) for name, each in sorted(value.items(), key=repr))
        if isinstance(value, np.ndarray | jax.Array):
            return describe_array(value)
        if isinstance(value, FUNCTIONS):
            return _describe_function(value) if self._holds else ById(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            return kind, tuple((each.name, self._describe(getattr(value, each.name))) for each in fields)
        return _describe_object(value)


def _read_aval(aval: Any) -> Hashable:
    return type(aval), aval  # avals compare by value


def _read_literal(literal: Literal) -> Hashable:
    return _read_aval(literal.aval), describe_array(literal.val)


def _is_known(kind: type) -> bool:
    """Whether values of this type are described by what they hold: built-in ones, enumerations and JAX's own."""
    return kind.__module__ in KNOWN or issubclass(kind, enum.Enum) or _is_of_library(kind.__module__)


def _describe_object(value: Any) -> Hashable:
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


def _describe_function(value: Any) -> Hashable:
    """Describe a function that the host calls, by its code, and by identity what that reads from outside.

    A program holds such a function in any case, so what it reads may be held here. A cell is not known by its
    content, which may change under the function that the program holds; but JAX's own functions keep theirs.
    """
    if not _is_known(type(value)):
        return _Held(value)
    if isinstance(value, functools.partial):
        parts = (value.func, *value.args, *(each for item in sorted(value.keywords.items()) for each in item))
        return "partial", tuple(map(_describe_function, parts))
    if isinstance(value, types.MethodType):
        return _describe_function(value.__func__), _Held(value.__self__)
    if isinstance(value, types.BuiltinMethodType):
        return value.__name__, _Held(value.__self__)
    if isinstance(value, types.FunctionType):
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        cells = value.__closure__ or ()
        if _is_of_library(value.__globals__.get("__name__")):
            return value.__code__, tuple(_describe_cell(cell.cell_contents) for cell in cells)
        return value.__code__, tuple(map(_Held, (value.__globals__, *cells, *defaults)))
    if isinstance(value, tuple):
        return type(value), tuple(map(_describe_function, value))
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    found = _describe_object(value)
    return _Held(value) if isinstance(found, ById) else found


def _describe_cell(value: Any) -> Hashable:
    """Describe what a function of JAX's closes over. It does not change its own containers later."""
    kind = type(value)
    if kind in (set, frozenset):
        return kind, frozenset(map(_describe_function, value))
    if kind is dict:
        return kind, tuple((repr(name), _describe_cell(each)) for name, each in value.items())
    if kind in (tuple, list):
        return kind, tuple(map(_describe_cell, value))
    return _describe_function(value)


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
