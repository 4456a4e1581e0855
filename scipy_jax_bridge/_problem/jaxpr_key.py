"""A key that two jaxprs share if they compute the same: equations, parameters, types, shapes and literals.

The constants of the outermost jaxpr enter by type and shape alone, since a program takes them as inputs. What cannot
be compared enters by identity: at worst a program is compiled once too often.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from .hoisting import JIT
from .value_key import (
    FUNCTIONS,
    PLAIN,
    ById,
    describe_array,
    describe_function,
    describe_object,
    is_known,
    is_library_function,
)

EXACT = frozenset({str, bytes, bool, int, type(None)})  # whose values compare as they are
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

    def _read_nested(self, jaxpr: Jaxpr) -> tuple[Hashable, ...]:
        if jaxpr not in _read:
            _read[jaxpr] = self.read(jaxpr)
        return _read[jaxpr]

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
        if not is_known(kind):  # it may have attributes, or change
            return describe_object(value)
        if isinstance(value, PLAIN):
            return kind, repr(value) if isinstance(value, float | complex | np.generic) else value
        if isinstance(value, ClosedJaxpr):
            return "jaxpr", self._read_nested(value.jaxpr), tuple(map(describe_array, value.consts))
        if isinstance(value, Jaxpr):  # since JAX 0.12 a ClosedJaxpr is a Jaxpr, and its own `jaxpr`
            return self._read_nested(value)
        if isinstance(value, tuple | list):
            return kind, tuple(map(self._describe, value))
        if isinstance(value, frozenset):
            return kind, frozenset(map(self._describe, value))
        if isinstance(value, dict):
            return kind, tuple((repr(name), self._describe(each)) for name, each in sorted(value.items(), key=repr))
        if isinstance(value, np.ndarray | jax.Array):
            return describe_array(value)
        if isinstance(value, FUNCTIONS):
            return describe_function(value) if self._holds or is_library_function(value) else ById(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            return kind, tuple((each.name, self._describe(getattr(value, each.name))) for each in fields)
        return describe_object(value)


def _read_aval(aval: Any) -> Hashable:
    return type(aval), aval  # avals compare by value


def _read_literal(literal: Literal) -> Hashable:
    return _read_aval(literal.aval), describe_array(literal.val)
