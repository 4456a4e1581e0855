"""The ways in which https://github.com/google-deepmind/optax/issues/1298 was mistimed, each done once more, and what
`compare` says of the same problem.

No second is measured here: what a clock would read wrongly is shown by the order of events and by what is compiled.
"""

import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import scipy_jax_bridge as sjb
from helpers_calls import count_compiles
from scipy_jax_bridge._cli.commentary import documented_loop
from scipy_jax_bridge._compare import compare as _compare
from scipy_jax_bridge.models import rosenbrock


def slow(x, matrix):
    """An evaluation that takes tens of milliseconds, so that what is not waited for is seen."""
    y = jax.lax.fori_loop(0, 8, lambda _, y: jnp.tanh(matrix @ y), jnp.outer(x, jnp.ones(300)))
    return jnp.sum((x - 1.0) ** 2) + 1e-3 * jnp.mean(y**2)


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """A turn of `compare` is one solve however short."""
    monkeypatch.setattr(_compare, "LEAST", 0.0)


@pytest.fixture
def matrix() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(300, 300)) / 25)


@pytest.mark.slow
def test_a_dispatch_is_not_a_solve(matrix, monkeypatch):
    if not getattr(jax.config, "jax_cpu_enable_async_dispatch", True):
        pytest.skip("programs run in their dispatch here")
    loop = jax.jit(lambda x, matrix: jax.lax.fori_loop(0, 8, lambda _, x: x - 0.1 * jax.grad(slow)(x, matrix), x))
    x = jnp.zeros(300)
    jax.block_until_ready(loop(x, matrix))
    ready = []
    for _ in range(3):
        value = loop(x, matrix)
        ready.append(value.is_ready())
        jax.block_until_ready(value)
    assert not all(ready), "a clock that does not wait stops before the loop has ended"

    found, ready, time_solve = [], [], _compare._time_solve

    def look() -> float:
        if found:
            ready.append(all(leaf.is_ready() for leaf in jax.tree.leaves(found.pop()) if isinstance(leaf, jax.Array)))
        return time.perf_counter()

    def solve_by(solve):  # as if a result were handed back before it is computed
        def unfinished(*inputs):
            result = solve(*inputs)
            found.append(replace(result, aux=loop(x, matrix)))
            return found[-1]

        return unfinished

    monkeypatch.setattr(_compare, "_time_solve", lambda solve, *rest: time_solve(solve_by(solve), *rest))
    monkeypatch.setattr(_compare, "time", SimpleNamespace(perf_counter=look))
    sjb.compare(rosenbrock.build(4).fun, rosenbrock.build(4).params, repeats=2, shares=False)
    assert len(ready) >= 4 and all(ready), "compare stops its clock when all is computed"


def test_compilation_is_not_a_solve(monkeypatch):
    model = rosenbrock.build(20)
    loop = jax.jit(documented_loop(model, sjb.Options()))
    start = jnp.asarray(model.params)
    with count_compiles() as first:
        jax.block_until_ready(loop(start))
    with count_compiles() as again:
        jax.block_until_ready(loop(start))
    assert first and not again, "a clock around the first call times its compilation"

    timed, time_solve = [], _compare._time_solve

    def counted(*args, **settings):
        with count_compiles() as compiled:
            found = time_solve(*args, **settings)
        timed.append(len(compiled))
        return found

    monkeypatch.setattr(_compare, "_time_solve", counted)
    comparison = sjb.compare(model.fun, model.params, repeats=3)
    assert len(timed) >= 6 and not any(timed)
    assert all(seconds > 0 for seconds in comparison.compile_s.values()), "and says it apart"
    assert all(result.timing.compiles == 0 for result in comparison.results.values())


@pytest.mark.slow
def test_a_loop_that_compiles_in_every_call_is_not_compared():
    model = rosenbrock.build(4)
    start = jnp.asarray(model.params)

    def solve():  # as the documentation has it: one function makes the step and loops over it
        return jax.block_until_ready(documented_loop(model, sjb.Options(maxiter=3))(start))

    solve()
    with count_compiles() as naive:
        solve()
    assert naive, "called without jax.jit, the documented loop compiles every time"

    solver = optax.lbfgs()
    state = solver.init(start)
    value, grad = jax.value_and_grad(model.fun)(start)
    solver.update(grad, state, start, value=value, grad=grad, value_fn=model.fun)
    with count_compiles() as steps:
        solver.update(grad, state, start, value=value, grad=grad, value_fn=model.fun)
    assert steps, "and so does every step of a loop in Python, https://github.com/google-deepmind/optax/issues/1171"

    with count_compiles() as once:
        sjb.compare(model.fun, model.params, repeats=1, shares=False)
    with count_compiles() as often:
        sjb.compare(model.fun, model.params, repeats=6, shares=False)
    assert len(often) == len(once), "compare compiles for the first solve and for no other"


@pytest.mark.slow
def test_single_is_not_compared_with_double_precision(x32):
    model = rosenbrock.build(20)
    asked = {"gtol": 1e-9, "ftol": 0.0, "maxiter": 500}
    rosen, gradient = scipy.optimize.rosen, scipy.optimize.rosen_der
    host = scipy.optimize.minimize(rosen, model.params, jac=gradient, method="L-BFGS-B", options=asked)
    device = jax.jit(documented_loop(model, sjb.Options(**asked)))(jnp.asarray(model.params))
    assert host.x.dtype == np.float64 and device[0].dtype == jnp.float32
    assert device[1] > 100 * np.abs(host.jac).max(), "float32 cannot get where float64 gets"

    alike = sjb.compare(model.fun, model.params.astype(np.float32), repeats=1)
    assert {np.asarray(result.fun).dtype for result in alike.results.values()} == {np.dtype(np.float32)}
    double = sjb.compare(model.fun, model.params.astype(np.float32), repeats=1, precision="float64")
    assert {np.asarray(result.fun).dtype for result in double.results.values()} == {np.dtype(np.float64)}
    assert not any("Not alike" in note for each in (alike, double) for note in each.notes())

    runs = {"host": {"precision": "float64"}, "device": {"backend": "optax"}}
    mixed = sjb.compare(model.fun, model.params.astype(np.float32), repeats=1, runs=runs)
    assert "Not alike in precision: host float64, device float32." in mixed.notes()


def test_one_stopping_rule_is_not_compared_with_another():
    model = rosenbrock.build(20)
    comparison = sjb.compare(model.fun, model.params, repeats=1)
    rules = [(run["gtol"], run["ftol"], run["maxiter"]) for run in comparison.setting.runs.values()]
    assert len(set(rules)) == 1 and not any("Not alike" in note for note in comparison.notes())
    runs = {"loose": {}, "strict": {"options": {"ftol": 0.0}}}
    mixed = sjb.compare(model.fun, model.params, repeats=1, runs=runs)
    assert "Not alike in ftol: loose 2.220446049250313e-09, strict 0.0." in mixed.notes()
