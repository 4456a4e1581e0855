"""Record a solve while SciPy calls: rows of the trace, the best evaluation, the iterate, and the stopping tests."""

from __future__ import annotations

import functools
from collections import deque

import numpy as np
from scipy.optimize import OptimizeResult

from .._core.monitor import Progress, SolveMonitor
from .._core.options import Options
from .._core.status import Status
from .._core.stopping import MAX_UNCHANGED_TRIALS, noise
from .._core.trace import Trace
from .evaluation import Evaluation, Search, Stop, is_endless_step, judge_iterate, nonfinite_value, still_descends
from .evaluator import HostEvaluator
from .finite import FiniteEvaluations
from .fixed import FreeVector
from .methods import Method
from .noise import NoiseMeter

RECENT = 4  # evaluations remembered: a method's new iterate is among its last few


class SolveRecorder:
    """The functions that SciPy calls; they record every evaluation and raise Stop where the solve ends.

    Args:
        evaluator: evaluates the objective.
        options: limits and tolerances.
        monitor: the clock and the caller's callback.
        method: native_stopping says whether its tests are ours, differences that not every evaluation is a trial.
    """

    def __init__(self, evaluator: HostEvaluator, options: Options, monitor: SolveMonitor, method: Method) -> None:
        self.evaluator, self.options, self._monitor = evaluator, options, monitor
        self._applies_tests, self._differences = not method.native_stopping, method.differences
        self._rows: list[tuple[float, float, int, float]] = []
        self._recent: deque[Evaluation] = deque(maxlen=RECENT)
        self.iterate: Evaluation | None = None
        self.before: Evaluation | None = None  # the iterate before
        self.search = Search()
        self.noise = NoiseMeter(evaluator.rounding)
        # The non-finite trial that shortened the step to the iterate; kept while the steps after it stay short.
        self.step_was_reduced: Evaluation | None = None
        self.misled = False  # the search that led to the iterate was contradicted and lowered nothing
        self.idle = False  # the last iteration evaluated nothing: its step was lost in the rounding of x
        self.last_nonfinite: Evaluation | None = None
        by_slopes = evaluator.has_grad and options.ftol == 0
        self.finite = FiniteEvaluations(evaluator.projected_norm, self.noise if by_slopes else None)

    @property
    def best(self) -> Evaluation | None:
        """The best finite evaluation."""
        return self.finite.best

    @property
    def nit(self) -> int:
        """The number of iterations so far."""
        return max(len(self._rows) - 1, 0)

    @property
    def nfev(self) -> int:
        """The number of evaluations so far."""
        return self.evaluator.nfev

    @property
    def reduced_by(self) -> Evaluation | None:
        """The non-finite trial that shortened the present search or the step before it."""
        return self.search.nonfinite_trial or self.step_was_reduced

    def evaluate(self, x: FreeVector) -> Evaluation:
        """Evaluate and record."""
        if self.nfev >= self.options.maxfun:
            raise Stop(Status.MAXFUN)
        evaluation = self.evaluator.evaluate(self.evaluator.to_whole(x))
        self._record(evaluation)
        return evaluation

    def value(self, x: FreeVector) -> float:
        """Evaluate for a method without derivatives."""
        evaluation = self.evaluate(x)
        if evaluation.finite or self.best is None:
            return evaluation.value
        return nonfinite_value(self.best, evaluation, self.finite.highest)

    def value_and_grad(self, x: FreeVector) -> tuple[float, FreeVector]:
        """Evaluate for a method that uses derivatives."""
        return self.evaluator.to_method(self.evaluate(x), self._anchor)

    def value_alone(self, x: FreeVector) -> float:
        """Evaluate, and keep the gradient for `gradient`."""
        value, self._grad = self.value_and_grad(x)
        return value

    def gradient(self, x: FreeVector) -> FreeVector:
        """Return the gradient; that of the last evaluation if it was here."""
        if not self._recent or not np.array_equal(self.evaluator.to_whole(x), self._recent[-1].x):
            self.value_alone(x)
        return self._grad

    def gradient_at_iterate(self, x: FreeVector) -> FreeVector:
        """Return the gradient for a method that asks for it at its iterates only: at the start and the next ones."""
        last = self._recent[-1].x
        assert np.array_equal(self.evaluator.to_whole(x), last), "a gradient elsewhere than at the last evaluation"
        if self.nfev > 1:
            self.iteration(x)
        return self._grad

    def describe_trial(self, trial: Evaluation) -> str:
        """Say where a trial is not finite, and in which iteration."""
        return f"In iteration {self.nit + 1}: {self.evaluator.describe(trial)}."

    def iteration(self, intermediate_result: OptimizeResult | FreeVector) -> None:
        """SciPy's callback: record the new iterate, tell the user's callback, and test whether the solve ends."""
        point = self._find_iterate(intermediate_result)
        if not point.finite:
            raise Stop(Status.NONFINITE, self.describe_trial(point))
        # A trust region that rejects its trial reports the same iterate again: its search goes on.
        moved = not (self._applies_tests and self.iterate is not None and np.array_equal(point.x, self.iterate.x))
        self.idle = not moved and self.search.first_trial is None
        before, first = self.iterate if moved else None, self.search.first_trial
        if before is not None and first is not None and is_endless_step(before, first, point, self.evaluator.rounding):
            self._write_row(point)
            raise Stop(Status.UNBOUNDED)
        if moved:
            self._end_search(before, point)
            self.before = before
        self.iterate = point
        norm = self._write_row(point)
        status = self._report(point, norm) if self._monitor.callback is not None else None
        if status is None and self._applies_tests:
            reduced, rounding = self.step_was_reduced is not None, self.evaluator.rounding
            status = judge_iterate(before, point, norm, self.options, rounding, reduced=reduced)
            if status is None and self.nit >= self.options.maxiter:
                status = Status.MAXITER
        if status is not None:
            raise Stop(status)

    def trace(self) -> Trace:
        """Return the rows as columns."""
        columns = zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        fun, grad_norm, nfev, seconds = (np.array(column) for column in columns)
        return Trace(fun, grad_norm, nfev.astype(int), seconds)

    def settle(self, evaluation: Evaluation) -> None:
        """Make this the last iterate: its search found only noise, which counts as a reduction of 0."""
        self.iterate = evaluation
        self._write_row(evaluation)

    def find(self, x: FreeVector) -> Evaluation | None:
        """Return the evaluation at `x` if it is the best, the iterate or a recent one."""
        x = self.evaluator.to_whole(x)
        known = [each for each in (self.best, self.iterate) if each is not None] + list(self._recent)
        return next((each for each in reversed(known) if np.array_equal(each.x, x)), None)

    @property
    def _anchor(self) -> Evaluation:
        """Where a search continues from after a trial that is not finite."""
        anchor = self.iterate if self.iterate is not None and self.iterate.finite else self.best
        assert anchor is not None
        return anchor

    def _find_iterate(self, reported: OptimizeResult | FreeVector) -> Evaluation:
        """Return the evaluation at the iterate that a method reports, as a result or as a bare vector."""
        point = self._recent[-1]
        if self._applies_tests:  # L-BFGS-B's iterate is its last evaluation; another method's may be an earlier one
            x = reported.x if isinstance(reported, OptimizeResult) else reported
            point = self.find(x) or self.best or point  # COBYLA before SciPy 1.16 reports x before it evaluates it
        if not point.finite and not self.evaluator.has_grad:  # with bounds, Powell may move uphill
            point = self.best or point
        return point

    def _end_search(self, before: Evaluation | None, point: Evaluation) -> None:
        """Keep what matters of the search that found the iterate, and begin a new one."""
        reduced = self.step_was_reduced
        lasts = self._applies_tests and reduced is not None and still_descends(before, point)
        self.step_was_reduced = self.search.nonfinite_trial or (reduced if lasts else None)
        self.misled = self.noise.contradicted and before is not None and point.value >= before.value
        self.search = Search()
        fell = before is None or point.value < before.value - self.noise.level(abs(before.value))
        self.noise.begin_search(progress=bool(fell))

    def _report(self, point: Evaluation, norm: float) -> Status | None:
        params = functools.partial(self.evaluator.host.to_params, point.x)
        return self._monitor.notify(Progress(self.nit, self.nfev, point.value, norm, self._monitor.seconds, params))

    def _record(self, evaluation: Evaluation) -> None:
        search = self.search
        self._recent.append(evaluation)
        search.first_trial = search.first_trial or evaluation
        if self._differences and self.iterate is not None:
            search.note_distance(self.iterate, evaluation)
        if not evaluation.finite:
            search.nonfinite_trial, self.last_nonfinite = search.nonfinite_trial or evaluation, evaluation
        else:
            self.finite.add(evaluation)
        if self.nfev == 1:
            search.first_trial = None
            self._start(evaluation if evaluation.finite else self._evaluate_start(evaluation))
        elif self.evaluator.has_grad and evaluation.finite and self.iterate is not None:
            search.finite_trials += 1
            if search.finite_trials > 1 and not self._differences:  # most searches end with one trial
                self._judge_trial(self.iterate, evaluation)

    def _judge_trial(self, iterate: Evaluation, trial: Evaluation) -> None:
        """End a search on the plateau of an objective coarser than float64.

        SciPy's search assumes the rounding of float64 and would use up maxls every time.
        """
        search = self.search
        for each in (search.first_trial, trial) if search.finite_trials == 2 else (trial,):
            self.noise.see(iterate, each)
        unchanged = abs(trial.value - iterate.value) <= noise(abs(iterate.value), self.evaluator.rounding)
        lasts = unchanged and search.finite_trials >= MAX_UNCHANGED_TRIALS
        if not (lasts and self.evaluator.is_coarse and not self.noise.contradicted):
            return
        if search.nonfinite_trial is not None:  # a reduced step changes little, and rounding is not the reason
            raise Stop(Status.NONFINITE, self.describe_trial(search.nonfinite_trial))
        if self.options.ftol == 0:
            raise Stop(Status.NOISE_FLOOR)
        if trial.value <= iterate.value:
            self.settle(trial)
            raise Stop(Status.FTOL)

    def _evaluate_start(self, first: Evaluation) -> Evaluation:
        """Evaluate the start itself: COBYQA first moves a start near a bound, to where the objective may be NaN."""
        x = self.evaluator.host.start()
        if np.array_equal(x, first.x):
            return first
        start = self.evaluator.evaluate(x)
        if start.finite:
            self.finite.start(start)
        return start

    def _start(self, start: Evaluation) -> None:
        if not start.finite:
            raise self.evaluator.refuse(start)
        self.iterate = start
        norm = self._write_row(start)
        if self.options.maxiter == 0:
            raise Stop(Status.GTOL if norm <= self.options.gtol else Status.MAXITER)
        if self._applies_tests and norm <= self.options.gtol:
            raise Stop(Status.GTOL)

    def _write_row(self, point: Evaluation) -> float:
        norm = self.evaluator.projected_norm(point)
        self._rows.append((point.value, norm, self.nfev, self._monitor.seconds))
        return norm
