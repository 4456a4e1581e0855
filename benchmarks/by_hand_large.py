"""Rows of `by_hand.py`: an iteration on long vectors, and what compiling costs."""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import cutest_problems
import peers
import scipy_jax_bridge as sjb
from timing import Row, interleave

MAXCOR, FULL, FEW, MORE = 10, 12, 13, 18  # after 12 iterations the memory is full; between 13 and 18 the clock runs
SIZES, MANY = {1_000_000: (1.8, 1.2), 10_000_000: (1.1, None)}, 10_000_000
EVERY, MAX_N = 6, 200  # of the CUTEst problems


def separable(x: jax.Array, scale: jax.Array, center: jax.Array) -> jax.Array:
    """Convex, with a condition of 10^4."""
    return jnp.sum(scale * (x - center) ** 2)


def iteration(repeats: int) -> list[Row]:
    """An iteration without its evaluations: free over copies, with bounds over free, with bounds over SciPy's."""
    rows = []
    for n, (target, aim) in SIZES.items():
        spent, size = _measure(n, repeats if n < MANY else 1), f"n = {n:.0e}"
        copies, free, bounded = (4 * MAXCOR + 10) / 2 * spent["copy"], spent["free"], spent["bounded"]
        what = f"an iteration without evaluations, free, {size}"
        rows.append(Row(what, f"{4 * MAXCOR + 10} vectors copied", free, copies, target, aim=aim))
        rows.append(Row(f"the same, x >= 0, {size}", "free", bounded, free, 4.0, aim=2.5))
        if "scipy" in spent:
            rows.append(Row(f"the same, x >= 0, {size}", "SciPy's L-BFGS-B", bounded, spent["scipy"], 0.6))
        gc.collect()
    return rows


def _measure(n: int, repeats: int) -> dict[str, float]:
    """Seconds of a copy, and of an iteration of each solver."""
    rng, x0 = np.random.default_rng(0), jnp.zeros(n)
    args = (jnp.asarray(rng.permutation(np.geomspace(1.0, 1e4, n))), jnp.asarray(rng.normal(0.5, 1.0, n)))
    both, copy = jax.jit(jax.value_and_grad(separable)), jax.jit(jnp.copy)
    solves = {"free": _ours(x0, args, None), "bounded": _ours(x0, args, (0.0, None))}
    counts: dict[tuple[str, int], int] = {}

    def run(name: str, limit: int) -> None:
        counts[name, limit] = solves[name](limit)

    contenders: dict[str, Callable[[], Any]] = {"copy": lambda: copy(x0), "evaluation": lambda: both(x0, *args)}
    contenders |= {f"{name} {limit}": functools.partial(run, name, limit) for name in solves for limit in (FEW, MORE)}
    of_scipy: list[float] = []
    if n < MANY:
        contenders["scipy"] = lambda: of_scipy.append(_iteration_of_scipy(x0, args))
    times = {name: statistics.median(each) for name, each in interleave(contenders, repeats).items()}

    def one_iteration(name: str) -> float:
        evaluations = (counts[name, MORE] - counts[name, FEW]) * times["evaluation"]
        return (times[f"{name} {MORE}"] - times[f"{name} {FEW}"] - evaluations) / (MORE - FEW)

    spent = {"copy": times["copy"]} | {name: one_iteration(name) for name in solves}
    return spent | ({"scipy": statistics.median(of_scipy)} if of_scipy else {})


def _options(limit: int) -> dict[str, Any]:
    return {"gtol": 0.0, "ftol": 0.0, "maxiter": limit, "maxcor": MAXCOR}


def _ours(x0: jax.Array, args: tuple[Any, ...], bounds: Any) -> Callable[[int], int]:
    """A solve that goes on, up to a limit of iterations, from where the memory is full; it returns its evaluations."""
    solvers = {
        limit: sjb.Minimizer(separable, backend="optax", bounds=bounds, options=_options(limit))
        for limit in (FULL, FEW, MORE)
    }
    full = solvers[FULL](x0, args)

    def solve(limit: int) -> int:
        result = jax.block_until_ready(solvers[limit](full, args))
        assert result.nit == limit and result.fun < full.fun
        return int(result.nfev)

    return solve


def _iteration_of_scipy(x0: jax.Array, args: tuple[Any, ...]) -> float:
    """Seconds of an iteration without its evaluations, by the clock between two callbacks of one solve."""
    both, start = jax.jit(jax.value_and_grad(separable)), np.asarray(x0)
    box = scipy.optimize.Bounds(np.zeros(start.size), np.full(start.size, np.inf))
    evaluating, ends = 0.0, []

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evaluating
        began = time.perf_counter()
        value, grad = both(x, *args)
        found = float(value), np.asarray(grad)
        evaluating += time.perf_counter() - began
        return found

    def callback(_: np.ndarray) -> None:
        ends.append(time.perf_counter() - evaluating)

    scipy.optimize.minimize(
        evaluate, start, jac=True, method="L-BFGS-B", bounds=box, callback=callback, options=_options(MORE)
    )
    assert len(ends) == MORE
    return (ends[-1] - ends[FEW - 1]) / (MORE - FEW)


def compilation(repeats: int) -> list[Row]:
    """Tracing and compiling, over every sixth CUTEst problem from A to H."""
    ratios, seconds = [], {"sjb": [], "optax_loop": []}
    names = [name for _, name, _ in cutest_problems.select(["unconstrained"], ("A", "H"), (), MAX_N)][::EVERY]
    for place, name in enumerate(names):
        order = list(seconds) if place % 2 else list(reversed(seconds))
        problem, spent = cutest_problems.load("unconstrained", name), {}
        jax.block_until_ready(problem.fun(problem.x0, problem.args))
        for solver in order:
            began = time.perf_counter()
            peers.SOLVERS["unconstrained"][solver](problem, peers.Settings())
            spent[solver] = time.perf_counter() - began
            seconds[solver].append(spent[solver])
        ratios.append(spent["sjb"] / spent["optax_loop"])
    low, middle, high = statistics.quantiles(ratios, n=4)
    theirs = statistics.median(seconds["optax_loop"])
    what = f"trace and compile, median of {len(names)} CUTEst problems"
    return [Row(what, "the documented loop", middle * theirs, theirs, 0.8, (low, high), aim=0.65)]
