"""Solve with one compiled loop on the device; nothing leaves it before control returns to the host.

Called eagerly, the loop returns to the host about ten times a second, to serve the clock, the keyboard and the
callback. The next chunk continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from .._backend import Compiled
from .._core.agreement import fingerprint
from .._core.monitor import SolveMonitor
from .._core.options import COUNT_MAX, Options
from .._core.status import Status
from .._core.types import is_whole
from .._problem.cache import ToCompile
from .._problem.nonfinite import describe_nonfinite, refuse_start
from .._problem.objective import Data
from .._problem.problem import Problem
from .._problem.split import SplitSpec, arrange
from .._result import Outcome, Result
from .algorithm import Algorithm
from .chunked import CHUNK_S, ChunkedRun
from .device_solver import (
    ROWS,
    DeviceSolver,
    DeviceState,
    Leaves,
    LoopReport,
)
from .host_loop import compile_turn
from .limits import Box, Tolerances, box_of, tolerances_of
from .loop import advance
from .placement import Begin, box_on_device, compile_start, placement_of, to_host, with_places
from .resume import make_resume_state, resume

RESUMABLE = (Status.MAXITER, Status.MAXFUN, Status.TIMEOUT, Status.CALLBACK, Status.INTERRUPTED)


class LoopPrograms(NamedTuple):
    """The compiled loop, and rows of the trace that earlier solves left to it: new ones take time to fill."""

    start: Begin  # free leaves, box -> the state before the first evaluation
    advance: Callable[..., tuple[DeviceState, LoopReport]]  # state, data, tolerances, box, until -> state, report
    spare_rows: list[Array]


def compile_optax(problem: Problem, algorithm: Algorithm, options: Options) -> Compiled[LoopPrograms]:
    """Compile the loop, or find it compiled."""
    problem = arrange(problem)
    return _compile(algorithm.device_solver(problem, options, 0), problem, options)


def _compile(solver: DeviceSolver, problem: Problem, options: Options) -> Compiled[LoopPrograms]:
    name = (problem.method_key, problem.bounds is not None, options.maxcor, ROWS)

    on_host = solver.start_on_host
    if on_host is None or isinstance(problem.spec.params, SplitSpec):
        begin, begin_s = compile_start(problem, solver, name, lambda: _shapes_of_state(problem, solver))
    else:
        begin, begin_s = lambda free, box: on_host(to_host(free), box), 0.0
    if problem.spec.is_host:
        limits = tolerances_of(problem, options)
        run, run_s = compile_turn(problem, solver, name, lambda: _shapes_of_state(problem, solver), limits)
    else:
        run, run_s = problem.compile(("advance", *name), lambda: _make_advance(problem, solver, options))
    return Compiled(
        programs=LoopPrograms(begin, run, problem.spec.programs.keep(("rows", *name), list)),
        seconds=begin_s + run_s,
        compiles=(begin_s > 0) + (run_s > 0),
        reports_per_s=1 / CHUNK_S,
        report_shape=(ROWS, 3),
    )


def _shapes_of_state(problem: Problem, solver: DeviceSolver) -> DeviceState:
    free = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in problem.spec.params.optimized]
    rows = jax.ShapeDtypeStruct((ROWS, 3), problem.spec.dtype)
    return jax.eval_shape(solver.start, free, problem.data, box_of(problem))._replace(rows=rows)


def _make_advance(problem: Problem, solver: DeviceSolver, options: Options) -> ToCompile:
    """Return the function of a chunk of the loop, and inputs of the types that it will have."""

    def run(
        state: DeviceState, data: Data, limits: Tolerances, box: Box | None, until: Int[Array, ""]
    ) -> tuple[DeviceState, LoopReport]:
        state = advance(solver, state, data, limits, box, until)
        return state, solver.report(state)

    limits, box = tolerances_of(problem, options), box_on_device(problem)
    shapes, inputs = _shapes_of_state(problem, solver), (problem.data, limits, box, np.int32(0))
    placement = placement_of(problem)
    if placement is None:
        return jax.jit(run, donate_argnums=0), (shapes, *inputs)
    states = placement.of_state(shapes)
    placed = jax.jit(run, donate_argnums=0, out_shardings=(states, placement.of_report(shapes)))
    return placed, (with_places(shapes, states), *inputs)


def solve_optax(
    problem: Problem, algorithm: Algorithm, options: Options, monitor: SolveMonitor, earlier: Result | None
) -> Outcome:
    """Minimize with the all-device L-BFGS-B, or with any Optax transformation.

    Args:
        problem: what to minimize.
        algorithm: L-BFGS-B or a transformation.
        options: the limits.
        monitor: the clock, the keyboard and the callback.
        earlier: a result to go on from. The solve continues bit for bit if the result holds the state of such a
            loop, else it begins at its params.

    Raises:
        ValueError: the objective or its gradient is not finite at the start.
    """
    problem = arrange(problem)
    paces = problem.spec.programs.paces
    solver = algorithm.device_solver(problem, options, 0)
    compiled = _compile(solver, problem, options)
    programs = compiled.programs
    limits, box = tolerances_of(problem, options), box_on_device(problem)

    def advance_to(state: DeviceState, until: int) -> tuple[DeviceState, LoopReport]:
        count = np.int32(min(until, COUNT_MAX))
        with nullcontext() if count > 1 else jax.debug_infs(False):  # Optax's line searches begin with infinite values
            return programs.advance(state, problem.data, limits, box, count)

    def start(free: Leaves) -> DeviceState:
        with jax.debug_infs(False):  # before the first evaluation the least value is infinite
            state = programs.start(free, box)
        with suppress(IndexError):
            return state._replace(rows=programs.spare_rows.pop())
        return state._replace(rows=np.zeros((ROWS, 3), problem.spec.dtype))

    monitor.begin()
    chunks = ChunkedRun(problem, monitor, advance_to, paces.get(problem.method_key))
    if monitor.agreement is not None:
        whole = filter(is_whole, problem.start_leaves)
        chunks.seen = fingerprint(*map(np.asarray, whole), *limits)
    fresh = start(problem.start_leaves)
    state, note = fresh, ""
    if earlier is not None:
        state, note = resume(earlier, chunks, solver, fresh, start, problem, algorithm, options)

    def best_so_far() -> Outcome | None:
        if chunks.best is None:
            return None
        kept = None if chunks.state is None else make_resume_state(chunks.state, problem, algorithm, options)
        return chunks.outcome(compiled, Status.ERROR, chunks.best, note=note, carry=kept)

    monitor.best_so_far = best_so_far
    status = None
    while status is None:
        state, status = chunks.run(state)
    chunks.end(status)
    programs.spare_rows.append(state.rows)
    if chunks.speed is not None:
        paces[problem.method_key] = chunks.speed
    detail = _explain_nonfinite(problem, solver, state, chunks, start) if status == Status.NONFINITE else ""
    carry = make_resume_state(state, problem, algorithm, options) if status in RESUMABLE else None
    return chunks.outcome(compiled, status, chunks.found, detail, note, carry)


def _explain_nonfinite(
    problem: Problem,
    solver: DeviceSolver,
    state: DeviceState,
    chunks: ChunkedRun,
    start: Callable[[Leaves], DeviceState],
) -> str:
    """Describe where a solve became not finite, with one evaluation there that does not count.

    Raises:
        NonfiniteStart: it was at the start.
    """
    at_start = chunks.nfev == 1
    if not is_whole(state.x):
        if at_start:
            raise refuse_start("the objective or its gradient is not finite", ())
        return f"In iteration {chunks.nit + 1}."
    x = np.asarray(state.x if at_start else solver.find_nonfinite(state))
    seen = chunks.evaluate_at(start, x)
    grad = np.asarray(seen.grad)
    if np.isfinite(seen.value) and np.isfinite(grad).all():
        return f"In iteration {chunks.nit + 1} a trial was not finite, and nothing lower lay near it."
    params = problem.spec.params
    what = describe_nonfinite(params, params.in_order(x), seen.value, params.in_order(grad))
    if at_start:
        raise refuse_start(what, problem.args)
    return f"In iteration {chunks.nit + 1}: {what}."
