"""Objectives without a minimum end soon and say so; those that only look so do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

AT_THE_BOUNDS = [("sum", (-10.0, None)), ("minus exp", (None, 10.0)), ("minus square", (None, 10.0))]


@backends
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bounds", [None, (None, 10.0), (-10.0, None)], ids=["free", "below 10", "above -10"])
@pytest.mark.parametrize("name", UNBOUNDED)
def test_no_minimum(name: str, bounds: Any, dtype: str, backend: str) -> None:
    start = np.array([0.5, 1.5], dtype)
    result = sjb.minimize(UNBOUNDED[name], start, backend=backend, bounds=bounds)
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


@backends
@pytest.mark.parametrize("fun", [scaled, far])
def test_bad_scales_are_not_without_a_minimum(fun: Any, backend: str) -> None:
    for height in (1e-200, 1e-6, 1.0, 1e12, 1e200):
        for width in (1e-9, 1.0, 1e9, 1e14):
            result = sjb.minimize(fun, np.zeros(2), (height, width), backend=backend)
            assert result.status != Status.UNBOUNDED, (height, width, result)
