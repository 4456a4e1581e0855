"""Both backends on every problem, and the device loop beside a plain reference: paths, ends and last digits.

What these tests ask for holds whatever the rounding, so they run as several processors round: see `.ci/full`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import reference_lbfgsb
import scipy_jax_bridge as sjb
from problems import BACKENDS, PROBLEMS, Problem, in_one_program, padded, rosenbrock
from scipy_jax_bridge import Status

pytestmark = pytest.mark.rounding

CHAOTIC = {"rosenbrock 20": 30, "ill-conditioned": 50}  # iterations over which rounding does not grow too large
FLAT_HESSIAN = {"powell singular": 0.05, "badly scaled": 1e-3}  # where a small gradient says less of the params
BESIDE_A_SADDLE = {"wood"}  # where the default ftol stops by SciPy's own path, too
ROUGH = {"badly scaled": 1e-3}  # of condition 1e12: which test ends it is up to rounding

# Of one size, so that two programs serve all.
PADDED = tuple(padded(each, max(each.start.size for each in PROBLEMS)) for each in PROBLEMS)

every_problem = pytest.mark.parametrize("problem", [pytest.param(each, id=each.name) for each in PADDED])
backends = pytest.mark.parametrize("backend", BACKENDS)


@cache
def solve(problem: Problem, backend: str, **options: Any) -> sjb.Result:
    fun, which = in_one_program(problem, PADDED)
    bounds = (problem.lower, problem.upper) if problem.bounded else None
    return sjb.minimize(fun, jnp.asarray(problem.start), (which,), backend=backend, bounds=bounds, options=options)


@cache
def program(objective: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return jax.jit(jax.value_and_grad(objective))


@cache
def reference(problem: Problem) -> reference_lbfgsb.Reference:
    objective, which = in_one_program(problem, PADDED)

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = program(objective)(x, which)
        return float(value), np.asarray(grad)

    return reference_lbfgsb.minimize(fun, problem.start, problem.lower, problem.upper)


@every_problem
def test_steps_are_those_of_the_reference(problem: Problem) -> None:
    ours, plain = solve(problem, "optax"), reference(problem)
    rows = CHAOTIC.get(problem.name, plain.nit + 1)
    if problem.name not in CHAOTIC:
        assert (ours.nit, ours.nfev, ours.status.name) == (plain.nit, plain.nfev, plain.reason.upper())
    np.testing.assert_array_equal(ours.trace.nfev[:rows], plain.evaluations[:rows])
    rtol = ROUGH.get(problem.name, 1e-7)
    np.testing.assert_allclose(ours.trace.fun[:rows], plain.values[:rows], rtol=rtol, atol=1e-9)


@every_problem
def test_iterates_are_those_of_the_reference(problem: Problem) -> None:
    plain = reference(problem)
    for k in (1, 2, 3, 5, 8, 12):
        if k >= len(plain.iterates):
            break
        result = solve(problem, "optax", maxiter=k)
        best = int(np.argmin(plain.values[: k + 1]))  # what did not converge comes back as the best point
        expected = plain.iterates[k] if result.success else plain.iterates[best]
        scale = 1 + np.abs(expected)
        assert np.max(np.abs(np.asarray(result.params) - expected) / scale) < ROUGH.get(problem.name, 1e-6)


@pytest.mark.parametrize("maxcor", [1, 3])
def test_little_memory(maxcor: int) -> None:
    both = jax.jit(jax.value_and_grad(rosenbrock))
    fun = lambda x: (float(both(x)[0]), np.asarray(both(x)[1]))  # noqa: E731
    plain = reference_lbfgsb.minimize(fun, [-1.2, 1.0], maxcor=maxcor)
    ours = sjb.minimize(rosenbrock, jnp.array([-1.2, 1.0]), backend="optax", options={"maxcor": maxcor})
    assert (ours.nit, ours.nfev) == (plain.nit, plain.nfev)
    np.testing.assert_allclose(ours.trace.fun, plain.values, rtol=1e-4, atol=1e-9)


def valley(x: jax.Array, n: int, height: float) -> jax.Array:
    """The chained function of the first n variables, from this height."""
    terms = 100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2
    return height + jnp.sum(jnp.where(jnp.arange(1, x.size) < n, terms, 0))


@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.usefixtures("x32")
def test_single_precision_ends_with_a_reason(n: int) -> None:
    """With tolerances that float32 cannot hold."""
    start = jnp.asarray(np.tile([-1.2, 1.0], 5), jnp.float32)
    result = sjb.minimize(valley, start, (n, 0.0), backend="optax", options={"gtol": 0.0, "ftol": 0.0})
    assert result.status in {Status.GTOL, Status.NOISE_FLOOR}, result.message
    assert result.nfev < 400 and float(result.fun) < 1e-9


@pytest.mark.parametrize("n", [2, 10])
def test_double_precision_ends_at_the_noise_floor(n: int) -> None:
    start = jnp.tile(jnp.array([-1.2, 1.0]), 5)
    result = sjb.minimize(valley, start, (n, 1.0), backend="optax", options={"gtol": 0.0, "ftol": 0.0})
    assert result.status in {Status.GTOL, Status.NOISE_FLOOR}, result.message
    assert result.nfev < 400 and abs(float(result.fun) - 1.0) < 1e-12


@backends
@every_problem
def test_reaches_the_minimum(problem: Problem, backend: str) -> None:
    result = solve(problem, backend)
    assert result.success, result.message
    off = abs(float(result.fun) - problem.minimum)
    assert off <= 2e-6 * max(1, abs(problem.minimum)) or problem.name in BESIDE_A_SADDLE


@backends
@every_problem
def test_reaches_the_minimizer_with_small_tolerances(problem: Problem, backend: str) -> None:
    result = solve(problem, backend, gtol=1e-8, ftol=0.0)
    if backend == "optax" and problem.name not in ROUGH:  # SciPy gives up at the rounding of the value
        assert result.status == Status.GTOL, result.message
    assert result.status in {Status.GTOL, Status.NOISE_FLOOR, Status.LINESEARCH}
    assert abs(float(result.fun) - problem.minimum) <= 1e-9 * max(1, abs(problem.minimum))
    assert problem.minimizer is not None
    tolerance = FLAT_HESSIAN.get(problem.name, 1e-6)
    np.testing.assert_allclose(result.params, problem.minimizer, rtol=0, atol=tolerance)


@every_problem
def test_both_backends_end_for_the_same_reason(problem: Problem) -> None:
    ours, theirs = solve(problem, "optax"), solve(problem, "scipy")
    assert ours.status == theirs.status
    np.testing.assert_allclose(float(ours.fun), float(theirs.fun), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("bounded", [False, True], ids=["free", "bounded"])
def test_memory_for_a_large_problem(bounded: bool) -> None:
    """Vectors beyond the objective's own, in the compiled program: the memory of pairs, and twelve more."""
    n, maxcor = 100_000, 10

    def solve(x: Any, lower: Any, upper: Any) -> Any:
        bounds = (lower, upper) if bounded else None
        result = sjb.minimize(lambda x: jnp.sum((x - 1) ** 2), x, bounds=bounds, backend="optax")
        return result.params, result.jac

    vector = jax.ShapeDtypeStruct((n,), jnp.float64)
    taken = jax.jit(solve).lower(vector, vector, vector).compile().memory_analysis()
    assert (taken.temp_size_in_bytes + taken.output_size_in_bytes) / (8 * n) <= 2 * maxcor + 12
