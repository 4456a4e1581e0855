"""Refuse to compute in a process that was forked from one that uses JAX: it would wait for threads that are gone."""

import os
import weakref
from typing import TypeVar

FORKED = (
    "this process was forked from one that uses JAX, whose threads do not survive a fork, so it cannot evaluate. "
    "In place of workers=-1 take threads, workers=multiprocessing.pool.ThreadPool(2).map, or new processes, "
    "workers=multiprocessing.get_context('spawn').Pool(2).map."
)
K = TypeVar("K")
V = TypeVar("V")


class EmptiedByFork(dict[K, V]):
    """A dict of what uses JAX; in a forked process it is empty."""

    def __init__(self) -> None:
        super().__init__()
        _dicts.add(self)

    __hash__ = object.__hash__  # type: ignore[assignment]  # for the set of weak references


class _Process:
    uses_jax = was_forked = False


_dicts: weakref.WeakSet[EmptiedByFork] = weakref.WeakSet()


def _note_fork() -> None:
    _Process.was_forked = _Process.uses_jax
    for each in list(_dicts):
        each.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def refuse_fork() -> None:
    """Raise RuntimeError if this process was forked after `note_use`."""
    if _Process.was_forked:
        raise RuntimeError(FORKED)


def note_use() -> None:
    """Note that this process uses JAX, so that a fork of it cannot."""
    _Process.uses_jax = True
