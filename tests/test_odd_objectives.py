"""Objectives without a minimum end soon and say so; those that only look so do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import Status

backends = pytest.mark.parametrize("backend", ["scipy", "optax"])


def total(x: Any) -> Any:
    return jnp.sum(x)


def tilted(x: Any) -> Any:
    return 3.0 * x[0] - 0.01 * x[1] + 5.0


def minus_exp(x: Any) -> Any:
    return -jnp.sum(jnp.exp(x))


def minus_square(x: Any) -> Any:
    return -jnp.sum(x**2)


UNBOUNDED: dict[str, Callable[[Any], Any]] = {
    "sum": total,
    "linear": tilted,
    "minus exp": minus_exp,
    "minus square": minus_square,
}


def without_minimum(x: Any, which: Any) -> Any:
    """Each of them by its number, in one program."""
    return jax.lax.switch(which, (total, tilted, minus_exp, minus_square), x)


AT_THE_BOUNDS = [("sum", (-10.0, None)), ("minus exp", (None, 10.0)), ("minus square", (None, 10.0))]


@backends
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bounds", [None, (None, 10.0), (-10.0, None)], ids=["free", "below 10", "above -10"])
@pytest.mark.parametrize("name", UNBOUNDED)
def test_no_minimum(name: str, bounds: Any, dtype: str, backend: str) -> None:
    start = np.array([0.5, 1.5], dtype)
    result = sjb.minimize(without_minimum, start, (list(UNBOUNDED).index(name),), backend=backend, bounds=bounds)
    assert result.nfev <= 200, result
    if (name, bounds) in AT_THE_BOUNDS:
        assert result.status == Status.GTOL
        return
    assert result.status in (Status.UNBOUNDED, Status.NONFINITE), result
    assert float(result.fun) < -1e5


def scaled(x: Any, height: Any, width: Any) -> Any:
    return height * jnp.sum((x / width - 1.0) ** 2)


def far(x: Any, height: Any, width: Any) -> Any:
    return height * jnp.sum(jnp.sqrt(1.0 + (x / width - 1.0) ** 2))


def scaled_or_far(x: Any, which: Any, height: Any, width: Any) -> Any:
    return jax.lax.switch(which, (scaled, far), x, height, width)


@backends
@pytest.mark.parametrize("which", [0, 1], ids=["scaled", "far"])
def test_bad_scales_are_not_without_a_minimum(which: int, backend: str) -> None:
    for height in (1e-200, 1e-6, 1.0, 1e12, 1e200):
        for width in (1e-9, 1.0, 1e9, 1e14):
            result = sjb.minimize(scaled_or_far, np.zeros(2), (which, height, width), backend=backend)
            assert result.status != Status.UNBOUNDED, (height, width, result)


@backends
def test_a_plain_number_is_an_objective(backend: str) -> None:
    """JAX hands over a literal for it."""
    result = sjb.minimize(lambda x: 3.0, np.ones(2), backend=backend)
    assert (result.status, float(result.fun), result.nfev) == (Status.GTOL, 3.0, 1)
    assert "does not depend on params." in result.message
    result = sjb.minimize(lambda x: (0.0, {"n": 2}), np.ones(2), backend=backend, has_aux=True)
    assert result.success and int(result.aux["n"]) == 2


def half_read(params: Any) -> Any:
    return (params["a"] - 1.0) ** 2 + 0.0 * jnp.sum(params["c"])


def plateau(x: Any) -> Any:
    return jnp.sum(jnp.where(jnp.abs(x) > 1.0, (jnp.abs(x) - 1.0) ** 2, 0.0))


def saddle(x: Any) -> Any:
    return x[0] ** 2 - x[1] ** 2 + x[1] ** 4


def cosine(x: Any) -> Any:
    return jnp.sum(jnp.cos(x))


@backends
def test_a_leaf_that_is_never_read_is_named(backend: str) -> None:
    result = sjb.minimize(half_read, {"a": 0.0, "b": np.ones(3), "c": np.ones(2)}, backend=backend)
    assert result.success and "does not depend on params['b']." in result.message
    everything = sjb.minimize(half_read, {"a": 0.0, "c": np.ones(2)}, backend=backend)
    assert everything.success and not everything.note


def total_of_squares(x: Any) -> Any:
    return jnp.sum(x**2)


def flat_at_the_start(x: Any, which: Any) -> Any:
    return jax.lax.switch(which, (plateau, saddle, cosine, total_of_squares), x)


@backends
@pytest.mark.parametrize(
    ("which", "said"),
    [(0, "may be constant"), (1, "saddle or a maximum"), (2, "saddle or a maximum")],
    ids=["plateau", "saddle", "cosine"],
)
@pytest.mark.parametrize("size", [2, 30])
def test_a_start_that_is_no_minimum(which: int, said: str, size: int, backend: str) -> None:
    result = sjb.minimize(flat_at_the_start, np.zeros(size), (which,), backend=backend)
    assert (result.status, result.nit, result.nfev) == (Status.GTOL, 0, 1)
    assert (which == 1 and size > 2) or said in result.message  # too many directions to see the one


@backends
def test_a_start_that_is_a_minimum_needs_no_word(backend: str) -> None:
    result = sjb.minimize(flat_at_the_start, np.zeros(2), (3,), backend=backend)
    assert (result.status, result.nfev) == (Status.GTOL, 1) and not result.note
