"""The class `Minimizer`: check the arguments, prepare the problem, let the backend solve it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, Unpack, overload

import numpy as np
from jax import Array
from jaxtyping import PyTree

from ._autodiff.traced import TRACEABLE_OPTIONS, HostServices, TracedCall, solve_in_trace
from ._backend import choose_backend
from ._core.boundary import boundary
from ._core.context import has_float64, solve_context
from ._core.monitor import Callback, SolveMonitor
from ._core.options import Options, read_options
from ._core.progress import monitor_solve
from ._core.status import Status
from ._core.types import Aux, Number, Objective, P, Params, is_traced, name_of
from ._preparation import Preparation
from ._problem.bounds import Bounds, read_bounds
from ._problem.problem import Problem
from ._problem.validation import check_settings
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
        check_settings(fun, callback, has_aux, progress, precision)
        self._fun, self._fixed, self._has_aux, self._precision = fun, fixed, has_aux, precision
        self._backend = choose_backend(backend, method)
        self._callback, self._progress = callback, progress
        self._given = {"method": method, "bounds": read_bounds(bounds), "options": options}
        read = read_options(options, self._backend.option_names, self._backend.method_name)
        self._bounds, self._options = self._backend.settle(self._given["bounds"], read, options)
        self._preparation = Preparation(self._backend, fun, self._bounds, fixed, has_aux, precision)

    def __repr__(self) -> str:
        given = {"bounds": self._bounds, "fixed": self._fixed, "precision": self._precision}
        more = "".join(f", {key}={value!r}" for key, value in given.items() if value is not None)
        more += ", has_aux=True" if self._has_aux else ""
        more += f", options={self._options}" if self._options != Options() else ""
        backend, method = self._backend.name, self._backend.method_name
        return f"Minimizer({name_of(self._fun)}, {backend=}, {method=}{more})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call with its arguments, so that a pickle names no private module."""
        names = ("fixed", "has_aux", "callback", "progress", "precision")
        given = {name: getattr(self, f"_{name}") for name in names}
        return partial(Minimizer, backend=self._backend.name, **self._given, **given), (self._fun,)

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
        params = start_params(params)
        with solve_context(self._precision, params), SolveMonitor():
            problem = self._preparation.prepare_eagerly(params, args, solves=False)
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
        params = start_params(params)
        if self._preparation.is_traced() or is_traced((params, args, self._limits)):
            return self._solve_in_trace(params, args)
        with solve_context(self._precision, params), self._monitor() as monitor:
            problem = None
            try:
                problem = self._preparation.prepare_eagerly(params, args, solves=True)
                if not is_traced(problem.data):
                    outcome = self._backend.solve(problem, self._options, monitor, earlier)
                    self._preparation.count_trace(problem, outcome)
                    return self._finish(outcome, problem)
            except BaseException as error:
                self._attach(error, problem, monitor)
                raise
        return self._solve_in_trace(params, args)  # the objective or the method closes over traced values

    @property
    def _limits(self) -> list[Number]:
        return [getattr(self._options, name) for name in TRACEABLE_OPTIONS]

    def _solve_in_trace(self, params: Params, args: PyTree) -> Result:
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
            problem, slope = self._preparation.prepare_in_trace(params, args, self._limits)
            return self._finish(solve_in_trace(self._backend, problem, slope, self._options, host), problem)
        except BaseException as error:
            if not hasattr(error, "best_result"):
                self._attach(error, None, SolveMonitor())
            raise

    def _finish(self, outcome: Outcome, problem: Problem) -> Result:
        timing = outcome.timing
        if problem.trace_s:  # the first call with a structure traces the objective to find its types
            outcome = replace(outcome, timing=timing._replace(compile_s=timing.compile_s + problem.trace_s))
        return finish(outcome, problem, name_of(self._fun), self._backend.name, self._backend.method_name)

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

    def _monitor(self) -> AbstractContextManager[SolveMonitor]:
        return monitor_solve(self._options, self._callback, self._progress)


def start_params(params: Params) -> Params:
    """Return the start: the params, or those where an earlier result ended."""
    if not isinstance(params, Result):
        return params
    if np.ndim(params.code):
        raise ValueError(
            "params is the result of a batch of solves. Pick one, jax.tree.map(lambda a: a[0], result), or go on with "
            "all of them under jax.vmap."
        )
    return params.params
