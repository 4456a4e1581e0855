"""Both backends on every problem, in every shape of params: the same minimum, the same meaning of every field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from problems import BACKENDS, PROBLEMS, Problem, in_one_program, padded
from scipy_jax_bridge import Status

TABLE = np.arange(3)
SHAPES = ("dict", "nested")

# Of few sizes, so that a few programs serve all problems. Each comes in one of the shapes, in turn, and in one size.
WIDTH = max(each.start.size for each in PROBLEMS)
FLAT = tuple(padded(each, next(n for n in (2, 10, WIDTH) if n >= each.start.size)) for each in PROBLEMS)
WIDE = {shape: tuple(padded(each, WIDTH) for each in PROBLEMS[place::2]) for place, shape in enumerate(SHAPES)}
IN_SHAPE = [(flat, SHAPES[place % 2], WIDE[SHAPES[place % 2]][place // 2]) for place, flat in enumerate(FLAT)]

ROUGH = {"badly scaled"}  # whose gradient is computed to about 1e-4 only: which test ends it is up to rounding

backends = pytest.mark.parametrize("backend", BACKENDS)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Layer:
    """A model as users write them: arrays, a number that is no parameter, a setting outside the leaves."""

    bias: Any
    weight: Any
    count: Any
    activation: str = field(metadata={"static": True})


@dataclass(frozen=True)
class Shape:
    """How a flat vector looks as params; `bound` makes a side of the bounds."""

    to_tree: Callable[[Any], Any]
    to_vector: Callable[[Any], Any]
    bound: Callable[[Any], Any]


def to_dict(x: Any, *, rider: Any = "a label", table: Any = TABLE) -> dict[str, Any]:
    return {"first": x[:1], "label": rider, "rest": x[1:], "table": table}


def to_nested(x: Any, *, rider: Any = 7) -> tuple[Any, ...]:
    return (Layer(x[0], x[1:].reshape(1, -1), rider, "tanh"), [rider, None], {"empty": x[:0]})


def from_nested(params: Any) -> Any:
    return jnp.concatenate([params[0].bias[None], params[0].weight.ravel()])


TREES = {
    "flat": Shape(lambda x: x, lambda x: x, lambda x: x),
    "dict": Shape(
        to_dict,
        lambda params: jnp.concatenate([params["first"], params["rest"]]),
        lambda x: to_dict(x, rider=None, table=None),
    ),
    "nested": Shape(to_nested, from_nested, lambda x: to_nested(x, rider=None)),
}


@cache
def in_shape(fun: Callable[..., jax.Array], shape: str) -> Callable[..., jax.Array]:
    to_vector = TREES[shape].to_vector
    return fun if shape == "flat" else lambda params, which: fun(to_vector(params), which)


def bounds_of(problem: Problem, shape: str = "flat") -> sjb.Bounds | None:
    bound = TREES[shape].bound
    return sjb.Bounds(bound(problem.lower), bound(problem.upper)) if problem.bounded else None


@cache
def program(fun: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return jax.jit(jax.value_and_grad(fun))


def evaluate(problem: Problem, x: Any) -> tuple[float, np.ndarray]:
    """The objective's value and gradient, by a program that has nothing of the package."""
    fun, which = in_one_program(problem, FLAT)
    value, grad = program(fun)(jnp.asarray(x), which)
    return float(value), np.asarray(grad)


@cache
def solve(problem: Problem, backend: str, shape: str = "flat", **options: Any) -> sjb.Result:
    start = TREES[shape].to_tree(jnp.asarray(problem.start))
    bounds = bounds_of(problem, shape)
    fun, which = in_one_program(problem, FLAT if shape == "flat" else WIDE[shape])
    return sjb.minimize(in_shape(fun, shape), start, (which,), backend=backend, bounds=bounds, options=options)


def vector(result: sjb.Result, shape: str = "flat") -> np.ndarray:
    return np.asarray(TREES[shape].to_vector(result.params))


def projected(problem: Problem, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """x - P(x - g), the projected gradient."""
    low, high = (-np.inf, np.inf) if not problem.bounded else (problem.lower, problem.upper)
    return x - np.clip(x - grad, low, high)


def named(name: str) -> Problem:
    return next(problem for problem in FLAT if problem.name == name)


def cases(problems: tuple[Problem, ...]) -> list[Any]:
    return [
        pytest.param(problem, backend, id=f"{problem.name}-{backend}") for problem in problems for backend in BACKENDS
    ]


every_problem = pytest.mark.parametrize(("problem", "backend"), cases(FLAT))
bounded_problems = pytest.mark.parametrize(("problem", "backend"), cases(tuple(each for each in FLAT if each.bounded)))


@every_problem
def test_fun_and_jac_belong_to_params(problem: Problem, backend: str) -> None:
    result = solve(problem, backend)
    value, grad = evaluate(problem, result.params)
    np.testing.assert_allclose(float(result.fun), value, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(result.jac, grad, rtol=1e-9, atol=1e-9)
    assert result.x is result.params


@bounded_problems
def test_stays_inside_the_bounds(problem: Problem, backend: str) -> None:
    x = vector(solve(problem, backend))
    assert np.all(x >= problem.lower) and np.all(x <= problem.upper)
    held = np.equal(problem.lower, problem.upper)
    np.testing.assert_array_equal(x[held], problem.lower[held])


@every_problem
def test_trace(problem: Problem, backend: str) -> None:
    result = solve(problem, backend)
    trace = result.trace
    assert len(trace.fun) == len(trace.grad_norm) == len(trace.nfev) == len(trace.seconds) == result.nit + 1
    start = problem.start if not problem.bounded else np.clip(problem.start, problem.lower, problem.upper)
    value, grad = evaluate(problem, start)
    assert trace.nfev[0] == 1
    np.testing.assert_allclose(trace.fun[0], value, rtol=1e-12)
    np.testing.assert_allclose(trace.grad_norm[0], np.abs(projected(problem, start, grad)).max(), rtol=1e-9)
    assert np.all(np.diff(trace.nfev) >= 1)
    assert trace.nfev[-1] == result.nfev
    assert trace.fun[-1] == result.fun
    gradient_norm = np.abs(projected(problem, vector(result), np.asarray(result.jac))).max()
    np.testing.assert_allclose(trace.grad_norm[-1], gradient_norm, rtol=1e-9, atol=1e-14)
    assert (result.status == Status.GTOL) == (trace.grad_norm[-1] <= 1e-5)
    assert np.all(np.diff(trace.seconds) >= 0) and trace.seconds[0] >= 0
    assert trace.seconds[-1] <= result.timing.solve_s


@pytest.mark.filterwarnings("ignore::scipy_jax_bridge.HeldLeafWarning")  # integers ride along in one of the shapes
@backends
@pytest.mark.parametrize(
    ("problem", "shape", "wide"), IN_SHAPE, ids=[f"{problem.name}-{shape}" for problem, shape, _ in IN_SHAPE]
)
def test_tree_and_flat_runs_agree(problem: Problem, shape: str, wide: Problem, backend: str) -> None:
    flat, result, size = solve(problem, backend), solve(wide, backend, shape), problem.start.size
    if problem.name not in {"rosenbrock 20", *ROUGH}:  # in a hundred iterations rounding grows to the size of the steps
        assert (result.nit, result.nfev, result.status) == (flat.nit, flat.nfev, flat.status)
    np.testing.assert_allclose(float(result.fun), float(flat.fun), rtol=1e-6, atol=1e-6)
    start = TREES[shape].to_tree(jnp.asarray(wide.start))
    assert jax.tree.structure(result.params) == jax.tree.structure(start)
    for given, found in zip(jax.tree.leaves(start), jax.tree.leaves(result.params), strict=True):
        if isinstance(given, jax.Array):
            assert (found.shape, found.dtype) == (given.shape, given.dtype)
        else:
            assert found is given  # rides along untouched
    assert jax.tree.structure(result.jac) == jax.tree.structure(TREES[shape].bound(jnp.asarray(wide.start)))
    x, jac = vector(result, shape), np.asarray(TREES[shape].to_vector(result.jac))
    value, grad = evaluate(problem, x[:size])
    np.testing.assert_allclose(float(result.fun), value, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(jac[:size], grad, rtol=1e-9, atol=1e-9)
    assert not np.any(x[size:]) and not np.any(jac[size:])
    if problem.bounded:
        assert np.all(x >= wide.lower) and np.all(x <= wide.upper)


@backends
@pytest.mark.parametrize("name", ["booth", "hs3", "hs45", "many active"])
def test_starts_at_the_minimum(name: str, backend: str) -> None:
    problem = named(name)
    fun, which = in_one_program(problem, FLAT)
    start, bounds = jnp.asarray(problem.minimizer), bounds_of(problem)
    result = sjb.minimize(fun, start, (which,), backend=backend, bounds=bounds)
    assert (result.nit, result.nfev, result.status) == (0, 1, Status.GTOL)
    np.testing.assert_array_equal(result.params, problem.minimizer)
    assert len(result.trace.fun) == 1


@backends
@pytest.mark.parametrize("maxiter", [0, 1, 4])
@pytest.mark.parametrize("name", ["rosenbrock 2", "hs1"])
def test_maxiter_is_kept_exactly(name: str, maxiter: int, backend: str) -> None:
    result = solve(named(name), backend, maxiter=maxiter)
    assert (result.nit, result.status, len(result.trace.fun)) == (maxiter, Status.MAXITER, maxiter + 1)
    whole = solve(named(name), backend)
    np.testing.assert_allclose(result.trace.fun, whole.trace.fun[: maxiter + 1], rtol=1e-9)
    np.testing.assert_array_equal(result.trace.nfev, whole.trace.nfev[: maxiter + 1])
    assert not result.success and result.fun == np.min(result.trace.fun)


@backends
@pytest.mark.parametrize("maxfun", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("name", ["rosenbrock 2", "hs1"])
def test_maxfun_is_kept_exactly(name: str, maxfun: int, backend: str) -> None:
    result = solve(named(name), backend, maxfun=maxfun)
    assert (result.nfev, result.status) == (maxfun, Status.MAXFUN)
    assert np.max(result.trace.nfev) <= maxfun and len(result.trace.fun) == result.nit + 1
    assert float(result.fun) <= np.min(result.trace.fun)  # the best point, also one that is no iterate
    np.testing.assert_allclose(float(result.fun), float(named(name).fun(result.params)), rtol=1e-12)


@backends
@pytest.mark.parametrize("name", ["booth", "hs5"])
def test_limits_that_are_just_enough_change_nothing(name: str, backend: str) -> None:
    """Convergence in the last evaluation allowed is convergence, and so it is in the last iteration allowed."""
    whole = solve(named(name), backend)
    for limits in ({"maxfun": whole.nfev}, {"maxiter": whole.nit}):
        result = solve(named(name), backend, **limits)
        assert (result.status, result.nit, result.nfev) == (whole.status, whole.nit, whole.nfev)


def mixed(params: Any) -> jax.Array:
    parts = [jnp.sum((leaf.astype(jnp.float64) - 0.5) ** 2) for leaf in params.values()]
    return sum(parts) + 0.1 * jnp.sum(params["double"]) * jnp.sum(params["single"])


@backends
def test_each_leaf_keeps_its_type(backend: str) -> None:
    params = {
        "half": jnp.ones(2, jnp.float16),
        "brain": jnp.ones(2, jnp.bfloat16),
        "single": np.ones((1, 2), np.float32),
        "double": np.ones(3),
    }
    result = sjb.minimize(mixed, params, backend=backend)
    value, grad = program(mixed)(result.params)
    for name, leaf in params.items():
        assert result.params[name].dtype == result.jac[name].dtype == leaf.dtype
        assert np.abs(np.asarray(grad[name], np.float64)).max() < 0.05
    np.testing.assert_allclose(float(result.fun), float(value), rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), result.jac, grad)


@backends
def test_single_precision_leaves_stay_inside_bounds_they_cannot_hold(backend: str) -> None:
    lower, upper = 0.1, 0.3  # one is rounded up in float32, the other one down or up
    start = np.full(2, 0.2, np.float32)
    target = jnp.array([-1.0, 1.0], jnp.float32)
    result = sjb.minimize(lambda x: jnp.sum((x - target) ** 2), start, backend=backend, bounds=(lower, upper))
    x = np.asarray(result.params, np.float64)
    assert result.params.dtype == np.float32
    assert np.all(x >= lower) and np.all(x <= upper)
    np.testing.assert_allclose(x, [lower, upper], rtol=1e-6)


SINGLE = tuple(padded(named(name), 10) for name in ("rosenbrock 2", "log sum", "himmelblau", "hs5", "start on a bound"))


@pytest.mark.slow
@backends
@pytest.mark.parametrize("problem", SINGLE, ids=lambda problem: problem.name)
@pytest.mark.usefixtures("x32")
def test_single_precision(problem: Problem, backend: str) -> None:
    start = jnp.asarray(problem.start)
    assert start.dtype == np.float32
    fun, which = in_one_program(problem, SINGLE)
    result = sjb.minimize(fun, start, (which,), backend=backend, bounds=bounds_of(problem))
    assert result.params.dtype == result.fun.dtype == np.float32
    assert result.status in {Status.GTOL, Status.FTOL, Status.NOISE_FLOOR}
    assert result.nfev < 200
    assert abs(float(result.fun) - problem.minimum) <= 1e-5 * max(1, abs(problem.minimum))
    np.testing.assert_allclose(vector(result), problem.minimizer, atol=5e-3)
    np.testing.assert_allclose(float(result.fun), float(problem.fun(result.params)), rtol=1e-5, atol=1e-6)


@backends
@pytest.mark.parametrize("name", ["rosenbrock 2", "hs5"])
@pytest.mark.usefixtures("x32")
def test_double_precision_without_the_flag(name: str, backend: str) -> None:
    problem = named(name)
    options = {"gtol": 1e-7, "ftol": 0.0}  # above the square root of the rounding, which values can still show
    result = sjb.minimize(
        problem.fun,
        jnp.asarray(problem.start),
        backend=backend,
        bounds=bounds_of(problem),
        options=options,
        precision="float64",
    )
    assert result.status == Status.GTOL and result.trace.grad_norm[-1] <= 1e-7
    assert abs(result.trace.fun[-1] - problem.minimum) <= 1e-13
    assert jnp.ones(1).dtype == np.float32  # the user's setting is what it was


@backends
def test_fixed_leaves_stay(backend: str) -> None:
    params = {"w": jnp.array([3.0, 0.1]), "b": jnp.array(0.7)}

    def fun(params: Any) -> jax.Array:
        return jnp.sum((params["w"] - params["b"]) ** 2) + params["b"] ** 2

    result = sjb.minimize(fun, params, backend=backend, fixed={"w": False, "b": True})
    assert result.params["b"] == params["b"] and result.jac["b"] is None
    np.testing.assert_allclose(result.params["w"], [0.7, 0.7], atol=1e-5)


@backends
def test_not_finite_ends_with_the_best_point(backend: str) -> None:
    """The objective is NaN where it would be lowest."""

    def fun(x: jax.Array) -> jax.Array:
        return jnp.where(x[0] > 2.0, jnp.nan, -x[0]) + 0.0 * x[1]

    result = sjb.minimize(fun, jnp.zeros(2), backend=backend)
    assert not result.success
    assert np.isfinite(result.fun) and float(result.fun) == float(fun(result.params)) < 0


@backends
def test_not_finite_at_the_start(backend: str) -> None:
    def fun(params: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum(params["a"]) + jnp.sum(jnp.log(params["b"]))

    start = {"a": jnp.ones(3), "b": jnp.array([1.0, -1.0])}
    with pytest.raises(ValueError, match=r"objective is nan; all of params is finite") as caught:
        sjb.minimize(fun, start, backend=backend)
    assert caught.value.best_result is None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"params\['b'\], component 1 of 2, is inf; the gradient"):
        sjb.minimize(fun, {**start, "b": jnp.array([1.0, jnp.inf])}, backend=backend)
    with pytest.raises(ValueError, match=r"the gradient of params\['b'\], component 0 of 2, is inf"):
        sjb.minimize(fun, {**start, "b": jnp.array([0.0, 1.0])}, backend=backend)


@backends
def test_counts_are_the_true_evaluations(backend: str) -> None:
    calls = []

    def fun(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(1))
        return named("rosenbrock 2").fun(x)

    pytest.importorskip("tqdm")
    seen = []
    result = sjb.minimize(
        fun,
        jnp.array([-1.2, 1.0]),
        backend=backend,
        callback=lambda progress: seen.append(progress.params),
        progress=True,
        options={"timeout": 600.0},
    )
    jax.effects_barrier()
    assert len(calls) == result.nfev  # none for callback, trace, progress bar, time limit, none for the result
    assert seen
