"""Run one problem several ways, timed so that the times compare.

Compilation is measured apart and ahead of time. A solve of one iteration warms up what compilation does not. The
solves of the runs alternate, so that a machine that slows down slows every run alike. The clock stops when the device
has finished. What the solves spend their seconds on is measured between them (`breakdown`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
from jaxtyping import PyTree

from .._autodiff.traced import TracedCall
from .._core.boundary import boundary
from .._core.monitor import SolveMonitor
from .._core.types import Objective, Params, is_traced
from .._minimize import Minimizer
from .._minimizer import start_params
from .._problem.cache import compile_anew
from .._problem.nonfinite import NonfiniteStart
from .._result import Result
from .breakdown import PART, make_probes
from .comparison import UNKNOWN, Comparison as Comparison
from .measured import CompiledSolve, compile_solve, limit_iterations
from .provenance import Provenance, describe_machine, describe_problem, describe_run
from .runs import Entry, check_runs
from .verdict import points_between

LEAST = 0.2
"""Seconds that the solves of a run take together, at least. Shorter solves are timed several in a row, as they would be
made where their seconds matter. One alone begins with cold caches, which would shift the break-even."""


@boundary
def compare(
    fun: Objective,
    params: Params,
    args: tuple[Any, ...] = (),
    *,
    backends: Sequence[str] | None = None,
    runs: Mapping[str, Entry] | None = None,
    repeats: int = 5,
    shares: bool | None = None,
    **as_minimize: Any,
) -> Comparison:
    """Solve one problem with several backends from the same start, and set them side by side.

    Every run compiles for itself, even what this process has compiled before, so that the seconds of compilation are
    those of a fresh process. A solve of one iteration, which is not timed, warms each up. The timed solves alternate.

    Args:
        fun: the objective, `fun(params, *args)` is a real scalar.
        params: the start, a pytree; or a Result, whose params are the start. Every run starts there afresh.
        args: the data, pytrees.
        backends: the backends to compare. Default None: "scipy" and "optax".
        runs: instead of `backends`, the entries to compare by name, each with its own keyword arguments of
            `Minimizer`, which override those of `as_minimize`. Default None.
        repeats: how often to solve with each; the table shows the median. If these solves take less than 0.2 s
            together, each time is the mean of several solves in a row. Default 5.
        shares: whether to measure which parts of the solves go into the objective, into transfers and into the solver.
            It takes about 2 % of the seconds of solving, and one compilation of the objective alone where an evaluation
            takes less than 5 ms. Default None: only where that compilation is expected to take at most another 2 %.
        **as_minimize: keyword arguments of `Minimizer` for all, such as `bounds` or `options`.

    Returns:
        The comparison; `print` shows a table.

    Raises:
        TypeError: an unknown keyword argument, of all or in an entry of `runs`, with the nearest name.
        ValueError: `repeats` is less than 1, there is nothing to compare, or both `backends` and `runs` are given.
        KeyboardInterrupt: at the first Ctrl-C; its attribute `results` maps each run to a solve that had ended.
        Exception: whatever `minimize` raises, with a note that names the run.

    Examples:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> comparison = sjb.compare(lambda x: jnp.sum((x - 3.0) ** 2), jnp.zeros(2), repeats=1)
        >>> [row["status"] for row in comparison.rows()]
        ['GTOL', 'GTOL']
    """
    entries = check_runs(runs, backends, repeats, as_minimize)
    params = start_params(params)
    if is_traced((params, args)):
        raise TracedCall("compare runs on the host and cannot be called inside jax.jit, jax.vmap or jax.grad.")
    turns: dict[str, _Turns] = {}
    try:
        # This monitor never begins. So Ctrl-C ends the comparison, and no interrupted solve becomes a row of it.
        with SolveMonitor():
            return _compare(fun, params, args, entries, turns, repeats, shares)
    except KeyboardInterrupt as error:
        error.results = {name: _take_median(each.solves) for name, each in turns.items() if each.solves}  # type: ignore[attr-defined]
        error.add_note("The solves that had ended are this exception's attribute results, by run.")
        raise


def _compare(
    fun: Objective,
    params: Params,
    args: tuple[PyTree, ...],
    entries: Mapping[str, Entry],
    turns: dict[str, _Turns],
    repeats: int,
    shares: bool | None,
) -> Comparison:
    """Compile, warm up, and solve in turns; `turns` is filled with the solves, for an interrupted caller."""
    problem = describe_problem(fun, params, args)
    solvers = {name: Minimizer(fun, **entry) for name, entry in entries.items()}
    with compile_anew():
        compile_s = {name: solver.compile(params, args) for name, solver in solvers.items()}
    for name, solver in solvers.items():
        _warm_up(name, limit_iterations(solver, 1), params, args)
    compiled = {name: compile_solve(solver, params, args) for name, solver in solvers.items()}
    probes = {} if shares is False else make_probes(compiled, compile_s)
    for name, solver in solvers.items():
        turns[name] = _Turns(solver, repeats, entries[name].get("callback") is None)
    for _ in range(repeats):
        for each in turns.values():
            each.solve(params, args)
        for name, probe in probes.items():
            allowed = math.inf if shares else PART * repeats * sum(each.solves[0][0] for each in turns.values())
            probe.sample(turns[name].solves[-1][0], allowed)
    results = {name: _take_median(each.solves) for name, each in turns.items()}
    comparison = Comparison(
        results=results,
        compile_s={name: compile_s[name] + each.late_compile_s for name, each in turns.items()},
        solve_s={name: each.solve_s for name, each in turns.items()},
        shares={
            name: probes[name].shares(statistics.median(turns[name].solve_s), result) if probes else UNKNOWN
            for name, result in results.items()
        },
        start=params,
        setting=Provenance(problem, _describe_runs(entries, results, compiled, turns), describe_machine()),
    )
    return _look_between(comparison, solvers[comparison.best], args)


class _Turns:
    """The timed solves of one run.

    Args:
        solver: of the run.
        repeats: how often it will be its turn.
        silent: whether it has no callback, so that extra solves go unnoticed.
    """

    def __init__(self, solver: Callable[..., Result], repeats: int, silent: bool) -> None:
        self._solver, self._repeats, self._silent = solver, repeats, silent
        self.in_a_row = 1
        self.solves: list[tuple[float, Result]] = []  # seconds of one solve, and its result

    def solve(self, params: Params, args: tuple[PyTree, ...]) -> None:
        """Solve once, or several times in a row if the first turn shows that solves are short."""
        seconds, result = _time_solve(self._solver, params, args, self.in_a_row)
        if not self.solves and self._silent and self._repeats * seconds < LEAST:
            self.in_a_row = math.ceil(LEAST / (self._repeats * max(seconds, 1e-9)))
            if more := self.in_a_row - 1:
                later, result = _time_solve(self._solver, params, args, more)
                seconds = (seconds + more * later) / self.in_a_row
        self.solves.append((seconds, result))

    @property
    def solve_s(self) -> tuple[float, ...]:
        """Seconds of a solve, for each turn."""
        return tuple(seconds for seconds, _ in self.solves)

    @property
    def late_compile_s(self) -> float:
        """Seconds of what was compiled only in the solves."""
        return sum(float(result.timing.compile_s) for _, result in self.solves)


def _describe_runs(
    entries: Mapping[str, Entry],
    results: Mapping[str, Result],
    compiled: Mapping[str, CompiledSolve],
    turns: Mapping[str, _Turns],
) -> dict[str, dict[str, str]]:
    return {
        name: describe_run(entry, results[name].method, compiled[name].options)
        | {"timed in a row": str(turns[name].in_a_row)}
        for name, entry in entries.items()
    }


def _warm_up(name: str, solve: Minimizer, params: Params, args: tuple[PyTree, ...]) -> None:
    """Solve one iteration, not timed; an error in a run appears here."""
    try:
        jax.block_until_ready(solve(params, args))
    except Exception as error:
        error.add_note(f"In the run {name!r} of the comparison.")
        raise


def _time_solve(
    solve: Callable[..., Result], params: Params, args: tuple[PyTree, ...], in_a_row: int = 1
) -> tuple[float, Result]:
    """Return the seconds of one of several solves in a row, without their compilation, and the last result."""
    start = time.perf_counter()
    result = jax.block_until_ready(solve(params, args))
    compile_s = float(result.timing.compile_s)
    for _ in range(in_a_row - 1):
        result = jax.block_until_ready(solve(params, args))
        compile_s += float(result.timing.compile_s)
    return (time.perf_counter() - start - compile_s) / in_a_row, result


def _look_between(comparison: Comparison, solver: Minimizer, args: tuple[PyTree, ...]) -> Comparison:
    """Evaluate the objective between ends that are apart; solves of no iteration do this without compiling."""
    apart = [name for name, gap in comparison.gaps().items() if math.isfinite(gap.fun) and not gap.same_point]
    if not apart:
        return comparison
    evaluate = limit_iterations(solver, 0)
    best = comparison.results[comparison.best].params
    between = {
        name: tuple(_value_at(evaluate, each, args) for each in points_between(comparison.results[name].params, best))
        for name in apart
    }
    return replace(comparison, between=between)


def _value_at(evaluate: Minimizer, point: Params, args: tuple[PyTree, ...]) -> float:
    try:
        return float(evaluate(point, args).fun)
    except NonfiniteStart:
        return math.inf


def _take_median(solves: Sequence[tuple[float, Result]]) -> Result:
    """Return the result of the solve of median time, so that its trace is a typical one."""
    return sorted(solves, key=lambda solve: solve[0])[(len(solves) - 1) // 2][1]
