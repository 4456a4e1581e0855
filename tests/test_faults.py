"""What goes wrong in the middle of a solve: values that are not finite, and exceptions."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from problems import BACKENDS, rosenbrock
from scipy_jax_bridge import Status

N = 16
START = np.tile([-1.2, 1.0], N // 2)
BOXES = {"free": None, "bounded": (-1.5, np.r_[0.98, np.full(N - 1, 2.0)])}
NOWHERE = np.full(N, 1e3)
KINDS = ("nan", "infinity", "nan gradient")
seen: list[tuple[np.ndarray, float]] = []


def write_down(row: Any) -> None:
    row = np.array(row)
    seen.append((row[:-1], float(row[-1])))


def spoiled(x: jax.Array, bad: jax.Array, kind: jax.Array) -> jax.Array:
    """Rosenbrock's function, but for one point; every evaluation is written down."""
    value, hit = rosenbrock(x), jnp.all(x == bad)
    jax.debug.callback(write_down, jnp.append(x, value))  # one array: each costs a callback its time
    spoiled_value = jnp.where(kind == 0, jnp.nan, jnp.inf)
    distance = jnp.sqrt(jnp.sum((x - bad) ** 2))  # zero at the bad point, where its gradient is NaN
    return jnp.where(hit & (kind < 2), spoiled_value, value) + jnp.where(hit & (kind == 2), distance, 0.0)


@functools.cache
def solver(backend: str, box: str) -> sjb.Minimizer:
    return sjb.Minimizer(spoiled, backend=backend, bounds=BOXES[box])


def run(backend: str, box: str, bad: np.ndarray, kind: int) -> tuple[sjb.Result, list[tuple[np.ndarray, float]]]:
    seen.clear()
    result = solver(backend, box)(START, (bad, kind))
    jax.effects_barrier()
    return result, list(seen)


@functools.cache
def clean(backend: str, box: str) -> tuple[sjb.Result, list[tuple[np.ndarray, float]]]:
    return run(backend, box, NOWHERE, 0)


@pytest.mark.parametrize("kind", range(3), ids=KINDS)
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_bad_evaluation(backend: str, box: str, kind: int) -> None:
    """Among the evaluations 1 to 60 (https://github.com/google-deepmind/optax/issues/1171)."""
    whole, path = clean(backend, box)
    assert whole.success and whole.nfev == len(path) > 60
    with pytest.raises(ValueError, match="no way down from this start") as caught:
        run(backend, box, path[0][0], kind)
    assert caught.value.best_result is None  # type: ignore[attr-defined]
    for number in range(1 + 2 * kind, 60, 6):
        bad = path[number][0]
        result, evaluated = run(backend, box, bad, kind)
        at = np.asarray(result.params)
        good = [value for x, value in evaluated if not np.array_equal(x, bad)]
        assert len(good) < len(evaluated), "the bad point was met"
        assert not np.array_equal(at, bad) and float(result.fun) in good
        assert float(result.fun) == pytest.approx(float(rosenbrock(at)), rel=1e-9, abs=1e-20)
        if BOXES[box] is not None:
            assert np.all(at >= BOXES[box][0]) and np.all(at <= BOXES[box][1])
        if result.success:  # it went round the point
            assert float(result.fun) <= float(whole.fun) + 1e-6
        else:
            assert result.status == Status.NONFINITE and "In iteration" in result.message
            assert float(result.fun) == min(good)


@pytest.mark.parametrize("backend", BACKENDS)
def test_most_bad_evaluations_are_survived(backend: str) -> None:
    whole, path = clean(backend, "free")
    ends = [run(backend, "free", path[number][0], 0)[0] for number in range(1, 60, 4)]
    assert all(each.success for each in ends), [each.status.name for each in ends]
    assert max(float(each.fun) for each in ends) <= float(whole.fun) + 1e-6


@pytest.mark.parametrize("method", ["BFGS", "CG", "TNC", "SLSQP", "Nelder-Mead", "Powell", "COBYLA", "trust-ncg"])
def test_every_method_backs_off(method: str) -> None:
    """The logarithm is NaN beyond zero, and the first steps lead there."""

    def fun(x: jax.Array) -> jax.Array:
        return jnp.sum(x - 0.1 * jnp.log(x))

    result = sjb.minimize(fun, np.full(2, 3.0), method=method, options={"maxfun": 2000})
    assert result.success, result.message
    np.testing.assert_allclose(result.params, 0.1, atol=2e-3)


@pytest.mark.parametrize("method", [None, optax.adam(0.5), optax.sgd(5.0)], ids=["engine", "adam", "sgd"])
def test_every_loop_backs_off(method: Any) -> None:
    def fun(x: jax.Array) -> jax.Array:
        return jnp.sum(x - 0.1 * jnp.log(x))

    result = sjb.minimize(fun, np.full(2, 3.0), backend="optax", method=method)
    assert float(result.fun) == pytest.approx(float(fun(result.params)))
    np.testing.assert_allclose(result.params, 0.1, atol=1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_message_says_where_it_went_bad(backend: str) -> None:
    def fun(params: dict[str, Any]) -> jax.Array:
        wall = jnp.where(params["b"][1] > 2.0, jnp.sqrt(2.0 - params["b"][1]), 0.0)
        return jnp.sum(params["a"] ** 2) - jnp.sum(params["b"]) + wall

    result = sjb.minimize(fun, {"a": jnp.ones(2), "b": jnp.zeros(2)}, backend=backend)
    assert result.status == Status.NONFINITE and not result.success
    assert f"In iteration {result.nit + 1}: the objective is " in result.message
    assert "all of params is finite; the gradient of params['b'], component 1 of 2, is nan" in result.message
    assert float(result.fun) == float(fun(result.params)) < 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("x32")
def test_a_wall_in_single_precision_is_no_noise(backend: str) -> None:
    """Close to the wall a step changes nothing in float32; more digits would not lead through it."""

    def fun(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(x > 0.5, jnp.nan, (x - 1.0) ** 2))

    result = sjb.minimize(fun, jnp.zeros(1), backend=backend)
    assert result.status == Status.NONFINITE, result.message
    assert "In iteration " in result.message and "float64" not in result.message
    assert float(result.params[0]) <= 0.5 and float(result.fun) <= 0.26


@pytest.mark.slow
def test_a_start_that_is_not_finite_inside_a_batch_is_a_status() -> None:
    starts = jnp.array([[0.5, 0.5], [-1.0, 1.0]])
    solve = sjb.Minimizer(lambda x: jnp.sum(x - jnp.log(x)), backend="optax")
    result = jax.vmap(solve)(starts)
    assert list(np.asarray(result.status)) == [Status.GTOL, Status.NONFINITE]


class Broken(Exception):
    """Raised by the objective or the callback."""


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_error_of_the_objective_carries_the_best_point(backend: str) -> None:
    """At run time, from a callback to the host; the compiled loop has run for a while."""
    calls = []

    def check(value: Any) -> None:
        calls.append(float(value))
        if len(calls) == 30:
            raise Broken("mine")

    def fun(x: jax.Array) -> jax.Array:
        value = rosenbrock(x)
        jax.debug.callback(check, jax.lax.stop_gradient(value))
        return value

    small = sjb.Minimizer(fun, backend=backend)
    with pytest.raises(Exception, match="mine") as caught:
        small(START)
        jax.effects_barrier()
    best = caught.value.best_result  # type: ignore[attr-defined]
    assert best.status == Status.ERROR and 1 <= best.nfev < 30
    assert float(best.fun) == pytest.approx(float(rosenbrock(best.params)), rel=1e-12)
    assert float(best.fun) == min(calls[: best.nfev])


def test_debug_nans_carries_the_best_point() -> None:
    def fun(x: jax.Array) -> jax.Array:
        return jnp.where(x[0] > 2.0, jnp.nan, -x[0]) + 0.0 * x[1]

    with jax.debug_nans(True), pytest.raises(FloatingPointError) as caught:
        sjb.minimize(fun, jnp.zeros(2))
    assert np.isfinite(caught.value.best_result.fun)  # type: ignore[attr-defined]
