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

from . import _engine as engine
from ._bounds import FlatBounds
from ._options import Options
from ._problem import Data, Problem
from ._result import Outcome, Timing, Trace
from ._status import RUNNING, Status
from ._transform import Translation, advance_transform, start_transform
from ._types import Tracer
from ._watch import Progress, Watch

ROWS = 1024  # iterations of which the device keeps the trace; the host collects them chunk by chunk
CHUNK_S = 0.1  # seconds between two looks at the clock and the keyboard
FIRST_CHUNK = 8  # evaluations, while nothing is known of their speed


class Report(NamedTuple):
    """What a loop tells when it returns control."""

    x: Any  # flat; as leaves once it has left the compiled program
    value: Any
    grad: Any  # the same
    aux: Any
    numbers: Any  # nit, nfev, status, value and grad_norm of the current iterate
    rows: Any  # a ring: iteration k is row k mod ROWS


class Loop(NamedTuple):
    """A solver on the device: the carry before the first evaluation, the loop, and its report."""

    start: Callable[[list[Any], Any], Any]
    advance: Callable[..., Any]
    report: Callable[[Any], Report]


def compile_optax(problem: Problem, method: Any, options: Options) -> tuple[dict[str, Any], float, int]:
    """The programs of the loop: name -> program; the seconds spent now, and how many were compiled."""
    name = (method, problem.bounds is not None, options.maxcor)
    unravel = problem.plan.params.unravel

    def start() -> tuple[Any, tuple[Any, ...]]:
        return jax.jit(_loop_of(problem, method, options).start), (problem.free, _box(problem))

    def advance() -> tuple[Any, tuple[Any, ...]]:
        loop = _loop_of(problem, method, options)

        def run(state: Any, data: Data, limits: Any, box: Any, until: Any) -> tuple[Any, Report]:
            state = loop.advance(state, data, limits, box, until)
            report = loop.report(state)
            return state, report._replace(x=unravel(report.x), grad=unravel(report.grad))

        state = jax.eval_shape(loop.start, problem.free, _box(problem))
        inputs = (state, problem.data, _limits(problem, options), _box(problem), np.float64(0))
        return jax.jit(run, donate_argnums=0), inputs

    begin, begin_s = problem.compile(("start", *name), start)
    run, run_s = problem.compile(("advance", *name), advance)
    return {"start": begin, "advance": run}, begin_s + run_s, (begin_s > 0) + (run_s > 0)


def solve_optax(problem: Problem, method: Any, options: Options, watch: Watch) -> Outcome:
    """Minimize with the all-device L-BFGS(-B), or with any Optax transformation.

    Arguments:
        problem: what to minimize.
        method: a GradientTransformation, or None for the default.
        options: the limits.
        watch: who may stop the solve.
    """
    programs, compile_s, compiles = compile_optax(problem, method, options)
    limits, box, speed = _limits(problem, options), _box(problem), problem.plan.programs.speed
    with watch.solving():
        state = programs["start"](problem.free, box)
        chunks = _Chunks(watch, speed.get(method), problem)
        while True:
            state, report = programs["advance"](state, problem.data, limits, box, chunks.until())
            status = chunks.collect(report)
            if status is not None:
                break
        solve_s = watch.seconds
    speed[method] = chunks.nfev / max(solve_s, 1e-9)
    return Outcome(
        x=report.x,
        value=report.value,
        grad=report.grad,
        aux=report.aux,
        nit=chunks.nit,
        nfev=chunks.nfev,
        status=int(status),
        trace=chunks.trace(),
        timing=Timing(compile_s, solve_s, compiles),
    )


def trace_optax(problem: Problem, method: Any, options: Options) -> Outcome:
    """The same inside a trace: one loop, no clock; the trace keeps the last ROWS iterations."""
    loop, box = _loop_of(problem, method, options), _box(problem)
    state = loop.start(problem.free, box)
    state = loop.advance(state, problem.data, _limits(problem, options), box, jnp.asarray(jnp.inf, problem.plan.dtype))
    report = loop.report(state)
    nit, nfev, status = report.numbers[:3].astype(jnp.int32)
    first = jnp.maximum(nit + 1 - ROWS, 0)
    rows = jnp.roll(report.rows, -first, axis=0)
    rows = jnp.where((jnp.arange(ROWS) <= nit)[:, None], rows, jnp.nan)
    trace = Trace(rows[:, 0], rows[:, 1], rows[:, 2], jnp.full(ROWS, jnp.nan))
    timing = Timing(jnp.nan, jnp.nan, 0)
    return Outcome(report.x, report.value, report.grad, report.aux, nit, nfev, status, trace, timing)


class _Chunks:
    """The host's side of the loop: how far the next chunk goes, and what the last one brought."""

    def __init__(self, watch: Watch, speed: float | None, problem: Problem) -> None:
        self._watch, self._speed, self._problem = watch, speed, problem
        self._rows: list[np.ndarray] = []
        self._seconds: list[np.ndarray] = []
        self._last = 0.0
        self.nit, self.nfev = -1, 0

    def until(self) -> float:
        """The number of evaluations at which the next chunk ends; never more than the trace has room for."""
        budget = float(FIRST_CHUNK)
        if self._speed is not None:
            budget = self._speed * min(CHUNK_S, max(self._watch.seconds_left, 0.0))
        return float(self.nfev + int(np.clip(budget, 1, ROWS - 2)))

    def collect(self, report: Report) -> Status | None:
        """Take over the trace; the status if the solve has ended, by itself or from outside."""
        nit, nfev, status, value, grad_norm = np.asarray(report.numbers, dtype=np.float64).tolist()
        now = self._watch.seconds
        known, self.nit = self.nit, int(nit)
        places = np.arange(known + 1, self.nit + 1)
        rows = np.asarray(report.rows)[places % ROWS].astype(np.float64)
        spent = (rows[:, 2] - self.nfev) / max(nfev - self.nfev, 1)
        self._rows.append(rows)
        self._seconds.append(self._last + spent * (now - self._last))
        if nfev > self.nfev:
            self._speed = (nfev - self.nfev) / max(now - self._last, 1e-9)
        self._last, self.nfev = now, int(nfev)
        progress = Progress(self.nit, self.nfev, value, grad_norm, now, lambda: self._tree(report.x))
        told = self._watch.report(progress)
        if status != RUNNING:
            return Status(int(status))
        stop = self._watch.stop()
        return told if stop is None else stop

    def trace(self) -> Trace:
        """The rows as columns."""
        rows, seconds = np.concatenate(self._rows), np.concatenate(self._seconds)
        return Trace(rows[:, 0], rows[:, 1], rows[:, 2].astype(int), seconds)

    def _tree(self, x: Any) -> Any:
        return self._problem.plan.params.merge(x, self._problem.riders)


def _loop_of(problem: Problem, method: Any, options: Options) -> Loop:
    """The engine, or the loop of a transformation, for this problem."""
    structure, dtype = problem.plan.params, problem.plan.dtype

    def evaluate_with(data: Data) -> Callable[[Any], Any]:
        return lambda x: problem.value_and_grad(x, data)

    def ravel(free: list[Any]) -> Any:
        return structure.ravel(free, dtype)

    aux = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), problem.plan.aux)
    if method is None:
        return Loop(
            start=lambda free, box: engine.start_state(ravel(free), aux, options.maxcor, ROWS, box),
            advance=lambda state, data, limits, box, until: engine.advance(
                evaluate_with(data), state, limits, box, jnp.asarray(until, dtype)
            ),
            report=_report_engine,
        )
    translation = Translation(
        to_tree=lambda x: structure.masked(structure.unravel(x)), to_vector=lambda tree: ravel(jax.tree.leaves(tree))
    )
    return Loop(
        start=lambda free, box: start_transform(method, translation, ravel(free), aux, ROWS),
        advance=lambda state, data, limits, box, until: advance_transform(
            method, translation, evaluate_with(data), state, limits, until
        ),
        report=_report_transform,
    )


def _report_engine(state: engine.State) -> Report:
    search, progress = state.numbers.read()
    converged = (progress.status == Status.GTOL) | (progress.status == Status.FTOL)
    last = (state.x, search.value_start, state.grad, state.aux)
    best = (state.best_x, progress.best_value, state.best_grad, state.best_aux)
    x, value, grad, aux = jax.tree.map(lambda a, b: jnp.where(converged, a, b), last, best)
    numbers = [progress.nit, progress.nfev, progress.status, search.value_start, progress.grad_norm]
    return Report(x, value, grad, aux, jnp.stack(numbers), state.rows)


def _report_transform(state: Any) -> Report:
    converged = (state.status == Status.GTOL) | (state.status == Status.FTOL)
    last = (state.x, state.value, state.grad, state.aux)
    best = (state.best_x, state.best_value, state.best_grad, state.best_aux)
    x, value, grad, aux = jax.tree.map(lambda a, b: jnp.where(converged, a, b), last, best)
    nit = state.nit - (state.status == RUNNING)  # the last move has not been evaluated yet
    numbers = [nit, state.nfev, state.status, state.value, state.grad_norm]
    return Report(x, value, grad, aux, jnp.stack([jnp.asarray(each, x.dtype) for each in numbers]), state.rows)


def _limits(problem: Problem, options: Options) -> engine.Limits:
    """The tolerances as inputs of the program, in the type of its arithmetic."""
    dtype = np.dtype(problem.plan.dtype)
    most = float(1 / jnp.finfo(dtype).eps)  # the engine counts in its own floating type
    return engine.Limits(
        gtol=_as(options.gtol, dtype),
        ftol=_as(options.ftol, dtype),
        maxiter=_as(options.maxiter, dtype),
        maxfun=_as(options.maxfun if isinstance(options.maxfun, Tracer) else min(options.maxfun, most), dtype),
        maxls=_as(options.maxls, dtype),
        maxcor=_as(options.maxcor, dtype),
    )


def _as(value: Any, dtype: Any) -> Any:
    return value.astype(dtype) if isinstance(value, Tracer) else dtype.type(value)


def _box(problem: Problem) -> engine.Box | None:
    """The bounds as inputs of the program, in the type of its arithmetic."""
    bounds: FlatBounds | None = problem.bounds
    if bounds is None:
        return None
    return engine.Box(bounds.lower.astype(problem.plan.dtype), bounds.upper.astype(problem.plan.dtype))
