"""Compiled programs, kept as long as the function they were compiled from, and no longer.

Nothing in the cache refers to a user's function: a function is known by its identity, through a weak
reference, and a compiled program holds neither it nor the data it was traced with.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from .._core.interrupts import defer_sigint, run_in_thread
from .fingerprint import Identity, fingerprint_of

Value = TypeVar("Value")
LIMIT = 64  # values kept by one cache; the one that was not asked for the longest goes first


class BoundedCache(Generic[Value]):
    """The `LIMIT` values that were asked for last, by key; each is made once, also by many threads."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Value] = {}  # the one asked for last at the end
        self._lock = threading.RLock()
        self._making = threading.RLock()  # held while a value is made, which may take long; others are found meanwhile

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of the key, made now if it is new."""
        value = self._find(key)
        if value is None:
            with self._making:
                value = self._find(key)
                if value is None:
                    value = make()
                    with self._lock:
                        while len(self._values) >= LIMIT:
                            del self._values[next(iter(self._values))]
                        self._values[key] = value
        return value

    def _find(self, key: Hashable) -> Value | None:
        with self._lock:
            value = self._values.pop(key, None)
            if value is not None:
                self._values[key] = value
        return value

    def drop(self, key: Hashable) -> None:
        """Forget the value of the key."""
        with self._lock:
            self._values.pop(key, None)

    def __len__(self) -> int:
        return len(self._values)


class Programs:
    """The last `LIMIT` compiled programs of one structure, by name."""

    def __init__(self) -> None:
        self._compiled: BoundedCache[Any] = BoundedCache()
        self._pending: dict[Hashable, Future[Any]] = {}  # what an interrupted call left to the compiler
        self._kept: BoundedCache[Any] = BoundedCache()

    def keep(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """A function that JAX compiles when it is called, made once; as a program, it must not refer to the user's."""
        return self._kept.get(name, make)

    def get(self, name: Hashable, make: Callable[[], tuple[Any, tuple[Any, ...]]]) -> tuple[Any, float]:
        """The program of this name, and the seconds it took to compile it now.

        Args:
            name: which program.
            make: gives the function to compile, jitted, and arguments that show shapes and types.
        """
        if jax.config.jax_debug_nans or jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            # Only a function that is compiled as it is called is taken apart to find the operation.
            # It refers to the user's function and data, so it is not kept.
            function, _ = make()
            return lambda *inputs: function(*jax.tree.map(jnp.asarray, inputs)), 0.0
        seconds: list[float] = []
        program = self._compiled.get(name, lambda: self._compile(name, make, seconds))
        return program, sum(seconds, 0.0)

    def _compile(
        self, name: Hashable, make: Callable[[], tuple[Any, tuple[Any, ...]]], seconds: list[float]
    ) -> Callable[..., Any]:
        began = time.perf_counter()
        if name not in self._pending:
            function, inputs = make()
            traced = function.trace(*inputs)
            with defer_sigint():
                lowered = traced.lower()
            self._pending[name] = run_in_thread(lowered.compile)
        try:
            program = self._pending[name].result()
        except Exception:  # the compiler's own; an interrupted wait leaves it at work for the next call
            del self._pending[name]
            raise
        del self._pending[name]
        seconds.append(time.perf_counter() - began)
        return program


class _Entry(NamedTuple):
    owners: tuple[Any, ...]  # weak references
    state: Hashable
    cache: BoundedCache[Any]

    def serves(self, identity: Identity) -> bool:
        """Whether it is of these very objects, in this state; a place in memory may have been taken again."""
        alive = (reference() is owner for reference, owner in zip(self.owners, identity.owners, strict=True))
        return all(alive) and self.state == identity.state


_caches: dict[Hashable, _Entry] = {}
_caches_lock = threading.RLock()


def cache_of(fun: Callable[..., Any]) -> BoundedCache[Any]:
    """The cache of this function; gone with the function, and when it reads other things from outside.

    One that cannot be referred to weakly gets a new one.
    """
    identity = fingerprint_of(fun)
    key = identity.key
    found = _caches.get(key)
    if found is not None and found.serves(identity):
        return found.cache
    with _caches_lock:
        found = _caches.get(key)
        if found is not None and found.serves(identity):
            return found.cache

        def forget(reference: Any) -> None:
            with _caches_lock:
                known = _caches.get(key)
                if known is not None and any(each is reference for each in known.owners):
                    _caches.pop(key, None)

        try:
            owners = tuple(weakref.ref(owner, forget) for owner in identity.owners)
        except TypeError:
            return BoundedCache()
        entry = _caches[key] = _Entry(owners, identity.state, BoundedCache())
        return entry.cache


def settle(fun: Callable[..., Any]) -> None:
    """What the function changed outside while it was traced is no change of it."""
    identity = fingerprint_of(fun)
    with _caches_lock:
        found = _caches.get(identity.key)
        if found is not None and not found.serves(identity):
            settled = found._replace(state=identity.state)
            if settled.serves(identity):
                _caches[identity.key] = settled
