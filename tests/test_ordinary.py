"""Ordinary turns of a transformation change nothing: a batch, in which every turn is judged, is the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb

STEPS = 1500  # more than the trace of a solve inside jit has rows


def valley(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def bowl(x: Any) -> Any:
    return jnp.sum(jnp.array([1.0, 0.1, 0.01]) * (x - 1) ** 2)


def barrier(x: Any) -> Any:
    return jnp.sum(x) - 0.05 * jnp.sum(jnp.log(x))


def wall(x: Any) -> Any:
    return jnp.where(x[0] > 0.9, jnp.nan, jnp.sum((x - 2) ** 2))


def plateau(x: Any) -> Any:
    return jnp.sum(jnp.where(jnp.abs(x) < 0.5, 0.25, x**2)) + 1e-3 * x[0]


FUNCTIONS = (bowl, valley, barrier, wall, plateau)


def sgd_in_threes(rate: Any) -> optax.GradientTransformation:
    return optax.MultiSteps(optax.sgd(rate), 3).gradient_transformation()


def momentum(rate: Any) -> optax.GradientTransformation:
    return optax.sgd(rate, momentum=0.9)


# The functions and the rates are data, so that a transformation is compiled once.
CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], optax.GradientTransformation], float, float]] = {
    "descends": (bowl, optax.sgd, 1e-2, 0.0),
    "oscillates": (bowl, optax.adam, 0.3, -1.2),
    "curved": (valley, optax.adam, 1e-2, -1.2),
    "momentum": (bowl, momentum, 0.3, -1.2),
    "leaves the domain": (barrier, optax.sgd, 0.03, 0.5),
    "hits a wall": (wall, optax.adam, 0.1, 0.0),
    "does not move at first": (bowl, sgd_in_threes, 0.1, 0.0),
    "jumps over a plateau": (plateau, optax.sgd, 0.6, 1.1),
}


FACTS = ("params", "fun", "jac", "nit", "nfev", "code")


def facts(result: sjb.Result) -> dict[str, np.ndarray]:
    found = {name: getattr(result, name) for name in FACTS} | {
        f"trace.{k}": v for k, v in result.trace._asdict().items()
    }
    return {name: np.asarray(each) for name, each in found.items()}


def any_of_them(x: Any, which: Any) -> Any:
    return jax.lax.switch(which, FUNCTIONS, x)


@functools.cache
def solvers(make: Callable[[Any], optax.GradientTransformation]) -> tuple[Callable[..., sjb.Result], ...]:
    """A solve, the same inside jit, and a batch of it."""
    options = {"maxiter": STEPS, "maxfun": 4000, "ftol": 0.0, "gtol": 1e-9}

    def solve(x: Any, which: Any, rate: Any) -> Any:
        return sjb.minimize(any_of_them, x, (which,), backend="optax", method=make(rate), options=options)

    return solve, jax.jit(solve), jax.jit(jax.vmap(solve, in_axes=(0, None, None)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_solve_has_the_record_of_one_that_judges_every_turn(name: str) -> None:
    fun, make, rate, start = CASES[name]
    solve, inside, batched = solvers(make)
    x0, data = np.full(3, start), (FUNCTIONS.index(fun), jnp.asarray(rate))
    alone, batch = facts(inside(x0, *data)), facts(batched(np.stack([x0, x0]), *data))
    for key, each in alone.items():
        np.testing.assert_allclose(batch[key][0], each, rtol=1e-7, atol=1e-12, err_msg=key)
    eager = facts(solve(x0, *data))
    for key in FACTS:
        np.testing.assert_allclose(eager[key], alone[key], rtol=1e-7, atol=1e-12, err_msg=key)
    rows = alone["trace.nfev"] > 0
    for key in ("trace.fun", "trace.grad_norm", "trace.nfev"):
        np.testing.assert_allclose(eager[key][-rows.sum() :], alone[key][rows], rtol=1e-7, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("maxfun", [1, 2, 63, 64, 65, 200])
def test_limits_hold_within_a_run_of_ordinary_turns(maxfun: int) -> None:
    settings: dict[str, Any] = {"backend": "optax", "method": optax.sgd(1e-3)}
    result = sjb.minimize(bowl, np.zeros(3), options={"maxfun": maxfun}, **settings)
    assert (result.nfev, result.status, len(result.trace.fun)) == (maxfun, sjb.Status.MAXFUN, maxfun)
    result = sjb.minimize(bowl, np.zeros(3), options={"maxiter": maxfun}, **settings)
    assert (result.nit, result.status, len(result.trace.fun)) == (maxfun, sjb.Status.MAXITER, maxfun + 1)
