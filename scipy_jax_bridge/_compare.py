"""Several runs of one problem side by side: what each found, and what it cost.

Compilation is measured apart and ahead of time. The solves are interleaved, so that a machine that slows down
slows every run alike, and each has ended on its device before the clock stops.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import PyTree

from . import _show, _verdict
from ._minimize import Minimizer
from ._result import Result
from ._verdict import Gap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What `compare` found; `print` it, or `plot` it.

    Attributes:
        results: the result of each run by name; of its repeated solves, the one of median time.
        compile_s: seconds that each run spent compiling, before its first solve.
        solve_s: seconds of each of its solves.
    """

    results: Mapping[str, Result]
    compile_s: Mapping[str, float]
    solve_s: Mapping[str, tuple[float, ...]]

    def rows(self) -> list[dict[str, Any]]:
        """A plain dict for each run, of Python's own strings and numbers, ready for a data frame.

        Returns:
            Dicts of run, backend, method, fun, grad_norm, nit, nfev, compile_s, solve_s (the
            median), solve_s_min, solve_s_max and status (its name).
        """
        return [
            {
                "run": name,
                "backend": result.backend,
                "method": str(result.method),
                "fun": float(result.fun),
                "grad_norm": float(np.asarray(result.trace.grad_norm)[-1]),
                "nit": int(result.nit),
                "nfev": int(result.nfev),
                "compile_s": self.compile_s[name],
                "solve_s": statistics.median(self.solve_s[name]),
                "solve_s_min": min(self.solve_s[name]),
                "solve_s_max": max(self.solve_s[name]),
                "status": result.status.name,
            }
            for name, result in self.results.items()
        ]

    @property
    def best(self) -> str:
        """The name of the run with the least objective; of equal ones the first."""
        return _verdict.find_best(self.results)

    def gaps(self) -> dict[str, Gap]:
        """How far from the best run each of the others ended."""
        best = self.results[self.best]
        others = {name: result for name, result in self.results.items() if name != self.best}
        return {name: _verdict.measure_gap(result, best) for name, result in others.items()}

    def break_even(self) -> list[tuple[int, str]]:
        """Which run takes the least time, compilation included, from which number of solves on.

        Returns:
            Pairs (number of solves, name) in increasing order, the first number being 1. Only runs that reached
            the best objective take part. `[(1, "scipy"), (48, "optax")]`: "scipy" takes less time up to 47 solves.
        """
        return _verdict.find_switches(self._costs())

    def notes(self) -> list[str]:
        """The sentences below the table: did the runs end at one minimum, and which takes less time."""
        if len(self.results) < 2:
            return []
        agreement = _verdict.describe_agreement(self.results, self.gaps())
        if not math.isfinite(float(self.results[self.best].fun)):
            return agreement
        return [*agreement, _verdict.describe_switches(self.break_even(), len(self._costs()))]

    def plot(self, path: str | Path | None = None, *, title: str | None = None) -> Figure:
        """Draws the objective, less the best found, against seconds and against evaluations.

        Bars below the curves set the time of compilation beside that of a solve.

        Arguments:
            path: where to write the picture; its ending says the format, such as ".png" or ".svg".
            title: a line above the picture.

        Returns:
            The Matplotlib figure. A notebook shows it.

        Errors:
            ModuleNotFoundError: Matplotlib is not installed; the message names the extra.
        """
        curves = [
            _show.Curve(
                name=row["run"],
                seconds=np.asarray(trace.seconds, np.float64),
                evaluations=np.asarray(trace.nfev, np.float64),
                values=np.asarray(trace.fun, np.float64),
                compile_s=row["compile_s"],
                solve_s=row["solve_s"],
            )
            for row, trace in zip(self.rows(), (each.trace for each in self.results.values()), strict=True)
        ]
        return _show.draw(curves, path, title)

    def __str__(self) -> str:
        return _show.write_table(self.rows(), self.notes())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _show.write_html(self.rows(), self.notes())

    def _costs(self) -> dict[str, tuple[float, float]]:
        """Seconds of compilation and of a solve, of the runs that reached the best objective."""
        gaps = self.gaps()
        able = [row for row in self.rows() if row["run"] not in gaps or gaps[row["run"]].low]
        return {row["run"]: (row["compile_s"], row["solve_s"]) for row in able}


def compare(
    fun: Callable[..., Any],
    params: PyTree,
    args: tuple[PyTree, ...] = (),
    *,
    backends: Sequence[str] = ("scipy", "optax"),
    runs: Mapping[str, Mapping[str, Any]] | None = None,
    repeats: int = 5,
    **as_minimize: Any,
) -> Comparison:
    """Solves one problem with several backends from the same start, and sets them side by side.

    Every run compiles for itself, even what this process has compiled before, so that the seconds
    of compilation are those of a fresh start.

    Arguments:
        fun: the objective, `fun(params, *args)` is a real scalar.
        params: the start, a pytree.
        args: the data, pytrees.
        backends: the backends to compare, when `runs` is None.
        runs: the entries to compare by name, each with its own keyword arguments of `Minimizer`,
            which override those of `as_minimize`.
        repeats: how often to solve with each; the table shows the median.
        **as_minimize: keyword arguments of `Minimizer` for all, such as `bounds` or `options`.

    Returns:
        The comparison; `print` shows a table.

    Errors:
        ValueError: `repeats` is less than 1, or there is nothing to compare.

    Example:
        >>> comparison = compare(lambda x: ((x - 3.0) ** 2).sum(), np.zeros(2), repeats=1)
        >>> [row["status"] for row in comparison.rows()]
        ['GTOL', 'GTOL']
    """
    entries = _check_runs(runs, backends, repeats)
    solvers = {name: Minimizer(_rename(fun), **{**as_minimize, **entry}) for name, entry in entries.items()}
    compile_s = {name: solver.compile(params, args) for name, solver in solvers.items()}
    solves: dict[str, list[tuple[float, Result]]] = {name: [] for name in solvers}
    for _ in range(repeats):
        for name, solver in solvers.items():
            solves[name].append(_time_solve(solver, params, args))
    return Comparison(
        results={name: _take_median(each) for name, each in solves.items()},
        compile_s={
            name: compile_s[name] + sum(float(result.timing.compile_s) for _, result in each)
            for name, each in solves.items()
        },
        solve_s={name: tuple(seconds for seconds, _ in each) for name, each in solves.items()},
    )


def _check_runs(
    runs: Mapping[str, Mapping[str, Any]] | None, backends: Sequence[str], repeats: int
) -> dict[str, dict[str, Any]]:
    """The keyword arguments of each run by name."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats!r}.")
    if runs is None:
        runs = {name: {"backend": name} for name in ([backends] if isinstance(backends, str) else backends)}
    if not runs:
        raise ValueError('there is nothing to compare; name a backend at least, such as backends=("scipy", "optax").')
    return {name: dict(entry) for name, entry in runs.items()}


def _rename(fun: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, but one that was never compiled."""

    @functools.wraps(fun)
    def fresh(*inputs: Any) -> Any:
        return fun(*inputs)

    return fresh


def _time_solve(solver: Minimizer, params: PyTree, args: tuple[PyTree, ...]) -> tuple[float, Result]:
    """Seconds of one solve, and what it found; what it compiles after all does not count as solving."""
    start = time.perf_counter()
    result = jax.block_until_ready(solver(params, args))
    return time.perf_counter() - start - float(result.timing.compile_s), result


def _take_median(solves: Sequence[tuple[float, Result]]) -> Result:
    """The result of the solve of median time, so that its trace tells of a usual one."""
    return sorted(solves, key=lambda solve: solve[0])[(len(solves) - 1) // 2][1]
