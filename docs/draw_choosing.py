"""Measure, draw the two pictures of choosing.md and write its two tables: `python docs/draw_choosing.py`.

It takes one to two minutes. Times are CPU time of this process, so that other work on the machine does not count.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from figures import COLORS, HERE, MARKERS, save
from matplotlib.axes import Axes

import scipy_jax_bridge as sjb

RUNS = {
    "L-BFGS-B": {},
    'L-BFGS-B, backend="optax"': {"backend": "optax"},
    "BFGS": {"method": "BFGS"},
    "trust-ncg": {"method": "trust-ncg"},
    "Newton-CG": {"method": "Newton-CG"},
    "Nelder-Mead": {"method": "Nelder-Mead"},
    "Adam, best of 3 rates": {"backend": "optax"},
}
REPEATS = 7
FITS = np.unique(np.logspace(0, 3.5, 60).astype(int))


def rosenbrock(x: jax.Array) -> jax.Array:
    """The valley of n numbers."""
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def logistic(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """Logistic regression with a ridge."""
    logits = x @ params["w"] + params["b"]
    return jnp.mean(jnp.logaddexp(0.0, logits) - y * logits) + 1e-4 * jnp.sum(params["w"] ** 2)


def make_problems() -> dict[str, tuple[Any, Any, tuple[Any, ...]]]:
    """The objective, the start and the data of each problem."""
    rng = np.random.default_rng(0)

    def regression(points: int, features: int) -> tuple[Any, Any, tuple[Any, ...]]:
        x = rng.normal(size=(points, features)) * np.logspace(
            -1, 1, features
        )  # features of different sizes
        y = (x @ rng.normal(size=features) + 3.0 * rng.logistic(size=points) > 0).astype(float)
        return (
            logistic,
            {"w": jnp.zeros(features), "b": jnp.zeros(())},
            (jnp.asarray(x), jnp.asarray(y)),
        )

    return {
        "Rosenbrock, n = 30": (rosenbrock, jnp.full(30, -1.0), ()),
        "logistic regression, 500 x 20": regression(500, 20),
        "logistic regression, 20,000 x 100": regression(20_000, 100),
    }


class Solve(NamedTuple):
    """A warm solve, with the CPU seconds at which each row of its trace was written."""

    result: sjb.Result
    seconds: np.ndarray


def solve(problem: tuple[Any, Any, tuple[Any, ...]], **run: Any) -> Solve:
    """The median of some warm solves by time."""
    fun, start, args = problem
    limits = {"gtol": 1e-8, "ftol": 0.0, "maxiter": 20_000, "maxfun": 20_000}
    if run.get("method") == "Nelder-Mead":
        limits.pop("gtol")
    solver = sjb.Minimizer(fun, options=limits, **run)
    solver.compile(start, args)
    solver(start, args)
    solves = []
    for _ in range(REPEATS):
        began = time.process_time()
        result = solver(start, args)
        spent = time.process_time() - began
        seconds = np.asarray(result.trace.seconds)
        solves.append(Solve(result, seconds * spent / seconds[-1]))
    return sorted(solves, key=lambda each: each.seconds[-1])[REPEATS // 2]


def solve_adam(problem: tuple[Any, Any, tuple[Any, ...]]) -> Solve:
    """The lowest end of three learning rates."""
    ends = [
        solve(problem, backend="optax", method=optax.adam(rate)) for rate in (0.003, 0.03, 0.3)
    ]
    return min(ends, key=lambda each: float(each.result.fun))


def measure_methods(problem: tuple[Any, Any, tuple[Any, ...]]) -> dict[str, Solve]:
    """One result for each method."""
    return {
        name: solve_adam(problem) if "Adam" in name else solve(problem, **run)
        for name, run in RUNS.items()
    }


def draw_methods(axes: list[Axes], found: dict[str, dict[str, Solve]]) -> None:
    """The distance to the minimum over the time of solving."""
    for ax, (title, solves) in zip(axes, found.items(), strict=True):
        least = min(float(each.result.fun) for each in solves.values())
        for (name, each), color, marker in zip(solves.items(), COLORS, MARKERS, strict=False):
            gap = np.minimum.accumulate(np.asarray(each.result.trace.fun)) - least
            ms = 1e3 * each.seconds
            ax.loglog(ms, np.maximum(gap, 1e-16), color=color, label=name, lw=1.3)
            ax.plot(ms[-1], max(gap[-1], 1e-16), marker, color=color, ms=4)
        ax.set_title(title)
        ax.set_xlabel("milliseconds of solving, CPU time")
    axes[0].set_ylabel("objective less the minimum")
    axes[0].legend(fontsize=7, loc="lower left")


def measure_backends(problem: tuple[Any, Any, tuple[Any, ...]]) -> dict[str, tuple[float, float]]:
    """Seconds of compiling and of one warm solve, for each backend."""
    fun, start, args = problem
    seconds = {}
    for backend in ("scipy", "optax"):
        solver = sjb.Minimizer(fun, backend=backend)
        times = []
        for call in (solver.compile, *[solver] * REPEATS):
            began = time.process_time()
            jax.block_until_ready(call(start, args))
            times.append(time.process_time() - began)
        seconds[backend] = times[0], statistics.median(times[1:])
    return seconds


def draw_backends(axes: list[Axes], found: dict[str, dict[str, tuple[float, float]]]) -> None:
    """Compiling and solving together, over the number of fits."""
    for ax, (title, seconds) in zip(axes, found.items(), strict=True):
        for (backend, (compile_s, solve_s)), color in zip(seconds.items(), COLORS, strict=False):
            ax.loglog(FITS, compile_s + FITS * solve_s, color=color, label=backend)
        ax.set_title(title)
        ax.set_xlabel("fits of one shape")
    axes[0].set_ylabel("CPU seconds, compiling included")
    axes[0].legend()


def write_table(name: str, head: list[str], rows: list[list[str]]) -> None:
    """Put a table into choosing.md between the marks of that name."""
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    load = f"load average {os.getloadavg()[0]:.1f}"
    machine = f"{os.cpu_count()} cores of a shared machine with other work, {load}"
    note = f"`python docs/draw_choosing.py`, {machine}; CPU time, float64, medians of {REPEATS}."
    page = HERE / "choosing.md"
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(start)
    _, after = rest.split(end)
    page.write_text(f"{before}{start}\n\n{note}\n\n{table}\n\n{end}{after}", encoding="utf-8")


def write_ms(seconds: float) -> str:
    """Milliseconds in three digits."""
    return f"{float(f'{1e3 * seconds:.3g}'):,g} ms"


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    problems = make_problems()
    backends = {title: measure_backends(problem) for title, problem in problems.items()}
    small = list(problems)[:2]
    methods = {title: measure_methods(problems[title]) for title in small}
    save("backends", lambda axes: draw_backends(axes, backends), columns=3, height=3.0)
    save("methods", lambda axes: draw_methods(axes, methods), height=4.0)
    head = ["problem", "scipy: compile", "solve", "optax: compile", "solve"]
    rows = [
        [title, *(write_ms(each) for pair in found.values() for each in pair)]
        for title, found in backends.items()
    ]
    write_table("backends", head, rows)
    head = ["method", *(cell for title in small for cell in (title, "nfev", "solve"))]
    rows = [[name] for name in RUNS]
    for row in rows:
        for each in [methods[title][row[0]] for title in small]:
            cells = [
                str(each.result.status),
                f"{int(each.result.nfev):,}",
                write_ms(each.seconds[-1]),
            ]
            row += cells
    write_table("methods", head, rows)
