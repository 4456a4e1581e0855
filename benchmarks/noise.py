"""What a solve does where the rounding of the objective hides the decrease, with `ftol=0`.

    python benchmarks/noise.py                      # all rows
    python benchmarks/noise.py --rows gp wrong
    python benchmarks/noise.py --rows gp --count 10 --seed 3

`gp` is 40 Gaussian processes of 100 points by Cholesky, `long` a logistic regression of a million summed terms,
a Kalman filter and an ODE by a scan of fixed steps, `float32` the gradient that such fits reach in single precision
against bare SciPy, `wrong` objectives whose gradient is wrong, half of them noisy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BACKENDS = ("optax", "scipy")
GTOLS = (1e-5, 1e-6, 1e-7, 1e-8)
TERMS = 1_000_000
MAX_FUN = 2000


class Fit(NamedTuple):
    """One fit: the objective, where it starts, its data."""

    fun: Callable[..., Any]
    params: Any
    args: Any


def process(p: Any, x: Any, y: Any) -> Any:
    """Negative log likelihood of a Gaussian process by Cholesky."""
    gap = (x[:, None] - x) * jnp.exp(-p["log_length"])
    cov = jnp.exp(2 * p["log_height"] - 0.5 * gap**2) + (jnp.exp(2 * p["log_sigma"]) + 1e-8) * jnp.eye(len(y))
    root = jnp.linalg.cholesky(cov)
    z = jax.scipy.linalg.solve_triangular(root, y, lower=True)
    return 0.5 * z @ z + jnp.sum(jnp.log(jnp.diag(root)))


def make_process(rng: np.random.Generator) -> Fit:
    """A sine or a draw of the process itself, and noise of random size."""
    x = np.sort(rng.uniform(0, 10, 100))
    smooth = np.sin(x * rng.uniform(0.5, 2)) + rng.uniform(0, 0.5) * np.cos(3 * x)
    y = smooth * 10 ** rng.uniform(-0.5, 0.5) + 10 ** rng.uniform(-2, 0) * rng.standard_normal(100)
    return Fit(process, {"log_height": 0.0, "log_length": 0.0, "log_sigma": -1.0}, (x, y))


def logistic(p: Any, x: Any, y: Any) -> Any:
    """Negative log likelihood of a logistic model: a sum of many terms."""
    z = x @ p["w"] + p["b"]
    return jnp.sum(jnp.logaddexp(0.0, z) - y * z)


def make_logistic(rng: np.random.Generator, terms: int = TERMS) -> Fit:
    """Five features."""
    x = rng.standard_normal((terms, 5))
    y = rng.random(terms) < 1 / (1 + np.exp(-(x @ rng.standard_normal(5) + rng.standard_normal())))
    return Fit(logistic, {"w": np.zeros(5), "b": 0.0}, (x, y.astype(float)))


def kalman(p: Any, y: Any) -> Any:
    """Negative log likelihood of a local linear trend by the Kalman filter."""
    q = jnp.exp(jnp.stack([p["log_level"], p["log_slope"]]))
    r, move = jnp.exp(p["log_noise"]), jnp.array([[1.0, 1.0], [0.0, 1.0]], y.dtype)

    def step(state: Any, seen: Any) -> Any:
        mean, cov = state
        mean, cov = move @ mean, move @ cov @ move.T + jnp.diag(q)
        size, gap = cov[0, 0] + r, seen - mean[0]
        gain = cov[:, 0] / size
        return (mean + gain * gap, cov - jnp.outer(gain, cov[0])), 0.5 * (gap**2 / size + jnp.log(size))

    return jnp.sum(jax.lax.scan(step, (jnp.zeros(2, y.dtype), 100 * jnp.eye(2, dtype=y.dtype)), y)[1])


def make_kalman(rng: np.random.Generator) -> Fit:
    """Three hundred points of a random trend."""
    slope = np.cumsum(rng.standard_normal(300) * 10 ** rng.uniform(-2, -1))
    y = np.cumsum(slope + rng.standard_normal(300) * 0.3) + rng.standard_normal(300) * 10 ** rng.uniform(-0.5, 0.5)
    return Fit(kalman, {"log_level": -1.0, "log_slope": -3.0, "log_noise": 0.0}, (y,))


def orbit(p: Any, times: Any, y: Any) -> Any:
    """Squares of a Lotka-Volterra system by Runge's rule in fixed steps."""
    a, b, c, d = (jnp.exp(p[each]) for each in ("a", "b", "c", "d"))

    def slope(u: Any) -> Any:
        return jnp.stack([a * u[0] - b * u[0] * u[1], c * u[0] * u[1] - d * u[1]])

    def step(u: Any, gap: Any) -> Any:
        half = u + gap / 2 * slope(u)
        after = u + gap * slope(half)
        return after, after

    path = jax.lax.scan(step, jnp.exp(p["start"]), jnp.diff(times))[1]
    return 0.5 * jnp.sum((jnp.log(path) - y) ** 2)


def make_orbit(rng: np.random.Generator) -> Fit:
    """Four hundred steps, noise of a tenth."""
    times = np.linspace(0, 12, 401)
    truth = {"a": np.log(1.1), "b": np.log(0.4), "c": np.log(0.1), "d": np.log(0.4), "start": np.log([10.0, 5.0])}
    truth = {name: value + 0.1 * rng.standard_normal(np.shape(value)) for name, value in truth.items()}

    def path(p: Any) -> Any:  # the same steps, to make data
        u, out = np.exp(p["start"]), []
        a, b, c, d = (np.exp(p[each]) for each in "abcd")
        rate = lambda u: np.array([a * u[0] - b * u[0] * u[1], c * u[0] * u[1] - d * u[1]])  # noqa: E731
        for gap in np.diff(times):
            u = u + gap * rate(u + gap / 2 * rate(u))
            out.append(np.log(u))
        return np.array(out)

    start = {name: value + 0.05 * rng.standard_normal(np.shape(value)) for name, value in truth.items()}
    return Fit(orbit, start, (times, path(truth) + 0.1 * rng.standard_normal((400, 2))))


LONG = {"logistic": make_logistic, "kalman": make_kalman, "ode": make_orbit}
