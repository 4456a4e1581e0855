"""The result: immutable, a pytree, readable, and one meaning of success."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from problems import BACKENDS
from scipy_jax_bridge import Status


def fun(params: Any) -> Any:
    return jnp.sum((params["w"] - 1.0) ** 4) + params["b"] ** 2


def solve(backend: str, **more: Any) -> sjb.Result:
    return sjb.minimize(fun, {"w": np.zeros(3), "b": 2.0, "name": "net"}, backend=backend, **more)


@pytest.mark.parametrize("backend", BACKENDS)
def test_result_is_immutable(backend: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        solve(backend).fun = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("backend", BACKENDS)
def test_value_and_gradient_belong_to_the_point(backend: str) -> None:
    result = solve(backend)
    params = {"w": result.params["w"], "b": result.params["b"]}
    value, grad = jax.value_and_grad(fun)(params)
    assert float(result.fun) == pytest.approx(float(value), rel=1e-14, abs=1e-300)
    np.testing.assert_allclose(result.jac["w"], grad["w"], rtol=1e-12)
    np.testing.assert_allclose(result.jac["b"], grad["b"], rtol=1e-12)
    assert result.jac["name"] is None and result.params["name"] == "net"
    assert float(np.asarray(result.trace.fun)[-1]) == float(result.fun)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fields(backend: str) -> None:
    solve(backend)
    result = solve(backend)
    assert result.x is result.params
    assert result.backend == backend and result.method == "L-BFGS-B"
    assert result.aux is None
    assert result.success is True
    assert isinstance(result.status, Status) and result.status in (Status.GTOL, Status.FTOL)
    assert result.timing.solve_s > 0
    assert (result.timing.compile_s, result.timing.compiles) == (0.0, 0), "compiled by the solve before"
    assert len({len(np.asarray(column)) for column in result.trace}) == 1
    assert len(np.asarray(result.trace.fun)) == result.nit + 1
    assert int(np.asarray(result.trace.nfev)[0]) == 1 and int(np.asarray(result.trace.nfev)[-1]) == result.nfev
    assert (np.diff(np.asarray(result.trace.seconds)) >= 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_result_is_a_pytree(backend: str) -> None:
    result = solve(backend)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, result)
    assert isinstance(doubled, sjb.Result)
    np.testing.assert_array_equal(doubled.params["w"], 2 * np.asarray(result.params["w"]))
    assert doubled.backend == backend
    leaves, treedef = jax.tree.flatten(result)
    again = jax.tree.unflatten(treedef, leaves)
    assert float(again.fun) == float(result.fun) and again.status == result.status


def test_jit_returns_a_result() -> None:
    @jax.jit
    def inside(c: Any) -> sjb.Result:
        return sjb.minimize(lambda x: jnp.sum((x - c) ** 2), jnp.zeros(2), backend="optax")

    result = inside(3.0)
    assert isinstance(result, sjb.Result) and result.status == Status.GTOL and result.success
    np.testing.assert_allclose(result.params, 3, atol=1e-5)
    assert "GTOL" in str(result) and "not converged" not in str(result)


def test_vmap_returns_a_batch() -> None:
    centers = jnp.arange(4.0)
    given = {"backend": "optax", "method": optax.sgd(0.4)}
    batch = jax.vmap(lambda c: sjb.minimize(lambda x: (x - c) ** 2, jnp.zeros(()), **given))(centers)
    np.testing.assert_allclose(batch.params, centers, atol=1e-5)
    assert batch.status.shape == (4,) and bool(jnp.all(batch.success))
    assert "batched" in str(batch) and batch.message


@pytest.mark.parametrize("backend", BACKENDS)
def test_print_is_short_and_says_what_matters(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = solve(backend)
    print(result)
    text = capsys.readouterr().out
    for word in ("converged", result.status.name, backend, "L-BFGS-B", "fun", "grad_norm", "nit", "nfev", "compiling"):
        assert word in text
    assert "not converged" not in text
    assert len(text.splitlines()) <= 12 and max(map(len, text.splitlines())) < 400


@pytest.mark.parametrize("backend", BACKENDS)
def test_print_of_a_failure_says_the_cure(backend: str) -> None:
    text = str(solve(backend, options={"maxiter": 1}))
    assert "not converged" in text and "MAXITER" in text and "Raise maxiter" in text


CURES = {
    "GTOL": "gtol",
    "FTOL": "smaller ftol",
    "MAXITER": "Raise maxiter",
    "MAXFUN": "Raise maxfun",
    "TIMEOUT": "Raise timeout",
    "CALLBACK": "callback",
    "INTERRUPTED": "pass the result as params",
    "LINESEARCH": "check_grads",
    "NONFINITE": "bounds",
    "NOISE_FLOOR": "float64",
    "ERROR": "Mend the cause",
    "UNBOUNDED": "bounds",
}


@pytest.mark.parametrize("name", CURES)
def test_every_status_has_a_sentence_with_its_cure(name: str) -> None:
    status = Status[name]
    assert CURES[name] in status.sentence and status.sentence.endswith(".")


def test_the_statuses_are_those_of_the_interface() -> None:
    assert list(Status.__members__) == list(CURES)


@pytest.mark.parametrize("status", Status)
def test_success_is_one_definition(status: Status) -> None:
    assert status.success == (status in (Status.GTOL, Status.FTOL))
    result = dataclasses.replace(solve("scipy"), code=int(status), detail="")
    assert result.success == status.success and result.status is status
    assert result.message == status.sentence


@pytest.mark.parametrize("method", ["Nelder-Mead", "Powell", "COBYLA", "COBYQA"])
def test_no_gradient_without_derivatives(method: str) -> None:
    result = sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), np.zeros(2), method=method)
    assert result.jac is None and result.method == method
    assert np.isnan(np.asarray(result.trace.grad_norm)).all()
    np.testing.assert_allclose(result.params, 1, atol=1e-3)
    assert method in str(result)


@pytest.mark.parametrize("backend", BACKENDS)
def test_failure_hands_back_the_best_finite_point(backend: str) -> None:
    def cliff(x: Any) -> Any:
        return jnp.sum(jnp.where(x < 0.5, jnp.nan, x))

    result = sjb.minimize(cliff, np.full(2, 2.0), backend=backend)
    assert not result.success and np.isfinite(float(result.fun))
    assert float(result.fun) <= float(np.nanmin(np.asarray(result.trace.fun)))  # a trial may be lower than any iterate
    assert float(result.fun) == pytest.approx(float(jnp.sum(result.params)))


def test_params_are_not_scipys_work_array() -> None:
    """SciPy goes on writing into the vector that it shows its callback."""
    seen: list[Any] = []
    sjb.minimize(fun, {"w": np.zeros(3), "b": 2.0}, callback=lambda progress: seen.append(progress.params["w"]))
    assert len({tuple(np.asarray(w).tolist()) for w in seen}) == len(seen) > 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_going_on_from_a_result(backend: str) -> None:
    first = solve(backend, options={"maxiter": 2})
    second = sjb.minimize(fun, first.params, backend=backend)
    assert second.success and float(second.fun) < float(first.fun)


def test_trace_and_timing_can_be_pickled() -> None:
    result = solve("scipy")
    again = pickle.loads(pickle.dumps((result.trace, result.timing, result.status)))
    np.testing.assert_array_equal(again[0].fun, result.trace.fun)
    assert again[2] is result.status


def wavy(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def norm_at(result: sjb.Result, lower: float, upper: float) -> float:
    """By the definition: the largest component of x - P(x - g), or of g where no bound is near."""
    x, g = np.asarray(result.params), np.asarray(jax.grad(wavy)(result.params))
    return float(np.abs(np.where(g < 0, np.maximum(x - upper, g), np.minimum(x - lower, g))).max())


@pytest.mark.parametrize("maxfun", [2, 5, 14, 18, 23])
@pytest.mark.parametrize("bounds", [None, (-0.9, 0.7)], ids=["free", "bounded"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_grad_norm_is_that_of_the_point_handed_back(backend: str, bounds: Any, maxfun: int) -> None:
    """Of a solve that stops in a line search the best point may be a trial, which has no row in the trace."""
    start = np.linspace(-1.0, 1.0, 8)
    result = sjb.minimize(wavy, start, backend=backend, bounds=bounds, options={"maxfun": maxfun})
    expected = norm_at(result, *(bounds or (-np.inf, np.inf)))
    assert result.grad_norm == pytest.approx(expected, rel=1e-10)
    assert f"grad_norm {expected:.3g}" in str(result)
    again = pickle.loads(pickle.dumps(result))
    assert again.grad_norm == result.grad_norm and dataclasses.replace(result, detail="x").grad_norm == result.grad_norm


def test_a_trial_without_a_row_was_among_them() -> None:
    start = np.linspace(-1.0, 1.0, 8)
    results = [sjb.minimize(wavy, start, options={"maxfun": maxfun}) for maxfun in range(2, 24)]
    assert any(float(result.fun) not in np.asarray(result.trace.fun) for result in results)


@functools.cache
def compiled(bounds: Any) -> Any:
    def solve(start: Any, maxfun: Any) -> sjb.Result:
        return sjb.minimize(wavy, start, backend="optax", bounds=bounds, options={"maxfun": maxfun})

    return jax.jit(solve)


def solve_inside(maxfun: int, bounds: Any = None) -> sjb.Result:
    return compiled(bounds)(jnp.linspace(-1.0, 1.0, 8), maxfun)


def solve_batch() -> sjb.Result:
    solve = sjb.Minimizer(wavy, backend="optax")
    return jax.tree.map(lambda leaf: leaf[1], jax.vmap(solve)(jnp.stack([jnp.ones(4), jnp.linspace(-1.0, 1.0, 4)])))


@pytest.mark.slow
@pytest.mark.parametrize("one", [lambda: solve_inside(1000), solve_batch], ids=["jit", "vmap"])
def test_one_result_of_a_compiled_program_reads_and_draws_like_any_other(one: Any) -> None:
    result = one()
    *_, norm, _, time = str(result).splitlines()
    assert result.success and result.grad_norm == pytest.approx(norm_at(result, -np.inf, np.inf), rel=1e-6)
    assert f"grad_norm {result.grad_norm:.3g}" in norm and "unknown" in time and "nan" not in str(result)
    pytest.importorskip("matplotlib")
    left, right = result.plot().axes
    curve, norms = (axes.get_lines()[0] for axes in (left, right))
    assert len(curve.get_xdata()) == len(norms.get_xdata()) == int(result.nit) + 1
    assert "evaluations" in left.get_xlabel() and np.isfinite(curve.get_ydata()).all()


def test_grad_norm_of_a_compiled_program_that_stopped_early() -> None:
    for maxfun in range(2, 24):
        free, bounded = solve_inside(maxfun), solve_inside(maxfun, (-0.9, 0.7))
        assert free.grad_norm == pytest.approx(norm_at(free, -np.inf, np.inf), rel=1e-10)
        if not math.isnan(bounded.grad_norm):  # not known of a trial, without the bounds
            assert bounded.grad_norm == pytest.approx(norm_at(bounded, -0.9, 0.7), rel=1e-10)
        else:
            assert float(bounded.fun) not in np.asarray(bounded.trace.fun) and "grad_norm unknown" in str(bounded)


@pytest.mark.slow
def test_grad_norm_of_a_batch_is_an_error() -> None:
    batch = jax.vmap(sjb.Minimizer(wavy, backend="optax"))(jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"pick one first: jax\.tree\.map"):
        _ = batch.grad_norm


def test_no_gradient_is_no_norm() -> None:
    result = sjb.minimize(wavy, np.zeros(2), method="Nelder-Mead")
    assert math.isnan(result.grad_norm) and "grad_norm unknown" in str(result)


def test_what_rounding_costs_is_told_of_the_point_handed_back() -> None:
    def uneven(x: Any) -> Any:
        return jnp.sum(jnp.exp(0.37 * x) - jnp.arange(0.61, 1.0, 0.1, np.float32) * x)

    result = sjb.minimize(uneven, np.zeros(4, np.float32), options={"gtol": 0.0, "ftol": 0.0})
    assert not result.success and f"the gradient norm could go from {result.grad_norm:.1g} to" in result.message


@pytest.mark.parametrize("copied", [dataclasses.replace, copy.copy, copy.deepcopy], ids=lambda copied: copied.__name__)
def test_a_copy_goes_on_like_the_result(copied: Any) -> None:
    first = solve("optax", options={"maxiter": 2})
    again = copied(first)
    one, other = (sjb.minimize(fun, each, backend="optax") for each in (first, again))
    assert again.carry is not None and one.nit == other.nit and float(one.fun) == float(other.fun)
    np.testing.assert_array_equal(one.trace.fun, other.trace.fun)


def test_a_result_equals_itself_alone() -> None:
    result = solve("scipy")
    assert result == result and result != dataclasses.replace(result) and result in [result]
    assert len({result, result, dataclasses.replace(result)}) == 2
