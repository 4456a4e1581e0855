"""Objectives that Python evaluates: the same solve as of a JAX objective, on both backends, and what they cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import Status

START = {"x": np.where(np.arange(6) % 2 == 0, -1.2, 1.0), "y": 0.5, "name": "valley"}
SCALE = np.array(1.0)


def traced(params: Any, scale: Any) -> jax.Array:
    x = params["x"]
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (scale - x[:-1]) ** 2) + (params["y"] - 2) ** 2


_gradient = jax.jit(jax.value_and_grad(lambda x, y, scale: traced({"x": x, "y": y}, scale), argnums=(0, 1)))


class Simulator:
    """A function in NumPy around a program; it counts its calls and keeps what it was given."""

    def __init__(self, fails_at: int = -1) -> None:
        self.calls: list[Any] = []
        self.fails_at = fails_at

    def __call__(self, params: Any, scale: Any) -> tuple[Any, Any]:
        self.calls.append(params)
        if len(self.calls) == self.fails_at:
            raise RuntimeError("the simulator broke")
        value, (x, y) = _gradient(params["x"], params["y"], scale)
        return float(value), {"x": np.asarray(x), "y": float(y), "name": None}


SOLVES: dict[str, dict[str, Any]] = {
    "scipy": {},
    "scipy, bounds": {"bounds": {"x": (-2.0, 0.5)}},
    "scipy, BFGS": {"method": "BFGS"},
    "scipy, Nelder-Mead": {"method": "Nelder-Mead", "options": {"maxfun": 60}},
    "scipy, fixed": {"fixed": {"y": True}},
    "optax": {"backend": "optax"},
    "optax, bounds": {"backend": "optax", "bounds": {"x": (-2.0, 0.5)}},
    "optax, adam": {"backend": "optax", "method": optax.adam(0.02), "options": {"maxiter": 40}},
}


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("solve", SOLVES)
def test_it_is_the_solve_of_a_jax_objective(solve: str) -> None:
    given, simulator = SOLVES[solve], Simulator()
    result = sjb.minimize(sjb.host_objective(simulator), START, (SCALE,), **given)
    same = sjb.minimize(traced, START, (SCALE,), **given)
    assert (result.status, result.nit, result.nfev) == (same.status, same.nit, same.nfev)
    np.testing.assert_allclose(result.params["x"], same.params["x"], rtol=1e-8)
    np.testing.assert_allclose(result.trace.fun, same.trace.fun, rtol=1e-6, atol=1e-12)
    assert result.params["name"] == "valley" and result.method == same.method
    clipped = "bounds" in given  # the call at the start, which told the types, was outside
    assert len(simulator.calls) == result.nfev + clipped


@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_data_and_structures_come_as_they_were_given(backend: Any) -> None:
    def fun(params: Any, data: Any, flag: Any) -> Any:
        assert set(params) == {"a", "held"} and flag == "on" and data["y"].shape == (3,)
        residual = np.asarray(params["a"]) * np.asarray(params["held"]) - np.asarray(data["y"])
        return (residual @ residual, {"residual": residual}), {
            "a": 2 * residual * np.asarray(params["held"]),
            "held": None,
        }

    y = np.array([1.0, 2.0, 3.0])
    solve = sjb.Minimizer(sjb.host_objective(fun), backend=backend, has_aux=True, fixed={"held": True})
    for factor in (1.0, 2.0):
        result = solve({"a": np.zeros(3), "held": np.full(3, 2.0)}, ({"y": factor * y}, "on"))
        assert result.success
        np.testing.assert_allclose(result.params["a"], factor * y / 2, rtol=1e-6)
        np.testing.assert_allclose(result.aux["residual"], 0.0, atol=1e-5)


@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_the_call_that_told_the_types_serves_no_other_data(backend: Any) -> None:
    solve = sjb.Minimizer(sjb.host_objective(distance), backend=backend)
    solve.compile(np.zeros(2), (np.ones(2),))
    result = solve(np.zeros(2), (np.full(2, 5.0),))
    assert result.trace.fun[0] == 50.0 and result.success
    np.testing.assert_allclose(result.params, 5.0, rtol=1e-6)


@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_an_exception_loses_no_evaluation(backend: Any) -> None:
    simulator = Simulator(fails_at=9)
    with pytest.raises(RuntimeError, match="the simulator broke") as caught:
        sjb.minimize(sjb.host_objective(simulator), START, (SCALE,), backend=backend)
    best = caught.value.best_result  # type: ignore[attr-defined]
    assert best.status == Status.ERROR and best.nfev == 8
    assert float(best.fun) == min(float(traced(params, SCALE)) for params in simulator.calls[:8])


def test_it_is_recorded_limited_and_resumed_as_ever() -> None:
    seen: list[int] = []

    def stop(progress: sjb.Progress) -> None:
        seen.append(progress.nit)
        if progress.nit == 7:
            raise StopIteration

    simulator = Simulator()
    fun = sjb.host_objective(simulator)
    whole = sjb.minimize(fun, START, (SCALE,), backend="optax")
    part = sjb.minimize(fun, START, (SCALE,), backend="optax", callback=stop)
    assert part.status == Status.CALLBACK and seen == list(range(8))
    part = sjb.minimize(fun, part, (SCALE,), backend="optax", options={"maxfun": 20})
    assert part.status == Status.MAXFUN and part.nfev == 20
    rest = sjb.minimize(fun, part, (SCALE,), backend="optax")
    assert (rest.nit, rest.nfev, rest.note) == (whole.nit, whole.nfev, "")
    np.testing.assert_array_equal(rest.params["x"], whole.params["x"])


@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_a_wall_of_nan_is_no_success(backend: Any) -> None:
    def fun(x: Any) -> Any:
        x = np.asarray(x)
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.sum(x - np.log(x))), 1 - 1 / x

    result = sjb.minimize(sjb.host_objective(fun), np.full(3, 6.0), backend=backend, options={"ftol": 0.0})
    assert result.success
    np.testing.assert_allclose(result.params, 1.0, atol=1e-4)
    with pytest.raises(sjb.NonfiniteStart):
        sjb.minimize(sjb.host_objective(fun), np.full(3, -1.0), backend=backend)


def test_single_precision_stays_single() -> None:
    def fun(x: Any) -> Any:
        assert x.dtype == np.float32
        return np.float32(np.sum((np.asarray(x) - 1) ** 2)), 2 * (np.asarray(x) - 1)

    for backend in ("scipy", "optax"):
        result = sjb.minimize(sjb.host_objective(fun), np.zeros(3, np.float32), backend=backend)
        assert result.params.dtype == np.float32 and result.success


def distance(x: Any, center: Any) -> Any:
    residual = np.asarray(x) - np.asarray(center)
    return float(residual @ residual), 2 * residual


def bowl(x: Any) -> Any:
    return float(np.sum(np.asarray(x) ** 2)), 2 * np.asarray(x)


def with_gradient(gradient: Any) -> Callable[..., Any]:
    return sjb.host_objective(lambda params: (1.0, gradient))


START_2 = {"w": np.zeros(2)}
WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no pair": (lambda: sjb.minimize(sjb.host_objective(lambda x: 1.0), np.ones(2)), TypeError, "must return .value,"),
    "a tree": (lambda: sjb.minimize(with_gradient([1.0]), START_2), ValueError, "another tree than params"),
    "a shape": (
        lambda: sjb.minimize(with_gradient({"w": np.zeros(3)}), START_2),
        ValueError,
        r"gradient of params\['w'\] has shape \(3,\), not \(2,\)",
    ),
    "none": (lambda: sjb.minimize(with_gradient({"w": None}), START_2), TypeError, r"gradient of params\['w'\]"),
    "a vector": (
        lambda: sjb.minimize(sjb.host_objective(lambda x: (np.ones(2), x)), np.ones(2)),
        TypeError,
        "must return a scalar",
    ),
    "Hessians": (
        lambda: sjb.minimize(sjb.host_objective(bowl), np.ones(2), method="Newton-CG"),
        TypeError,
        "second derivatives, and a host objective has none",
    ),
    "a search": (
        lambda: sjb.minimize(sjb.host_objective(bowl), np.ones(2), backend="optax", method=optax.lbfgs()),
        TypeError,
        "line searches",
    ),
    "jit": (
        lambda: jax.jit(lambda x: sjb.minimize(sjb.host_objective(bowl), x, backend="optax").fun)(np.ones(2)),
        sjb.TracedCall,
        "Python evaluates",
    ),
    "vmap": (
        lambda: jax.vmap(lambda x: sjb.minimize(sjb.host_objective(bowl), x, backend="optax").fun)(np.ones((2, 2))),
        sjb.TracedCall,
        "Python evaluates",
    ),
    "grad": (
        lambda: jax.grad(lambda x: sjb.minimize(sjb.host_objective(bowl), x).fun)(jnp.ones(2)),
        sjb.TracedCall,
        "Python evaluates",
    ),
    "no function": (lambda: sjb.host_objective(3), TypeError, "takes a function"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", WRONG)
def test_what_it_cannot_is_said(case: str) -> None:
    call, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        call()


def test_the_adapter_evaluates_it_too() -> None:
    problem = sjb.adapt(sjb.host_objective(bowl), np.array([1.0, 2.0]))
    value, grad = problem.value_and_grad(problem.x0)
    assert value == 5.0 and problem.fun(problem.x0) == 5.0
    np.testing.assert_array_equal(grad, [2.0, 4.0])


def test_forward_derivatives_are_enough() -> None:
    """A function with a `while_loop` has no reverse mode; jax.jacfwd differentiates it."""

    def fun(x: jax.Array) -> jax.Array:
        turns = jax.lax.while_loop(
            lambda carry: carry[0] < 3, lambda carry: (carry[0] + 1, carry[1] * x), (0, x * 0 + 1)
        )
        return jnp.sum((turns[1] - 8.0) ** 2)

    evaluate = jax.jit(lambda x: (fun(x), jax.jacfwd(fun)(x)))
    result = sjb.minimize(sjb.host_objective(evaluate), jnp.full(2, 1.5))
    np.testing.assert_allclose(result.params, 2.0, rtol=1e-4)
