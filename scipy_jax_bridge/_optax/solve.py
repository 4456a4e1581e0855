"""The Optax backend: one compiled loop on the device; nothing leaves it before control returns.

Called eagerly, the loop returns to the host about ten times a second, to serve the clock, the keyboard and the
callback; the next chunk goes on where the last one stopped, bit for bit. Inside a trace it is one loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._backend import Compiled
from .._core.monitor import SolveMonitor
from .._core.options import COUNT_MAX, Options
from .._core.outcome import FlatOutcome
from .._core.promotion import standard_promotion
from .._core.status import Status
from .._core.trace import unknown
from .._problem.fingerprint import structure_of
from .._problem.nonfinite import describe_nonfinite, refuse_start
from .._problem.problem import Data, Problem
from .._result import Outcome, Result, ResumeState, Timing, Trace
from .chunked import CHUNK_S, ChunkedRun
from .device_solver import (
    ROWS,
    ROWS_INSIDE,
    DeviceSolver,
    Found,
    LoopScalars,
    Report,
    box_of,
    count_on,
    find_points,
    make_device_solver,
    tolerances_of,
)
from .resume import make_carry, resume

STOPPED = (Status.MAXITER, Status.MAXFUN, Status.TIMEOUT, Status.CALLBACK, Status.INTERRUPTED)  # may go on


class LoopPrograms(NamedTuple):
    """The loop, compiled."""

    start: Any  # leaves of the start, box -> state before the first evaluation
    advance: Any  # state, data, limits, box, until -> state, report


def compile_optax(problem: Problem, method: Any, options: Options) -> Compiled:
    """Compile the loop."""
    name = (structure_of(method), problem.bounds is not None, options.maxcor)
    loop = make_device_solver(problem, method, options, ROWS)

    def start() -> tuple[Any, tuple[Any, ...]]:
        return jax.jit(loop.start), (_on_host(problem.start_leaves), box_of(problem))

    def advance() -> tuple[Any, tuple[Any, ...]]:
        def run(state: Any, data: Data, limits: Any, box: Any, until: Any) -> tuple[Any, Report]:
            state = loop.advance(state, data, limits, box, until)
            return state, loop.report(state)

        state = jax.eval_shape(loop.start, problem.start_leaves, box_of(problem))
        inputs = (state, problem.data, tolerances_of(problem, options), box_of(problem), np.int32(0))
        return jax.jit(run, donate_argnums=0), inputs

    begin, begin_s = loop.start_on_host, 0.0
    if begin is None:
        begin, begin_s = problem.compile(("start", *name), start)
    run, run_s = problem.compile(("advance", *name), advance)
    return Compiled(
        programs=LoopPrograms(begin, run),
        seconds=begin_s + run_s,
        compiles=(begin_s > 0) + (run_s > 0),
        reports_per_s=1 / CHUNK_S,
        report_shape=(ROWS, 3),
    )


def solve_optax(
    problem: Problem, method: Any, options: Options, monitor: SolveMonitor, earlier: Result | None
) -> Outcome:
    """Minimize with the all-device L-BFGS(-B), or with any Optax transformation.

    Arguments:
        problem: what to minimize.
        method: a GradientTransformation, or None for the default.
        options: the limits.
        watch: who may stop the solve.
        earlier: what to go on from, bit for bit if it holds the carry of such a loop, else from its point.

    Errors:
        ValueError: the objective or its gradient is not finite at the start.
    """
    compiled = compile_optax(problem, method, options)
    programs: LoopPrograms = compiled.programs
    limits, box = tolerances_of(problem, options), box_of(problem)
    loop = make_device_solver(problem, method, options, ROWS)

    def advance(state: Any, until: int) -> tuple[Any, Report]:
        return programs.advance(state, problem.data, limits, box, np.int32(min(until, COUNT_MAX)))

    monitor.begin()
    paces, method_key = problem.spec.paces, structure_of(method)
    chunks = ChunkedRun(problem, monitor, advance, paces.get(method_key))

    def start(free: list[Any]) -> Any:
        return programs.start(_on_host(free), box)

    fresh = start(problem.start_leaves)
    state, note = fresh, ""
    if earlier is not None:
        state, note = resume(earlier, chunks, loop, fresh, start, problem, method, options)

    def hand_back(status: Status, found: Found, detail: str = "", carry: ResumeState | None = None) -> Outcome:
        return Outcome(
            **problem.on_device(found.x, found.value, found.grad),
            aux=found.aux,
            nit=chunks.nit,
            nfev=chunks.nfev,
            status=int(status),
            trace=chunks.trace(),
            timing=Timing(compiled.seconds, monitor.seconds, compiled.compiles),
            detail=detail,
            note=note,
            carry=carry,
        )

    monitor.best_so_far = lambda: None if chunks.best is None else hand_back(Status.ERROR, chunks.best)
    status = None
    while status is None:
        state, status = chunks.run(state)
    if chunks.speed is not None:
        paces[method_key] = chunks.speed
    detail, carry = "", None
    if status == Status.NONFINITE:
        detail = _explain(problem, loop, state, chunks, start)
    if status in STOPPED:
        carry = make_carry(state, problem, method, options)
    return hand_back(status, chunks.found, detail, carry)


def _on_host(free: list[Any]) -> list[Any]:
    """The leaves without the place where they were put: the loop runs where its data are."""
    return [np.asarray(leaf) for leaf in free]


def _explain(
    problem: Problem, loop: DeviceSolver, state: Any, chunks: ChunkedRun, start: Callable[[list[Any]], Any]
) -> str:
    """Where it went bad, by one evaluation there that does not count; an error if that is the start itself."""
    structure, at_start = problem.spec.params, chunks.nfev == 1
    x = np.asarray(state.x if at_start else loop.find_lost(state))
    seen = chunks.look_at(start, x)
    if np.isfinite(seen.value) and np.isfinite(seen.grad).all():
        return f"In iteration {chunks.nit + 1} a trial was not finite, and nothing lower lay near it."
    what = describe_nonfinite(structure, x, seen.value, seen.grad)
    if at_start:
        raise refuse_start(what)
    return f"In iteration {chunks.nit + 1}: {what}."


def trace_optax(problem: Problem, method: Any, options: Options) -> FlatOutcome:
    """The same inside a trace: one loop, no clock; the trace keeps the last ROWS_INSIDE iterations."""
    # One row more than is handed back: a solve that ends within a search leaves an unfinished trial in it.
    loop, box = make_device_solver(problem, method, options, ROWS_INSIDE + 1), box_of(problem)
    state = loop.start(_forbid_crossed(problem.start_leaves, box), box)
    state = loop.advance(state, problem.data, tolerances_of(problem, options), box, jnp.int32(COUNT_MAX))
    with standard_promotion():
        return _read_end(loop.report(state), state)


def _forbid_crossed(free: list[Any], box: Any) -> list[Any]:
    """Traced bounds cannot be refused: where they leave nothing the start is NaN, and so is all that is found."""
    if box is None:
        return free
    crossed = ~jnp.all(box.lower <= box.upper)
    return [jnp.where(crossed, jnp.asarray(jnp.nan, leaf.dtype), leaf) for leaf in map(jnp.asarray, free)]


def _read_end(report: Report, state: Any) -> FlatOutcome:
    """The outcome of a loop inside a trace."""
    numbers = LoopScalars(*report.counts, *report.values)
    converged, last, best = find_points(state, report, numbers)
    found = jax.tree.map(lambda a, b: jnp.where(converged, a, b), last, best)
    trace = _trace_inside(report.rows, numbers)
    counts = (numbers.nit, numbers.nfev, numbers.status)
    return FlatOutcome(found.x, found.value, found.grad, found.aux, *counts, trace)


def _trace_inside(ring: Any, numbers: LoopScalars) -> Trace:
    """The last iterations as columns of one length; nfev is 0 in the rows that no iteration has filled."""
    first = jnp.maximum(numbers.nit + 1 - ROWS_INSIDE, 0)
    rows = jnp.roll(ring, -first, axis=0)[:ROWS_INSIDE]
    filled = jnp.arange(ROWS_INSIDE) <= numbers.nit
    fun, grad_norm = (jnp.where(filled, rows[:, column], unknown()) for column in range(2))
    nfev = jnp.where(filled, count_on(rows[:, 2].astype(jnp.int32), numbers.nfev), 0)
    return Trace(fun, grad_norm, nfev, jnp.full(ROWS_INSIDE, unknown()))
