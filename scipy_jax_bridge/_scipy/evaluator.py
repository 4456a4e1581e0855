"""Run a solve's compiled programs at the points that SciPy asks for."""

from __future__ import annotations

import math
import time

import jax
import numpy as np
from jaxtyping import Float, PyTree

from .._backend import Program
from .._core.monitor import SolveMonitor
from .._core.stopping import projected_norm
from .._core.types import HostVector
from .._problem.nonfinite import NonfiniteStart, describe_nonfinite, refuse_start
from .._problem.problem import Problem
from .evaluation import Evaluation, Stop, is_finite, max_abs, nonfinite_surrogate
from .fixed import FixedComponents, FreeVector
from .programs import ScipyPrograms

FLOAT64_EPS = float(np.finfo(np.float64).eps)  # the rounding of SciPy's own arithmetic


class HostEvaluator:
    """Evaluate on the host: fill in fixed components, clip to the bounds, cast, and count.

    Args:
        problem: the objective, its data and its bounds.
        programs: its compiled programs.
        has_grad: whether `programs.evaluate` returns the gradient.
        fixed: components that SciPy does not see; None if it sees all.
        monitor: says before each run whether the solve has to stop.
    """

    def __init__(
        self,
        problem: Problem,
        programs: ScipyPrograms,
        *,
        has_grad: bool,
        fixed: FixedComponents | None,
        monitor: SolveMonitor,
    ) -> None:
        self._problem, self._programs, self._monitor, self._fixed = problem, programs, monitor, fixed
        self._dtype = None if problem.spec.dtype == np.float64 else problem.spec.dtype
        self.has_grad = has_grad
        self.rounding = problem.spec.rounding
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
        v = np.asarray(v, dtype=np.float64)
        if self._fixed is not None:
            x, v = self._fixed.restore(x), self._fixed.embed(v)
        return self._reduce(self._run(self._programs.product, x, v)[0])

    def hessian(self, x: FreeVector) -> Float[np.ndarray, "free free"]:
        """Evaluate the Hessian; the identity where it is not finite, since SciPy refuses such a matrix."""
        assert self._programs.hessian is not None
        self.second_derivatives += 1
        matrix, _ = self._run(self._programs.hessian, self.to_whole(x))
        return self._reduce(matrix if np.isfinite(matrix).all() else np.eye(len(matrix)))

    def to_whole(self, x: FreeVector) -> HostVector:
        """Copy SciPy's vector, which SciPy overwrites; add fixed components; clip, as some methods leave the bounds."""
        bounds = self._problem.bounds
        if bounds is None:
            return np.array(x, dtype=np.float64)
        return np.clip(x if self._fixed is None else self._fixed.restore(x), bounds.lower, bounds.upper)

    def to_method(self, evaluation: Evaluation, anchor: Evaluation) -> tuple[float, FreeVector]:
        """Return the value and gradient for SciPy; the surrogate's, seen from `anchor`, where they are not finite."""
        value, grad = evaluation.value, evaluation.grad
        if not evaluation.finite:
            value, grad = nonfinite_surrogate(anchor, evaluation, self.rounding)
        assert grad is not None
        return value, self._reduce(grad)

    def start(self) -> HostVector:
        """Return the start of the problem, clipped to the bounds."""
        problem, bounds = self._problem, self._problem.bounds
        x = problem.spec.params.ravel_on_host(problem.start_leaves, np.float64)
        return x if bounds is None else np.clip(x, bounds.lower, bounds.upper)

    def to_params(self, x: HostVector) -> PyTree:
        """Return the point as a tree of params."""
        return self._problem.spec.params.to_params(x, self._problem.static_leaves)

    def projected_norm(self, evaluation: Evaluation) -> float:
        """Return the max abs of the projected gradient; NaN if no gradient is known."""
        grad, bounds = evaluation.grad, self._problem.bounds
        if grad is None:
            return np.nan
        return max_abs(grad) if bounds is None else projected_norm(evaluation.x, grad, bounds.lower, bounds.upper)

    def describe(self, evaluation: Evaluation) -> str:
        """Say where an evaluation is not finite."""
        return describe_nonfinite(self._problem.spec.params, evaluation.x, evaluation.value, evaluation.grad)

    def refuse(self, start: Evaluation) -> NonfiniteStart:
        """Return the error of a start that is not finite."""
        return refuse_start(self.describe(start), self._problem.args)

    def _reduce(self, array: np.ndarray) -> np.ndarray:
        return array if self._fixed is None else self._fixed.reduce(array)

    def _run(self, program: Program, *inputs: np.ndarray) -> tuple[np.ndarray, PyTree]:
        """Run a program and copy its array to the host; raise Stop if the solve has to stop."""
        status = self._monitor.stop_status()
        if status is not None and self.nfev > 0:
            raise Stop(status)
        if self._dtype is not None:
            inputs = tuple(each.astype(self._dtype) for each in inputs)

        def compute() -> tuple[np.ndarray, PyTree]:
            array, aux = program(*inputs, self._problem.data)
            return np.asarray(array, dtype=np.float64), aux

        began, took = time.perf_counter(), self._problem.spec.programs.took
        array, aux = self._monitor.wait_interruptibly(compute, took.get(program))
        if isinstance(program, jax.stages.Compiled):  # under JAX's debug flags it is a closure over the user's function
            took[program] = time.perf_counter() - began
        return array, aux
