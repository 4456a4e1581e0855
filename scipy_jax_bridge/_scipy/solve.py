"""The SciPy backend: SciPy iterates on the host, and one compiled program evaluates.

The program takes one array and returns one packed array of value and gradient, so that an evaluation costs one copy
to the device and one back. The trace is written from these evaluations; none is made for the record alone.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.optimize
from jaxtyping import Float

from .._core.errors import shorten
from .._core.monitor import SolveMonitor
from .._core.options import Options
from .._core.status import Status
from .._problem.problem import Problem
from .._result import FRESH_MEMORY, Outcome, Result, Timing
from . import evaluator as _evaluator, recorder as _recorder
from .blas import SingleThreaded
from .ending import choose_final, read_ending
from .evaluation import Stop
from .evaluator import HostEvaluator
from .fixed import FixedComponents, FreeVector, find_fixed
from .methods import METHODS, Method
from .numpy_objective import NumpyObjective
from .programs import ScipyPrograms, compile_scipy
from .recorder import SolveRecorder

SIMPLEX_STEP, SIMPLEX_STEP_AT_0 = 0.05, 0.00025  # of SciPy's first simplex: relative, and where a component is 0
ALL_FIXED = "Equal bounds hold every component: there is no other point."
UNLIMITED = np.iinfo(np.int32).max  # for SciPy's own limits: the recorder keeps ours, to the evaluation
CALLBACK = inspect.signature(lambda intermediate_result: None)  # SciPy would find it anew in every solve
CALLED_FILES = {_evaluator.__file__, _recorder.__file__}  # of the functions that SciPy calls


def solve_scipy(
    problem: Problem, method: str, options: Options, monitor: SolveMonitor, earlier: Result | None
) -> Outcome:
    """Minimize with a method of `scipy.optimize.minimize`.

    Args:
        problem: what to minimize.
        method: a key of METHODS.
        options: the limits, and the method's own options.
        monitor: says whether the solve has to stop.
        earlier: the result to continue from. Only its point is used: SciPy's memory cannot be set from outside.

    Raises:
        ValueError: the objective or its gradient is not finite at the start.
    """
    compiled = compile_scipy(problem, method, options)
    facts = METHODS[method]
    # L-BFGS-B accepts equal bounds, and without the fixed components its path would not be SciPy's.
    fixed = None if facts.native_stopping else find_fixed(problem.bounds)
    host = NumpyObjective(problem, fixed)
    evaluator = HostEvaluator(host, compiled.programs, has_grad=facts.derivatives != "none", monitor=monitor)
    recorder = SolveRecorder(evaluator, options, monitor, facts)

    def hand_back(status: Status, detail: str) -> Outcome:
        status, point = choose_final(recorder, facts, status)
        solve_s = monitor.seconds
        return Outcome(
            **problem.on_device(point.x, point.value, point.grad),
            aux=point.aux,
            nit=recorder.nit,
            nfev=recorder.nfev,
            status=int(status),
            trace=recorder.trace(),
            timing=Timing(compiled.seconds, solve_s, compiled.compiles),
            detail=detail,
            note="" if earlier is None else FRESH_MEMORY,
        )

    monitor.best_so_far = lambda: None if recorder.best is None else hand_back(Status.ERROR, "")
    monitor.begin()
    status, detail = _run_scipy(recorder, facts, compiled.programs, fixed)
    monitor.agree(recorder.nfev, 0, ended=status)
    return hand_back(status, detail)


def _run_scipy(
    recorder: SolveRecorder,
    method: Method,
    programs: ScipyPrograms,
    fixed: FixedComponents | None,
) -> tuple[Status, str]:
    """Run SciPy's method; return the status and SciPy's message."""
    host = recorder.evaluator.host
    x0, bounds = (
        host.reduce(host.start()),
        host.bounds() if method.bounds else None,
    )  # others only leave out what is fixed
    options = _native_options(method, recorder, x0, bounds, fixed)
    with SingleThreaded() as solver:
        try:
            if x0.size == 0:
                recorder.evaluate(x0)
                return Status.GTOL, ALL_FIXED
            found = scipy.optimize.minimize(
                x0=x0,
                method=method.name,
                bounds=bounds,
                options=options,
                **_callables(recorder, method, programs, solver),
            )
            return read_ending(recorder, method, found)
        except Stop as stop:
            return stop.status, stop.detail
        except Exception as error:
            started = recorder.evaluator.second_derivatives or recorder.nit  # else an option may be wrong
            if _comes_from_call(error):
                raise
            if not (started and isinstance(error, ValueError)):
                if recorder.options.native:
                    raise _name_options(error, method, recorder.options.native) from error
                raise
            status = Status.LINESEARCH if recorder.reduced_by is None else Status.NONFINITE
            return status, f"SciPy's {method.name} failed: {error}."


def _native_options(
    method: Method,
    recorder: SolveRecorder,
    x0: FreeVector,
    bounds: scipy.optimize.Bounds | None,
    fixed: FixedComponents | None,
) -> dict[str, Any]:
    """Return SciPy's options for the method; the user's native options take precedence."""
    options, evaluator = recorder.options, recorder.evaluator
    native = {name: getattr(options, ours) for ours, name in method.option_names.items()}
    native |= {**method.native_tolerances, **dict.fromkeys(method.native_limits, UNLIMITED)}
    if "initial_simplex" in method.per_component and bounds is not None:
        native |= _first_simplex(x0, bounds)
    if method.differences and evaluator.is_coarse:  # in float32 a step for float64 is lost in the rounding of x
        native["accuracy"] = evaluator.rounding**0.5
    native |= options.native
    if fixed is not None:
        native |= {name: fixed.reduce_option(native[name]) for name in method.per_component & options.native.keys()}
    return native


def _first_simplex(x0: FreeVector, bounds: scipy.optimize.Bounds) -> dict[str, Float[np.ndarray, "corners free"]]:
    """Return SciPy's first simplex with the corners turned around that a negative lower bound would clip to the start.

    Empty if no corner is.
    """
    clipped = (x0 < 0) & (x0 - bounds.lb <= -SIMPLEX_STEP / 2 * x0)
    if not clipped.any():
        return {}
    steps = np.where(x0 == 0, SIMPLEX_STEP_AT_0, SIMPLEX_STEP * x0)
    steps = np.where(clipped, np.minimum(-steps, bounds.ub - x0), steps)
    return {"initial_simplex": x0 + np.vstack([np.zeros_like(x0), np.diag(steps)])}


def _callables(
    recorder: SolveRecorder, method: Method, programs: ScipyPrograms, solver: SingleThreaded
) -> dict[str, Callable[..., Any]]:
    """Return what SciPy calls: fun, jac, hessp or hess, and the callback."""

    def callback(intermediate_result: scipy.optimize.OptimizeResult | FreeVector) -> None:
        recorder.iteration(intermediate_result)

    callback.__signature__ = CALLBACK  # type: ignore[attr-defined]
    if method.derivatives == "none":
        return {"fun": solver.outside(recorder.value), "callback": callback}
    calls: dict[str, Callable[..., Any]] = {"fun": solver.outside(recorder.value_alone)}
    if method.grad_at_iterates:
        return calls | {"jac": solver.outside(recorder.gradient_at_iterate)}
    calls |= {"jac": solver.outside(recorder.gradient), "callback": callback}
    if programs.product is not None:
        calls["hessp"] = solver.outside(recorder.evaluator.product)
    if programs.hessian is not None:
        calls["hess"] = solver.outside(recorder.evaluator.hessian)
    return calls


def _name_options(error: Exception, method: Method, native: Mapping[str, Any]) -> Exception:
    """Return SciPy's error with the native options that it may be about."""
    given = ", ".join(f"{name!r}: {shorten(value)}" for name, value in native.items())
    kind = next(each for each in type(error).__mro__ if each.__module__ == "builtins")  # NumPy's take other arguments
    return kind(f"SciPy's {method.name} does not accept options={{{given}}}. It says: {error}")


def _comes_from_call(error: BaseException) -> bool:
    """Return whether the error comes from a function that SciPy called, and not from SciPy itself."""
    return any(frame.f_code.co_filename in CALLED_FILES for frame, _ in traceback.walk_tb(error.__traceback__))
