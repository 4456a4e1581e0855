"""SciPy, this package and its peers on the CUTEst problems of sif2jax.

    python benchmarks/cutest.py --out cutest.json --plot cutest.png
    python benchmarks/cutest.py --reuse cutest.json --only sjb --out again.json

Double precision, problems of at most 500 variables, gtol 1e-5, ftol 0, 2000 iterations. A problem
counts as solved when its final objective is within 1e-6 of the best reduction any solver found.
Cold time is tracing plus compiling ahead of time; warm time is the median of a few solves. Rows are
written as they come, and `--reuse` takes over those it finds, so a run that stopped goes on.

Problems I to Z are for judging: the default is A to H, and development stays there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cutest_measure import failed_row, measure, use_doubles
from cutest_problems import KINDS, select
from cutest_report import Row, Table, report
from peers import LABELS, SOLVERS, Settings
from profiles import draw
from timeguard import CallFailed, Worker

Key = tuple[str, str, str]  # kind, problem, solver
MAX_N = 500
REPEATS = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cells that are missing, writes the rows, prints the report, draws the profiles."""
    options = _parse(argv)
    rows = _reused(options.reuse, options.only)
    cells = {}
    with Worker(use_doubles) as worker:
        wanted = worker.call(select, options.kind, options.letters, options.problems, MAX_N)
        for kind, name, size in wanted:
            for solver in SOLVERS[kind]:
                key = kind, name, solver
                if key not in rows and solver in options.only:
                    rows[key] = _cell(worker, *key, size, options)
                    _write(options.out, rows)
                    print(_line(rows[key]), flush=True)
                if key in rows:
                    cells[key] = rows[key]
    table = Table(cells.values())
    print("\n" + report(table))
    if options.plot:
        draw(options.plot, _panels(table))


def _cell(worker: Worker, kind: str, name: str, solver: str, size: int, options: argparse.Namespace) -> Row:
    """Measures one cell; a solver that raises or takes too long leaves a row that says so."""
    repeats = 0 if options.quick else REPEATS
    try:
        limit = options.seconds
        return worker.call(measure, kind, name, solver, Settings(), repeats, limit=limit)
    except CallFailed as failure:
        return failed_row(kind, name, solver, size, str(failure))


def _reused(path: Path | None, only: Sequence[str]) -> dict[Key, Row]:
    """The rows of an earlier run; with `--only`, without those of the solvers to run again."""
    if path is None:
        return {}
    again = () if set(only) == set(LABELS) else only
    rows = json.loads(path.read_text())["rows"]
    return {_key(row): row for row in rows if row["solver"] not in again}


def _key(row: Row) -> Key:
    return row["kind"], row["problem"], row["solver"]


def _write(path: Path | None, rows: dict[Key, Row]) -> None:
    """Replaces the file in one move, so that a run that is stopped leaves a whole one."""
    if path is None:
        return
    partial = path.with_suffix(path.suffix + ".partial")
    content = {"settings": Settings().as_options(), "rows": [*rows.values()]}
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)


def _line(row: Row) -> str:
    """One finished cell on one line."""
    head = f"{row['problem']:12}{row['solver']:17}n {row['n']:<4}"
    if row["error"]:
        return f"{head} {row['error']}"
    fun = "not finite" if row["fun"] is None else f"{row['fun']:.9g}"
    times = f"cold {row['compile_s']:.2f} s, first {row['first_s']:.3f} s"
    return f"{head} nit {row['nit']:<5} nfev {row['nfev']:<6} f {fun:17} {times}"


def _panels(table: Table) -> dict[str, dict[str, list[float]]]:
    """The profiles to draw: evaluations for each kind, and warm time where it was measured."""
    panels = {}
    for kind in table.cells:
        solvers = [solver for solver in table.solvers(kind) if solver != "sjb_scipy"]
        for field, word in (("nfev", "evaluations"), ("warm_s", "warm time")):
            if any(row[field] for row in table.cells[kind].values()):
                panels[f"{kind}: {word}"] = table.costs(kind, field, solvers)
    return panels


def _letters(text: str) -> tuple[str, str]:
    first, _, last = text.upper().partition("-")
    return first, last or first


def _names(text: str) -> list[str]:
    return text.split(",")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--letters", type=_letters, default=("A", "H"), help="initials of problems (A-H)")
    add("--kind", choices=KINDS, action="append", help="one kind only; both when left out")
    add("--problems", type=_names, default=[], metavar="NAME,NAME", help="these problems only")
    add("--only", type=_names, default=list(LABELS), metavar="SOLVER,SOLVER", help=f"of {[*LABELS]}")
    add("--reuse", type=Path, metavar="FILE", help="take over the rows of an earlier run")
    add("--out", type=Path, metavar="FILE", help="write the rows as JSON while they come")
    add("--plot", type=Path, metavar="FILE", help="draw the Dolan-Moré performance profiles")
    add("--quick", action="store_true", help="solve once, no warm times")
    add("--seconds", type=float, default=180.0, help="limit for one solver on one problem (180)")
    options = parser.parse_args(argv)
    options.kind = options.kind or KINDS
    if unknown := set(options.only) - set(LABELS):
        parser.error(f"--only knows {', '.join(LABELS)}, not {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
