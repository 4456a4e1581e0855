"""What every solver promises, by capability: each SciPy method, the device L-BFGS-B, and transformations of Optax."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import Status
from scipy_jax_bridge._core import monitor as _watch
from scipy_jax_bridge._optax import chunked as _chunks
from scipy_jax_bridge._scipy.methods import METHODS

pytestmark = pytest.mark.smoke

CENTER = np.array([1.0, -0.5, 2.0])
START = np.array([0.2, 0.1, 0.5])
UPPER = np.array([0.5, np.inf, np.inf])
ENDLESS = {"gtol": 0.0, "ftol": 0.0}
SEARCH = 20  # evaluations of Optax's own line search, which is finished before a limit is looked at


@dataclass(frozen=True)
class Solver:
    """A backend and a method with what they can do."""

    name: str
    call: dict[str, Any]
    gradient: bool = True
    bounds: bool = False
    spare: int = 0  # evaluations by which maxfun may be exceeded

    def __call__(self, fun: Any, params: Any, *args: Any, **more: Any) -> sjb.Result:
        return sjb.minimize(fun, params, args, **self.call, **more)


SOLVERS = [
    Solver(method.name, {"method": method.name}, method.derivatives != "none", method.bounds)
    for method in METHODS.values()
] + [
    Solver("device L-BFGS-B", {"backend": "optax"}, bounds=True),
    Solver("adam", {"backend": "optax", "method": optax.adam(0.1)}),
    Solver("optax.lbfgs", {"backend": "optax", "method": optax.lbfgs()}, spare=SEARCH),
]


def solvers(condition: Any = lambda solver: True) -> Any:
    """Every solver with this capability."""
    return pytest.mark.parametrize("solver", [each for each in SOLVERS if condition(each)], ids=lambda each: each.name)


# The same few functions in every test, so that each solver compiles once for each.


def convex(params: dict[str, Any], center: Any) -> Any:
    """Coupled, with a positive definite Hessian everywhere and its minimum 0 at the center."""
    d = params["x"] - center
    return jnp.sum(d**2) + 0.25 * jnp.sum(d**4) + 0.5 * (d[0] + d[1]) ** 2


def convex_with_aux(params: dict[str, Any], center: Any) -> Any:
    return convex(params, center), {"x": params["x"], "center": center}


def logarithm(params: dict[str, Any], center: Any) -> Any:
    return jnp.sum(params["x"]) + jnp.sum(jnp.log(params["x"] - center))


def value_at(result: sjb.Result) -> float:
    return float(convex(result.params, CENTER))


def start(x: Any = START) -> dict[str, Any]:
    return {"x": np.array(x), "tag": "a name"}


def check_best(result: sjb.Result, status: Status) -> None:
    """A solve that was stopped: no success, the best point seen, its own value."""
    assert result.status == status and not result.success
    assert float(result.fun) == pytest.approx(value_at(result), rel=1e-12)
    assert float(result.fun) <= np.min(result.trace.fun)
    assert len(result.trace.fun) == result.nit + 1 and result.trace.nfev[-1] <= result.nfev
    assert result.params["tag"] == "a name"


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device loop comes back after every evaluation, however fast it is."""
    monkeypatch.setattr(_chunks.ChunkedRun, "next_chunk", lambda self: 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of a solve goes on by 10 ms whenever somebody looks at it."""
    clock = SimpleNamespace(now=0.0)

    def look() -> float:
        clock.now += 0.01
        return clock.now

    monkeypatch.setattr(_watch, "time", SimpleNamespace(perf_counter=look))
    return clock


# Who may stop it


@solvers()
@pytest.mark.usefixtures("small_chunks")
def test_stop_iteration_of_the_callback(solver: Solver) -> None:
    told: list[sjb.Progress] = []

    def callback(progress: sjb.Progress) -> None:
        told.append(progress)
        if progress.nit >= 2:
            raise StopIteration

    result = solver(convex, start(), CENTER, callback=callback, options=ENDLESS)
    check_best(result, Status.CALLBACK)
    last = told[-1]
    assert result.nit == last.nit == 2 and sum(each.nit == 2 for each in told) == 1
    assert last.fun == result.trace.fun[-1] and last.nfev == result.nfev
    np.testing.assert_allclose(float(convex(last.params, CENTER)), last.fun, rtol=1e-12)
    np.testing.assert_allclose(last.grad_norm, result.trace.grad_norm[-1])


@solvers()
@pytest.mark.usefixtures("small_chunks")
def test_an_error_of_the_callback_comes_through_with_the_best_point(solver: Solver) -> None:
    told: list[sjb.Progress] = []

    def callback(progress: sjb.Progress) -> None:
        told.append(progress)
        if progress.nit >= 2:
            raise ZeroDivisionError("mine")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        solver(convex, start(), CENTER, callback=callback, options=ENDLESS)
    best = caught.value.best_result  # type: ignore[attr-defined]
    check_best(best, Status.ERROR)
    assert (best.nit, best.nfev) == (told[-1].nit, told[-1].nfev)
    assert any("best_result" in note for note in caught.value.__notes__)
    assert signal.getsignal(signal.SIGINT) is before
    assert float(solver(convex, best, CENTER).fun) <= float(best.fun)


@solvers()
def test_an_error_of_the_objective_comes_through(solver: Solver) -> None:
    def fun(params: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        solver(fun, start())


@solvers()
@pytest.mark.usefixtures("small_chunks")
def test_the_time_limit(solver: Solver, clock: SimpleNamespace) -> None:
    """The clock moves only when it is looked at, so that what is left after the limit is counted in looks."""
    result = solver(convex, start(), CENTER, options={**ENDLESS, "timeout": 0.1})
    check_best(result, Status.TIMEOUT)
    assert 0.1 <= result.timing.solve_s <= 0.2
    assert np.all(np.diff(result.trace.seconds) >= 0) and result.trace.seconds[-1] <= result.timing.solve_s


@solvers()
def test_compilation_is_not_counted_by_the_clock(solver: Solver, clock: SimpleNamespace) -> None:
    def fun(params: Any, center: Any) -> Any:
        clock.now += 1000.0  # while it is traced
        return convex(params, center)

    result = solver(fun, start(), CENTER, options={"timeout": 100.0, "maxiter": 2})
    assert result.status != Status.TIMEOUT and result.timing.solve_s < 100 < clock.now


# Limits


@solvers()
@pytest.mark.parametrize("maxfun", [1, 2, 3, 5])
def test_maxfun_is_kept_exactly(solver: Solver, maxfun: int) -> None:
    result = solver(convex, start(), CENTER, options={**ENDLESS, "maxfun": maxfun})
    check_best(result, Status.MAXFUN)
    assert maxfun <= result.nfev <= maxfun + solver.spare
    assert np.max(result.trace.nfev) <= result.nfev


@solvers()
@pytest.mark.parametrize("maxiter", [0, 1, 2])
def test_maxiter_is_kept_exactly(solver: Solver, maxiter: int) -> None:
    result = solver(convex, start(), CENTER, options={**ENDLESS, "maxiter": maxiter})
    check_best(result, Status.MAXITER)
    assert result.nit == maxiter


# Start, data and what belongs to the point


@solvers(lambda solver: solver.gradient)
@pytest.mark.parametrize("options", [{}, {"maxiter": 0}, {"maxfun": 1}], ids=str)
def test_starts_at_the_minimum(solver: Solver, options: dict[str, int]) -> None:
    """It has converged, also in the last evaluation and iteration allowed."""
    result = solver(convex, start(CENTER), CENTER, options=options)
    assert (result.status, result.nit, result.nfev, result.success) == (Status.GTOL, 0, 1, True)
    np.testing.assert_array_equal(result.params["x"], CENTER)
    assert len(result.trace.fun) == 1


@solvers(lambda solver: not solver.gradient)
def test_starts_at_the_minimum_without_a_gradient(solver: Solver) -> None:
    result = solver(convex, start(CENTER), CENTER)
    assert result.success
    np.testing.assert_allclose(result.params["x"], CENTER, atol=1e-3)


@solvers()
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_start_that_is_not_finite(solver: Solver, value: float) -> None:
    bad = start([1.0, value, 1.0])
    with pytest.raises(ValueError, match=rf"params\['x'\], component 1 of 3, is {value}") as caught:
        solver(convex, bad, CENTER)
    assert caught.value.best_result is None  # type: ignore[attr-defined]


@solvers()
def test_an_objective_that_is_not_finite_at_the_start(solver: Solver) -> None:
    with pytest.raises(ValueError, match=r"objective is nan; all of params is finite") as caught:
        solver(logarithm, start(), np.array([0.0, 1.0, 0.0]))
    assert caught.value.best_result is None  # type: ignore[attr-defined]


@solvers(lambda solver: solver.gradient)
def test_a_gradient_that_is_not_finite_at_the_start(solver: Solver) -> None:
    with pytest.raises(ValueError, match=r"the gradient of params\['x'\], component 1 of 3, is inf"):
        solver(logarithm, start(), np.array([0.0, 0.1, 0.0]))


@solvers()
@pytest.mark.parametrize("limit", [{}, {"maxfun": 4}], ids=["whole", "maxfun"])
def test_aux_belongs_to_params(solver: Solver, limit: dict[str, int]) -> None:
    result = solver(convex_with_aux, start(), CENTER, has_aux=True, options=limit)
    np.testing.assert_array_equal(result.aux["x"], result.params["x"])
    np.testing.assert_array_equal(result.aux["center"], CENTER)
    assert float(result.fun) == pytest.approx(value_at(result), rel=1e-12)


@solvers()
def test_nothing_of_the_callers_is_changed(solver: Solver) -> None:
    """The same objects serve again: jaxopt writes into the options it is given."""
    params, args, options = start(), (np.array(CENTER),), {"maxiter": 3, "native": {}}
    box: Any = ({"x": np.zeros(3), "tag": None}, {"x": np.array(UPPER), "tag": None}) if solver.bounds else None
    everything = (params, args, options, box)
    arrays = [leaf for leaf in jax.tree.leaves(everything) if isinstance(leaf, np.ndarray)]
    before, copies = repr(everything), [leaf.copy() for leaf in arrays]
    first, second = (solver(convex, params, *args, options=options, bounds=box) for _ in range(2))
    assert repr(everything) == before
    for leaf, copied in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(leaf, copied)
        assert leaf.flags.writeable and isinstance(leaf, np.ndarray)
    np.testing.assert_array_equal(first.params["x"], second.params["x"])
    assert first.nfev == second.nfev and second.timing.compiles == 0
