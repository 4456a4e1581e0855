"""Noisy values: the solve goes on by slopes, says NOISE_FLOOR where these are noise too, and knows a wrong gradient.

The fits are those of `benchmarks/noise.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import noise as study
import scipy_jax_bridge as sjb
from scipy_jax_bridge import Status

pytestmark = pytest.mark.rounding

backends = pytest.mark.parametrize("backend", ["scipy", "optax"])


@pytest.fixture(scope="module")
def fits() -> list[study.Fit]:
    rng = np.random.default_rng(7)
    return [study.make_process(rng) for _ in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize("gtol", [1e-5, 1e-7])
def test_the_device_loop_reaches_the_last_digits(fits: list[study.Fit], gtol: float) -> None:
    ends = [study.solve(fit, "optax", gtol) for fit in fits]
    assert all(end.status == Status.GTOL for end in ends)
    assert np.mean([end.nfev for end in ends]) < 40


@pytest.mark.slow
@backends
def test_noise_is_no_wrong_gradient(fits: list[study.Fit], backend: str) -> None:
    """At a gtol that no fit reaches."""
    ends = [study.solve(fit, backend, 1e-14) for fit in fits]
    assert {end.status for end in ends} <= {Status.GTOL, Status.NOISE_FLOOR}


def any_wrong(x: Any, case: Any, height: Any) -> Any:
    """All objectives of the benchmark in one program."""
    return jax.lax.switch(case, list(study.WRONG.values()), x) + height * study.rough(x)


@pytest.mark.slow
@backends
def test_a_wrong_gradient_is_called_so(backend: str) -> None:
    solve = sjb.Minimizer(any_wrong, backend=backend, options={"gtol": 1e-8, "ftol": 0.0})
    start = jnp.array([-1.0, 0.5, -0.5, 1.2])
    for height in (0.0, 1.0):
        for case, name in enumerate(study.WRONG):
            result = solve(start, (jnp.int32(case), height))
            assert result.status == Status.LINESEARCH, (name, height, str(result))


def wavy(x: Any, height: Any) -> Any:
    """A bowl whose values are rough and whose gradient is right."""
    return jnp.sum(jnp.arange(1.0, 5.0) * (x - 1) ** 2) + 5 + height * study.rough(x)


@pytest.mark.parametrize("height", [0.0, 1.0, 100.0])
def test_the_flattest_of_the_equally_low_is_handed_back(height: float) -> None:
    """The values are noise of up to 1e-8, and the gradient still falls to its own rounding."""
    end = sjb.minimize(wavy, jnp.zeros(4), (height,), backend="optax", options={"gtol": 0.0, "ftol": 0.0})
    assert end.status in (Status.GTOL, Status.NOISE_FLOOR)
    assert end.grad_norm < 1e-13
    np.testing.assert_allclose(end.params, 1.0, atol=1e-13)


def test_the_best_point_of_scipys_path_is_its_flattest_low_one() -> None:
    options = {"gtol": 1e-13, "ftol": 0.0}
    end = sjb.minimize(wavy, jnp.zeros(4), (1.0,), backend="scipy", options=options)
    assert end.status in (Status.GTOL, Status.NOISE_FLOOR)
    assert float(end.fun) <= np.min(end.trace.fun) + 4e-9
    near = np.abs(end.trace.fun - np.min(end.trace.fun)) < 1e-10
    assert end.grad_norm <= np.min(np.asarray(end.trace.grad_norm)[near])
