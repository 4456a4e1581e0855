"""Evaluate at the points that SciPy asks for, as long as the solve may go on."""

from __future__ import annotations

import functools
import math
import time

import jax
import numpy as np
from jaxtyping import Float, PyTree

from .._backend import Program
from .._core.agreement import fingerprint
from .._core.monitor import SolveMonitor
from .._core.status import Status
from .._core.stopping import projected_norm
from .._core.types import HostVector
from .._problem.nonfinite import NonfiniteStart, describe_nonfinite, refuse_start
from .evaluation import Evaluation, Stop, is_finite, max_abs, nonfinite_surrogate
from .fixed import FreeVector
from .numpy_objective import NumpyObjective
from .programs import ScipyPrograms

FLOAT64_EPS = float(np.finfo(np.float64).eps)  # the rounding of SciPy's own arithmetic


class HostEvaluator:
    """Evaluate for a solve: clip to the bounds, stop where the solve has to, stay interruptible, and count.

    Args:
        host: the objective as it is evaluated on the host.
        programs: its compiled programs.
        has_grad: whether `programs.evaluate` returns the gradient.
        monitor: says before each run whether the solve has to stop.
    """

    def __init__(
        self,
        host: NumpyObjective,
        programs: ScipyPrograms,
        *,
        has_grad: bool,
        monitor: SolveMonitor,
    ) -> None:
        self.host, self._programs, self._monitor = host, programs, monitor
        self._bound = {each: host.bind(each) for each in programs if each is not None}
        self._bounds, self._took = host.problem.bounds, host.problem.spec.programs.took
        self.has_grad = has_grad
        self.rounding = host.problem.spec.rounding
        self.is_coarse = has_grad and self.rounding > FLOAT64_EPS
        self.nfev = 0
        self.second_derivatives = 0  # Hessians and Hessian-vector products

    def evaluate(self, x: HostVector) -> Evaluation:
        """Evaluate at a whole point."""
        packed, aux = self._run(self._programs.evaluate, x)
        value, grad = packed[0], packed[1:] if self.has_grad else None
        self.nfev += 1
        return Evaluation(x, value, grad, aux, math.isfinite(value) and (grad is None or is_finite(grad)))

    def product(self, x: FreeVector, v: np.ndarray) -> FreeVector:
        """Multiply the Hessian by a vector; trust-constr begins with a vector of integers."""
        assert self._programs.product is not None
        self.second_derivatives += 1
        whole, step = self.host.restore(x), self.host.embed(np.asarray(v, dtype=np.float64))
        return self.host.reduce(self._run(self._programs.product, whole, step)[0])

    def hessian(self, x: FreeVector) -> Float[np.ndarray, "free free"]:
        """Evaluate the Hessian; the identity where it is not finite, since SciPy refuses such a matrix."""
        assert self._programs.hessian is not None
        self.second_derivatives += 1
        matrix, _ = self._run(self._programs.hessian, self.to_whole(x))
        return self.host.reduce(matrix if np.isfinite(matrix).all() else np.eye(len(matrix)))

    def to_whole(self, x: FreeVector) -> HostVector:
        """Copy SciPy's vector, which SciPy overwrites; add fixed components; clip, as some methods leave the bounds."""
        bounds = self._bounds
        if bounds is None:
            return np.array(x, dtype=np.float64)
        return np.clip(self.host.restore(x), bounds.lower, bounds.upper)

    def to_method(self, evaluation: Evaluation, anchor: Evaluation) -> tuple[float, FreeVector]:
        """Return the value and gradient for SciPy; the surrogate's, seen from `anchor`, where they are not finite."""
        value, grad = evaluation.value, evaluation.grad
        if not evaluation.finite:
            value, grad = nonfinite_surrogate(anchor, evaluation, self.rounding)
        assert grad is not None
        return value, self.host.reduce(grad)

    def projected_norm(self, evaluation: Evaluation) -> float:
        """Return the max abs of the projected gradient; NaN if no gradient is known."""
        grad, bounds = evaluation.grad, self._bounds
        if grad is None:
            return np.nan
        return max_abs(grad) if bounds is None else projected_norm(evaluation.x, grad, bounds.lower, bounds.upper)

    def describe(self, evaluation: Evaluation) -> str:
        """Say where an evaluation is not finite."""
        return describe_nonfinite(self.host.problem.spec.params, evaluation.x, evaluation.value, evaluation.grad)

    def refuse(self, start: Evaluation) -> NonfiniteStart:
        """Return the error of a start that is not finite."""
        return refuse_start(self.describe(start), self.host.problem.args)

    def _agree(self, inputs: tuple[np.ndarray, ...]) -> Status | None:
        """Return why all processes stop now, or None. Each drives its own SciPy: they must ask for the same point."""
        return self._monitor.agree(self.nfev, fingerprint(*inputs))[0]

    def _run(self, program: Program, *inputs: np.ndarray) -> tuple[np.ndarray, PyTree]:
        """Run a program; raise Stop if the solve has to stop."""
        monitor = self._monitor
        status = monitor.stop_status() if monitor.agreement is None else self._agree(inputs)
        if status is not None and self.nfev > 0:
            raise Stop(status)
        began, took = time.perf_counter(), self._took
        work = functools.partial(self._bound[program], *inputs)
        if not isinstance(program, jax.stages.Compiled):  # Python evaluates, also under JAX's debug flags
            return self._monitor.wait_interruptibly(work, 0.0)
        found = self._monitor.wait_interruptibly(work, took.get(program))
        took[program] = time.perf_counter() - began
        return found
