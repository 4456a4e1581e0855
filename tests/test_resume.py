"""Going on from a result that was stopped: on the device bit for bit, with SciPy from its point."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
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
from scipy_jax_bridge._optax.chunked import ChunkedRun

pytestmark = pytest.mark.filterwarnings("ignore::scipy_jax_bridge.HeldLeafWarning")  # START holds an integer
START = {"x": jnp.tile(jnp.array([-1.2, 1.0]), 5), "n": 3}
METHODS = {"engine": (None, None), "bounded": (None, (-1.5, 0.9)), "adam": (optax.adam(0.02), None)}
LIMITS = {"ftol": 0.0, "gtol": 1e-6, "maxiter": 300}


def fun(params: dict[str, Any], shift: jax.Array) -> jax.Array:
    return rosenbrock(params["x"] - shift)


@functools.cache
def solve(name: str, **limits: Any) -> sjb.Minimizer:
    method, bounds = METHODS[name]
    return sjb.Minimizer(fun, backend="optax", method=method, bounds=bounds, options={**LIMITS, **limits})


@functools.cache
def whole(name: str) -> sjb.Result:
    return solve(name)(START, 0.01)


def same(result: sjb.Result, other: sjb.Result) -> None:
    assert (result.nit, result.nfev, result.status) == (other.nit, other.nfev, other.status)
    for column in ("fun", "grad_norm", "nfev"):
        np.testing.assert_array_equal(getattr(result.trace, column), getattr(other.trace, column))
    jax.tree.map(np.testing.assert_array_equal, (result.params, result.jac), (other.params, other.jac))
    assert float(result.fun) == float(other.fun)


@pytest.mark.parametrize("limit", [{"maxiter": 1}, {"maxiter": 17}, {"maxfun": 1}, {"maxfun": 7}, {"maxfun": 40}])
@pytest.mark.parametrize("name", METHODS)
def test_goes_on_bit_for_bit(name: str, limit: dict[str, int]) -> None:
    stopped = solve(name, **limit)(START, 0.01)
    assert stopped.status in (Status.MAXITER, Status.MAXFUN)
    kept = [np.array(leaf) for leaf in stopped.carry.leaves]  # type: ignore[union-attr]
    for each in (stopped, pickle.loads(pickle.dumps(stopped)), stopped):  # twice: going on uses nothing up
        again = solve(name)(each, 0.01)
        same(again, whole(name))
        assert not again.note and again.timing.compiles == 0
        assert np.all(np.diff(again.trace.seconds) >= 0)
    for leaf, before in zip(stopped.carry.leaves, kept, strict=True):  # type: ignore[union-attr]
        np.testing.assert_array_equal(leaf, before)


@pytest.mark.parametrize("name", METHODS)
def test_many_stops(name: str) -> None:
    length = 25 if name == "adam" else 5  # which goes on to the end of its iterations
    result, stops = solve(name, maxiter=length)(START, 0.01), 0
    while result.status == Status.MAXITER and result.nit < LIMITS["maxiter"]:
        stops += 1
        result = solve(name, maxiter=min(length * (stops + 1), 300))(result, 0.01)
    assert stops > 5
    same(result, whole(name))


def test_stopped_by_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkedRun, "next_chunk", lambda self: 23)

    def stop(progress: sjb.Progress) -> None:
        raise StopIteration

    first = sjb.minimize(lambda p, s: fun(p, s), START, 0.01, backend="optax", callback=stop, options=LIMITS)
    assert first.status == Status.CALLBACK and first.nit < whole("engine").nit
    same(solve("engine")(first, 0.01), whole("engine"))


def test_stopped_by_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an exception carries goes on bit for bit, too."""
    monkeypatch.setattr(ChunkedRun, "next_chunk", lambda self: 23)

    def fail(progress: sjb.Progress) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full") as caught:
        sjb.minimize(lambda p, s: fun(p, s), START, 0.01, backend="optax", callback=fail, options=LIMITS)
    best = caught.value.best_result  # type: ignore[attr-defined]
    assert best.status == Status.ERROR and best.nfev < whole("engine").nfev
    same(solve("engine")(best, 0.01), whole("engine"))


CHILD = """
import pickle, sys
import jax
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, sys.argv[1])
from test_resume import solve
result = solve("engine")(pickle.load(sys.stdin.buffer), 0.01)
pickle.dump(result, sys.stdout.buffer)
"""


@pytest.mark.slow
def test_in_a_new_process() -> None:
    stopped = solve("engine", maxfun=23)(START, 0.01)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent)],
        input=pickle.dumps(stopped),
        capture_output=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr.decode()
    same(pickle.loads(done.stdout), whole("engine"))


def test_limits_count_from_the_first_start() -> None:
    stopped = solve("engine", maxiter=17)(START, 0.01)
    again = solve("engine", maxiter=17)(stopped, 0.01)
    assert (again.nit, again.nfev, again.status) == (17, stopped.nfev, Status.MAXITER)
    same(again, stopped)
    again = solve("engine", maxfun=5)(stopped, 0.01)
    assert (again.nfev, again.status) == (stopped.nfev, Status.MAXFUN)


def test_scipy_goes_on_from_the_point_and_says_so() -> None:
    first = sjb.minimize(fun, START, 0.01, options={"maxiter": 5})
    again = sjb.minimize(fun, first, 0.01)
    assert again.success and "fresh memory" in again.message
    assert float(again.trace.fun[0]) == float(first.fun) and again.params["n"] == 3
    assert "fresh memory" not in sjb.minimize(fun, first.params, 0.01).message


@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_what_cannot_go_on_starts_from_its_point(backend: str) -> None:
    """A converged result, another memory length, bounds that the point violates, the other backend's result."""
    options = {"maxcor": 3} if backend == "optax" else {}
    stopped = solve("engine", maxiter=17)(START, 0.01)
    for result, more in (
        (whole("engine"), {}),
        (stopped, {"options": options}),
        (stopped, {"bounds": (None, 0.1)}),
        (sjb.minimize(fun, START, 0.01, options={"maxiter": 3}), {}),
    ):
        again = sjb.minimize(fun, result, 0.01, backend=backend, **more)
        assert again.success and "fresh memory" in again.message
        assert again.params["n"] == 3


def test_inside_a_trace_it_starts_from_the_point() -> None:
    stopped = solve("engine", maxiter=17)(START, 0.01)
    inside = jax.jit(lambda shift: solve("engine")(stopped, shift).fun)(0.01)
    assert float(inside) == pytest.approx(float(solve("engine")(stopped.params, 0.01).fun), rel=1e-6, abs=1e-12)
    assert solve("engine").compile(stopped, 0.01) == 0.0


def test_the_carry_is_no_part_of_the_tree() -> None:
    stopped = solve("engine", maxiter=17)(START, 0.01)
    assert stopped.carry is not None and whole("engine").carry is None
    assert len(jax.tree.leaves(stopped)) == len(jax.tree.leaves(whole("engine")))
    assert "carry" not in repr(stopped)
    copied = jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, stopped)
    assert copied.carry is None and solve("engine")(copied, 0.01).note


@pytest.mark.usefixtures("x32")
def test_in_double_precision_alone() -> None:
    start = jnp.asarray(np.tile([-1.2, 1.0], 4), jnp.float32)
    more: dict[str, Any] = {"backend": "optax", "precision": "float64"}
    complete = sjb.minimize(rosenbrock, start, **more)
    stopped = sjb.minimize(rosenbrock, start, **more, options={"maxiter": 9})
    same(sjb.minimize(rosenbrock, stopped, **more), complete)


@pytest.mark.parametrize("name", METHODS)
def test_other_data_begin_anew(name: str) -> None:
    """What the memory and the last value tell is of another function: not mixed, and said."""
    stopped = solve(name, maxiter=7)(START, 0.01)
    for shift in (0.02, -0.5):
        again, fresh = solve(name)(stopped, shift), solve(name)(stopped.params, shift)
        same(again, fresh)
        assert "fresh memory" in again.note


def test_another_objective_begins_anew() -> None:
    def another(params: dict[str, Any], shift: jax.Array) -> jax.Array:
        return 100 * fun(params, shift) + 1e5

    stopped = solve("engine", maxiter=7)(START, 0.01)
    again = sjb.minimize(another, stopped, 0.01, backend="optax", options=LIMITS)
    assert "fresh memory" in again.note and float(again.trace.fun[0]) == float(again.trace.fun.max())


def test_other_data_are_noticed_however_small_the_objective() -> None:
    def small(params: dict[str, Any], shift: jax.Array) -> jax.Array:
        return 1e-18 * fun(params, shift)

    options = {"gtol": 0.0, "ftol": 0.0, "maxiter": 3}
    stopped = sjb.minimize(small, START, 0.01, backend="optax", options=options)
    assert "fresh memory" in sjb.minimize(small, stopped, 0.5, backend="optax", options=options).note
    more = sjb.minimize(small, stopped, 0.01, backend="optax", options={**options, "maxiter": 4})
    assert not more.note and more.nit == 4


def test_another_transformation_begins_anew() -> None:
    stopped = solve("adam", maxiter=7)(START, 0.01)
    again = sjb.minimize(fun, stopped, 0.01, backend="optax", method=optax.sgd(1e-4), options={"maxiter": 3})
    assert "fresh memory" in again.note and again.nit == 3
