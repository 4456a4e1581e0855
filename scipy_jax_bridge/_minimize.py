"""The door: one call, two backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from jaxtyping import PyTree

from ._autodiff.implicit import LIMITS, HostServices, TracedCall, solve_in_trace
from ._backend import Backend, Compiled
from ._core.context import has_float64, solve_context, to_float64
from ._core.errors import unknown_name, warn
from ._core.monitor import Progress, SolveMonitor
from ._core.options import Options, read_options
from ._core.status import Status
from ._core.types import Objective, Params, is_traced
from ._problem.bounds import Bounds, read_bounds
from ._problem.cache import settle
from ._problem.precision import describe_narrowest
from ._problem.problem import Problem, prepare
from ._problem.recompilation import count_call
from ._result import Outcome, Result, finish

BACKENDS = {"scipy": "._scipy", "optax": "._optax"}  # name -> the folder whose `choose` makes it, loaded when asked for


def _choose(backend: str, method: Any) -> Backend:
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(unknown_name("backend", backend, BACKENDS))
    return import_module(BACKENDS[backend], __package__).choose(method)


class Minimizer:
    """A solver for one objective, to be called again and again with new parameters and data.

    Arguments:
        fun, backend, method, bounds, fixed, has_aux, options, callback, progress, precision: as in `minimize`.

    Errors:
        TypeError, ValueError: an unknown backend, method or option (with the nearest name), a value that makes
            no sense; at the call that is wrong, before anything is compiled.

    Example:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> solve = sjb.Minimizer(lambda x, center: jnp.sum((x - center) ** 2), backend="optax")
        >>> seconds = solve.compile(jnp.zeros(2), (jnp.ones(2),))
        >>> solve.compile(jnp.zeros(2), (jnp.ones(2),))
        0.0
        >>> solve(jnp.zeros(2), (2 * jnp.ones(2),)).timing.compiles
        0
    """

    def __init__(
        self,
        fun: Objective,
        *,
        backend: str = "scipy",
        method: Any = None,
        bounds: Bounds | tuple[PyTree, PyTree] | None = None,
        fixed: PyTree = None,
        has_aux: bool = False,
        options: Options | Mapping[str, Any] | None = None,
        callback: Callable[[Progress], Any] | None = None,
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
        self._backend = _choose(backend, method)
        self._bounds = read_bounds(bounds)
        self._backend.check_bounds(self._bounds)
        self._options = read_options(options, self._backend.option_names, self._backend.method_name)
        self._callback, self._progress = callback, progress

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew from its arguments, so that a pickle names no private module."""
        names = ("bounds", "fixed", "has_aux", "options", "callback", "progress", "precision")
        given = {name: getattr(self, f"_{name}") for name in names}
        return partial(Minimizer, backend=self._backend.name, method=self._backend.method, **given), (self._fun,)

    def compile(self, params: Params, args: Any = ()) -> float:
        """Compile for arguments of these shapes, ahead of time.

        Arguments:
            params, args: as in `minimize`; only their trees, shapes and types count.

        Returns:
            Seconds spent on tracing and compiling; 0.0 when it was compiled already.

        Errors:
            TypeError, ValueError: as `minimize`.
        """
        params = _point_of(params)
        with solve_context(self._precision, params), SolveMonitor():
            problem = self._prepare_eagerly(params, args, solves=False)
            seconds = self._backend.compile(problem, self._options).seconds + problem.trace_s
            if seconds:
                settle(self._fun)
            return seconds

    def __call__(self, params: Params, args: Any = ()) -> Result:
        """Minimize from `params`.

        Arguments:
            params, args: as in `minimize`.

        Returns:
            A Result.

        Errors:
            Those of `minimize`.
        """
        earlier = params if isinstance(params, Result) else None
        params = _point_of(params)
        if self._is_traced(params, args):
            return self._solve_in_trace(params, args)
        with solve_context(self._precision, params), self._monitor() as monitor:
            problem = None
            try:
                problem = self._prepare_eagerly(params, args, solves=True)
                if not problem.spec.traced:
                    outcome = self._backend.solve(problem, self._options, monitor, earlier)
                    if problem.is_new or outcome.timing.compiles:
                        settle(self._fun)
                    return self._finish(outcome, problem)
            except BaseException as error:
                self._attach(error, problem, monitor)
                raise
        return self._solve_in_trace(params, args)  # traced values hide in the objective itself

    def _prepare(self, params: Params, args: Any) -> Problem:
        if self._precision == "float64":
            params, args = to_float64((params, args))
        return prepare(self._fun, params, args, fixed=self._fixed, bounds=self._bounds, has_aux=self._has_aux)

    def _prepare_eagerly(self, params: Params, args: Any, *, solves: bool) -> Problem:
        problem = self._prepare(params, args)
        solver = (self._backend.name, self._backend.method_name)
        count_call(self._fun, problem.key, (params, args), solver, compiles=problem.is_new, solves=solves)
        if problem.is_new and self._precision is not None and problem.spec.narrowest is not None:
            narrowest = describe_narrowest(problem.spec.narrowest)
            warn(f"precision={self._precision!r} was asked for. {narrowest}", UserWarning)
        return problem

    def _is_traced(self, params: Params, args: Any) -> bool:
        bounds = self._bounds and (self._bounds.lower, self._bounds.upper)
        return is_traced((params, args, bounds, [getattr(self._options, name) for name in LIMITS]))

    def _solve_in_trace(self, params: Params, args: Any) -> Result:
        if self._precision is not None and not has_float64():
            raise TracedCall(
                f"precision={self._precision!r} cannot be changed inside jax.jit, jax.vmap or jax.grad. Set "
                "jax.config.update('jax_enable_x64', True) when the program starts, or call minimize outside."
            )
        given = {"callback": self._callback, "progress": self._progress, "timeout": self._options.timeout}
        host = HostServices(self._monitor, self._attach, tuple(name for name, value in given.items() if value))
        try:
            problem = self._prepare(params, args)
            return self._finish(solve_in_trace(self._backend, problem, self._options, host), problem)
        except BaseException as error:
            if not hasattr(error, "best_result"):
                self._attach(error, None, SolveMonitor())
            raise

    def _finish(self, outcome: Outcome, problem: Problem) -> Result:
        timing = outcome.timing
        if problem.trace_s:  # the first call of a structure traces the objective to know its types
            outcome = replace(outcome, timing=timing._replace(compile_s=timing.compile_s + problem.trace_s))
        return finish(outcome, problem, self._backend.name, self._backend.method_name)

    def _attach(self, error: BaseException, problem: Problem | None, monitor: SolveMonitor) -> None:
        """Let the exception carry the best result so far; None if nothing was found yet.

        An exception that takes no attributes comes through as it is.
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
    """What a solve would run."""

    problem: Problem
    compiled: Compiled
    options: Options
    solve_context: Callable[[], AbstractContextManager[None]]  # the precision and the device that hold inside


def compile_solve(solve: Minimizer, params: Params, args: Any) -> CompiledSolve:
    """What the solver would run for these arguments, compiled; for measurements."""
    with solve_context(solve._precision, params):
        problem = solve._prepare(params, args)
        compiled = solve._backend.compile(problem, solve._options)
    return CompiledSolve(problem, compiled, solve._options, partial(solve_context, solve._precision, params))


def minimize(
    fun: Objective,
    params: Params,
    args: Any = (),
    *,
    backend: str = "scipy",
    method: Any = None,
    bounds: Bounds | tuple[PyTree, PyTree] | None = None,
    fixed: PyTree = None,
    has_aux: bool = False,
    options: Options | Mapping[str, Any] | None = None,
    callback: Callable[[Progress], Any] | None = None,
    progress: bool = False,
    precision: str | None = None,
) -> Result:
    """Minimize a JAX function over a tree of parameters.

    minimize over params:  fun(params, *args),  subject to  lower <= params <= upper.

    Arguments:
        fun: fun(params, *args) returns a real scalar, or (scalar, aux) with has_aux. Traced by JAX.
        params: the start: any tree. Floating-point arrays and floats are optimized, everything else (integers,
            booleans, strings, functions) rides along untouched. A start outside the bounds is clipped. Or a
            Result to go on from: on the device loop bit for bit as if it had never stopped (same objective, data,
            bounds, method and maxcor; limits count from the first start). Otherwise, and with SciPy always, from
            its params with fresh memory; the result's note names what differs.
        args: further arguments of fun, a tuple of trees; arrays and numbers are inputs of the compiled program,
            so new data compile nothing; all else is static. Default ().
        backend: "scipy" (SciPy drives, on the host) or "optax" (one loop, all on the device). Default "scipy".
        method: scipy: the name of a method of scipy.optimize.minimize, None for L-BFGS-B. optax: an
            optax.GradientTransformation, None for the all-device L-BFGS, with bounds L-BFGS-B. Default None.
        bounds: Bounds(lower, upper) or the pair; each side None, a scalar or a prefix tree. Default None.
        fixed: a prefix tree of booleans; True leaves stay at their start and leave the problem. Default None.
        has_aux: whether fun returns (value, aux). Default False.
        options: Options or a mapping of its fields, for SciPy together with the method's own. Default None.
        callback: callback(progress) once an iteration (in the device loop: once a chunk, about ten times a
            second); StopIteration ends the solve. Default None.
        progress: whether to show a progress bar (needs tqdm). Default False.
        precision: "float64" solves in double precision without the global flag; None in the leaves' own type,
            at least float32. Default None.

    Returns:
        A Result: params, fun, jac, aux, nit, nfev, status, success, message, trace, timing.

    Errors:
        TypeError, ValueError: what was wrong with the call, where (the leaf's path), and the cure; an objective
            that is not finite at the start.
        RuntimeError: inside jit or vmap: backend "scipy", and what only a host can serve (callback, progress,
            timeout, another precision). In jax.grad of a call that is not jitted, all but precision work.
        Whatever the objective or the callback raises, with the best result so far as its attribute `best_result`.

    Example:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> def loss(params, x, y):
        ...     return jnp.mean((params["slope"] * x + params["offset"] - y) ** 2)
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> result = sjb.minimize(loss, {"slope": 0.0, "offset": 0.0}, (x, 2.0 * x + 1.0), backend="optax")
        >>> round(float(result.params["slope"]), 3)
        2.0
    """
    solve = Minimizer(
        fun,
        backend=backend,
        method=method,
        bounds=bounds,
        fixed=fixed,
        has_aux=has_aux,
        options=options,
        callback=callback,
        progress=progress,
        precision=precision,
    )
    return solve(params, args)


def _point_of(params: Params) -> Params:
    """The start: where an earlier result ended, if that is what was given."""
    return params.params if isinstance(params, Result) else params
