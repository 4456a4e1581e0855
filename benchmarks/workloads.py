"""Objectives whose compilation weighs: Gaussian processes, a deep network, an ODE.

Each makes a new function every time it is asked, so that nothing compiled before is found again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scipy_jax_bridge.models import co2

Workload = tuple[Callable[[], Callable[..., jax.Array]], Any, tuple[Any, ...]]


def gaussian_process(points: int = 100) -> Workload:
    """The negative log marginal likelihood of three hyperparameters, through a Cholesky factorization."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0.0, 5.0, points))
    y = np.sin(2 * x) + 0.1 * rng.normal(size=points)

    def make() -> Callable[..., jax.Array]:
        def objective(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
            length, scale, noise = (jnp.exp(params[name]) for name in ("length", "scale", "noise"))
            distance = (x[:, None] - x[None, :]) / length
            kernel = scale * jnp.exp(-0.5 * distance**2) + (noise + 1e-8) * jnp.eye(x.size)
            factor = jnp.linalg.cholesky(kernel)
            white = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
            return 0.5 * white @ white + jnp.sum(jnp.log(jnp.diag(factor)))

        return objective

    return make, {"length": jnp.zeros(()), "scale": jnp.zeros(()), "noise": jnp.full((), -2.0)}, (x, y)


def carbon_dioxide(months: int = 120) -> Workload:
    """The package's model of the CO2 record, eleven hyperparameters in nested dicts, on made-up months."""
    years = 1960.0 + np.arange(months) / 12
    ppm = 1.3 * (years - years.mean()) + 3.0 * np.sin(2 * np.pi * years)

    def make() -> Callable[..., jax.Array]:
        return lambda params, years, ppm: co2.objective(params, years, ppm)

    return make, jax.tree.map(jnp.log, co2.START), (years, ppm)


def deep_network(layers: int = 9, width: int = 32) -> Workload:
    """The squared error of a tanh network: a matrix and a vector a layer, 18 leaves."""
    rng = np.random.default_rng(1)
    sizes = [8, *[width] * (layers - 1), 1]
    params = [
        {"weight": jnp.asarray(rng.normal(size=(m, n)) / np.sqrt(m)), "bias": jnp.zeros(n)} for m, n in pairwise(sizes)
    ]
    x = rng.normal(size=(128, 8))
    y = np.sin(x.sum(axis=1, keepdims=True))

    def make() -> Callable[..., jax.Array]:
        def objective(params: list[dict[str, jax.Array]], x: jax.Array, y: jax.Array) -> jax.Array:
            for layer in params[:-1]:
                x = jnp.tanh(x @ layer["weight"] + layer["bias"])
            return jnp.mean((x @ params[-1]["weight"] + params[-1]["bias"] - y) ** 2)

        return objective

    return make, params, (x, y)


def ode_scan(steps: int = 200) -> Workload:
    """Four rates of predator and prey, fitted through a `lax.scan` of Runge-Kutta steps."""
    truth = np.log([1.0, 0.6, 0.8, 0.5])

    def field(state: jax.Array, rates: jax.Array) -> jax.Array:
        prey, predator = state
        birth, hunt, death, feed = rates
        return jnp.stack([prey * (birth - hunt * predator), predator * (feed * prey - death)])

    def simulate(rates: jax.Array, start: jax.Array, dt: float = 0.05) -> jax.Array:
        def step(state: jax.Array, _: Any) -> tuple[jax.Array, jax.Array]:
            k1 = field(state, rates)
            k2 = field(state + 0.5 * dt * k1, rates)
            k3 = field(state + 0.5 * dt * k2, rates)
            k4 = field(state + dt * k3, rates)
            state = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            return state, state

        return jax.lax.scan(step, start, None, length=steps)[1]

    def make() -> Callable[..., jax.Array]:
        def objective(params: dict[str, jax.Array], start: jax.Array, seen: jax.Array) -> jax.Array:
            return jnp.mean((simulate(jnp.exp(params["log_rates"]), start) - seen) ** 2)

        return objective

    start = np.array([1.5, 1.0])
    return make, {"log_rates": jnp.zeros(4)}, (start, np.asarray(simulate(jnp.exp(truth), start)))


WORKLOADS = {
    "Gaussian process, 3 parameters": gaussian_process,
    "Gaussian process of CO2, 11 parameters": carbon_dioxide,
    "9-layer MLP, 18 leaves": deep_network,
    "scan through an ODE, 4 parameters": ode_scan,
}
