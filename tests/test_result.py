"""The result: immutable, a pytree, readable, and one meaning of success."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import Status

BACKENDS = ("scipy", "optax")


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
    result = solve(backend)
    assert result.x is result.params
    assert result.backend == backend and result.method == "L-BFGS-B"
    assert result.aux is None
    assert result.success is True or result.success == np.True_
    assert isinstance(result.status, Status) and result.status in (Status.GTOL, Status.FTOL)
    assert result.timing.solve_s > 0 and result.timing.compile_s >= 0 and result.timing.compiles >= 0
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
    assert "GTOL" in str(result) or "converged" in str(result)


def test_vmap_returns_a_batch() -> None:
    centers = jnp.arange(4.0)
    batch = jax.vmap(lambda c: sjb.minimize(lambda x: (x - c) ** 2, jnp.zeros(()), backend="optax"))(centers)
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_converged_at_the_start(backend: str) -> None:
    result = sjb.minimize(fun, {"w": np.ones(3), "b": 0.0}, backend=backend)
    assert (result.nit, result.nfev, result.status) == (0, 1, Status.GTOL)


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
