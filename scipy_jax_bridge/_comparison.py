"""What several runs of one problem found, and what each cost, for people to read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _show, _verdict
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
        between: for each run that did not end where the best did, objectives on the straight way there.
    """

    results: Mapping[str, Result]
    compile_s: Mapping[str, float]
    solve_s: Mapping[str, tuple[float, ...]]
    between: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

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
                "grad_norm": _final_norm(result),
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
        return {name: _verdict.measure_gap(result, best, self.between.get(name, ())) for name, result in others.items()}

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


def _final_norm(result: Result) -> float:
    """Max abs of the projected gradient at the end; NaN after a method that uses none."""
    norms, values = np.asarray(result.trace.grad_norm, np.float64), np.asarray(result.trace.fun)
    places = np.flatnonzero(values == float(result.fun))
    return float(norms[places[-1] if places.size else -1]) if norms.size else math.nan
