"""Compiled programs, found again by what they compute.

A compiled program refers to no function and no data of the user. Only a program with a host callback holds that
callback, and one that takes the derivative of a solve, or solves inside a trace, holds the rules of `jax.custom_jvp`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import jax
from jaxtyping import PyTree

from .._core.context import is_debugging, to_arrays
from .._core.interrupts import defer_sigint, run_in_thread

Value = TypeVar("Value")
ToCompile = tuple[jax.stages.Wrapped, tuple[PyTree, ...]]  # a jitted function, and arguments that show shapes and types
LIMIT = 64  # values kept by one cache; the one that was not asked for the longest goes first


class BoundedCache(Generic[Value]):
    """The `LIMIT` values that were asked for last, by key."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._values: dict[Hashable, Value] = {}  # the one asked for last at the end
        self._limit, self._lock = limit, threading.RLock()
        self._making = threading.RLock()  # held while a value is made, which may take long; others are found meanwhile

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of the key. Make it now if it is new; many threads that ask for it make it once."""
        value = self.find(key)
        if value is None:
            with self._making:
                value = self.find(key)
                if value is None:
                    value = make()
                    self.put(key, value)
        return value

    def find(self, key: Hashable, /) -> Value | None:
        """Return the value of the key, or None."""
        with self._lock:
            value = self._values.pop(key, None)
            if value is not None:
                self._values[key] = value
        return value

    def put(self, key: Hashable, value: Value, /) -> None:
        """Keep a value."""
        with self._lock:
            self._values.pop(key, None)
            while len(self._values) >= self._limit:
                del self._values[next(iter(self._values))]
            self._values[key] = value

    def __len__(self) -> int:
        return len(self._values)


class Programs:
    """The last `LIMIT` compiled programs of objectives that compute the same, by name.

    Attributes:
        paces: evaluations per second in the last solve, by method.
        took: seconds that the last call of a program took, by program.
    """

    def __init__(self) -> None:
        self._compiled: BoundedCache[jax.stages.Compiled] = BoundedCache()
        self._pending: dict[Hashable, Future[jax.stages.Compiled]] = {}  # what an interrupted call left to the compiler
        self._kept: BoundedCache[Any] = BoundedCache()
        self.paces: dict[Hashable, float] = {}
        self.took: dict[Hashable, float] = {}

    def keep(self, name: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of this name, made once. As a program, it must not refer to anything of the user's."""
        return self._kept.get(name, make)

    def is_first(self, name: Hashable) -> bool:
        """Whether this is the first time that the question is asked."""
        answer = self._kept.find(name) is None
        self._kept.put(name, True)
        return answer

    def get(self, name: Hashable, make: Callable[[], ToCompile]) -> tuple[Callable[..., PyTree], float]:
        """Return the program of this name, and the seconds it took to compile it now.

        Args:
            name: which program.
            make: gives the function to compile, jitted, and arguments that show shapes and types.
        """
        if is_debugging():
            # Only a function that is compiled as it is called is taken apart to find the operation that gives NaN.
            # It refers to the user's function and data, so it is not kept.
            function, _ = make()
            return lambda *inputs: function(*to_arrays(inputs)), 0.0
        seconds: list[float] = []
        program = self._compiled.get(name, lambda: self._compile(name, make, seconds))
        return program, sum(seconds, 0.0)

    def _compile(self, name: Hashable, make: Callable[[], ToCompile], seconds: list[float]) -> jax.stages.Compiled:
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


OBJECTIVES = 128  # whose programs are kept, beside those that a Minimizer holds
_programs: BoundedCache[Programs] = BoundedCache(OBJECTIVES)


_anew: ContextVar[bool] = ContextVar("anew", default=False)


def programs_of(key: Hashable) -> tuple[Programs, bool]:
    """Return the programs of all objectives with this key, and whether no call before asked for them."""
    if _anew.get():
        return Programs(), False
    programs = _programs.get(key, Programs)
    return programs, programs.is_first("asked for")


@contextmanager
def compile_anew() -> Iterator[None]:
    """Compile inside what was compiled before, for a measurement."""
    token = _anew.set(True)
    try:
        yield
    finally:
        _anew.reset(token)
