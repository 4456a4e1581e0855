"""The breakpoints of the Cauchy path of vectors that are split over devices: each device sorts its own.

The next breakpoint is the least of those that come next on each device. So nothing as long as the vectors is gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from .memory import Rows, Scalar, Vector

Heads = Int[Array, " parts"]  # for each device how many of its breakpoints the path has passed

_parts: ContextVar[int] = ContextVar("parts", default=1)


@contextmanager
def in_parts(count: int) -> Iterator[None]:
    """Trace for vectors that so many devices hold in equal parts, one after the other."""
    token = _parts.set(count)
    try:
        yield
    finally:
        _parts.reset(token)


def count_parts() -> int:
    """Return how many devices hold the vectors in parts."""
    return _parts.get()


class NextBreakpoint(NamedTuple):
    """The next breakpoint: x, gradient, lower and upper bound of its variable, and its column of the pairs."""

    variable: tuple[Scalar, ...]
    column: Float[Array, " two_m"]
    exists: Bool[Array, ""]
    heads: Heads  # when it has been passed


class SortedParts:
    """The breakpoints, sorted on each device.

    Args:
        breakpoints: of all variables.
        path: x, the gradient, and the bounds.
        rows: the pairs.
    """

    def __init__(self, breakpoints: Vector, path: tuple[Vector, ...], rows: Rows) -> None:
        self._count = count_parts()
        self._path = [each.reshape(self._count, -1) for each in path]
        self._rows = rows.reshape(rows.shape[0], self._count, -1)
        times = breakpoints.reshape(self._count, -1)
        self._length = times.shape[1]
        places = lax.broadcasted_iota(jnp.int32, times.shape, 1)
        self._times, self._order = lax.sort((times, places), dimension=1, num_keys=1)

    def begin(self) -> Heads:
        """Return the heads of a path that has passed none."""
        return jnp.zeros(self._count, jnp.int32)

    def next(self, heads: Heads) -> NextBreakpoint:
        """Return the next breakpoint."""
        head = jnp.minimum(heads, self._length - 1)
        times = jnp.where(heads < self._length, _take(self._times, head), jnp.inf)
        here = jnp.arange(self._count) == jnp.argmin(times)
        place = _take(self._order, head)
        pick: Callable[[Array], Array] = lambda matrix: jnp.sum(jnp.where(here, _take(matrix, place), 0), axis=-1)  # noqa: E731
        return NextBreakpoint(
            tuple(map(pick, self._path)), pick(self._rows), jnp.min(times) < jnp.inf, heads + here.astype(jnp.int32)
        )

    def stopped(self, heads: Heads) -> Bool[Array, " n"]:
        """Return the variables whose breakpoints the path has passed."""
        passed = lax.broadcasted_iota(jnp.int32, self._times.shape, 1) < heads[:, None]
        _, passed = lax.sort((self._order, passed.astype(jnp.int32)), dimension=1, num_keys=1)
        return passed.reshape(-1) > 0


def _take(matrix: Array, places: Heads) -> Array:
    """Return of each part, the last dimension but one, the number at its place."""
    index = jnp.broadcast_to(places[:, None], (*matrix.shape[:-1], 1))
    return jnp.take_along_axis(matrix, index, axis=-1)[..., 0]
