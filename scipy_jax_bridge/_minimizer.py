"""The class `Minimizer`: check the arguments, prepare the problem, let the backend solve it.

It is longer than other modules by what type checkers read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, Unpack, overload
from weakref import WeakKeyDictionary

from jax import Array

from ._autodiff.manual import vary_start
from ._autodiff.traced import TRACEABLE_OPTIONS, HostServices, TracedCall, solve_in_trace
from ._backend import Compiled, choose_backend
from ._core.boundary import boundary
from ._core.context import has_float64, solve_context, to_float64
from ._core.errors import warn
from ._core.manual import is_manual
from ._core.monitor import Callback, SolveMonitor
from ._core.options import Options, read_options
from ._core.status import Status
from ._core.types import Aux, Number, Objective, P, Params, is_traced
from ._problem.bounds import Bounds, read_bounds
from ._problem.cache import BoundedCache
from ._problem.held import has_mask, hold_components
from ._problem.objective import TracedMethod
from ._problem.precision import describe_narrowest
from ._problem.problem import Problem, ProblemSpec, prepare
from ._problem.recompilation import count_compilation, count_solve, count_trace
from ._problem.traces import Traces
from ._result import Outcome, Result, finish
from ._settings import A, Arrays, Numbers, Optax, OptaxAux, Q, Qs, Scipy, ScipyAux, Ts

if TYPE_CHECKING:
    AnyMinimizer: TypeAlias = "Minimizer[Any, Any, *tuple[Any, ...]]"


class Minimizer(Generic[P, Aux, *Ts]):
    """A solver for one objective. Call it again and again with new parameters and data.

    It traces the objective once for each structure of its arguments, as `jax.jit` does. What the objective reads from
    outside its arguments keeps the value that it had then; make a new Minimizer, or call `minimize`, where it changes.

    For type checkers it is `Minimizer[Params, Aux, *Args]`.

    Args:
        fun: as in `minimize`.
        backend: as in `minimize`.
        method: as in `minimize`.
        bounds: as in `minimize`.
        fixed: as in `minimize`.
        has_aux: as in `minimize`.
        options: as in `minimize`.
        callback: as in `minimize`.
        progress: as in `minimize`.
        precision: as in `minimize`.

    Raises:
        TypeError, ValueError: the backend, the method or an option is unknown, or a value is invalid. Raised before
            anything is compiled; the message names the nearest known name.

    Examples:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> solve = sjb.Minimizer(lambda x, center: jnp.sum((x - center) ** 2), backend="optax")
        >>> seconds = solve.compile(jnp.zeros(2), (jnp.ones(2),))
        >>> solve.compile(jnp.zeros(2), (jnp.ones(2),))
        0.0
        >>> solve(jnp.zeros(2), (2 * jnp.ones(2),)).timing.compiles
        0
    """

    if TYPE_CHECKING:

        @overload
        def __init__(self: Minimizer[Q, None, *Qs], fun: Callable[[Q, *Qs], Number], **rest: Unpack[Scipy]) -> None: ...
        @overload
        def __init__(self: Minimizer[Q, None, *Qs], fun: Callable[[Q, *Qs], Number], **rest: Unpack[Optax]) -> None: ...
        @overload
        def __init__(self, fun: Callable[[P, *Ts], tuple[Number, Aux]], **rest: Unpack[ScipyAux]) -> None: ...
        @overload
        def __init__(self, fun: Callable[[P, *Ts], tuple[Number, Aux]], **rest: Unpack[OptaxAux]) -> None: ...
        @overload  # of a function of unknown arguments, as jax.jit returns
        def __init__(self: AnyMinimizer, fun: Callable[..., Number], **rest: Unpack[Scipy]) -> None: ...
        @overload
        def __init__(self: AnyMinimizer, fun: Callable[..., Number], **rest: Unpack[Optax]) -> None: ...
        @overload
        def __init__(self: AnyMinimizer, fun: Callable[..., tuple[Number, Any]], **rest: Unpack[ScipyAux]) -> None: ...
        @overload
        def __init__(self: AnyMinimizer, fun: Callable[..., tuple[Number, Any]], **rest: Unpack[OptaxAux]) -> None: ...

    @boundary
    def __init__(
        self,
        fun: Objective,
        *,
        backend: str = "scipy",
        method: Any = None,
        bounds: Bounds | tuple[Any, Any] | Mapping[str, Any] | None = None,
        fixed: Any = None,
        has_aux: bool = False,
        options: Options | Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        progress: bool = False,
        precision: str | None = None,
    ) -> None:
        if not callable(fun):
            raise TypeError(f"fun must be a function of params, not {type(fun).__name__}.")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be a function, not {type(callback).__name__}.")
        for name, flag in (("has_aux", has_aux), ("progress", progress)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, not {flag!r}.")
        if precision not in (None, "float64"):
            raise ValueError(f"precision must be None or 'float64', not {precision!r}.")
        self._fun, self._fixed, self._has_aux, self._precision = fun, fixed, has_aux, precision
        self._backend = choose_backend(backend, method)
        self._bounds = read_bounds(bounds)
        self._backend.check_bounds(self._bounds)
        self._options = read_options(options, self._backend.option_names, self._backend.method_name)
        self._callback, self._progress = callback, progress
        self._traces: Traces = BoundedCache[ProblemSpec]()
        self._moves: WeakKeyDictionary[ProblemSpec, TracedMethod | None] = WeakKeyDictionary()

    def __repr__(self) -> str:
        name = getattr(self._fun, "__name__", None) or repr(self._fun)
        given = {"bounds": self._bounds, "fixed": self._fixed, "precision": self._precision}
        more = "".join(f", {key}={value!r}" for key, value in given.items() if value is not None)
        more += ", has_aux=True" if self._has_aux else ""
        more += f", options={self._options}" if self._options != Options() else ""
        return f"Minimizer({name}, backend={self._backend.name!r}, method={self._backend.method_name!r}{more})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call with its arguments, so that a pickle names no private module."""
        names = ("bounds", "fixed", "has_aux", "options", "callback", "progress", "precision")
        given = {name: getattr(self, f"_{name}") for name in names}
        return partial(Minimizer, backend=self._backend.name, method=self._backend.method, **given), (self._fun,)

    @boundary
    def compile(self, params: Params, args: Any = ()) -> float:
        """Compile ahead of time, for arguments of these shapes.

        Args:
            params: as in `minimize`; only its tree, shapes and types count.
            args: as in `minimize`; the same.

        Returns:
            Seconds spent on tracing and compiling; 0.0 if everything was compiled before.

        Raises:
            TypeError, ValueError: as `minimize`.
        """
        params = _start_params(params)
        with solve_context(self._precision, params), SolveMonitor():
            problem = self._prepare_eagerly(params, args, solves=False)
            return self._backend.compile(problem, self._options).seconds + problem.trace_s

    if TYPE_CHECKING:

        @overload
        def __call__(self: Minimizer[Array, Aux], params: Number) -> Result[Array, Aux]: ...
        @overload
        def __call__(self: Minimizer[Array, Aux, *Ts], params: Number, args: tuple[*Ts]) -> Result[Array, Aux]: ...
        @overload
        def __call__(self: Minimizer[Arrays, Aux], params: Numbers) -> Result[Arrays, Aux]: ...
        @overload
        def __call__(self: Minimizer[Arrays, Aux, *Ts], params: Numbers, args: tuple[*Ts]) -> Result[Arrays, Aux]: ...
        @overload
        def __call__(self: Minimizer[P, Aux], params: P | Result[P, Any]) -> Result[P, Aux]: ...
        @overload
        def __call__(self, params: P | Result[P, Any], args: tuple[*Ts]) -> Result[P, Aux]: ...
        @overload
        def __call__(self: Minimizer[P, Aux, A], params: P | Result[P, Any], args: A) -> Result[P, Aux]: ...

    @boundary
    def __call__(self, params: Params, args: Any = ()) -> Result[Any, Any]:
        """Minimize from `params`.

        Args:
            params: as in `minimize`.
            args: as in `minimize`.

        Returns:
            A Result.

        Raises:
            Exception: as `minimize`.
        """
        earlier = params if isinstance(params, Result) else None
        params = _start_params(params)
        if self._is_traced(params, args):
            return self._solve_in_trace(params, args)
        with solve_context(self._precision, params), self._monitor() as monitor:
            problem = None
            try:
                problem = self._prepare_eagerly(params, args, solves=True)
                if not is_traced(problem.data):
                    outcome = self._backend.solve(problem, self._options, monitor, earlier)
                    self._count_trace(problem, outcome)
                    return self._finish(outcome, problem)
            except BaseException as error:
                self._attach(error, problem, monitor)
                raise
        return self._solve_in_trace(params, args)  # the objective or the method closes over traced values

    def _prepare(self, params: Params, args: Any, *, with_grad: bool = False) -> Problem:
        if self._precision == "float64":
            params, args = to_float64((params, args))
        fixed, bounds = self._fixed, self._bounds
        if has_mask(fixed):
            self._backend.check_mask()
            fixed, bounds = hold_components(fixed, bounds, params)
        problem = prepare(
            self._fun,
            params,
            args,
            fixed=fixed,
            bounds=bounds,
            has_aux=self._has_aux,
            has_grad=self._backend.has_grad or with_grad,
            traces=None if is_manual() else self._traces,
        )
        if problem.spec not in self._moves:
            self._moves[problem.spec] = self._backend.prepare(problem)
        method = self._moves[problem.spec]
        if method is None:
            return problem
        if is_traced(method.consts):
            del self._moves[problem.spec]
        return replace(problem, method=method, data=problem.data + method.consts)

    def _prepare_eagerly(self, params: Params, args: Any, *, solves: bool) -> Problem:
        problem = self._prepare(params, args)
        solver = (self._backend.name, self._backend.method_name)
        if solves:
            count_solve(self._fun, solver)
        if problem.is_new:
            count_compilation(self._fun, problem, (params, args), solver)
        if problem.is_new and self._precision is not None and problem.spec.narrowest is not None:
            narrowest = describe_narrowest(problem.spec.narrowest)
            warn(f"precision={self._precision!r} was asked for. {narrowest}", UserWarning)
        return problem

    def _count_trace(self, problem: Problem, outcome: Outcome) -> None:
        solver = (self._backend.name, self._backend.method_name)
        count_trace(self._fun, solver, problem.trace_s, float(outcome.timing.solve_s + outcome.timing.compile_s))

    def _is_traced(self, params: Params, args: Any) -> bool:
        bounds = self._bounds and (self._bounds.lower, self._bounds.upper)
        return is_traced(
            (params, args, bounds, self._fixed, [getattr(self._options, name) for name in TRACEABLE_OPTIONS])
        )

    def _solve_in_trace(self, params: Params, args: Any) -> Result[Any, Any]:
        if self._precision is not None and not has_float64():
            raise TracedCall(
                f"precision={self._precision!r} cannot be changed inside jax.jit, jax.vmap or jax.grad. Set "
                "jax.config.update('jax_enable_x64', True) when the program starts, or call minimize outside."
            )
        given = {"callback": self._callback, "progress": self._progress, "timeout": self._options.timeout}
        host = HostServices(
            self._backend.solve, self._monitor, self._attach, tuple(name for name, value in given.items() if value)
        )
        try:
            problem = self._prepare(params, args)
            if is_manual():
                params = vary_start(problem, [getattr(self._options, name) for name in TRACEABLE_OPTIONS])
                problem = self._prepare(params, args)
            slope = problem if self._backend.has_grad else self._prepare(params, args, with_grad=True)
            return self._finish(solve_in_trace(self._backend, problem, slope, self._options, host), problem)
        except BaseException as error:
            if not hasattr(error, "best_result"):
                self._attach(error, None, SolveMonitor())
            raise

    def _finish(self, outcome: Outcome, problem: Problem) -> Result[Any, Any]:
        timing = outcome.timing
        if problem.trace_s:  # the first call with a structure traces the objective to find its types
            outcome = replace(outcome, timing=timing._replace(compile_s=timing.compile_s + problem.trace_s))
        return finish(outcome, problem, self._backend.name, self._backend.method_name)

    def _attach(self, error: BaseException, problem: Problem | None, monitor: SolveMonitor) -> None:
        """Set the attribute `best_result` of the exception: the best result so far, or None.

        Leave an exception that accepts no attributes unchanged.
        """
        outcome = None if monitor.best_so_far is None or problem is None else monitor.best_so_far()
        with suppress(Exception):
            error.best_result = None  # type: ignore[attr-defined]
            if outcome is None or problem is None:
                return
            if isinstance(error, KeyboardInterrupt):
                outcome = replace(outcome, status=int(Status.INTERRUPTED))
            error.best_result = self._finish(outcome, problem)  # type: ignore[attr-defined]
            error.add_note("The best result so far is this exception's attribute best_result.")

    @contextmanager
    def _monitor(self) -> Iterator[SolveMonitor]:
        with SolveMonitor(self._options.timeout, self._callback) as monitor:
            if not self._progress:
                yield monitor
                return
            from ._core.progress import show_progress

            with show_progress(monitor, self._options):
                yield monitor


class CompiledSolve(NamedTuple):
    """What a solve would run, for measurements.

    Args:
        problem, options: what to solve.
        compiled: the programs.
        solve_context: makes the context in which they run: precision and device.
    """

    problem: Problem
    compiled: Compiled
    options: Options
    solve_context: Callable[[], AbstractContextManager[None]]


def compile_solve(solve: AnyMinimizer, params: Params, args: Any) -> CompiledSolve:
    """Compile what the solver would run for these arguments."""
    with solve_context(solve._precision, params):
        problem = solve._prepare(params, args)
        compiled = solve._backend.compile(problem, solve._options)
    return CompiledSolve(problem, compiled, solve._options, partial(solve_context, solve._precision, params))


def limit_iterations(solve: Minimizer, maxiter: int) -> Minimizer:
    """Return the solver with another maxiter, without callback and progress. It uses the same programs."""
    limited = copy.copy(solve)
    limited._options = replace(solve._options, maxiter=maxiter)
    limited._callback, limited._progress = None, False
    return limited


def _start_params(params: Params) -> Params:
    """Return the start: the params, or those where an earlier result ended."""
    return params.params if isinstance(params, Result) else params
