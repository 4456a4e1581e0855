"""What SciPy is given to call, and the record that is written while it calls it."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from typing import Any

import jax
import numpy as np
from scipy.linalg.blas import idamax  # type: ignore[attr-defined]

from .._core.monitor import Progress, SolveMonitor
from .._core.options import Options
from .._core.status import Status
from .._core.stopping import STAIRS, is_flat, noise, projected_norm
from .._core.trace import (
    Trace,
)
from .._core.types import HostVector
from .._problem.nonfinite import describe_nonfinite, refuse_start
from .._problem.problem import Problem
from .fixed import FixedComponents, FreeVector
from .point import Point, Stop, build_wall, is_against, is_finite, is_hidden, is_short, leads_on

RECENT = 4  # evaluations remembered: a method's iterate is among its last few


class Record:
    """The host callable, and all that is known of the solve.

    Arguments:
        problem: what is evaluated.
        evaluate: its compiled program; one array in, one packed array out.
        has_grad: whether the program returns a gradient.
        tests: whether our own stopping tests apply; not where the method's are the same.
        held: components that the method does not see; None where it sees all. Here every point is whole.
        options: the limits.
        watch: who may stop the solve.
    """

    def __init__(
        self,
        problem: Problem,
        evaluate: Any,
        *,
        has_grad: bool,
        tests: bool,
        held: FixedComponents | None,
        options: Options,
        monitor: SolveMonitor,
    ) -> None:
        self._program, self._data, self._bounds, self._held = evaluate, problem.data, problem.bounds, held
        self._cast = None if problem.spec.dtype == np.float64 else problem.spec.dtype
        self._has_grad, self._tests, self._options, self._monitor = has_grad, tests, options, monitor
        self._structure, self._riders, self._free = problem.spec.params, problem.static_leaves, problem.start_leaves
        self._recent: deque[Point] = deque(maxlen=RECENT)
        self._rows: list[tuple[float, float, int, float]] = []
        self.iterate: Point | None = None
        self.best: Point | None = None
        self.first_trial: Point | None = None  # the first evaluation since the iterate
        self.idle = False  # the last iteration evaluated nothing: its step was lost in the rounding of x
        self.lost: Point | None = None  # the first one since the iterate that is not finite
        self.cut: Point | None = None  # the same of the search that led to the iterate: its step was cut short
        self.wall: Point | None = None  # the last one of the solve that is not finite
        self.compared = False  # some finite evaluation was elsewhere than at the best point
        self.products = 0  # second derivatives asked for
        self.rounding = problem.spec.rounding
        self._coarse = has_grad and self.rounding > np.finfo(np.float64).eps  # than SciPy's own arithmetic
        self._trials = 0  # finite evaluations since the iterate
        self.contradicted = False  # whether value and slopes of one of them disagree
        self.misled = False  # the same of the search that led to the iterate
        self._highest = -math.inf  # of the finite values
        self._took = problem.spec.took
        self.nfev = 0

    @property
    def nit(self) -> int:
        """Iterations so far."""
        return max(len(self._rows) - 1, 0)

    def evaluate(self, x: FreeVector) -> Point:
        """One evaluation at `x`, recorded."""
        if self.nfev >= self._options.maxfun:
            raise Stop(Status.MAXFUN)
        point = self._evaluate(self._inside(x))
        self._keep(point)
        return point

    def _evaluate(self, x: HostVector) -> Point:
        packed, aux = self._run(self._program, x)
        value, grad = packed[0], packed[1:] if self._has_grad else None
        self.nfev += 1
        return Point(x, value, grad, aux, math.isfinite(value) and (grad is None or is_finite(grad)))

    def product(self, program: Any, x: FreeVector, v: np.ndarray) -> FreeVector:
        """The Hessian times a vector, which trust-constr begins with whole numbers."""
        self.products += 1
        v = np.asarray(v, dtype=np.float64)
        at, along = (x, v) if self._held is None else (self._held.restore(x), self._held.embed(v))
        result, _ = self._run(program, at, along)
        return result if self._held is None else self._held.reduce(result)

    def hessian(self, program: Any, x: FreeVector) -> np.ndarray:
        """The whole matrix; where it is not finite, at trials above all, that of a sphere: SciPy checks it first."""
        self.products += 1
        matrix, _ = self._run(program, self._inside(x))
        if not np.isfinite(matrix).all():
            matrix = np.eye(len(matrix))
        return matrix if self._held is None else self._held.reduce(matrix)

    def value(self, x: FreeVector) -> float:
        """For a derivative-free method; where the objective is not finite above all others, and rising outward."""
        point = self.evaluate(x)
        if point.finite or self.best is None:
            return point.value
        away = float(np.linalg.norm(point.x - self.best.x))
        return self._highest + (abs(self._highest) + 1) * (2 - 1 / (1 + away))

    def value_and_grad(self, x: FreeVector) -> tuple[float, FreeVector]:
        """For all others."""
        point = self.evaluate(x)
        value, grad = (point.value, point.grad) if point.finite else build_wall(self._anchor, point, self.rounding)
        return value, grad if self._held is None else self._held.reduce(grad)  # type: ignore[return-value]

    def value_alone(self, x: FreeVector) -> float:
        """For a method that asks for the gradient only where it moves to."""
        value, self._grad = self.value_and_grad(x)
        return value

    def gradient(self, x: FreeVector) -> FreeVector:
        """For the same; so this is its next iterate, unless it is the start."""
        assert np.array_equal(self._inside(x), self._recent[-1].x), "a gradient elsewhere than at the last evaluation"
        if self.nfev > 1:
            self.iteration(x)
        return self._grad

    def describe(self, point: Point) -> str:
        """Where a point is not finite."""
        return describe_nonfinite(self._structure, point.x, point.value, point.grad)

    def tell_lost(self, point: Point) -> str:
        """The same of a trial, with the iteration that it would have ended."""
        return f"In iteration {self.nit + 1}: {self.describe(point)}."

    def iteration(self, intermediate_result: Any) -> None:
        """SciPy's callback; it gets an OptimizeResult or the bare vector, as the method pleases."""
        point = self._recent[-1]
        if self._tests:  # L-BFGS-B's iterate is its last evaluation; others have to be asked
            x = getattr(intermediate_result, "x", intermediate_result)
            # COBYLA before SciPy 1.16 tells of a point that it has yet to evaluate
            point = self.find(x) or self.best or point
        if not point.finite and not self._has_grad:  # bounded, Powell may move uphill
            point = self.best or point
        if not point.finite:
            raise Stop(Status.NONFINITE, self.tell_lost(point))
        # A trust region that rejects its trial tells of the same iterate again: its search goes on.
        moved = not (self._tests and self.iterate is not None and np.array_equal(point.x, self.iterate.x))
        self.idle = not moved and self.first_trial is None
        before = self.iterate if moved else None
        if (
            before is not None
            and self.first_trial is not None
            and leads_on(before, self.first_trial, point, self.rounding)
        ):
            self._write_row(point)
            raise Stop(Status.UNBOUNDED)
        if moved:
            still = self._tests and self.cut is not None and is_short(before, point)
            self.cut = self.lost or (self.cut if still else None)
            self.misled = self.contradicted and before is not None and point.value >= before.value
            self.first_trial, self.lost, self._trials, self.contradicted = None, None, 0, False
        self.iterate = point
        norm = self._write_row(point)
        status = self._tell(point, norm) if self._monitor.callback is not None else None
        status = self._test(before, point, norm) if status is None else status
        if status is not None:
            raise Stop(status)

    def projected_norm(self, point: Point) -> float:
        """max abs of the projected gradient; NaN where no gradient is known."""
        grad = point.grad
        if grad is None:
            return np.nan
        if self._bounds is not None:
            return projected_norm(point.x, grad, self._bounds.lower, self._bounds.upper)
        if not is_finite(grad):  # BLAS does not see a NaN
            return float(np.abs(grad).max())
        return abs(float(grad[idamax(grad)]))

    def trace(self) -> Trace:
        """The rows as columns."""
        columns = zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        fun, grad_norm, nfev, seconds = (np.array(column) for column in columns)
        return Trace(fun, grad_norm, nfev.astype(int), seconds)

    def _run(self, program: Any, *inputs: np.ndarray) -> tuple[np.ndarray, Any]:
        """A program's array on the host, and its aux; nothing begins once somebody has stopped the solve."""
        status = self._monitor.stop_status()
        if status is not None and self.nfev > 0:
            raise Stop(status)
        if self._cast is not None:
            inputs = tuple(each.astype(self._cast) for each in inputs)

        def compute() -> tuple[np.ndarray, Any]:
            array, aux = program(*inputs, self._data)
            return np.asarray(array, dtype=np.float64), aux

        began = time.perf_counter()
        array, aux = self._monitor.wait_interruptibly(compute, self._took.get(program))
        if isinstance(program, jax.stages.Compiled):  # else JAX debugs it, and it holds the user's function
            self._took[program] = time.perf_counter() - began
        return array, aux

    def _inside(self, x: FreeVector) -> HostVector:
        """A copy, since SciPy goes on writing into its own, whole, and in the box: some leave it by rounding."""
        if self._bounds is None:
            return np.array(x, dtype=np.float64)
        return np.clip(x if self._held is None else self._held.restore(x), self._bounds.lower, self._bounds.upper)

    def _tell(self, point: Point, norm: float) -> Status | None:
        tree = functools.partial(self._tree, point.x)
        return self._monitor.notify(Progress(self.nit, self.nfev, point.value, norm, self._monitor.seconds, tree))

    def _keep(self, point: Point) -> None:
        self._recent.append(point)
        if self.first_trial is None:
            self.first_trial = point
        if not point.finite:
            self.lost, self.wall = self.lost or point, point
        else:
            self.compared = self.compared or not (self.best is None or np.array_equal(point.x, self.best.x))
            self._highest = max(self._highest, point.value)
            if self.best is None or point.value < self.best.value:
                self.best = point
        if self.nfev == 1:
            self.first_trial = None
            self._start(point if point.finite else self._start_as_given(point))
        elif self._has_grad and point.finite and self.iterate is not None:
            self._trials += 1
            if self._trials > 1:  # most searches end with their first trial, and nothing needs to be known of it
                self._weigh(self.iterate, point)

    def _weigh(self, iterate: Point, point: Point) -> None:
        """SciPy's search goes by float64; on the stairs of a coarser objective it would use up maxls each time."""
        trials = [self.first_trial, point] if self._trials == 2 else [point]
        self.contradicted |= any(is_against(iterate, each, self.rounding) for each in trials if each is not None)
        unchanged = abs(point.value - iterate.value) <= noise(abs(iterate.value), self.rounding)
        if not self._coarse or self.contradicted or self._trials < STAIRS or not unchanged:
            return
        if self.lost is not None:  # a step that was cut short changes little, and rounding is not the reason
            raise Stop(Status.NONFINITE, self.tell_lost(self.lost))
        if self._options.ftol == 0:
            raise Stop(Status.NOISE_FLOOR)
        if point.value <= iterate.value:
            self.settle(point)
            raise Stop(Status.FTOL)

    def settle(self, point: Point) -> None:
        """The last iteration: its search found nothing but noise, which is a reduction of 0."""
        self.iterate = point
        self._write_row(point)

    @property
    def _anchor(self) -> Point:
        """Where a search goes on from after a trial that is not finite."""
        anchor = self.iterate if self.iterate is not None and self.iterate.finite else self.best
        assert anchor is not None
        return anchor

    def _start_as_given(self, point: Point) -> Point:
        """COBYQA begins by moving a start near a bound: that this is not finite there says nothing of the start."""
        x = self._structure.ravel_on_host(self._free, np.float64)
        x = x if self._bounds is None else np.clip(x, self._bounds.lower, self._bounds.upper)
        if np.array_equal(x, point.x):
            return point
        start = self._evaluate(x)
        if start.finite:
            self.best, self._highest = start, start.value
        return start

    def _start(self, point: Point) -> None:
        self.iterate = point
        norm = self._write_row(point)
        if not point.finite:
            raise refuse_start(self.describe(point))
        if self._options.maxiter == 0:
            raise Stop(Status.GTOL if norm <= self._options.gtol else Status.MAXITER)
        if self._tests and norm <= self._options.gtol:
            raise Stop(Status.GTOL)

    def _write_row(self, point: Point) -> float:
        norm = self.projected_norm(point)
        self._rows.append((point.value, norm, self.nfev, self._monitor.seconds))
        return norm

    def find(self, x: FreeVector) -> Point | None:
        """The evaluation at `x`, if it is recent: the iterate of a search is its last, of a trust region maybe not."""
        x = self._inside(x)
        known = [point for point in (self.best, self.iterate) if point is not None] + list(self._recent)
        return next((point for point in reversed(known) if np.array_equal(point.x, x)), None)

    def _test(self, before: Point | None, point: Point, norm: float) -> Status | None:
        """The interface's stopping tests, for methods whose own are others."""
        if not self._tests:
            return None
        options = self._options
        limited = Status.MAXITER if self.nit >= options.maxiter else None
        if norm <= options.gtol:
            return Status.GTOL
        if before is None or not self._has_grad or self.cut is not None:
            return limited
        if is_flat(before.value, point.value, options.ftol):  # an equal value may be a trial's
            return Status.FTOL if before.value > point.value or is_hidden(before, point) else limited
        return limited

    def _tree(self, x: HostVector) -> Any:
        return self._structure.to_params(x, self._riders)
