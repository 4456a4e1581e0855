"""Trace this package's arithmetic with JAX's standard promotion, and the user's objective with the user's setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import jax

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def standard_promotion() -> Iterator[None]:
    """Allow the promotion of types and ranks inside, even if the user forbids it for their own code."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def with_user_promotion(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that it runs with the promotion settings that hold now.

    Call the result inside `standard_promotion`.
    """
    types, ranks = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion  # type: ignore[attr-defined]

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.numpy_dtype_promotion(types), jax.numpy_rank_promotion(ranks):
            return function(*args, **kwargs)

    return call
