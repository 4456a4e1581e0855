"""What a resumed solve checks: bounds, maxcor, method, params, the version of the carry; and what pickles hold."""

from __future__ import annotations

import copy
import functools
import gzip
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from problems import rosenbrock
from scipy_jax_bridge import Status

OLD = Path(__file__).parent / "data" / "af800a5.pickle.gz"  # how it was made: make_old_pickle.py beside it
START = np.tile([-1.2, 1.0], 3)
BOX = (-3.0, 3.0)


def fun(x: jax.Array, shift: jax.Array) -> jax.Array:
    return rosenbrock(x - shift)


evaluate = jax.jit(jax.value_and_grad(fun))


def solve(params: Any, shift: float = 0.01, **more: Any) -> sjb.Result:
    return sjb.minimize(fun, params, shift, **{"backend": "optax", **more})


@functools.cache
def stopped(method: Any = None, bounds: Any = BOX, **more: Any) -> sjb.Result:
    return solve(START, method=method, bounds=bounds, options={"maxiter": 9, "ftol": 0.0, **more})


def is_true(result: sjb.Result, lower: np.ndarray, upper: np.ndarray) -> bool:
    """Whether what the status says of a success holds, computed anew."""
    x, grad = np.asarray(result.params), np.asarray(evaluate(result.params, 0.01)[1])
    norm = np.abs(np.where(grad < 0, np.maximum(x - upper, grad), np.minimum(x - lower, grad))).max()
    if result.status == Status.GTOL:
        return bool(norm <= 1e-5 * (1 + 1e-6))
    before, last = result.trace.fun[-2:]
    return bool(before - last <= 2.3e-9 * max(abs(before), abs(last), 1) and last == float(result.fun))


@pytest.mark.parametrize(("backend", "count"), [("scipy", 100), ("optax", 300)])
def test_other_bounds_hold_and_success_is_true(backend: str, count: int) -> None:
    """Random resumptions, most of them from points that the new bounds exclude; SciPy's have no memory to spoil."""
    random, first, successes = np.random.default_rng(5), stopped(maxfun=20), 0
    assert np.all(np.abs(np.asarray(first.params)) <= 3)
    for _ in range(count):
        middle = np.asarray(first.params) + random.normal(size=6) * random.choice([0.0, 0.1, 1.0])
        width = random.choice([1e-3, 0.1, 2.0], size=6) * random.random(6)
        lower = np.where(random.random(6) < 0.3, -np.inf, middle - width)
        upper = np.where(random.random(6) < 0.3, np.inf, middle + width)
        result = solve(first, backend=backend, bounds=(lower, upper))
        x = np.asarray(result.params)
        assert np.all((lower <= x) & (x <= upper))
        assert "fresh memory" in result.note and (backend == "scipy" or "The bounds differ" in result.note)
        assert float(result.fun) == pytest.approx(float(evaluate(x, 0.01)[0]), rel=1e-12, abs=1e-20)
        assert not result.success or is_true(result, lower, upper)
        successes += result.success
    assert successes >= 0.9 * count


def test_wider_narrower_and_no_bounds_are_other_bounds() -> None:
    for bounds in ((-3.0, 2.9), (-4.0, 3.0), (None, 3.0), None):
        again = solve(stopped(), bounds=bounds)
        assert again.note.startswith("The bounds differ from those of the result. ") and again.success
        assert again.trace.nfev[0] == 1 and again.trace.fun[0] == float(stopped().fun)
    again = solve(stopped(bounds=None), bounds=BOX)
    assert "The bounds differ" in again.note
    assert not solve(stopped(), bounds=(jnp.full(6, -3.0), 3.0)).note  # the same, given in another way


@pytest.mark.slow
def test_all_that_differs_is_named() -> None:
    again = solve(stopped(), bounds=(-1.0, 3.0), options={"maxcor": 4})
    assert "The bounds differ" in again.note and "maxcor differs" in again.note and "fresh memory" in again.note
    assert "maxcor differs" in solve(stopped(), bounds=BOX, options={"maxcor": 4}).note
    assert "The objective or its data differ" in solve(stopped(), 0.02, bounds=BOX).note
    again = solve(stopped(bounds=None), method=optax.adam(1e-3), options={"maxiter": 2})
    assert "The method differs" in again.note and again.nit == 2
    free = stopped(bounds=None)
    again = solve(replace(free, params=np.float32(free.params)))
    assert "other leaves, shapes or types" in again.note and again.params.dtype == np.float32
    with_aux = sjb.minimize(
        lambda x, s: (fun(x, s), x), free, 0.01, backend="optax", has_aux=True, options={"maxiter": 1}
    )
    assert "The auxiliary output" in with_aux.note


@pytest.mark.parametrize("method", [None, optax.adam(0.02)], ids=["engine", "adam"])
def test_replaced_params_are_the_start(method: Any) -> None:
    first = stopped(method, None)
    for params in (jnp.full(6, 0.5), np.asarray(first.params) * (1 + 1e-15)):
        options = {"maxiter": 3}
        again = solve(replace(first, params=params), method=method, options=options)
        fresh = solve(params, method=method, options=options)
        np.testing.assert_array_equal(again.trace.fun, fresh.trace.fun)
        np.testing.assert_array_equal(again.params, fresh.params)
        assert "not those that the earlier solve handed back" in again.note and "fresh memory" in again.note
    same = solve(replace(first, params=np.array(first.params)), method=method, options={"maxiter": 12})
    assert not same.note and same.nit == 12


def test_hyperparameters_may_change_and_the_state_is_kept() -> None:
    def inject(rate: Any) -> optax.GradientTransformation:
        return optax.inject_hyperparams(optax.adam)(learning_rate=rate)

    def arrays(rate: float) -> optax.GradientTransformation:
        return optax.adam(jnp.array(rate))

    for make in (inject, arrays, optax.adam):
        first = solve(START, method=make(0.02), options={"maxiter": 9})
        same = solve(first, method=make(0.02), options={"maxiter": 10})
        other = solve(first, method=make(0.04), options={"maxiter": 10})
        assert (same.nit, other.nit, same.note) == (10, 10, "")
        assert "hyperparameters of the method differ" in other.note and "fresh memory" not in other.note
        # The step is the rate times what the moments say, so that it doubles with the rate.
        step = [last_iterate(each) - last_iterate(first) for each in (same, other)]
        np.testing.assert_allclose(step[1], 2 * step[0], rtol=1e-6)


def last_iterate(result: sjb.Result) -> np.ndarray:
    assert result.carry is not None
    return np.asarray(result.carry.leaves[1])  # trial, x, ..


def test_a_schedule_goes_on_where_it_was() -> None:
    method = optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.1, 0.0, 20), b1=0.8)
    first = solve(START, method=method, options={"maxiter": 9})
    again, whole = (solve(each, method=method, options={"maxiter": 15}) for each in (first, START))
    np.testing.assert_array_equal(again.trace.fun, whole.trace.fun)
    assert not again.note


def test_another_transformation_of_the_same_state_begins_anew() -> None:
    first = stopped(optax.sgd(1e-3, momentum=0.9), None)
    again = solve(first, method=optax.sgd(1e-3, momentum=0.9, nesterov=True), options={"maxiter": 2})
    assert "The method differs" in again.note and again.nit == 2
    again = solve(first, method=optax.sgd(1e-3, momentum=0.9), options={"maxiter": 11})
    assert not again.note and again.nit == 11  # made anew of the same


def test_a_longer_memory_of_optax_begins_anew() -> None:
    first = solve(START, method=optax.lbfgs(memory_size=3), options={"maxiter": 3})
    again = solve(first, method=optax.lbfgs(memory_size=4), options={"maxiter": 2})
    assert "The method differs" in again.note and again.nit == 2


@pytest.mark.slow
def test_pickles_of_the_last_version_load() -> None:
    old = pickle.loads(gzip.decompress(OLD.read_bytes()))
    more = {"engine": {}, "bounded": {"bounds": (-1.5, 0.9)}, "adam": {"method": optax.adam(0.02)}, "scipy": {}}
    for name, given in more.items():
        result = old[name]
        assert isinstance(result, sjb.Result) and np.isfinite(result.grad_norm) and str(result)
        assert result.objective == ""
        again = solve(result, options={"maxiter": 3}, **given)
        assert "fresh memory" in again.note and float(again.fun) <= float(result.fun)
        assert ("another version" in again.note) == (name != "scipy")
    assert old["status"] is Status.FTOL
    assert old["options"] == sjb.Options(gtol=1e-8, native={"iprint": -1})
    assert old["bounds"] == sjb.Bounds(-1.5, np.full(4, 0.9))


def test_a_carry_of_a_newer_version_is_not_used() -> None:
    newer = stopped().__getstate__()
    newer["carry"] = {**newer["carry"], "format": 99, "momentum": 3}
    newer["colour"] = "blue"
    result = object.__new__(sjb.Result)
    result.__setstate__(newer)
    again = solve(result, bounds=BOX)
    assert "another version" in again.note and again.success
    with pytest.raises(ValueError, match="Update the package"):
        replace(result, code=99).status  # noqa: B018


def test_status_numbers_never_change() -> None:
    names = "GTOL FTOL MAXITER MAXFUN TIMEOUT CALLBACK INTERRUPTED LINESEARCH NONFINITE NOISE_FLOOR ERROR"
    assert [(status.name, int(status)) for status in Status][:11] == list(zip(names.split(), range(11), strict=True))


def test_public_names_and_pickles_know_no_private_module() -> None:
    public = [value for name, value in vars(sjb).items() if not name.startswith("_") and hasattr(value, "__module__")]
    assert len(public) > 10 and all(value.__module__ == "scipy_jax_bridge" for value in public)
    comparison = sjb.compare(fun, START, (0.01,), repeats=1, backends="scipy")
    objects = (
        stopped(),
        stopped(optax.adam(0.02), None),
        comparison,
        sjb.Options(native={"iprint": -1}),
        sjb.Bounds(0, 1),
        Status.FTOL,
        sjb.Minimizer(fun, method="bfgs", options={"maxiter": 7}),
    )
    for each in objects:
        data = pickle.dumps(each)
        assert not re.search(rb"scipy_jax_bridge\._", data), type(each)
        assert type(pickle.loads(data)) is type(each)
        assert type(copy.deepcopy(each)) is type(each)
    again = pickle.loads(pickle.dumps(comparison))
    assert str(again) == str(comparison) and again.setting == comparison.setting
    np.testing.assert_equal(dict(again.shares), dict(comparison.shares))
    solver = pickle.loads(pickle.dumps(objects[-1]))
    assert solver(START, 0.01).nit == 7 and solver(START, 0.01).method == "BFGS"


def test_progress_can_be_pickled() -> None:
    seen: list[bytes] = []
    result = solve(START, bounds=BOX, callback=lambda progress: seen.append(pickle.dumps(progress)))
    last = pickle.loads(seen[-1])
    assert isinstance(last, sjb.Progress) and (last.nit, last.fun) == (result.nit, float(result.fun))
    np.testing.assert_array_equal(last.params, result.params)


def test_bounds_compare() -> None:
    one, other = (sjb.Bounds({"a": np.zeros(2), "b": None}, 1.0) for _ in range(2))
    assert one == other and hash(one) == hash(other) and one in {other}
    assert one != sjb.Bounds({"a": np.ones(2), "b": None}, 1.0)
    assert one != sjb.Bounds({"a": np.zeros(2), "b": 0.0}, 1.0)
    assert one != sjb.Bounds({"a": np.zeros(3), "b": None}, 1.0) and one != (0, 1)


def test_the_carry_does_not_hold_the_trace_twice() -> None:
    assert len(pickle.dumps(stopped())) < 20_000
