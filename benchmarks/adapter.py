"""What `sjb.adapt` costs over a packed callable by hand: one evaluation, and two of SciPy's global optimizers.

    python benchmarks/adapter.py
    python benchmarks/adapter.py --repeats 51

Double precision, `jax_cpu_enable_async_dispatch` off, Rosenbrock's function. By hand means a jitted function of the
flat vector, called as `np.asarray(x) -> float(value), np.asarray(gradient)`. Answers are checked to agree, bit for bit
where both compute the same program, before a time is printed. Everything is warm.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.optimize

import scipy_jax_bridge as sjb
from rivals import packed
from scipy_jax_bridge.models import rosenbrock
from timing import Row, Seconds, compare, header, interleave, table

POINTS, CALLS, ROUNDS = 64, 32, 20  # ROUNDS: times the repeats, for calls of microseconds
Function = Callable[[np.ndarray], Any]


def hand_value_and_grad(fun: Callable[[jax.Array], jax.Array]) -> Function:
    """The packed callable of an expert."""
    both = jax.jit(packed(fun))

    def value_and_grad(x: np.ndarray) -> tuple[float, np.ndarray]:
        found = np.asarray(both(np.asarray(x)))
        return float(found[0]), found[1:]

    return value_and_grad


def hand_two_arrays(fun: Callable[[jax.Array], jax.Array]) -> Function:
    """The callable of most: two arrays come back."""
    both = jax.jit(jax.value_and_grad(fun))

    def value_and_grad(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = both(np.asarray(x))
        return float(value), np.asarray(grad)

    return value_and_grad


def hand_value(fun: Callable[[jax.Array], jax.Array]) -> Function:
    """The value alone."""
    value = jax.jit(fun)
    return lambda x: float(value(np.asarray(x)))


def on_points(function: Function, points: Sequence[np.ndarray]) -> Callable[[], Any]:
    """Call the function at one point after the other, so that none is the one before."""
    turn = itertools.cycle(points)
    return lambda: function(next(turn))


def over(what: str, against: str, times: Seconds, target: float | None) -> Row:
    """The row of a difference in microseconds, its quartiles over the rounds."""
    differences = [(a - b) * 1e6 for a, b in zip(times["ours"], times["hand"], strict=True)]
    low, middle, high = statistics.quantiles(differences, n=4)
    hand = statistics.median(times["hand"]) * 1e6
    return Row(what, against, round(middle, 2), round(hand, 2), target, (low, high), unit="us")


def evaluation_rows(repeats: int) -> list[Row]:
    """One evaluation, from a vector and from a dict of 20 leaves."""
    rows, rng = [], np.random.default_rng(0)
    points = [rng.normal(size=100) for _ in range(POINTS)]
    flat, dict_of_20 = rosenbrock.build(100), rosenbrock.build(100, leaves=20)
    hands = [
        ("value_and_grad", "packed callable by hand", hand_value_and_grad(flat.fun), 2.0),
        ("value_and_grad", "by hand, two arrays back", hand_two_arrays(flat.fun), None),
        ("fun", "by hand", hand_value(flat.fun), 2.0),
    ]
    for kind, model in (("a vector", flat), ("20 leaves", dict_of_20)):
        problem = sjb.adapt(model.fun, model.params)
        for name, against, theirs, target in hands:
            ours = getattr(problem, name)
            for x in points:
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-9), ours(x), theirs(x))
            contenders = {"ours": on_points(ours, points), "hand": on_points(theirs, points)}
            times = interleave(contenders, ROUNDS * repeats, calls=CALLS)
            rows.append(over(f"{name}, Rosenbrock 100, {kind}: time above", against, times, target))
    return rows


def optimizer_rows(repeats: int) -> list[Row]:
    """Whole runs of SciPy's global optimizers with the same seed."""
    rows = []
    for run, name, size in RUNS:
        model = rosenbrock.build(size)
        problem = sjb.adapt(model.fun, model.params, bounds=(-5.0, 5.0))
        ours, hand = getattr(problem, name), HANDS[name](model.fun)
        mine, other = run(ours, problem), run(hand, problem)
        assert np.array_equal(mine.x, other.x) and (mine.nfev, mine.fun) == (other.nfev, other.fun), run.__name__
        both = {"ours": ours, "hand": hand}
        contenders = {key: functools.partial(run, fun, problem) for key, fun in both.items()}
        times = interleave(contenders, repeats)
        rows.append(compare(f"{run.__name__}, Rosenbrock {size}, nfev {mine.nfev}", times, "ours", "hand", 1.05))
    return rows


def basinhopping(fun: Function, problem: sjb.Adapter) -> Any:
    """Five hops of L-BFGS-B."""
    local = {"jac": True, "method": "L-BFGS-B", "bounds": problem.bounds}
    return scipy.optimize.basinhopping(fun, problem.x0, niter=5, minimizer_kwargs=local, seed=0)


def evolution(fun: Function, problem: sjb.Adapter) -> Any:
    """Sixty generations, and a polish by differences."""
    return scipy.optimize.differential_evolution(fun, problem.bounds, maxiter=60, tol=0.0, polish=True, seed=0)


HANDS = {"value_and_grad": hand_value_and_grad, "fun": hand_value}
RUNS = ((basinhopping, "value_and_grad", 5), (basinhopping, "value_and_grad", 100), (evolution, "fun", 5))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25, help="rounds; 20 times as many of the evaluations (25)")
    repeats = parser.parse_args(argv).repeats
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    print(header(), flush=True)
    print("\n" + table(evaluation_rows(repeats) + optimizer_rows(repeats)))


if __name__ == "__main__":
    main()
