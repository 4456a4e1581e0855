"""What the tests count: compilations by JAX's own events, and how often a function is traced or evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.core import Tracer

COMPILED = "/jax/core/compile/backend_compile_duration"

_listening: list[list[str]] = []


def _hear(event: str, duration: float, **_: Any) -> None:
    if event == COMPILED:
        for events in _listening:
            events.append(event)


jax.monitoring.register_event_duration_secs_listener(_hear)


@contextmanager
def count_compiles() -> Iterator[list[str]]:
    """A list that grows by one with every program that JAX compiles inside."""
    events: list[str] = []
    _listening.append(events)
    try:
        yield events
    finally:
        _listening[:] = [each for each in _listening if each is not events]


class Calls:
    """A function that counts its calls: with tracers, and with values."""

    def __init__(self, fun: Callable[..., Any]) -> None:
        self.fun, self.traced, self.evaluated = fun, 0, 0

    def __call__(self, *args: Any) -> Any:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(args))
        self.traced += traced
        self.evaluated += not traced
        return self.fun(*args)
