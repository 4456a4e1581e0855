"""The result of `compare`: what each run found and cost, with tables, notes, plots and a report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._render import figure as _figure, page as _page, table as _table
from .._render.panels import Curve, as_written
from .._result import Result
from .._summary import curve_of
from . import verdict as _verdict
from .ends import tabulate_ends
from .provenance import Provenance
from .verdict import Gap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TimeBreakdown(NamedTuple):
    """Fractions of a solve's time, which sum to 1; NaN where they were not measured.

    Attributes:
        objective: evaluating the objective and its gradient on the device.
        transfers: to the device and back, dispatch included.
        solver: the rest: the method itself, its line search, the record.
    """

    objective: float
    transfers: float
    solver: float


UNKNOWN = TimeBreakdown(float("nan"), float("nan"), float("nan"))
SHARES = ("objective_share", "transfer_share", "solver_share")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What `compare` found; `print` it, or `plot` it.

    Attributes:
        results: the result of each run by name; of its repeated solves, the one of median time.
        compile_s: seconds that each run spent compiling, before its first solve.
        solve_s: seconds of each of its solves.
        between: for each run that ended elsewhere than the best, objectives on the straight line to the best.
        shares: the fractions of its median solve spent in the objective, in transfers and in the solver.
        start: the tree of params where the solves began.
        setting: the problem, the exact settings of each run, versions and hardware, in words.
    """

    results: Mapping[str, Result[Any, Any]]
    compile_s: Mapping[str, float]
    solve_s: Mapping[str, tuple[float, ...]]
    between: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    shares: Mapping[str, TimeBreakdown] = field(default_factory=dict)
    start: Any = None
    setting: Provenance = field(default_factory=Provenance)

    def __getstate__(self) -> dict[str, Any]:
        """Return plain fields, so that a pickle names no private module."""
        shares = {name: tuple(parts) for name, parts in self.shares.items()}
        return vars(self) | {"shares": shares, "setting": vars(self.setting)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        setting = state["setting"]
        setting = Provenance(**setting) if isinstance(setting, dict) else setting  # older pickles hold the object
        shares = {name: TimeBreakdown(*parts) for name, parts in state["shares"].items()}
        vars(self).update(state, shares=shares, setting=setting)

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict of plain strings and numbers for each run, ready for a data frame.

        Returns:
            Dicts of run, backend, method, fun, grad_norm, nit, nfev, compile_s, solve_s (the
            median), solve_s_min, solve_s_max, objective_share, transfer_share, solver_share (parts of the
            solve, NaN where they were not measured) and status (its name).
        """
        return [
            {
                "run": name,
                "backend": result.backend,
                "method": str(result.method),
                "fun": float(result.fun),
                "grad_norm": result.grad_norm,
                "nit": int(result.nit),
                "nfev": int(result.nfev),
                "compile_s": self.compile_s[name],
                "solve_s": statistics.median(self.solve_s[name]),
                "solve_s_min": min(self.solve_s[name]),
                "solve_s_max": max(self.solve_s[name]),
                **dict(zip(SHARES, self.shares.get(name, UNKNOWN), strict=True)),
                "status": result.status.name,
            }
            for name, result in self.results.items()
        ]

    @property
    def best(self) -> str:
        """The name of the run with the least objective; of equal ones the first."""
        return _verdict.find_best(self.results)

    def gaps(self) -> dict[str, Gap]:
        """Return how far from the best run each of the others ended."""
        best = self.results[self.best]
        others = {name: result for name, result in self.results.items() if name != self.best}
        return {name: _verdict.measure_gap(result, best, self.between.get(name, ())) for name, result in others.items()}

    def break_even(self) -> list[tuple[int, str]]:
        """Return which run takes the least time, compilation included, from which number of solves on.

        Returns:
            Pairs (number of solves, name) in increasing order, the first number being 1. Only runs that reached
            the best objective take part. `[(1, "scipy"), (48, "optax")]`: "scipy" takes less time up to 47 solves.
        """
        return _verdict.find_break_even_points(self._costs())

    def recommend(self, solves: int = 1) -> str:
        """Return the run that takes the least time, compilation included, of those that reached the best objective.

        Args:
            solves: the number of solves of problems of this shape. Default 1.

        Returns:
            Its name.

        Raises:
            ValueError: `solves` is less than 1.
        """
        if solves < 1:
            raise ValueError(f"solves must be at least 1, not {solves!r}.")
        return [name for start, name in self.break_even() if start <= solves][-1]

    def notes(self) -> list[str]:
        """Return the sentences below the table.

        They say whether the runs ended at one minimum, whether their precision and stopping rule were alike, which
        takes the least time, and which to take.
        """
        if len(self.results) < 2:
            return []
        agreement = _verdict.describe_agreement(self.results, self.gaps())
        if not math.isfinite(float(self.results[self.best].fun)):
            return agreement
        points, able = self.break_even(), list(self._costs())
        advice = _verdict.recommend(points, {name: self.solve_s[name] for name in able})
        unlike = _verdict.describe_unlike(self._rules())
        return [*agreement, *unlike, _verdict.describe_break_even(points, len(able)), advice]

    def plot(self, path: str | Path | None = None, *, title: str | None = None, dark: bool = False) -> Figure:
        """Draw the runs.

        The panels show the objective against seconds and evaluations, compilation beside a solve, the costs of many
        solves, and how far each leaf moved from the start.

        Args:
            path: where to write the picture; its ending is the format, such as ".png" or ".svg".
            title: a line above the picture. Default: the name of the objective.
            dark: light on dark, for a dark page. Default False.

        Returns:
            The Matplotlib figure. A notebook shows it.

        Raises:
            ModuleNotFoundError: Matplotlib is not installed; the message names the extra.
        """
        return _figure.draw(self._curves(), self.drifts(), path, title or as_written(self._name), dark=dark)

    def report(self, path: str | Path, *, title: str | None = None) -> Path:
        """Write one self-contained HTML page: verdict, tables, plots, settings, versions, hardware.

        Args:
            path: where to write it, such as "comparison.html".
            title: the heading. Default: the name of the objective.

        Returns:
            The path.

        Raises:
            ModuleNotFoundError: Matplotlib is not installed; the message names the extra.
        """
        text = _page.PageText(
            title=title or self._name or "A comparison",
            notes=self.notes(),
            gaps={name: (gap.fun, gap.params, gap.leaf) for name, gap in self.gaps().items()},
            ends=self._ends(),
            solve_s=self.solve_s,
            problem=self.setting.problem,
            runs=self.setting.runs,
            machine=self.setting.machine,
        )
        return _page.write_page(path, text, self.rows(), self._curves(), self.drifts())

    def drifts(self) -> dict[str, dict[str, float]]:
        """Return for each run the largest change from the start in each floating-point leaf, by path."""
        if self.start is None:
            return {}
        return {name: _verdict.measure_change(self.start, result.params) for name, result in self.results.items()}

    def __str__(self) -> str:
        return _table.write_table(self.rows(), self.notes(), self._ends())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _table.write_html(self.rows(), self.notes(), self._ends())

    @property
    def _name(self) -> str:
        return self.setting.problem.get("objective", "").rpartition(".")[2]

    def _ends(self) -> list[_table.Table]:
        """Return the table of where the runs ended; none without leaves to show."""
        table = tabulate_ends(self.results, self.best)
        return [table] if table[1] else []

    def _curves(self) -> list[Curve]:
        return [
            curve_of(result.trace, row["run"], row["compile_s"], row["solve_s"])
            for row, result in zip(self.rows(), self.results.values(), strict=True)
        ]

    def _rules(self) -> dict[str, dict[str, str]]:
        """Return what has to be alike for times to compare: the precision and the stopping rule of each run."""
        precision = {name: str(np.asarray(result.fun).dtype) for name, result in self.results.items()}
        runs = self.setting.runs.items()
        return {"precision": precision, **{key: {name: run[key] for name, run in runs} for key in ("gtol", "ftol")}}

    def _costs(self) -> dict[str, tuple[float, float]]:
        """Return the seconds of compilation and of a solve, for the runs that reached the best objective."""
        gaps = self.gaps()
        able = [row for row in self.rows() if row["run"] not in gaps or gaps[row["run"]].same_fun]
        return {row["run"]: (row["compile_s"], row["solve_s"]) for row in able}
