"""Is the break-even that `compare` tells true? It is checked by running both backends that many times.

    python benchmarks/break_even.py
    python benchmarks/break_even.py --cases rosenbrock,digits

For each problem `compare` names the run to take for so many solves. Half its break-even and twice it are then run for
real with both backends: a new function, compiled, and solved so often. Right is who was named in both. Where no
break-even is named, one solve and a hundred are run.
"""

from __future__ import annotations

import argparse
import time

import jax

import scipy_jax_bridge as sjb
from problem_set import CASES, Case
from results import Table, header, save

BACKENDS = ("scipy", "optax")
TURNS = 20
PATIENCE = 9.0  # seconds that the solves of one check may take, as predicted; beyond it fewer are run
FEW, MANY = 1, 100


def run_for_real(case: Case, solves: int) -> dict[str, float]:
    """For each backend the seconds of compiling and of so many solves, by the clock on the wall; they take turns, so
    that a machine that slows down slows both."""
    seconds, solvers = {}, {}
    for backend in BACKENDS:
        began = time.perf_counter()
        solvers[backend] = sjb.Minimizer(case.make(), backend=backend, bounds=case.bounds)
        solvers[backend].compile(case.params, case.args)
        seconds[backend] = time.perf_counter() - began
    turns = min(solves, TURNS)
    for turn in range(turns):
        for backend, solve in solvers.items():
            began = time.perf_counter()
            for _ in range(solves * turn // turns, solves * (turn + 1) // turns):
                jax.block_until_ready(solve(case.params, case.args).params)
            seconds[backend] += time.perf_counter() - began
    return seconds


def check(case: Case) -> list[tuple[str, ...]]:
    """A line for each number of solves that is run."""
    comparison = sjb.compare(case.make(), case.params, case.args, bounds=case.bounds)
    switches = comparison.break_even()
    solve_s = {row["run"]: row["solve_s"] for row in comparison.rows()}
    most = max(1, int(PATIENCE / sum(solve_s.values())))
    told = switches[1][0] if len(switches) > 1 else None
    wanted = (FEW, MANY) if told is None else (max(1, told // 2), 2 * told)
    lines = []
    for solves in sorted({min(each, most) for each in wanted}):
        if told is not None and told / 1.25 < solves < told * 1.25:
            continue  # cut short by patience to a number where both cost the same
        seconds = run_for_real(case, solves)
        named, least = comparison.recommend(solves), min(seconds, key=lambda name: seconds[name])
        costs = [f"{seconds[backend]:.2f} s" for backend in BACKENDS]
        switch = f"{told:,}" if told is not None else "none"
        lines.append((case.name, switch, f"{solves:,}", *costs, named, "right" if named == least else "WRONG"))
    return lines


def main() -> None:
    """Checks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="names, with commas between")
    names = parser.parse_args().cases.split(",")
    jax.config.update("jax_enable_x64", True)
    print(header(), flush=True)
    lines, right = [], 0
    for name in names:
        found = check(CASES[name]())
        right += bool(found) and all(line[-1] == "right" for line in found)
        lines += found
        print(*(" | ".join(line) for line in found), sep="\n", flush=True)
    head = ("problem", "break-even told", "solves run", *BACKENDS, "named", "verdict")
    save("break_even", [Table(f"Break-even, run for real: right on {right} of {len(names)} problems", head, lines)])


if __name__ == "__main__":
    main()
