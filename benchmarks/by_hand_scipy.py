"""Rows of `by_hand.py`: the SciPy backend against `scipy.optimize.minimize` with a packed callable."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import scipy_jax_bridge as sjb
from rivals import by_hand
from scipy_jax_bridge.models import rosenbrock
from timing import Row, compare, interleave

OPTIONS = {"gtol": 1e-5, "ftol": 0.0, "maxiter": 15000}
LARGE = 100_000


def bowl(x: jax.Array) -> jax.Array:
    """A quadratic of two parameters."""
    return jnp.sum(jnp.array([1.0, 10.0]) * (x - jnp.array([1.0, -2.0])) ** 2)


def use(result: sjb.Result) -> Any:
    """All that a result has, so that none of it is left to be made."""
    return (
        *(result.params, result.fun, result.jac, result.nit, result.nfev),
        *(result.status, result.success, result.message, result.trace, result.timing),
    )[:3]


def check_same(result: sjb.Result, found: Any) -> None:
    """The paths are SciPy's: equal counts, and the same point up to rounding.

    Raises:
        AssertionError: they are not; no time should be printed.
    """
    x = ravel_pytree(result.params)[0]
    assert (result.nit, result.nfev) == (found.nit, found.nfev), (result.nit, result.nfev, found.nit, found.nfev)
    np.testing.assert_allclose(x, found.x, rtol=1e-6, atol=1e-8)


def small(repeats: int) -> list[Row]:
    """A quadratic of two parameters: SciPy itself makes few evaluations."""
    return [_row("SciPy backend, a solve, 2 parameters", bowl, np.zeros(2), repeats, (2.5, 1.5), calls=3)]


def leaves(repeats: int) -> list[Row]:
    """A hundred parameters in a dict of 20 leaves."""
    model = rosenbrock.build(100, leaves=20)
    return [_row("the same, n = 100, 20 leaves", model.fun, model.params, repeats, (1.1, 1.05), calls=1)]


def _row(
    what: str, fun: Callable[..., jax.Array], params: Any, repeats: int, goals: tuple[float, float], calls: int
) -> Row:
    solve = sjb.Minimizer(fun, options=OPTIONS)
    x0, unravel = ravel_pytree(params)
    run = by_hand(lambda x: fun(unravel(x)), np.asarray(x0), **OPTIONS)
    split = jax.jit(unravel)
    check_same(solve(params), run())

    def hand() -> Any:
        found = run()
        return split(found.x), found.fun, found.jac

    contenders = {"ours": lambda: use(solve(params)), "hand": hand}
    times = interleave(contenders, repeats, calls=calls, warm_up=5)
    return replace(compare(what, times, "ours", "hand", *goals), against="SciPy, a packed callable")


def large(repeats: int) -> list[Row]:
    """A quadratic of 100,000 parameters; SciPy with all BLAS threads and with one."""
    scale, x0 = jnp.asarray(np.geomspace(1.0, 30.0, LARGE)), np.zeros(LARGE)

    def fun(x: jax.Array, scale: jax.Array) -> jax.Array:
        return jnp.sum(scale * (x - 1.0) ** 2)

    solve = sjb.Minimizer(fun, options=OPTIONS)
    hands = {name: by_hand(fun, x0, (scale,), one_thread=held, **OPTIONS) for name, held in THREADS.items()}
    for run in hands.values():
        check_same(solve(x0, (scale,)), run())

    def by(run: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: jax.device_put(run().x)

    contenders = {"ours": lambda: use(solve(x0, (scale,)))} | {name: by(run) for name, run in hands.items()}
    times = interleave(contenders, repeats)
    best = min(hands, key=lambda name: statistics.median(times[name]))
    return [compare("the same, n = 100,000, quadratic", times, "ours", best, 1.1, 1.0)]


THREADS = {"SciPy, all BLAS threads": False, "SciPy, one BLAS thread": True}
