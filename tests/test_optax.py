"""The Optax backend with any transformation, and its loop in chunks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import scipy_jax_bridge as sjb
import scipy_jax_bridge._optax.chunked as chunks
import scipy_jax_bridge._optax.device_solver as loop
import scipy_jax_bridge._optax.solve as optax_solve
from problems import rosenbrock
from scipy_jax_bridge import Status
from scipy_jax_bridge._core.monitor import SolveMonitor
from scipy_jax_bridge._optax.names import ALGORITHMS, name_of_transformation
from scipy_jax_bridge._problem.problem import prepare

CENTER = np.array([1.0, -0.5])
START = np.array([-1.2, 1.0])


def bowl(x: jax.Array) -> jax.Array:
    return jnp.sum(np.array([1.0, 3.0]) * (x - CENTER) ** 2)


def clipped() -> optax.GradientTransformation:
    schedule = optax.exponential_decay(0.3, 50, 0.5)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))


TRANSFORMATIONS = {
    "adam": (optax.adam(0.1), bowl),
    "sgd": (optax.sgd(0.1), bowl),
    "momentum": (optax.sgd(0.05, momentum=0.5, nesterov=True), bowl),
    "chain": (clipped(), bowl),
    "lbfgs": (optax.lbfgs(), rosenbrock),
    "backtracking": (optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)), bowl),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_reaches_the_minimum(name: str) -> None:
    method, fun = TRANSFORMATIONS[name]
    result = sjb.minimize(fun, START, backend="optax", method=method, options={"gtol": 1e-6, "ftol": 0.0})
    assert result.status == Status.GTOL, result.message
    np.testing.assert_allclose(result.params, [1.0, 1.0] if fun is rosenbrock else CENTER, atol=1e-5)
    np.testing.assert_allclose(float(result.fun), float(fun(result.params)), rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(result.jac, jax.grad(fun)(result.params), rtol=1e-6, atol=1e-12)
    trace = result.trace
    assert len(trace.fun) == result.nit + 1 and trace.nfev[-1] == result.nfev
    assert trace.fun[-1] == result.fun and trace.grad_norm[-1] <= 1e-6 < np.min(trace.grad_norm[:-1])


def stepped(update: Any) -> optax.GradientTransformation:
    return optax.GradientTransformation(lambda params: (), update)


def halved() -> optax.GradientTransformation:
    return stepped(lambda grad, state, params=None: (jax.tree.map(lambda each: -0.5 * each, grad), state))


class Rule:
    def update(self, grad: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda each: -0.5 * each, grad), state


NAMES = {
    "sgd": [optax.sgd(0.1), optax.sgd(0.1, momentum=0.9, nesterov=True), optax.sgd(optax.constant_schedule(0.1))],
    "adam": [
        *(optax.adam(0.1), optax.adam(optax.constant_schedule(0.1)), optax.adam(jnp.array(0.1))),
        optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    ],
    "adamw": [optax.adamw(0.1), optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1), optax.scale(-0.1))],
    "chain(clip_by_global_norm, scale_by_adam, scale_by_schedule)": [clipped()],
    "chain(clip, adam)": [optax.chain(optax.clip(1.0), optax.adam(0.1))],
    "chain(halved, adam)": [optax.chain(halved(), optax.adam(0.1))],
    "chain(add_decayed_weights, adam)": [optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1))],
    "scale_by_adam": [optax.scale_by_adam()],
    "halved": [halved()],
    "Rule": [stepped(Rule().update)],
    "GradientTransformation": [stepped(jax.tree_util.Partial(Rule.update, None))],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_transformation_is_named_by_what_made_it(name: str) -> None:
    for method in NAMES[name]:
        assert name_of_transformation(method) == name


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if hasattr(optax, name)])
def test_the_algorithms_of_optax_have_their_names(name: str) -> None:
    assert name_of_transformation(getattr(optax, name)(0.1)) == name


def test_a_result_names_its_transformation() -> None:
    method = optax.chain(optax.clip(1.0), optax.sgd(0.1))
    result = sjb.minimize(bowl, START, backend="optax", method=method)
    assert result.method == "chain(clip, sgd)" and f"by optax, {result.method}" in str(result)


def test_takes_the_steps_of_a_loop_by_hand() -> None:
    method = clipped()
    x = jnp.asarray(START)
    state = method.init(x)
    values = [float(bowl(x))]

    @jax.jit
    def step(x: Any, state: Any) -> Any:
        updates, state = method.update(jax.grad(bowl)(x), state, x)
        x = optax.apply_updates(x, updates)
        return x, state, bowl(x)

    for _ in range(20):
        x, state, value = step(x, state)
        values.append(float(value))
    options = {"gtol": 0.0, "ftol": 0.0, "maxiter": 20}
    result = sjb.minimize(bowl, START, backend="optax", method=method, options=options)
    assert (result.status, result.nit, result.nfev) == (Status.MAXITER, 20, 21)
    np.testing.assert_allclose(result.trace.fun, values, rtol=1e-6)  # Optax counts steps in float32


def test_takes_the_steps_of_optax_lbfgs_by_hand() -> None:
    method = optax.lbfgs()
    step = optax.value_and_grad_from_state(rosenbrock)

    @jax.jit
    def turn(x: Any, state: Any) -> Any:
        value, grad = step(x, state=state)
        updates, state = method.update(grad, state, x, value=value, grad=grad, value_fn=rosenbrock)
        return value, optax.apply_updates(x, updates), state

    x = jnp.asarray(START)
    state, values = method.init(x), []
    for _ in range(10):
        value, x, state = turn(x, state)
        values.append(float(value))
    result = sjb.minimize(rosenbrock, START, backend="optax", method=method, options={"maxiter": 9})
    np.testing.assert_allclose(result.trace.fun, values, rtol=1e-9)


def test_labels_on_the_tree() -> None:
    params = {"slow": jnp.zeros(2), "fast": jnp.zeros(2), "held": jnp.ones(2), "name": "a"}
    method = optax.multi_transform(
        {"slow": optax.sgd(1e-3), "fast": optax.sgd(0.2), "held": optax.set_to_zero()},
        lambda tree: {name: None if leaf is None else name for name, leaf in tree.items()},
    )

    def fun(params: Any) -> jax.Array:
        return sum(jnp.sum((params[name] - CENTER) ** 2) for name in ("slow", "fast", "held"))

    options = {"maxiter": 30, "ftol": 0.0}
    result = sjb.minimize(fun, params, backend="optax", method=method, options=options)
    assert result.status == Status.MAXITER and result.params["name"] == "a"
    np.testing.assert_array_equal(result.params["held"], params["held"])
    np.testing.assert_allclose(result.params["fast"], CENTER, atol=1e-5)
    np.testing.assert_allclose(result.params["slow"], CENTER * (1 - (1 - 2e-3) ** 30), rtol=1e-10)


@pytest.mark.parametrize("name", ["adam", "lbfgs", "backtracking"])
def test_counts_are_the_true_evaluations(name: str) -> None:
    """Those of the engine are counted in `test_agreement`."""
    method, base = TRANSFORMATIONS[name]
    calls = []

    def fun(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(1))
        return base(x)

    result = sjb.minimize(fun, START, backend="optax", method=method)
    jax.effects_barrier()
    assert result.success and len(calls) == result.nfev


def test_not_finite_ends_with_the_best_point() -> None:
    def fun(x: jax.Array) -> jax.Array:
        return jnp.where(x[0] > 0.95, jnp.nan, 1.0) * jnp.sum(-x)

    result = sjb.minimize(fun, jnp.zeros(2), backend="optax", method=optax.sgd(0.1))
    assert result.status == Status.NONFINITE and "the objective is nan" in result.message
    np.testing.assert_allclose(result.params, [0.95, 0.95], atol=1e-6)
    assert float(result.fun) == float(fun(result.params)) == np.nanmin(result.trace.fun)


def test_an_increase_is_no_convergence() -> None:
    """Sgd with too long a step goes up at first; SciPy's test on f is one-sided and never sees that."""
    result = sjb.minimize(bowl, START, backend="optax", method=optax.sgd(0.34), options={"maxiter": 5})
    assert result.status == Status.MAXITER
    assert float(result.fun) == np.min(result.trace.fun) == float(bowl(result.params))


def test_bounds_are_the_engines() -> None:
    with pytest.raises(ValueError, match=r"takes no bounds.*scipy"):
        sjb.minimize(bowl, START, backend="optax", method=optax.adam(0.1), bounds=(0.0, None))


SOLVERS = {
    name: sjb.Minimizer(rosenbrock, backend="optax", method=method, options={"maxiter": 150, "ftol": 0.0})
    for name, method in (("engine", None), ("adam", optax.adam(0.02)), ("lbfgs", optax.lbfgs()))
}
LONG = np.tile(START, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_chunks_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SOLVERS[name](LONG)
    for size in (1, 7, chunks.ROWS - 2):
        monkeypatch.setattr(chunks.ChunkedRun, "next_chunk", lambda self, size=size: size)
        result = SOLVERS[name](LONG)
        np.testing.assert_array_equal(result.params, whole.params)
        assert (result.nit, result.nfev, result.status) == (whole.nit, whole.nfev, whole.status)
        for column in ("fun", "grad_norm", "nfev"):
            np.testing.assert_array_equal(getattr(result.trace, column), getattr(whole.trace, column))


@pytest.mark.parametrize("method", [None, optax.adam(0.02)], ids=["engine", "adam"])
def test_rows_are_a_ring(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SOLVERS["engine" if method is None else "adam"](LONG)
    for module in (chunks, optax_solve):
        monkeypatch.setattr(module, "ROWS", 32)
    solve = sjb.Minimizer(lambda x: rosenbrock(x), backend="optax", method=method, options={"maxiter": 150, "ftol": 0})
    trace = solve(LONG).trace
    assert len(trace.fun) == len(whole.trace.fun) > 50
    np.testing.assert_allclose(trace.fun[:50], whole.trace.fun[:50], rtol=1e-6)
    np.testing.assert_array_equal(trace.nfev[:50], whole.trace.nfev[:50])


@pytest.mark.parametrize("method", [None, optax.adam(0.02)], ids=["engine", "adam"])
def test_callback_is_told_the_iterate_with_its_own_value(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the best point seen, which may be a trial of an unfinished search; and also when params is read later."""
    monkeypatch.setattr(chunks.ChunkedRun, "next_chunk", lambda self: 1)
    seen: list[sjb.Progress] = []
    sjb.minimize(rosenbrock, LONG, backend="optax", method=method, options={"maxiter": 60}, callback=seen.append)
    assert len(seen) > 60
    value = jax.jit(rosenbrock)
    for told in seen:
        np.testing.assert_allclose(float(value(told.params)), told.fun, rtol=1e-12)


def test_callback_hears_the_end() -> None:
    """Also of a solve that is over before the first chunk is."""
    for options in ({}, {}, {"maxiter": 3}):
        reports = []
        result = sjb.minimize(rosenbrock, LONG, backend="optax", callback=reports.append, options=options)
        assert reports and (reports[-1].nit, reports[-1].fun) == (result.nit, float(result.fun))


def test_trace_of_adam_is_complete() -> None:
    options = {"gtol": 0.0, "ftol": 0.0, "maxiter": 3000}
    result = sjb.minimize(rosenbrock, START, backend="optax", method=optax.adam(1e-3), options=options)
    assert (result.status, result.nit, result.nfev) == (Status.MAXITER, 3000, 3001)
    np.testing.assert_array_equal(result.trace.nfev, np.arange(1, 3002))
    assert np.all(np.isfinite(result.trace.fun)) and np.all(np.diff(result.trace.fun[100:]) < 0)
    np.testing.assert_allclose(result.trace.fun[0], float(rosenbrock(START)), rtol=1e-14)


def test_trace_of_the_engine_is_complete() -> None:
    """More iterations than the device keeps rows of."""
    n = 800

    def fun(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(10 ** jnp.linspace(0, 9, n) * (x - 1) ** 2)

    options = {"gtol": 0.0, "ftol": 0.0, "maxiter": 2500}
    result = sjb.minimize(fun, jnp.zeros(n), backend="optax", options=options)
    assert (result.status, result.nit) == (Status.MAXITER, 2500)
    trace = result.trace
    assert len(trace.fun) == 2501 and trace.nfev[-1] == result.nfev
    assert np.all(np.diff(trace.nfev) >= 1) and np.all(np.isfinite(trace.fun))
    assert np.all(np.diff(trace.fun) <= 0)  # the line search descends, in every iteration
    shorter = sjb.minimize(fun, jnp.zeros(n), backend="optax", options={**options, "maxiter": 1500})
    np.testing.assert_array_equal(shorter.trace.fun, trace.fun[:1501])


def test_trace_in_a_trace_keeps_the_last_rows() -> None:
    options = {"gtol": 0.0, "ftol": 0.0, "maxiter": 1200}
    solve = sjb.Minimizer(rosenbrock, backend="optax", method=optax.adam(1e-3), options=options)
    inside, outside = jax.jit(solve)(START), solve(START)
    assert (int(inside.nit), int(inside.nfev), int(inside.status)) == (1200, 1201, Status.MAXITER)
    np.testing.assert_allclose(inside.trace.fun, outside.trace.fun[-loop.ROWS_INSIDE :], rtol=1e-9)


def counting(base: Any) -> tuple[Any, list[int]]:
    calls: list[int] = []

    def fun(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(1))
        return base(x)

    return fun, calls


PAUSES = {
    "warm-up": optax.adam(optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 300)),
    "from zero": optax.sgd(optax.linear_schedule(0.0, 0.1, 50)),
    "saved up": optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation(),
    "every fourth": optax.chain(optax.adam(0.1), optax.apply_every(4)),
}


@pytest.mark.parametrize("name", PAUSES)
def test_a_step_of_zero_is_no_end(name: str) -> None:
    result = sjb.minimize(bowl, START, backend="optax", method=PAUSES[name], options={"maxiter": 1000})
    assert result.success, result.message
    np.testing.assert_allclose(result.params, CENTER, atol=1e-3)


@pytest.mark.parametrize("method", [optax.set_to_zero(), optax.sgd(0.0)], ids=["zero", "rate of zero"])
def test_nothing_but_steps_of_zero_is_an_end_without_success(method: Any) -> None:
    result = sjb.minimize(bowl, START, backend="optax", method=method)
    assert result.status == Status.LINESEARCH and result.nit < 200
    assert "steps of an Optax transformation are zero" in result.message and "line search" not in result.message


def test_a_line_search_without_a_step_ends_at_once() -> None:
    """The gradient leads uphill."""

    @jax.custom_jvp
    def uphill(x: jax.Array) -> jax.Array:
        return jnp.sum(x**2)

    uphill.defjvp(lambda primals, tangents: (uphill(*primals), -2 * primals[0] @ tangents[0]))
    method, _ = TRANSFORMATIONS["backtracking"]
    result = sjb.minimize(uphill, START, backend="optax", method=method)
    assert result.status == Status.LINESEARCH and result.nit < 50
    assert np.sum(result.trace.fun == result.trace.fun[-1]) == 2  # the first step of zero is the last one


class Last(NamedTuple):
    grad: Any


def own() -> optax.GradientTransformation:
    """Its state has a gradient, and not that of the trial."""

    def update(grad: Any, state: Last, params: Any = None) -> tuple[Any, Last]:
        return jax.tree.map(lambda each: -0.1 * each, grad), Last(grad)

    return optax.GradientTransformation(lambda params: Last(jax.tree.map(jnp.zeros_like, params)), update)


def wrapped() -> optax.GradientTransformationExtraArgs:
    inner = optax.lbfgs()

    def update(steps: Any, state: Any, params: Any = None, **known: Any) -> tuple[Any, Any]:
        steps, state = inner.update(steps, state, params, **known)
        return jax.tree.map(lambda each: 0.5 * each, steps), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


searched = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15, store_grad=True))
CHANGED = {
    "scaled": optax.chain(optax.lbfgs(), optax.scale(0.5)),
    "cut": optax.chain(optax.lbfgs(), optax.keep_params_nonnegative()),
    "backtracked": optax.chain(searched, optax.scale(0.5)),
    "own": own(),
    "wrapped": wrapped(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGED)
def test_a_step_changed_after_its_search_is_evaluated(name: str) -> None:
    fun, calls = counting(bowl)
    result = sjb.minimize(fun, np.array([2.0, 1.0]), backend="optax", method=CHANGED[name])
    jax.effects_barrier()
    assert len(calls) == result.nfev
    np.testing.assert_allclose(float(result.fun), float(bowl(result.params)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(result.params, [1.0, 0.0] if name == "cut" else CENTER, atol=1e-3)
    np.testing.assert_allclose(result.jac, jax.grad(bowl)(result.params), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::scipy_jax_bridge.RecompilationWarning")  # each host callback is another one
@pytest.mark.parametrize("method", [optax.lbfgs(), searched], ids=["lbfgs", "backtracking"])
def test_what_a_line_search_left_is_not_evaluated_again(method: Any) -> None:
    fun, calls = counting(bowl)
    result = sjb.minimize(fun, START, backend="optax", method=method)
    jax.effects_barrier()
    assert result.success and len(calls) == result.nfev
    single = sjb.minimize(fun, START, backend="optax", method=optax.chain(method, optax.identity()))
    assert single.nfev == result.nfev + result.nit  # where it cannot be told, one evaluation more an iteration


def test_a_transformation_that_takes_none_of_the_extra_arguments() -> None:
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.01))
    method = optax.contrib.sam(optax.sgd(0.05), adversary, sync_period=2, opaque_mode=False)
    result = sjb.minimize(bowl, START, backend="optax", method=method, options={"maxiter": 300})
    np.testing.assert_allclose(result.params, CENTER, atol=0.02)


@pytest.mark.usefixtures("x32")
def test_single_precision() -> None:
    for name in ("chain", "lbfgs", "backtracking"):  # which hold the others
        method, fun = TRANSFORMATIONS[name]
        options = {"gtol": 1e-3, "maxiter": 1000}
        result = sjb.minimize(fun, jnp.array([-1.2, 1.0]), backend="optax", method=method, options=options)
        assert result.success, name
        assert result.params.dtype == np.float32


def test_the_first_chunk_is_short_whatever_the_pace_of_an_earlier_solve() -> None:
    """Its data may have been cheaper: clock and keyboard are to be looked at soon."""
    inputs = prepare(bowl, START, ()), SolveMonitor(), lambda state, until: (state, None)
    fresh, known = chunks.ChunkedRun(*inputs, None), chunks.ChunkedRun(*inputs, 2000.0)
    assert fresh.next_chunk() == chunks.FIRST_CHUNK and known.next_chunk() == 2000 * chunks.FIRST_S
    known.speed = 2000.0
    assert known.next_chunk() == 2000 * chunks.CHUNK_S
