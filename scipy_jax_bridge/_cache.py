"""Compiled programs, kept as long as the function they were compiled from, and no longer.

Nothing in the cache refers to a user's function: a function is known by its identity, through a weak
reference, and a compiled program holds neither it nor the data it was traced with.
"""

from __future__ import annotations

import threading
import time
import types
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp

from ._beside import run_beside, untorn

Value = TypeVar("Value")
LIMIT = 64  # structures kept for one function; the oldest goes first


class BoundedCache(Generic[Value]):
    """The last `LIMIT` values by key; each is made once, also by many threads."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Value] = {}
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of the key, made now if it is new."""
        value = self._values.get(key)
        if value is None:
            with self._lock:
                value = self._values.get(key)
                if value is None:
                    value = make()
                    while len(self._values) >= LIMIT:
                        del self._values[next(iter(self._values))]
                    self._values[key] = value
        return value

    def __len__(self) -> int:
        return len(self._values)


class Programs:
    """The compiled programs of one structure, by name."""

    def __init__(self) -> None:
        self._compiled: dict[Hashable, Any] = {}
        self._pending: dict[Hashable, Future[Any]] = {}  # what an interrupted call left to the compiler
        self._kept: dict[Hashable, Any] = {}
        self._lock = threading.RLock()
        self.speed: dict[Hashable, float] = {}  # evaluations a second, as last seen

    def keep(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """A function that JAX compiles when it is called, made once; as a program, it must not refer to the user's."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            return self._kept[name]

    def get(self, name: Hashable, make: Callable[[], tuple[Any, tuple[Any, ...]]]) -> tuple[Any, float]:
        """The program of this name, and the seconds it took to compile it now.

        Arguments:
            name: which program.
            make: gives the function to compile, jitted, and arguments that show shapes and types.
        """
        program = self._compiled.get(name)
        if program is not None:
            return program, 0.0
        with self._lock:
            if name in self._compiled:
                return self._compiled[name], 0.0
            began = time.perf_counter()
            if jax.config.jax_debug_nans:  # type: ignore[attr-defined]
                # Only a function that is compiled as it is called is taken apart to find the operation.
                function, _ = make()
                self._compiled[name] = lambda *inputs: function(*jax.tree.map(jnp.asarray, inputs))
                return self._compiled[name], 0.0
            if name not in self._pending:
                function, inputs = make()
                traced = function.trace(*inputs)
                with untorn():
                    lowered = traced.lower()
                self._pending[name] = run_beside(lowered.compile)
            try:
                program = self._pending[name].result()
            except Exception:  # the compiler's own; an interrupted wait leaves it at work for the next call
                del self._pending[name]
                raise
            self._compiled[name] = program
            del self._pending[name]
            return program, time.perf_counter() - began


_caches: dict[Hashable, tuple[Any, BoundedCache[Any]]] = {}
_caches_lock = threading.RLock()


def cache_of(fun: Callable[..., Any]) -> BoundedCache[Any]:
    """The cache of this function; gone with the function. One that cannot be referred to weakly gets a new one."""
    owner, key = _identity(fun)
    found = _caches.get(key)
    if found is not None:
        return found[1]
    with _caches_lock:
        found = _caches.get(key)
        if found is not None:
            return found[1]
        cache: BoundedCache[Any] = BoundedCache()
        try:
            reference = weakref.ref(owner, lambda _: _caches.pop(key, None))
        except TypeError:
            return cache
        _caches[key] = (reference, cache)
        return cache


def _identity(fun: Callable[..., Any]) -> tuple[Any, Hashable]:
    """The object whose life the cache shares, and the key. A bound method is new at each access, its object is not."""
    if isinstance(fun, types.MethodType):
        return fun.__self__, (id(fun.__self__), id(fun.__func__))
    return fun, id(fun)
