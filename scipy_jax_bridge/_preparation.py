"""Make the problems of a solver's calls: trace the objective and the method, or find the traces of an earlier call."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

from jaxtyping import PyTree

from ._autodiff.manual import vary_start
from ._autodiff.traced import TracedCall
from ._backend import Backend
from ._core.context import to_float64
from ._core.errors import warn
from ._core.manual import is_manual
from ._core.types import Number, Objective, Params, is_traced
from ._problem.bounds import Bounds
from ._problem.cache import BoundedCache
from ._problem.held import has_mask, hold_components
from ._problem.host import HostObjective
from ._problem.objective import TracedMethod
from ._problem.precision import describe_narrowest
from ._problem.problem import Problem, ProblemSpec, prepare
from ._problem.recompilation import count_compilation, count_solve, count_trace
from ._problem.traces import Traces
from ._result import Outcome


class Preparation:
    """What a solver keeps from call to call.

    Args:
        backend: the backend with its method.
        fun, bounds, fixed, has_aux, precision: as in `minimize`.

    Attributes:
        traces: of the objective, by structure.
    """

    traces: Traces

    def __init__(
        self,
        backend: Backend,
        fun: Objective,
        bounds: Bounds | None,
        fixed: PyTree,
        has_aux: bool,
        precision: str | None,
    ) -> None:
        self._backend, self._fun, self._has_aux, self._precision = backend, fun, has_aux, precision
        self._bounds, self._fixed = bounds, fixed
        self._solver = (backend.name, backend.method_name)
        self.traces = BoundedCache[ProblemSpec]()
        self._moves: WeakKeyDictionary[ProblemSpec, dict[bool, TracedMethod | None]] = WeakKeyDictionary()

    def is_traced(self) -> bool:
        """Whether the bounds or the mask are traced."""
        return is_traced((self._bounds and (self._bounds.lower, self._bounds.upper), self._fixed))

    def prepare(self, params: Params, args: PyTree, *, with_grad: bool = False) -> Problem:
        """Make the problem of one call.

        Args:
            params, args: as in `minimize`.
            with_grad: whether to trace the gradient even if the method does not use it.
        """
        if self._precision == "float64":
            params, args = to_float64((params, args))
        fixed, bounds = self._fixed, self._bounds
        if has_mask(fixed):
            fixed, bounds = hold_components(fixed, bounds, params)
        problem = prepare(
            self._fun,
            params,
            args,
            fixed=fixed,
            bounds=bounds,
            has_aux=self._has_aux,
            has_grad=self._backend.has_grad or with_grad,
            traces=None if is_manual() else self.traces,
        )
        method = self._trace_method(problem)
        return problem if method is None else replace(problem, method=method, data=problem.data + method.consts)

    def _trace_method(self, problem: Problem) -> TracedMethod | None:
        known, has_held = self._moves.setdefault(problem.spec, {}), problem.bounds is not None
        if has_held in known:
            return known[has_held]
        method = self._backend.prepare(problem)
        if method is None or not is_traced(method.consts):
            known[has_held] = method
        return method

    def prepare_eagerly(self, params: Params, args: PyTree, *, solves: bool) -> Problem:
        """Make the problem of a call outside any trace; warn of what compiles too often, or computes too coarsely.

        Args:
            params, args: as in `minimize`.
            solves: whether the problem is solved, or compiled ahead of time.
        """
        problem = self.prepare(params, args)
        if solves:
            count_solve(self._fun, self._solver)
        if problem.is_new:
            count_compilation(self._fun, problem, (params, args), self._solver)
        if problem.is_new and self._precision is not None and problem.spec.narrowest is not None:
            narrowest = describe_narrowest(problem.spec.narrowest)
            warn(f"precision={self._precision!r} was asked for. {narrowest}", UserWarning)
        return problem

    def prepare_in_trace(self, params: Params, args: PyTree, limits: list[Number]) -> tuple[Problem, Problem]:
        """Make the problem of a call inside a trace, and the same with its gradient."""
        if isinstance(self._fun, HostObjective):
            raise TracedCall(
                "Python evaluates a host objective, which jax.jit, jax.vmap and jax.grad cannot. Call minimize outside "
                "of them, or write the objective in JAX."
            )
        problem = self.prepare(params, args)
        if is_manual():
            params = vary_start(problem, limits)
            problem = self.prepare(params, args)
        return problem, problem if self._backend.has_grad else self.prepare(params, args, with_grad=True)

    def count_trace(self, problem: Problem, outcome: Outcome) -> None:
        """Count the seconds of a solve; warn if tracing takes most of them, time and again."""
        other_s = float(outcome.timing.solve_s + outcome.timing.compile_s)
        count_trace(self._fun, self._solver, problem.trace_s, other_s)
