"""Trace this package's arithmetic by JAX's standard promotion, and the user's objective by the user's own setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax


@contextmanager
def standard_promotion() -> Iterator[None]:
    """Inside, JAX promotes types and ranks as this package needs it, whatever the user forbids in their own code."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def with_user_promotion(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, to be called inside `standard_promotion` under those that hold now: the user's."""
    types, ranks = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion  # type: ignore[attr-defined]

    def call(*arguments: Any) -> Any:
        with jax.numpy_dtype_promotion(types), jax.numpy_rank_promotion(ranks):
            return function(*arguments)

    return call
