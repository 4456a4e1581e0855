"""What `compare` costs beside the solves and the compilations that it times.

    python benchmarks/overhead.py

Overhead is the time of the whole call less the compilations of the runs and less the timed solves. It holds the
warm-up, the measuring of shares and the record of settings. By default shares are measured where that is cheap;
with shares=True always, which compiles the objective once more where an evaluation is short.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax

import scipy_jax_bridge as sjb
from problem_set import Case, diagonal, from_model, from_workload
from results import Table, header, save

ROUNDS = 3


def measure(case: Case, repeats: int, **settings: Any) -> tuple[float, float]:
    """Seconds of overhead, and of the solves."""
    began = time.perf_counter()
    comparison = sjb.compare(case.make(), case.params, case.args, bounds=case.bounds, repeats=repeats, **settings)
    whole = time.perf_counter() - began
    in_a_row = {name: int(run["timed in a row"]) for name, run in comparison.setting.runs.items()}
    solves = sum(in_a_row[name] * sum(seconds) for name, seconds in comparison.solve_s.items())
    return whole - sum(comparison.compile_s.values()) - solves, solves


def repeats_for(case: Case, seconds: float) -> int:
    """How many repeats make so many seconds of solving."""
    comparison = sjb.compare(case.make(), case.params, case.args, bounds=case.bounds, repeats=3, shares=False)
    return max(1, round(seconds / sum(row["solve_s"] for row in comparison.rows())))


def cases() -> list[tuple[Case, float]]:
    """Problems, and the seconds of solving in all."""
    digits, rosenbrock = from_model("digits", "digits, logistic (650)"), from_model("rosenbrock", "Rosenbrock (100)")
    process = from_workload("Gaussian process, 3 parameters", "Gaussian process (3)")
    return [(digits, 1.0), (rosenbrock, 1.0), (process, 1.0), (diagonal(), 1.0), (digits, 5.0)]


def main() -> None:
    """Measures and prints the table."""
    jax.config.update("jax_enable_x64", True)
    print(header(), flush=True)
    lines = []
    for case, seconds in cases():
        repeats = repeats_for(case, seconds)
        found = {
            words: [measure(case, repeats, shares=shares) for _ in range(ROUNDS)]
            for words, shares in (("default", None), ("asked for", True), ("refused", False))
        }
        parts = {words: [extra / solves for extra, solves in each] for words, each in found.items()}
        solves = statistics.median(seconds for _, seconds in found["default"])
        middle = {words: f"{statistics.median(each):.1%}" for words, each in parts.items()}
        absolute = statistics.median(extra for extra, _ in found["default"])
        lines.append((case.name, str(repeats), f"{solves:.2f} s", f"{absolute * 1e3:.0f} ms", *middle.values()))
        print(" | ".join(lines[-1]), flush=True)
    head = ("problem", "repeats", "solves in all", "overhead", "part of the solves", "shares=True", "shares=False")
    save("overhead", [Table("Overhead of compare", head, lines)])


if __name__ == "__main__":
    main()
