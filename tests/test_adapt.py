"""`sjb.adapt`: a JAX objective as NumPy functions of one vector, compiled once, evaluated no more often than asked."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import scipy_jax_bridge as sjb
from problems import rosenbrock
from scipy_jax_bridge._scipy.numpy_objective import NumpyObjective

START = {"b": 0.5, "kernel": {"variance": np.array(2.0, np.float32)}, "w": np.arange(6.0).reshape(2, 3), "name": "id"}
HELD = np.array([[0.0, -9, -9], [-9, -9, 5]])
CENTER = np.array([1.0, -0.5, 2.0])


def loss(params: Any, center: Any) -> jax.Array:
    """Coupled, over leaves of two types."""
    tension = jnp.sum(jnp.cosh(params["w"] - center)) + (params["b"] * params["kernel"]["variance"] - 1.0) ** 2
    return tension + params["b"] ** 4


def of_vector(center: np.ndarray) -> Any:
    """The same objective by hand, of the flat vector."""

    def fun(x: jax.Array) -> jax.Array:
        params = {"b": x[0], "kernel": {"variance": x[1].astype(jnp.float32)}, "w": x[2:].reshape(2, 3)}
        return loss(params, center)

    return fun


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """How often each program runs."""
    count: Counter[Any] = Counter()
    bind = NumpyObjective.bind

    def counted(self: NumpyObjective, program: Any) -> Any:
        run = bind(self, program)

        def count_and_run(*inputs: Any) -> Any:
            count[program] += 1
            return run(*inputs)

        return count_and_run

    monkeypatch.setattr(NumpyObjective, "bind", counted)
    return count


@pytest.fixture
def compilations() -> Any:
    """What JAX compiles, from its own events."""
    from timing import CompileCounter

    return CompileCounter()


def point(seed: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 1.5, size)


@pytest.mark.slow
@pytest.mark.smoke
def test_the_functions_are_those_by_hand() -> None:
    problem, x, v = sjb.adapt(loss, START, (CENTER,)), point(), point(1)
    fun = of_vector(CENTER)
    assert type(problem.fun(x)) is float and problem.fun(x) == pytest.approx(float(fun(x)), rel=1e-12)
    value, grad = problem.value_and_grad(list(x))
    assert type(value) is float and value == pytest.approx(float(fun(x)), rel=1e-12)
    np.testing.assert_allclose(grad, jax.grad(fun)(x), rtol=1e-6)
    np.testing.assert_array_equal(problem.jac(x), grad)
    hessian = np.asarray(jax.hessian(fun)(x))
    np.testing.assert_allclose(problem.hess(x), hessian, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(problem.hessp(x, v), hessian @ v, rtol=1e-5)
    for array in (grad, problem.jac(x), problem.hess(x), problem.hessp(x, v), problem.x0):
        assert type(array) is np.ndarray and array.dtype == np.float64


def test_x_and_the_tree() -> None:
    problem = sjb.adapt(loss, START, (CENTER,), bounds={"w": (1.0, None), "kernel.variance": (0.1, 1.5)})
    assert problem.names == ["b", "kernel.variance", *(f"w[{i}, {j}]" for i in range(2) for j in range(3))]
    np.testing.assert_array_equal(problem.x0, [0.5, 1.5, 1, 1, 2, 3, 4, 5])  # clipped
    bounds = problem.bounds
    assert isinstance(bounds, scipy.optimize.Bounds)
    np.testing.assert_array_equal(bounds.lb, [-np.inf, np.float32(0.1), *[1.0] * 6])
    np.testing.assert_array_equal(bounds.ub, [np.inf, 1.5, *[np.inf] * 6])
    params = problem.unravel(point())
    assert params["name"] == "id" and params["kernel"]["variance"].dtype == jnp.float32
    assert isinstance(params["w"], jax.Array) and params["w"].shape == (2, 3) and params["w"].dtype == jnp.float64
    np.testing.assert_allclose(problem.ravel(params), point(), rtol=1e-7)
    assert sjb.adapt(rosenbrock, np.zeros(2)).names == ["params[0]", "params[1]"]
    assert sjb.adapt(rosenbrock, np.zeros(2)).bounds is None
    result = sjb.minimize(loss, START, (CENTER,))
    assert problem.fun(problem.ravel(result.params)) == float(result.fun)


@pytest.mark.parametrize(
    "held",
    [
        {"fixed": {"b": True, "w": np.array([[True, False, False], [False, False, True]])}},
        {"fixed": {"b": True}, "bounds": sjb.Bounds({"w": HELD}, {"w": np.abs(HELD)})},
    ],
    ids=["a mask", "equal bounds"],
)
def test_what_is_held_is_no_component(held: dict[str, Any]) -> None:
    problem, free = sjb.adapt(loss, START, (CENTER,), **held), [1, 3, 4, 5, 6]
    assert problem.names == ["kernel.variance", "w[0, 1]", "w[0, 2]", "w[1, 0]", "w[1, 1]"]
    whole = np.array([0.5, 2, 0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(problem.x0, whole[free])
    whole[free] = x = point(2, 5)
    fun, v = of_vector(CENTER), point(3, 5)
    value, grad = problem.value_and_grad(x)
    assert value == pytest.approx(float(fun(whole)), rel=1e-6) and problem.fun(x) == value  # a held float is weak
    np.testing.assert_allclose(grad, jax.grad(fun)(whole)[jnp.array(free)], rtol=1e-6)
    hessian = np.asarray(jax.hessian(fun)(whole))[np.ix_(free, free)]
    np.testing.assert_allclose(problem.hess(x), hessian, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(problem.hessp(x, v), hessian @ v, rtol=1e-5)
    params = problem.unravel(x)
    assert float(params["b"]) == 0.5 and float(params["w"][1, 2]) == 5.0
    np.testing.assert_allclose(problem.ravel(params), x, rtol=1e-7)


@pytest.mark.usefixtures("no_programs")
def test_each_function_compiles_once_and_other_args_compile_nothing(compilations: Any) -> None:
    with compilations:
        problem = sjb.adapt(loss, START, (CENTER,))
    assert compilations.count == 0
    calls = (problem.fun, problem.value_and_grad, problem.hess, lambda x: problem.hessp(x, x))
    for call in calls:
        with compilations:
            call(point())
            call(point(1))
        assert compilations.count == 1
    with compilations:
        problem.jac(point(2))
        other = problem.with_args((CENTER + 1,))
        for call in (other.fun, other.jac, other.hess, lambda x: other.hessp(x, x)):
            call(point())
        result = sjb.minimize(loss, START, (CENTER,))  # a program of the adapter is one of minimize
    assert compilations.count == 0 and result.timing.compiles == 0
    assert other.fun(point()) == pytest.approx(float(of_vector(CENTER + 1)(point())), rel=1e-12)
    assert problem.fun(point()) == pytest.approx(float(of_vector(CENTER)(point())), rel=1e-12)
    np.testing.assert_array_equal(other.x0, problem.x0)


@pytest.mark.smoke
def test_what_is_known_at_a_point_is_not_computed_again(runs: Counter[Any]) -> None:
    problem, x = sjb.adapt(loss, START, (CENTER,)), point()
    value, grad = problem.value_and_grad(x)
    assert problem.fun(x) == value and np.array_equal(problem.jac(x.copy()), grad)
    assert sum(runs.values()) == 1
    x[0] += 1.0  # in place, as SciPy does
    assert problem.fun(x) != value
    x[0] -= 1.0
    assert np.array_equal(problem.jac(x), grad)
    assert sorted(runs.values()) == [1, 2]
    runs.clear()
    assert problem.fun(x) == value
    first = problem.fun(point(4))
    assert problem.fun(point(4)) == first
    assert list(runs.values()) == [1]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("fixed", [None, np.array([True, False, False])])
def test_what_is_remembered_cannot_be_overwritten(dtype: Any, fixed: Any) -> None:
    problem = sjb.adapt(rosenbrock, np.array([0.5, 1.0, 1.5], dtype), fixed=fixed)
    x = problem.x0
    for found in (problem.jac(x), problem.hess(x), problem.hessp(x, x)):
        with pytest.raises(ValueError, match="read-only"):
            found[:] = 0.0
    problem.x0[:] = x[:] = 7.0  # the caller's own
    np.testing.assert_array_equal(problem.x0, [0.5, 1.0, 1.5][-len(x) :])


@pytest.mark.parametrize("method", ["hybr", "lm", "broyden1", "krylov", "df-sane"])
@pytest.mark.smoke
def test_a_root_of_the_gradient_by_every_kind_of_method(method: str) -> None:
    problem = sjb.adapt(lambda x: jnp.sum((x - CENTER) ** 2 + 0.1 * (x - CENTER) ** 4), np.ones(3))
    jac = {"jac": problem.hess} if method in ("hybr", "lm") else {}
    np.testing.assert_allclose(scipy.optimize.root(problem.jac, problem.x0, method=method, **jac).x, CENTER, atol=1e-5)


def test_a_thread_remembers_for_itself(runs: Counter[Any]) -> None:
    problem, x = sjb.adapt(loss, START, (CENTER,)), point()
    problem.jac(x)
    thread = threading.Thread(target=problem.jac, args=(point(1),))
    thread.start()
    thread.join()
    problem.jac(x)
    assert sum(runs.values()) == 2


def test_threads_share_an_adapter() -> None:
    problem, points = sjb.adapt(loss, START, (CENTER,)), [point(seed) for seed in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(problem.value_and_grad, points))
    alone = sjb.adapt(loss, START, (CENTER,))
    for x, (value, grad) in zip(points, found, strict=True):
        again = alone.value_and_grad(x)
        assert value == again[0] and np.array_equal(grad, again[1])


def test_the_value_alone_computes_no_gradient() -> None:
    calls = []

    def note(x: np.ndarray) -> np.ndarray:
        calls.append(1)
        return x

    @jax.custom_vjp
    def square(x: jax.Array) -> jax.Array:
        return jnp.sum(x**2)

    def backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
        return (jax.pure_callback(note, jax.ShapeDtypeStruct(x.shape, x.dtype), 2 * x) * cotangent,)

    square.defvjp(lambda x: (square(x), x), backward)
    problem = sjb.adapt(square, np.ones(3))
    assert problem.fun([1, 2, 3]) == 14.0 and not calls
    np.testing.assert_array_equal(problem.jac([1, 2, 3]), [2, 4, 6])
    assert calls


def test_an_objective_without_a_gradient_has_its_value() -> None:
    def host(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda x: np.asarray(x).max(), jax.ShapeDtypeStruct((), x.dtype), x)

    problem = sjb.adapt(host, np.zeros(3))
    assert problem.fun([1, 3, 2]) == 3.0
    for _ in range(2):
        with pytest.raises(ValueError, match="do not support JVP") as caught:
            problem.jac([1, 3, 2])
        assert caught.value.__context__ is None


def test_values_that_are_not_finite_are_handed_on() -> None:
    problem = sjb.adapt(lambda x: jnp.sum(jnp.log(x)), np.ones(2))
    value, grad = problem.value_and_grad([-1.0, 0.0])
    assert np.isnan(value) and grad[1] == np.inf
    assert np.isnan(problem.fun([-1.0, 1.0])) and problem.fun([0.0, 1.0]) == -np.inf
    assert problem.hess([0.0, 1.0])[0, 0] == -np.inf
    assert np.isnan(problem.fun([np.nan, 1.0]))


def test_outside_the_bounds_it_evaluates_where_it_is_asked() -> None:
    problem = sjb.adapt(lambda x: jnp.sum(x**2), np.ones(2), bounds=(0.0, 1.0))
    assert problem.fun([-3.0, 2.0]) == 13.0


def test_the_scipy_backend_evaluates_with_the_same_object(runs: Counter[Any]) -> None:
    result = sjb.minimize(rosenbrock, np.array([-1.2, 1.0]))
    assert sum(runs.values()) == result.nfev and len(runs) == 1
    problem = sjb.adapt(rosenbrock, np.array([-1.2, 1.0]))
    by_hand = scipy.optimize.minimize(
        problem.value_and_grad, problem.x0, jac=True, method="L-BFGS-B", options={"ftol": 1e-9, "gtol": 1e-5}
    )
    again = sjb.minimize(rosenbrock, np.array([-1.2, 1.0]), options={"ftol": 1e-9, "gtol": 1e-5})
    np.testing.assert_array_equal(again.params, by_hand.x)
    assert len(runs) == 1  # one program serves all


def test_separate_functions_in_a_method_of_scipy() -> None:
    problem = sjb.adapt(rosenbrock, np.array([-1.2, 1.0]))
    for second in ({"hess": problem.hess}, {"hessp": problem.hessp}):
        found = scipy.optimize.minimize(problem.fun, problem.x0, jac=problem.jac, method="trust-ncg", **second)
        np.testing.assert_allclose(found.x, 1.0, atol=1e-4)


@pytest.mark.usefixtures("x32")
def test_without_float64_x_is_double_and_the_leaves_are_not() -> None:
    problem = sjb.adapt(lambda x: jnp.sum((x - 0.1) ** 2), np.zeros(2))
    value, grad = problem.value_and_grad(problem.x0)
    assert problem.x0.dtype == grad.dtype == np.float64
    assert value == float(np.float32(value)) and problem.unravel(problem.x0).dtype == jnp.float32


@pytest.mark.smoke
@pytest.mark.usefixtures("x32")
def test_double_precision_in_every_thread_without_the_flag() -> None:
    problem = sjb.adapt(lambda x, c: jnp.sum((x - c) ** 2), np.zeros(2), (0.1,), precision="float64")
    with ThreadPoolExecutor(2) as pool:
        for call in (lambda f, *x: f(*x), lambda f, *x: pool.submit(f, *x).result()):
            assert call(problem.fun, [0.3, 0.1]) == pytest.approx(0.04, rel=1e-14)
            np.testing.assert_allclose(call(problem.jac, [0.3, 0.1]), [0.4, 0.0], rtol=1e-14)
            np.testing.assert_array_equal(call(problem.hessp, [0.3, 0.1], [1.0, 2.0]), [2.0, 4.0])
            assert call(problem.unravel, [0.3, 0.1]).dtype == np.float64
            assert call(problem.with_args, (0.2,)).fun([0.3, 0.2]) == pytest.approx(0.01, rel=1e-14)


@pytest.mark.smoke
@pytest.mark.usefixtures("x32")
def test_the_precision_of_the_call_holds_in_other_threads() -> None:
    from scipy_jax_bridge._core.context import enable_x64

    def in_double(call: Any, *given: Any) -> Any:
        with enable_x64(True):
            return call(*given)

    problem = in_double(sjb.adapt, lambda x: jnp.sum((x - 0.1) ** 2), np.zeros(2))
    in_double(problem.fun, [0.0, 0.0])
    for x in ([0.3, 0.1], [0.1, 0.3]):
        assert problem.fun(x) == pytest.approx(0.04, rel=1e-14)
        assert in_double(problem.fun, [*x[:1], 0.2]) == pytest.approx((x[0] - 0.1) ** 2 + 0.01, rel=1e-14)


def test_arrays_that_change_later_change_nothing() -> None:
    start, center, upper = np.zeros(3), CENTER.copy(), np.full(3, 4.0)
    fun = lambda x, c: jnp.sum((x - c) ** 2)  # noqa: E731
    problem = sjb.adapt(fun, start, (center,), bounds=(None, upper))
    expected = problem.fun(np.zeros(3))
    start[:], center[:], upper[:] = 9.0, 9.0, -1.0
    assert problem.with_args((CENTER,)).fun(np.zeros(3)) == problem.fun(np.ones(3) * 0) == expected
    np.testing.assert_array_equal(problem.with_args((CENTER,)).x0, np.zeros(3))
    problem.x0[:] = 7.0
    np.testing.assert_array_equal(problem.x0, np.zeros(3))
    np.testing.assert_array_equal(problem.bounds.ub if problem.bounds else 0, np.full(3, 4.0))


@pytest.mark.smoke
def test_pickle() -> None:
    problem = sjb.adapt(loss, START, (jnp.asarray(CENTER),), bounds=(-9, 9), fixed={"b": True})
    text = pickle.dumps(problem)
    assert b"scipy_jax_bridge._" not in text and b"jax._src" not in text
    loaded = pickle.loads(text)
    assert loaded.fun(point(0, 7)) == problem.fun(point(0, 7))
    assert loaded.names == problem.names and np.array_equal(loaded.x0, problem.x0)
    assert pickle.loads(pickle.dumps(loaded.value_and_grad))(point(0, 7))[0] == problem.fun(point(0, 7))


FORKS = """
import multiprocessing, sys
import jax, jax.numpy as jnp, numpy as np
import scipy_jax_bridge as sjb

def bowl(x, center):
    return jnp.sum((x - center) ** 2)

def inherited(x):
    return problem.fun(x)

def by_itself(x):
    return sjb.adapt(bowl, np.zeros(2), (1.0,)).fun(x)

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:  # before this process has used JAX
        assert pool.map(by_itself, [np.zeros(2)]) == [2.0]
    problem = sjb.adapt(bowl, np.zeros(2), (jnp.ones(2),))
    problem.fun(np.ones(2))
    with context.Pool(1) as pool:
        for call in (problem.fun, problem.value_and_grad, problem.hess, inherited, by_itself):
            try:
                pool.map(call, [np.zeros(2)])
            except RuntimeError as error:
                print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_is_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(FORKS)
    done = subprocess.run(
        [sys.executable, "forks.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5 and all("ThreadPool(2).map" in each and "'spawn'" in each for each in lines)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: sjb.adapt(rosenbrock, np.zeros(2)).fun([1.0]), ValueError, r"shape of x0, \(2,\), not \(1,\)"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2)).jac([1.0]), ValueError, r"shape of x0, \(2,\), not \(1,\)"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2), fixed=np.array([True, False])).jac(3.0), ValueError, r"not \(\)"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2)).fun(np.zeros((2, 5))), ValueError, r"not \(2, 5\)"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2)).hessp([1, 2], [1]), ValueError, "shape of x0"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2)).unravel([1]), ValueError, "shape of x0"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2)).ravel(np.zeros(3)), ValueError, r"params has the shape \(3,\)"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2)).ravel([1, 2]), ValueError, "another tree"),
        (
            lambda: sjb.adapt(lambda x: (x.sum(), 1), np.zeros(2), has_aux=True),
            TypeError,
            r"fun\(params, \*args\)\[0\]",
        ),  # type: ignore[call-arg]
        (lambda: sjb.adapt(lambda x: x, np.zeros(2)), TypeError, "must return a scalar"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2), bounds=(1, 0)), ValueError, "leave nothing at component 0"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2), fixed=True), ValueError, "no free parameters"),
        (lambda: sjb.adapt(rosenbrock, np.zeros(2), precision="float16"), ValueError, "precision must be"),
        (lambda: jax.jit(lambda x: sjb.adapt(rosenbrock, x).x0)(np.zeros(2)), sjb.TracedCall, "outside jax.jit"),
        (
            lambda: jax.vmap(lambda c: sjb.adapt(lambda x: jnp.sum(x) * c, np.zeros(2)).x0)(np.zeros(2)),
            sjb.TracedCall,
            "outside jax.jit",
        ),
        (
            lambda: jax.jit(lambda c: sjb.adapt(rosenbrock, np.zeros(2), bounds=(c, None)).x0)(0.0),
            sjb.TracedCall,
            "outside jax.jit",
        ),
    ],
)
def test_wrong_calls(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        call()
    assert not isinstance(caught.value.__context__, (KeyError, TypeError))
