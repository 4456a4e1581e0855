"""The host's side of a loop on the device: it comes back about ten times a second, and goes on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._core.monitor import Progress, SolveMonitor
from .._core.status import RUNNING, Status
from .._problem.problem import Problem
from .._result import Result, Trace
from .device_solver import ROWS, Found, LoopScalars, Report, count_on, find_points

CHUNK_S = 0.1  # seconds between two looks at the clock and the keyboard
FIRST_CHUNK = 1  # evaluation, while nothing is known of their speed
FIRST_S = 0.01  # seconds by the pace of an earlier solve, whose data may have been cheaper


class Seen(NamedTuple):
    """What the objective is at a point."""

    value: float
    grad: np.ndarray


class ChunkedRun:
    """How far the next chunk goes, and what the last one brought.

    Arguments:
        problem: what is minimized.
        watch: who may stop it.
        advance: the compiled loop: a carry and the count of evaluations at which to come back, to a carry and a report.
        pace: evaluations a second in the last solve of this structure, with other data perhaps; None if there was none.
    """

    found: Found  # what to hand back if the solve ends here

    def __init__(
        self,
        problem: Problem,
        monitor: SolveMonitor,
        advance: Callable[[Any, int], tuple[Any, Report]],
        pace: float | None,
    ) -> None:
        self._problem, self._monitor, self._advance = problem, monitor, advance
        self._rows: list[np.ndarray] = []
        self._seconds: list[np.ndarray] = []
        self._last = self._earlier_s = 0.0
        self.best: Found | None = None  # the best finite point so far
        self._pace, self.speed = pace, None  # evaluations a second
        self.nit, self.nfev = -1, 0

    def go_on(self, earlier: Result) -> None:
        """Begin where an earlier solve stopped."""
        self.nit, self.nfev = int(earlier.nit), int(earlier.nfev)
        fun, grad_norm, nfev, seconds = (np.asarray(column, dtype=np.float64) for column in earlier.trace)
        self._rows.append(np.stack([fun, grad_norm, nfev], axis=1))
        self._seconds.append(seconds)
        self._earlier_s = float(seconds[-1]) if seconds.size else 0.0

    def look_at(self, start: Callable[[list[Any]], Any], x: np.ndarray) -> Seen:
        """Value and gradient at a point, by the loop itself, that does not count."""
        state, report = self._compute(start(self._problem.spec.params.unravel(x)), 1, None)
        return Seen(float(np.asarray(report.rows)[0, 0]), np.asarray(state.grad))

    def run(self, state: Any) -> tuple[Any, Status | None]:
        """The carry after one chunk; the status if the solve has ended, by itself or from outside."""
        evaluations = self.size()
        speed = self.speed or self._pace
        expected_s = None if speed is None else evaluations / speed
        state, report = self._compute(state, self.nfev + evaluations, expected_s)
        values = np.asarray(report.values, dtype=np.float64)
        numbers = LoopScalars(*np.asarray(report.counts).tolist(), *values.tolist())
        converged, last, best = find_points(state, report, numbers)
        self.best = best if np.isfinite(best.value) else None
        self.found = last if converged else best
        return state, self._collect(numbers, report.rows, last)

    def _compute(self, state: Any, until: int, expected_s: float | None) -> tuple[Any, Report]:
        """The loop's carry and report at so many evaluations, computed."""

        def advance() -> tuple[Any, Report]:
            state_then, report = self._advance(state, until)
            return state_then, report._replace(values=report.values.block_until_ready())

        return self._monitor.wait_interruptibly(advance, expected_s)

    def size(self) -> int:
        """Evaluations of the next chunk: a tenth of a second, and never more than the trace has room for."""
        if self.speed is None and self._pace is None:
            return FIRST_CHUNK
        left = max(self._monitor.seconds_left, 0.0)
        expected = self.speed * min(CHUNK_S, left) if self.speed else (self._pace or 0.0) * min(FIRST_S, left)
        return int(np.clip(expected, FIRST_CHUNK, ROWS - 2))

    def _collect(self, numbers: LoopScalars, ring: Any, last: Found) -> Status | None:
        """Take over the trace, tell the callback, look at the clock and the keyboard."""
        nfev, now = numbers.nfev, self._monitor.seconds
        known, self.nit = self.nit, numbers.nit
        rows = _take_rows(np.asarray(ring), known + 1, self.nit + 1)
        rows[:, 2] = count_on(rows[:, 2], nfev)
        spent = (rows[:, 2] - self.nfev) / max(nfev - self.nfev, 1)
        self._rows.append(rows)
        self._seconds.append(self._earlier_s + self._last + spent * (now - self._last))
        if nfev > self.nfev:
            self.speed = (nfev - self.nfev) / max(now - self._last, 1e-9)
        self._last, self.nfev = now, nfev
        told = self._tell(numbers, last) if self._monitor.callback is not None else None
        if numbers.status != RUNNING:
            return Status(numbers.status)
        stop = self._monitor.stop_status()
        return told if stop is None else stop

    def trace(self) -> Trace:
        """The rows as columns."""
        rows, seconds = np.concatenate(self._rows), np.concatenate(self._seconds)
        return Trace(rows[:, 0], rows[:, 1], rows[:, 2].astype(int), seconds)

    def _tell(self, numbers: LoopScalars, last: Found) -> Status | None:
        x = np.array(last.x)  # the next chunk takes the carry over

        def tree() -> Any:
            return self._problem.spec.params.to_params(x, self._problem.static_leaves)

        norm = numbers.grad_norm
        return self._monitor.notify(Progress(self.nit, self.nfev, numbers.value, norm, self._last, tree))


def _take_rows(ring: np.ndarray, first: int, end: int) -> np.ndarray:
    """A copy of the rows from `first` up to `end`, of which iteration k is row k modulo their number."""
    begin, count = first % len(ring), end - first
    if begin + count <= len(ring):
        return np.array(ring[begin : begin + count], dtype=np.float64)
    return np.concatenate([ring[begin:], ring[: begin + count - len(ring)]]).astype(np.float64)
