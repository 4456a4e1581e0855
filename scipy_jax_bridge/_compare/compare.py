"""Several runs of one problem side by side, timed so that the times compare.

Compilation is measured apart and ahead of time. A short solve of each warms up what compilation does not. The solves
are interleaved, so that a machine that slows down slows every run alike, and each has ended on its device before the
clock stops. What the solves spend their seconds on is measured between them (`_shares`).
"""

from __future__ import annotations

import functools
import inspect
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
from jaxtyping import PyTree

from .._core.errors import unknown_name
from .._core.monitor import SolveMonitor
from .._core.options import Options
from .._minimize import BACKENDS, Minimizer, compile_solve
from .._problem.nonfinite import NonfiniteStart
from .._result import Result
from .breakdown import PART, make_probes
from .comparison import UNKNOWN, Comparison as Comparison
from .provenance import Setting, describe_machine, describe_problem, describe_run
from .verdict import points_between

LEAST = 0.2
"""Seconds that the solves of a run take in all, at least. Shorter solves are timed several in a row, as they would be
made where their seconds matter: one alone begins with cold caches, and would tell a wrong break-even."""

OF_A_RUN = frozenset(inspect.signature(Minimizer).parameters) - {"fun"}
OF_ALL = frozenset({"backends", "runs", "repeats", "shares", "args"})


def compare(
    fun: Callable[..., Any],
    params: PyTree,
    args: tuple[PyTree, ...] = (),
    *,
    backends: Sequence[str] | None = None,
    runs: Mapping[str, Mapping[str, Any]] | None = None,
    repeats: int = 5,
    shares: bool | None = None,
    **as_minimize: Any,
) -> Comparison:
    """Solves one problem with several backends from the same start, and sets them side by side.

    Every run compiles for itself, even what this process has compiled before, so that the seconds
    of compilation are those of a fresh start. Each is then warmed up by a solve of one iteration that is
    not timed, and the timed solves take turns.

    Arguments:
        fun: the objective, `fun(params, *args)` is a real scalar.
        params: the start, a pytree, or a Result: where it ended. Every run starts there afresh.
        args: the data, pytrees.
        backends: the backends to compare. Default None: "scipy" and "optax".
        runs: instead of `backends`, the entries to compare by name, each with its own keyword arguments of
            `Minimizer`, which override those of `as_minimize`. Default None.
        repeats: how often to solve with each; the table shows the median. Where that is less than 0.2 s in all,
            each time is the mean of several solves in a row. Default 5.
        shares: whether to measure which parts of the solves go into the objective, into transfers and into
            the solver. It takes about 2 % of the seconds of solving, and one compilation of the objective
            alone where an evaluation takes less than 5 ms. Default None: only where that compilation is
            expected to take at most another 2 %; the shares are NaN where not.
        **as_minimize: keyword arguments of `Minimizer` for all, such as `bounds` or `options`.

    Returns:
        The comparison; `print` shows a table.

    Errors:
        TypeError: an unknown keyword argument, of all or in an entry of `runs`, with the nearest name.
        ValueError: `repeats` is less than 1, there is nothing to compare, or both `backends` and `runs` are given.
        Whatever `minimize` raises, with a note that says in which run.
        KeyboardInterrupt: at the first Ctrl-C; its attribute `results` maps each run to a solve that had ended.

    Example:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> comparison = sjb.compare(lambda x: jnp.sum((x - 3.0) ** 2), jnp.zeros(2), repeats=1)
        >>> [row["status"] for row in comparison.rows()]
        ['GTOL', 'GTOL']
    """
    runs = _check_runs(runs, backends, repeats, as_minimize)
    entries = {name: {**as_minimize, **entry} for name, entry in runs.items()}
    params = params.params if isinstance(params, Result) else params
    turns: dict[str, _Turns] = {}
    try:
        with (
            SolveMonitor()
        ):  # it never begins: Ctrl-C ends the comparison, and no solve that was cut short is a row of it
            return _compare(fun, params, args, entries, turns, repeats, shares)
    except KeyboardInterrupt as error:
        error.results = {name: _take_median(each.solves) for name, each in turns.items() if each.solves}  # type: ignore[attr-defined]
        error.add_note("The solves that had ended are this exception's attribute results, by run.")
        raise


def _compare(
    fun: Callable[..., Any],
    params: PyTree,
    args: tuple[PyTree, ...],
    entries: Mapping[str, Mapping[str, Any]],
    turns: dict[str, _Turns],
    repeats: int,
    shares: bool | None,
) -> Comparison:
    """The same, of what was checked; `turns` is filled with the solves."""
    problem = describe_problem(fun, params, args)
    functions = {name: _rename(fun) for name in entries}
    solvers = {name: Minimizer(functions[name], **entry) for name, entry in entries.items()}
    compile_s = {name: solver.compile(params, args) for name, solver in solvers.items()}
    for name, entry in entries.items():
        _warm_up(name, _limited(functions[name], entry, 1), params, args)
    insides = {name: compile_solve(solver, params, args) for name, solver in solvers.items()}
    probes = {} if shares is False else make_probes(insides, compile_s)
    for name, solver in solvers.items():
        turns[name] = _Turns(solver, repeats, entries[name].get("callback") is None)
    for _ in range(repeats):
        for each in turns.values():
            each.solve(params, args)
        for name, probe in probes.items():
            allowed = math.inf if shares else PART * repeats * sum(each.solves[0][0] for each in turns.values())
            probe.sample(turns[name].solves[-1][0], allowed)
    solves = {name: each.solves for name, each in turns.items()}
    late_s = {name: sum(float(result.timing.compile_s) for _, result in each) for name, each in solves.items()}
    results = {name: _take_median(each) for name, each in solves.items()}
    solve_s = {name: tuple(seconds for seconds, _ in each) for name, each in solves.items()}
    comparison = Comparison(
        results=results,
        compile_s={name: compile_s[name] + late_s[name] for name in solvers},
        solve_s=solve_s,
        shares={
            name: probes[name].shares(statistics.median(solve_s[name]), result) if probes else UNKNOWN
            for name, result in results.items()
        },
        start=params,
        setting=Setting(
            problem=problem,
            runs={
                name: {
                    **describe_run(entries[name], results[name].method, insides[name].options),
                    "timed in a row": str(turns[name].in_a_row),
                }
                for name in solvers
            },
            machine=describe_machine(),
        ),
    )
    return _look_between(comparison, functions[comparison.best], entries[comparison.best], args)


class _Turns:
    """The timed solves of one run.

    Arguments:
        solver: of the run.
        repeats: how often it will be its turn.
        silent: whether nobody is told of a solve, so that there may be more of them than were asked for.
    """

    def __init__(self, solver: Callable[..., Result], repeats: int, silent: bool) -> None:
        self._solver, self._repeats, self._silent = solver, repeats, silent
        self.in_a_row = 1
        self.solves: list[tuple[float, Result]] = []  # seconds of one, and what it found

    def solve(self, params: PyTree, args: tuple[PyTree, ...]) -> None:
        """Its turn: one solve, or several if the first turn shows that they are short."""
        seconds, result = _time_solve(self._solver, params, args, self.in_a_row)
        if not self.solves and self._silent and self._repeats * seconds < LEAST:
            self.in_a_row = math.ceil(LEAST / (self._repeats * max(seconds, 1e-9)))
            if more := self.in_a_row - 1:
                later, result = _time_solve(self._solver, params, args, more)
                seconds = (seconds + more * later) / self.in_a_row
        self.solves.append((seconds, result))


def _check_runs(
    runs: Mapping[str, Mapping[str, Any]] | None,
    backends: Sequence[str] | None,
    repeats: int,
    as_minimize: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The keyword arguments of each run by name."""
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats must be a whole number and at least 1, not {repeats!r}.")
    _check_names(as_minimize, OF_A_RUN | OF_ALL, "compare")
    if runs is not None and backends is not None:
        raise ValueError("give either backends or runs: an entry of runs names its own, as in {'backend': 'optax'}.")
    if runs is None:
        if "backend" in as_minimize:
            raise TypeError("compare runs several backends: pass backends, such as backends=('optax',), or runs.")
        backends = tuple(BACKENDS) if backends is None else [backends] if isinstance(backends, str) else backends
        runs = {name: {"backend": name} for name in backends}
    if not runs:
        raise ValueError('there is nothing to compare; name a backend at least, such as backends=("scipy", "optax").')
    for name, entry in runs.items():
        _check_names(entry, OF_A_RUN, f"the run {name!r}")
    return {name: dict(entry) for name, entry in runs.items()}


def _check_names(given: Mapping[str, Any], known: frozenset[str], owner: str) -> None:
    for name in given:
        if name not in known:
            raise TypeError(unknown_name("keyword argument", name, known, owner))


def _rename(fun: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, but one that was never compiled."""

    @functools.wraps(fun, updated=())
    def fresh(*inputs: Any) -> Any:
        return fun(*inputs)

    fresh.compiles_anew = True  # type: ignore[attr-defined]  # on purpose, and no reason for a warning
    return fresh


def _warm_up(name: str, solve: Minimizer, params: PyTree, args: tuple[PyTree, ...]) -> None:
    """One iteration that is not timed; what is wrong with a run shows here."""
    try:
        jax.block_until_ready(solve(params, args))
    except Exception as error:
        error.add_note(f"In the run {name!r} of the comparison.")
        raise


def _time_solve(
    solve: Callable[..., Result], params: PyTree, args: tuple[PyTree, ...], in_a_row: int = 1
) -> tuple[float, Result]:
    """Seconds of one of so many solves in a row, and what it found; what is compiled in them is no solving."""
    start = time.perf_counter()
    result = jax.block_until_ready(solve(params, args))
    compile_s = float(result.timing.compile_s)
    for _ in range(in_a_row - 1):
        result = jax.block_until_ready(solve(params, args))
        compile_s += float(result.timing.compile_s)
    return (time.perf_counter() - start - compile_s) / in_a_row, result


def _look_between(
    comparison: Comparison, fun: Callable[..., Any], entry: Mapping[str, Any], args: tuple[PyTree, ...]
) -> Comparison:
    """The comparison with objectives between ends that are apart: solves of no iteration, which compile nothing."""
    apart = [name for name, gap in comparison.gaps().items() if math.isfinite(gap.fun) and not gap.near]
    if not apart:
        return comparison
    look = _limited(fun, entry, 0)
    there = comparison.results[comparison.best].params
    between = {
        name: tuple(_value_at(look, point, args) for point in points_between(comparison.results[name].params, there))
        for name in apart
    }
    return replace(comparison, between=between)


def _value_at(look: Minimizer, point: PyTree, args: tuple[PyTree, ...]) -> float:
    try:
        return float(look(point, args).fun)
    except NonfiniteStart:
        return math.inf


def _limited(fun: Callable[..., Any], entry: Mapping[str, Any], maxiter: int) -> Minimizer:
    """The solver of an entry, which compiles nothing new and ends early; nobody is told of its progress."""
    asked = entry.get("options") or {}
    options = replace(asked, maxiter=maxiter) if isinstance(asked, Options) else {**asked, "maxiter": maxiter}
    return Minimizer(fun, **{**entry, "options": options, "callback": None, "progress": False})


def _take_median(solves: Sequence[tuple[float, Result]]) -> Result:
    """The result of the solve of median time, so that its trace tells of a usual one."""
    return sorted(solves, key=lambda solve: solve[0])[(len(solves) - 1) // 2][1]
