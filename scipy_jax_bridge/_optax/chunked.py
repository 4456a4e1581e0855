"""Run a device loop in chunks: it returns to the host about ten times a second, and resumes bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, PyTree

from .._backend import Compiled
from .._core.agreement import fingerprint
from .._core.monitor import Progress, SolveMonitor
from .._core.status import RUNNING, Status
from .._core.types import HostVector, Vector, is_whole
from .._problem.problem import Problem
from .._result import Outcome, Result, ResumeState, Timing, Trace
from .device_solver import (
    ROWS,
    DeviceState,
    Evaluation,
    Leaves,
    LoopReport,
    LoopScalars,
    find_points,
    unwrap_counts,
)
from .loop_tools import COUNT_MODULUS

CHUNK_S = 0.1  # seconds of a chunk: how long the clock, the keyboard and the callback wait
FIRST_CHUNK = 1  # evaluations of the first chunk if their speed is not known
FIRST_S = 0.01  # seconds of the first chunk at the speed of an earlier solve, whose data may have been cheaper

HostRows = Float[np.ndarray, "_ 3"]  # value, grad_norm, nfev; one row per iteration


class ChunkedRun:
    """The progress of a solve, chunk by chunk.

    Attributes:
        found: what the solve returns if it ends here.
        best: the best finite point so far, or None.
        state: the state after the last chunk; None while a chunk takes it over.
        speed: evaluations per second in the last chunk, or None before it.
        nit, nfev: iterations and evaluations so far.
        seen: a fingerprint of what the processes of a solve over several have to have in common.
    """

    found: Evaluation
    best: Evaluation | None
    state: DeviceState | None
    speed: float | None
    seen: int

    def __init__(
        self,
        problem: Problem,
        monitor: SolveMonitor,
        advance: Callable[[DeviceState, int], tuple[DeviceState, LoopReport]],
        evals_per_second: float | None,
    ) -> None:
        """Begin a solve.

        Args:
            problem: what is minimized.
            monitor: the clock, the keyboard and the callback.
            advance: the compiled loop: (state, count of evaluations at which to return) -> state, report.
            evals_per_second: the speed of the last solve of this structure, whose data may have differed; or None.
        """
        self._problem, self._monitor, self._advance = problem, monitor, advance
        self._rows: list[HostRows] = []
        self._seconds: list[HostVector] = []
        self._last_s = self._earlier_s = 0.0
        self._evals_per_second = evals_per_second
        self.best, self.state, self.speed, self.seen = None, None, None, 0
        self.nit, self.nfev = -1, 0

    def resume(self, earlier: Result) -> None:
        """Continue the counts and the trace of an earlier solve."""
        self.nit, self.nfev = int(earlier.nit), int(earlier.nfev)
        fun, grad_norm, nfev, seconds = (np.asarray(column, dtype=np.float64) for column in earlier.trace)
        self._rows.append(np.stack([fun, grad_norm, nfev], axis=1))
        self._seconds.append(seconds)
        self._earlier_s = float(seconds[-1]) if seconds.size else 0.0

    def end(self, status: Status) -> Status:
        """Return the status with which all processes of the solve end."""
        self._monitor.agree(self.nfev, self.seen, ended=status)
        return status

    def evaluate_at(self, start: Callable[[Leaves], DeviceState], x: Vector) -> Evaluation:
        """Evaluate the objective at a point with the compiled loop, without counting it."""
        params = self._problem.spec.params
        leaves = params.unravel(np.asarray(x)) if is_whole(x) else params.snapshot(x)
        state, _ = self._compute(start(leaves), 1, None)
        return Evaluation(x, float(np.asarray(state.rows)[0, 0]), state.grad, state.aux)

    def run(self, state: DeviceState) -> tuple[DeviceState, Status | None]:
        """Run one chunk. Return the state, and the status if the solve has ended or is to be stopped."""
        stop, evaluations = self._monitor.agree(self.nfev, self.seen, self.next_chunk())
        if stop is not None and self.speed is not None:
            return state, stop
        speed = self.speed or self._evals_per_second
        expected_s = None if speed is None else evaluations / speed
        self.state = None
        state, report = self._compute(state, self.nfev + evaluations, expected_s)
        self.state = state
        values = np.asarray(report.values, dtype=np.float64)
        scalars = LoopScalars(*np.asarray(report.counts).tolist(), *values.tolist())
        converged, last, best = find_points(state, report, scalars)
        self.best = best if np.isfinite(best.value) else None
        self.found = last if converged else best
        self._collect(scalars, np.asarray(state.rows), last)
        if self._monitor.agreement is not None:
            self.seen = fingerprint(values)
        return state, None if scalars.status == RUNNING else Status(int(scalars.status))

    def _compute(self, state: DeviceState, until: int, expected_s: float | None) -> tuple[DeviceState, LoopReport]:
        """Advance the state to `until` evaluations, and wait for the result."""

        def advance() -> tuple[DeviceState, LoopReport]:
            state_then, report = self._advance(state, until)
            return state_then, report._replace(values=report.values.block_until_ready())

        if self._problem.spec.is_host:
            return advance()  # Python is interruptible, and may want its main thread
        return self._monitor.wait_interruptibly(advance, expected_s)

    def next_chunk(self) -> int:
        """Return the evaluations of the next chunk: CHUNK_S seconds, and at most as many as the trace has rows for.

        Where Python evaluates it is one, so that an exception loses no evaluation.
        """
        if self._problem.spec.is_host or (self.speed is None and self._evals_per_second is None):
            return FIRST_CHUNK
        left = max(self._monitor.seconds_left, 0.0)
        expected = (
            self.speed * min(CHUNK_S, left) if self.speed else (self._evals_per_second or 0.0) * min(FIRST_S, left)
        )
        return int(min(max(expected, FIRST_CHUNK), ROWS - 2))

    def _collect(self, scalars: LoopScalars, ring: HostRows, last: Evaluation) -> None:
        """Collect the new rows of the trace, and call the callback."""
        nfev, now = int(scalars.nfev), self._monitor.seconds
        known, self.nit = self.nit, int(scalars.nit)
        rows = _take_rows(ring, known + 1, self.nit + 1)
        if nfev >= COUNT_MODULUS:
            rows[:, 2] = unwrap_counts(rows[:, 2], nfev)
        spent = (rows[:, 2] - self.nfev) / max(nfev - self.nfev, 1)
        self._rows.append(rows)
        self._seconds.append(self._earlier_s + self._last_s + spent * (now - self._last_s))
        if nfev > self.nfev:
            self.speed = (nfev - self.nfev) / max(now - self._last_s, 1e-9)
        self._last_s, self.nfev = now, nfev
        is_due = self.nit > known or not self._problem.spec.is_host  # once an iteration, or a chunk
        together = self._monitor.agreement is not None and not is_whole(last.x)  # one process alone cannot copy x
        if is_due and (together or self._monitor.callback is not None):
            self._call_back(scalars, last)

    def trace(self) -> Trace:
        """Return the trace as columns."""
        rows, seconds = np.concatenate(self._rows), np.concatenate(self._seconds)
        return Trace(rows[:, 0], rows[:, 1], rows[:, 2].astype(int), seconds)

    def outcome(
        self,
        compiled: Compiled,
        status: Status,
        point: Evaluation,
        detail: str = "",
        note: str = "",
        carry: ResumeState | None = None,
    ) -> Outcome:
        """Return the outcome of the solve, if it ends now with this status and this point."""
        return Outcome(
            **self._problem.on_device(point.x, point.value, point.grad),
            aux=point.aux,
            nit=self.nit,
            nfev=self.nfev,
            status=int(status),
            trace=self.trace(),
            timing=Timing(compiled.seconds, self._monitor.seconds, compiled.compiles),
            detail=detail,
            note=note,
            carry=carry,
        )

    def _call_back(self, scalars: LoopScalars, last: Evaluation) -> None:
        structure = self._problem.spec.params
        x = structure.snapshot(last.x)

        def params() -> PyTree:
            return structure.to_params(x, self._problem.static_leaves)

        value, grad_norm = float(scalars.value), float(scalars.grad_norm)
        self._monitor.notify(Progress(self.nit, self.nfev, value, grad_norm, self._last_s, params))


def _take_rows(ring: HostRows, first: int, end: int) -> HostRows:
    """Copy the rows of iterations `first` to `end` - 1. Iteration k has row k modulo their number."""
    begin, count = first % len(ring), end - first
    if begin + count <= len(ring):
        return np.array(ring[begin : begin + count], dtype=np.float64)
    return np.concatenate([ring[begin:], ring[: begin + count - len(ring)]]).astype(np.float64)
