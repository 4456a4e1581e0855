"""What the rows of the CUTEst benchmark say: counts, agreement with SciPy, ratios, medians."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import geometric_mean, median
from typing import Any

from peers import LABELS

Row = dict[str, Any]
SOLVED_SHARE = 1.0 - 1e-6  # of the best reduction any solver found
SHORT_RUN = 50  # iterations; longer runs amplify rounding until the two part
PAIRS = (("sjb", "optax_loop"), ("sjb", "scipy"), ("sjb_scipy", "scipy"))


class Table:
    """The rows of one run, by (problem, solver) within each kind.

    Attributes:
        cells: kind -> (problem, solver) -> row.
        best: kind -> problem -> the solver and value of the lowest final objective.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self.cells: dict[str, dict[tuple[str, str], Row]] = {}
        for row in rows:
            self.cells.setdefault(row["kind"], {})[row["problem"], row["solver"]] = row
        self.best = {kind: self._best(kind) for kind in self.cells}

    def problems(self, kind: str) -> list[str]:
        """The problems of this kind, in the order in which they were run."""
        return list(dict.fromkeys(problem for problem, _ in self.cells.get(kind, ())))

    def solvers(self, kind: str) -> list[str]:
        """The solvers that ran on problems of this kind."""
        present = {solver for _, solver in self.cells.get(kind, ())}
        return [solver for solver in LABELS if solver in present]

    def get(self, kind: str, problem: str, solver: str) -> Row | None:
        """The row of one cell that ran to its end."""
        row = self.cells.get(kind, {}).get((problem, solver))
        return None if row is None or row["error"] else row

    def solved(self, kind: str, problem: str, solver: str) -> bool:
        """Whether the final objective is within 1e-6 of the best reduction any solver found."""
        row = self.get(kind, problem, solver)
        best = self.best[kind].get(problem)
        if row is None or best is None or row["fun"] is None:
            return False
        return row["fun0"] - row["fun"] >= SOLVED_SHARE * (row["fun0"] - best[1])

    def costs(self, kind: str, field: str, solvers: Sequence[str]) -> dict[str, list[float]]:
        """Costs for a profile: infinite where the solver failed or the cost is unknown."""

        def cost(problem: str, solver: str) -> float:
            row = self.get(kind, problem, solver)
            known = row is not None and row[field] and self.solved(kind, problem, solver)
            return row[field] if row is not None and known else math.inf

        problems = self.problems(kind)
        return {LABELS[s]: [cost(problem, s) for problem in problems] for s in solvers}

    def pairs(self, kind: str, field: str, one: str, other: str, solved: bool) -> list[float]:
        """Ratios one / other of a field over the problems that both ran (or both solved)."""
        ratios = []
        for problem in self.problems(kind):
            first, second = self.get(kind, problem, one), self.get(kind, problem, other)
            if first is None or second is None or not (first[field] and second[field]):
                continue
            if solved and not all(self.solved(kind, problem, s) for s in (one, other)):
                continue
            ratios.append(first[field] / second[field])
        return ratios

    def _best(self, kind: str) -> dict[str, tuple[str, float]]:
        best: dict[str, tuple[str, float]] = {}
        for (problem, solver), row in self.cells[kind].items():
            fun = None if row["error"] or row["fun0"] is None else row["fun"]
            if fun is not None and (problem not in best or fun < best[problem][1]):
                best[problem] = solver, fun
        return best


def report(table: Table) -> str:
    """The whole report as text."""
    parts = []
    for kind in table.cells:
        parts += [_counts(table, kind), _ratios(table, kind), _failures(table, kind)]
    if any("sjb" in table.solvers(kind) for kind in table.cells):
        parts += [_agreement(table)]
    return "\n\n".join(part for part in parts if part)


def _counts(table: Table, kind: str) -> str:
    """One line a solver: solved, evaluations against SciPy, median cold and warm time."""
    count = len(table.problems(kind))
    lines = [f"{kind}: {count} problems"]
    lines += [f"{'':24}{'solved':>8}{'evals/SciPy':>13}{'cold s':>9}{'warm ms':>9}{'errors':>8}"]
    for solver in table.solvers(kind):
        rows = [row for (_, s), row in table.cells[kind].items() if s == solver]
        solved = sum(table.solved(kind, row["problem"], solver) for row in rows)
        evaluations = table.pairs(kind, "nfev", solver, "scipy", solved=True)
        warm = _known(row["warm_s"] and 1e3 * row["warm_s"] for row in rows)
        cold = _known(row["compile_s"] for row in rows)
        errors = sum(bool(row["error"]) for row in rows)
        lines += [
            f"{LABELS[solver]:24}{solved:8d}{_of(geometric_mean, evaluations):>13}"
            f"{_of(median, cold):>9}{_of(median, warm):>9}{errors:8d}"
        ]
    return "\n".join(lines)


def _ratios(table: Table, kind: str) -> str:
    """Cold and warm times of this package against what each backend replaces."""
    lines = [f"{kind}: time ratios, median over problems [ratio of the medians]"]
    for one, other in PAIRS:
        for field, word in (("compile_s", "cold"), ("warm_s", "warm")):
            ratios = table.pairs(kind, field, one, other, solved=field == "warm_s")
            if ratios:
                medians = [_median_time(table, kind, field, solver) for solver in (one, other)]
                lines += [
                    f"  {word}, {LABELS[one]} / {LABELS[other]}: {median(ratios):.3g} [{medians[0] / medians[1]:.3g}]"
                ]
    return "\n".join(lines) if len(lines) > 1 else ""


def _agreement(table: Table) -> str:
    """The share of short SciPy runs that the engine repeats iteration by iteration."""
    lines, same, total = [], 0, 0
    for kind in table.cells:
        short = [problem for problem in table.problems(kind) if _is_short(table, kind, problem)]
        pairs = {problem: _counts_of(table, kind, problem) for problem in short}
        apart = {problem: pair for problem, pair in pairs.items() if pair[0] != pair[1]}
        same, total = same + len(pairs) - len(apart), total + len(pairs)
        lines += [f"  {kind}: {len(pairs) - len(apart)} of {len(pairs)}"]
        lines += [f"    {name:12} SciPy {one}, engine {two}" for name, (one, two) in apart.items()]
    share = f" ({same / total:.1%})" if total else ""
    head = f"engine repeats SciPy's (nit, nfev) on {same} of {total} short runs{share}"
    return "\n".join([head, *lines])


def _is_short(table: Table, kind: str, problem: str) -> bool:
    """Whether SciPy ended by its gradient rule within the iterations that can be compared."""
    row = table.get(kind, problem, "scipy")
    return row is not None and "PROJECTED GRADIENT" in row["message"] and row["nit"] <= SHORT_RUN


def _counts_of(table: Table, kind: str, problem: str) -> list[tuple[int, int] | None]:
    rows = [table.get(kind, problem, solver) for solver in ("scipy", "sjb")]
    return [None if row is None else (row["nit"], row["nfev"]) for row in rows]


def _failures(table: Table, kind: str) -> str:
    """Every cell that did not solve its problem, with how it ended and who did better."""
    lines = [f"{kind}: not solved"]
    for (problem, solver), row in table.cells[kind].items():
        if table.solved(kind, problem, solver):
            continue
        best = table.best[kind].get(problem, ("nobody", math.nan))
        ended = row["error"] or (
            f"nit {row['nit']}, nfev {row['nfev']}, |pg| {_short(row['grad_norm'])}, "
            f"f {_short(row['fun'])} {row['message']}"
        )
        lines += [f"  {problem:12} {solver:16} {ended}; best {_short(best[1])} by {best[0]}"]
    return "\n".join(lines) if len(lines) > 1 else ""


def _median_time(table: Table, kind: str, field: str, solver: str) -> float:
    rows = table.cells[kind].items()
    return median(_known(row[field] for (_, s), row in rows if s == solver))


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _of(average: Callable[[list[float]], float], values: list[float]) -> str:
    return f"{average(values):.3g}" if values else "-"


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.8g}"
