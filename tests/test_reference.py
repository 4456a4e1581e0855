"""The reference against SciPy: the same iterates, counts and reasons on every problem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import jax
import numpy as np
import pytest
import scipy.optimize

from problems import BOUNDED, PROBLEMS, UNBOUNDED, Problem
from reference_lbfgsb import (
    Matrix,
    Objective,
    Reference,
    Vector,
    direction,
    generalized_cauchy_point,
    hessian,
    middle_matrix,
    minimize,
    subspace_minimum,
)

pytestmark = pytest.mark.rounding

# Over a hundred iterations, rounding grows to the size of the steps: a start changed in its last
# digit changes SciPy's own counts, too.
CHAOTIC = {"rosenbrock 20"}
# The condition of the Hessian, 1e12 here, is that of the reference's dense matrix.
ROUGH = {"badly scaled": 1e-5}


@dataclass
class Arbiter:
    """What SciPy did: the iterates with the start, evaluations at each, and why it stopped."""

    iterates: Matrix
    evaluations: list[int]
    result: scipy.optimize.OptimizeResult
    reason: str


def scipy_lbfgsb(fun: Objective, problem: Problem, **options: int) -> Arbiter:
    bounds = scipy.optimize.Bounds(problem.lower, problem.upper) if problem.bounded else None
    calls: list[Vector] = []
    rows, counts = [np.clip(problem.start, problem.lower, problem.upper)], [1]

    def counted(x: Vector) -> tuple[float, Vector]:
        calls.append(x.copy())
        return fun(x)

    def record(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        rows.append(intermediate_result.x.copy())
        counts.append(len(calls))

    result = scipy.optimize.minimize(
        counted,
        problem.start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        callback=record,
        options=options,
    )
    words = {"PROJECTED GRADIENT": "gtol", "RELATIVE": "ftol", "ITERATIONS": "maxiter"}
    found = [reason for word, reason in words.items() if word in result.message]
    return Arbiter(np.stack(rows), counts, result, found[0] if found else "linesearch")


def run(
    fun: Objective,
    problem: Problem,
    maxcor: int = 10,
    gtol: float = 1e-5,
    ftol: float = 2.220446049250313e-09,
    maxiter: int = 15000,
    maxls: int = 20,
) -> Reference:
    box = (problem.lower, problem.upper)
    return minimize(fun, problem.start, *box, maxcor, gtol, ftol, maxiter, maxls)


@cache
def compiled(problem: Problem) -> Objective:
    both = jax.jit(jax.value_and_grad(problem.fun))

    def fun(x: Vector) -> tuple[float, Vector]:
        value, gradient = both(x)
        return float(value), np.array(gradient)

    return fun


def named(name: str) -> Problem:
    return next(problem for problem in PROBLEMS if problem.name == name)


def agree(ours: Reference, theirs: Arbiter, tolerance: float = 1e-8) -> None:
    assert (ours.nit, ours.nfev) == (theirs.result.nit, theirs.result.nfev)
    assert ours.reason == theirs.reason
    assert ours.evaluations == theirs.evaluations
    scale = 1 + np.abs(theirs.iterates[:13])
    assert np.max(np.abs(ours.iterates[:13] - theirs.iterates[:13]) / scale) < tolerance
    assert np.max(np.abs(ours.x - theirs.result.x) / (1 + np.abs(theirs.result.x))) < 1e-5


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_same_path_as_scipy(problem: Problem) -> None:
    fun = compiled(problem)
    ours, theirs = run(fun, problem), scipy_lbfgsb(fun, problem)
    value = theirs.result.fun
    if problem.name in CHAOTIC:
        np.testing.assert_allclose(ours.iterates[:30], theirs.iterates[:30], rtol=0, atol=1e-7)
        assert ours.reason == theirs.reason
        assert abs(ours.fun - value) < 1e-8
        return
    agree(ours, theirs, ROUGH.get(problem.name, 1e-8))
    assert abs(ours.fun - value) <= 1e-10 * max(1, abs(value))


@pytest.mark.parametrize("maxcor", [1, 3])
@pytest.mark.parametrize("name", ["beale", "himmelblau", "log sum", "hs2", "many active"])
def test_same_path_with_little_memory(name: str, maxcor: int) -> None:
    problem = named(name)
    fun = compiled(problem)
    theirs = scipy_lbfgsb(fun, problem, maxcor=maxcor)
    agree(run(fun, problem, maxcor=maxcor), theirs)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_reaches_the_minimum(problem: Problem) -> None:
    found = run(compiled(problem), problem, gtol=1e-9, ftol=0.0)
    assert abs(found.fun - problem.minimum) <= 1e-13 * max(1, abs(problem.minimum))
    slow = problem.name in {"powell singular"}  # its Hessian is singular at the minimizer
    assert problem.minimizer is not None
    np.testing.assert_allclose(found.x, problem.minimizer, rtol=0, atol=1e-3 if slow else 1e-7)


@pytest.mark.parametrize("problem", BOUNDED, ids=lambda problem: problem.name)
def test_iterates_stay_in_the_box(problem: Problem) -> None:
    found = run(compiled(problem), problem)
    assert np.all(found.iterates >= problem.lower)
    assert np.all(found.iterates <= problem.upper)


@pytest.mark.parametrize("maxiter", [0, 1, 4])
def test_maxiter(maxiter: int) -> None:
    """The first iteration is done in any case, and the limit is tested before convergence."""
    problem = named("himmelblau")
    fun = compiled(problem)
    ours = run(fun, problem, maxiter=maxiter)
    agree(ours, scipy_lbfgsb(fun, problem, maxiter=maxiter))
    assert (ours.nit, ours.reason) == (max(1, maxiter), "maxiter")


def test_maxiter_wins_over_convergence() -> None:
    problem = named("booth")
    fun = compiled(problem)
    needed = run(fun, problem).nit
    agree(run(fun, problem, maxiter=needed), scipy_lbfgsb(fun, problem, maxiter=needed))
    assert run(fun, problem, maxiter=needed).reason == "maxiter"


def test_start_at_the_minimum() -> None:
    fun = compiled(named("booth"))
    found = minimize(fun, [1.0, 3.0])
    assert (found.nit, found.nfev, found.reason) == (0, 1, "gtol")


def kinked(x: Vector) -> tuple[float, Vector]:
    return float(np.abs(x).sum() + 0.1 * x @ x), np.sign(x) + 0.2 * x


def uphill(x: Vector) -> tuple[float, Vector]:
    return float(x @ x), -2 * x


def walled(x: Vector) -> tuple[float, Vector]:
    return (np.inf if x[0] > 1.5 else float(-x.sum())), -np.ones_like(x)


def nowhere(x: Vector) -> tuple[float, Vector]:
    return (np.nan if x[0] > 1.5 else float(-x.sum())), -np.ones_like(x)


@pytest.mark.parametrize("fun", [kinked, uphill, walled, nowhere])
@pytest.mark.parametrize("maxls", [1, 3, 20])
@pytest.mark.parametrize("upper", [None, 3.0])
def test_hard_line_searches(fun: Objective, maxls: int, upper: float | None) -> None:
    """Restarts, searches given up, and values that are no numbers."""
    start = np.array([1.1, 2.3])
    box = (None, None) if upper is None else (np.full(2, -np.inf), np.full(2, upper))
    problem = Problem("", UNBOUNDED[0].fun, start, 0.0, None, *box, "")
    agree(run(fun, problem, maxls=maxls), scipy_lbfgsb(fun, problem, maxls=maxls))


def some_pairs(n: int, count: int, seed: int) -> tuple[list[Vector], list[Vector], float]:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    S = list(rng.normal(size=(count, n)))
    Y = [(root @ root.T + np.eye(n)) @ s for s in S]
    return S, Y, float(Y[-1] @ Y[-1] / (S[-1] @ Y[-1]))


@pytest.mark.parametrize("count", [1, 3, 5])
def test_compact_form_is_the_updated_matrix(count: int) -> None:
    S, Y, theta = some_pairs(6, count, count)
    W, M = middle_matrix(S, Y, theta)
    B = hessian(6, S, Y, theta)
    np.testing.assert_allclose(B, theta * np.eye(6) - W @ M @ W.T, rtol=0, atol=1e-9)
    np.testing.assert_allclose(B @ S[-1], Y[-1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(10))
def test_cauchy_point_is_the_first_local_minimizer(seed: int) -> None:
    """Against the model's values along the path P(x - t g) on a fine grid of t."""
    rng = np.random.default_rng(seed)
    n = 5
    B = hessian(n, *some_pairs(n, 3, seed))
    x, g = rng.uniform(-1, 1, n), 5 * rng.normal(size=n)
    lower, upper = x - rng.uniform(0, 1, n), x + rng.uniform(0, 1, n)
    found, free = generalized_cauchy_point(x, g, lower, upper, B, 1.0)
    times = np.linspace(0, 2, 20001)
    steps = np.clip(x - times[:, None] * g, lower, upper) - x
    values = steps @ g + 0.5 * np.sum(steps * (steps @ B), axis=1)
    rising = np.flatnonzero(np.diff(values) > 0)
    first = rising[0] if rising.size else len(times) - 1
    np.testing.assert_allclose(found - x, steps[first], rtol=0, atol=1e-3)
    assert np.array_equal(~free, (found == lower) | (found == upper))


@pytest.mark.parametrize("seed", range(10))
def test_subspace_minimum(seed: int) -> None:
    """Without contact, the minimizer over the free variables; else in the box and downhill."""
    rng = np.random.default_rng(seed)
    n = 5
    B = hessian(n, *some_pairs(n, 3, seed))
    x, g = rng.uniform(-1, 1, n), rng.normal(size=n)
    for width in (100.0, 0.05):
        box = (x - width, x + width)
        cauchy, free = generalized_cauchy_point(x, g, *box, B, 1.0)
        point = subspace_minimum(x, g, cauchy, free, B, box)
        assert np.all((point >= box[0] - 1e-15) & (point <= box[1] + 1e-15))
        assert np.array_equal(point[~free], cauchy[~free])
        assert (point - x) @ g < 0
        if width == 100.0:
            np.testing.assert_allclose((g + B @ (point - x))[free], 0, atol=1e-10)


def test_direction_without_bounds_is_the_newton_step() -> None:
    S, Y, theta = some_pairs(6, 4, 1)
    x, g = np.arange(6.0), np.ones(6)
    inf = np.full(6, np.inf)
    step = direction(x, g, -inf, inf, S, Y, theta)
    np.testing.assert_allclose(hessian(6, S, Y, theta) @ step, -g, atol=1e-10)
    np.testing.assert_array_equal(direction(x, g, -inf, inf, [], [], 1.0), -g)
