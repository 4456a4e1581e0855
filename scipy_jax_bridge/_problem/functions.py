"""Functions by the code behind them, and whether two are one."""

from __future__ import annotations

import functools
import types
import weakref
from typing import Any

from .._core.types import Objective


def is_same(fun: Objective | None, other: Objective) -> bool:
    """Whether two functions are one. A bound method is a new object at each access."""
    return fun is other or (isinstance(fun, types.MethodType) and fun == other)


def refer(value: Any) -> weakref.ref[Any] | None:
    """Return a weak reference to a function or another value, or None where there is none."""
    try:
        return weakref.WeakMethod(value) if isinstance(value, types.MethodType) else weakref.ref(value)
    except TypeError:
        return None


def find_code(fun: Any) -> types.CodeType | None:
    """Return the code behind the function, through wrappers; None for what has none."""
    while not isinstance(fun, types.FunctionType):
        if isinstance(fun, functools.partial):
            fun = fun.func
        elif isinstance(fun, types.MethodType):
            fun = fun.__func__
        elif hasattr(fun, "__wrapped__"):
            fun = fun.__wrapped__
        elif isinstance(type(fun).__dict__.get("__call__"), types.FunctionType):
            fun = type(fun).__dict__["__call__"]
        else:
            return None
    return fun.__code__
