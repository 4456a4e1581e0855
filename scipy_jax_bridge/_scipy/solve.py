"""The SciPy backend: SciPy drives on the host, one compiled program evaluates.

The program takes one array and returns one packed array, value and gradient, so an evaluation costs one copy in
and one out. All that is recorded is recorded as SciPy asks for it; nothing is evaluated for the record.
"""

from __future__ import annotations

import functools
import traceback
from typing import Any

import numpy as np
import scipy.optimize

from .._core.monitor import SolveMonitor
from .._core.options import Options
from .._core.status import Status
from .._core.stopping import is_false, is_flat
from .._problem.problem import Problem
from .._result import FRESH_MEMORY, Outcome, Result, Timing
from . import record as _record
from .blas import SingleThreaded
from .fixed import FixedComponents, FreeVector, find_fixed
from .methods import METHODS, Method
from .point import Point, Stop
from .programs import ScipyPrograms, compile_scipy
from .record import Record

NOISE = 1e3  # a first trial that should change the objective by less than this many roundings is lost in them
ENDS_HIGHER = 1e-3  # relatively, above the best point a method without derivatives may end and succeed
SIMPLEX_STEP, SIMPLEX_STEP_AT_0 = 0.05, 0.00025  # of SciPy's first simplex, relative and where a component is 0
ALL_HELD = "Equal bounds hold every component: there is no other point."
UNLIMITED = np.iinfo(np.int32).max  # for a limit that the record keeps, to the evaluation


def solve_scipy(
    problem: Problem, method: str, options: Options, monitor: SolveMonitor, earlier: Result | None
) -> Outcome:
    """Minimize with a method of `scipy.optimize.minimize`.

    Arguments:
        problem: what to minimize.
        method: a key of METHODS.
        options: the limits, and the method's own options.
        watch: who may stop the solve.
        earlier: what to go on from; SciPy's memory cannot be filled from outside, so its point is all that is used.

    Errors:
        ValueError: the objective or its gradient is not finite at the start.
    """
    compiled = compile_scipy(problem, method, options)
    programs = compiled.programs
    facts = METHODS[method]
    held = None if facts.own_stops else find_fixed(problem.bounds)  # L-BFGS-B copes, and its path is SciPy's
    record = Record(
        problem,
        programs.evaluate,
        has_grad=facts.derivatives != "none",
        tests=not facts.own_stops,
        held=held,
        options=options,
        monitor=monitor,
    )

    def hand_back(status: Status, detail: str) -> Outcome:
        status, point = _confirm(record, facts, options, status)
        solve_s = monitor.seconds
        return Outcome(
            **problem.on_device(point.x, point.value, point.grad),
            aux=point.aux,
            nit=record.nit,
            nfev=record.nfev,
            status=int(status),
            trace=record.trace(),
            timing=Timing(compiled.seconds, solve_s, compiled.compiles),
            detail=detail,
            note="" if earlier is None else FRESH_MEMORY,
        )

    monitor.best_so_far = lambda: None if record.best is None else hand_back(Status.ERROR, "")
    monitor.begin()
    return hand_back(*_drive(record, problem, facts, programs, options, held))


def _drive(
    record: Record,
    problem: Problem,
    method: Method,
    programs: ScipyPrograms,
    options: Options,
    held: FixedComponents | None,
) -> tuple[Status, str]:
    """Hand over to SciPy; why it ended, and what it said."""
    x0, bounds = _place(problem, held)
    native = {name: getattr(options, ours) for ours, name in method.common.items()}
    native |= dict(method.tests) | dict.fromkeys(method.limits, UNLIMITED)
    native |= _first_simplex(x0, bounds) if "initial_simplex" in method.by_component and bounds is not None else {}
    native |= _own_options(method, options, held)
    with SingleThreaded() as solver:
        try:
            if x0.size == 0:
                record.evaluate(x0)
                return Status.GTOL, ALL_HELD
            found = scipy.optimize.minimize(
                x0=x0,
                method=method.name,
                bounds=bounds,
                options=native,
                **_callables(record, method, programs, solver),
            )
            return _read_ending(record, method, options, found)
        except Stop as stop:
            return stop.status, stop.detail
        except ValueError as error:
            if _is_of_a_call(error) or not (record.products or record.nit):  # the objective's, or a wrong option
                raise
            lost = record.lost or record.cut
            said = f"SciPy's {method.name} failed: {error}."
            return Status.LINESEARCH if lost is None else Status.NONFINITE, said


def _place(problem: Problem, held: FixedComponents | None) -> tuple[FreeVector, Any]:
    """The start and SciPy's bounds, both of what the method sees."""
    x0 = problem.spec.params.ravel_on_host(problem.start_leaves, np.float64)
    if problem.bounds is None:
        return x0, None
    lower, upper = problem.bounds.lower, problem.bounds.upper
    x0 = np.clip(x0, lower, upper)
    if held is not None:
        x0, lower, upper = held.reduce(x0), held.reduce(lower), held.reduce(upper)
    if x0.size == 0:
        return x0, None  # SciPy 1.18 has no empty bounds
    return x0, scipy.optimize.Bounds(lower, upper)


def _own_options(method: Method, options: Options, held: FixedComponents | None) -> dict[str, Any]:
    """The method's own options, without what they say of components that it does not see."""
    native = dict(options.native)
    if held is not None:
        native |= {name: held.reduce_option(native[name]) for name in method.by_component & native.keys()}
    return native


def _first_simplex(x0: FreeVector, bounds: Any) -> dict[str, np.ndarray]:
    """SciPy's own, but for corners that a negative lower bound would clip to the start: they go the other way."""
    flat = (x0 < 0) & (x0 - bounds.lb <= -SIMPLEX_STEP / 2 * x0)
    if not flat.any():
        return {}
    steps = np.where(x0 == 0, SIMPLEX_STEP_AT_0, SIMPLEX_STEP * x0)
    steps = np.where(flat, np.minimum(-steps, bounds.ub - x0), steps)
    return {"initial_simplex": x0 + np.vstack([np.zeros_like(x0), np.diag(steps)])}


def _callables(record: Record, method: Method, programs: ScipyPrograms, solver: SingleThreaded) -> dict[str, Any]:
    """What SciPy calls: fun, jac, hessp or hess, and the callback."""
    if method.derivatives == "none":
        return {"fun": solver.outside(record.value), "callback": record.iteration}
    if method.grad_asks:
        return {"fun": solver.outside(record.value_alone), "jac": solver.outside(record.gradient)}
    calls = {"fun": solver.outside(record.value_and_grad), "jac": True, "callback": record.iteration}
    if programs.product is not None:
        calls["hessp"] = solver.outside(functools.partial(record.product, programs.product))
    if programs.hessian is not None:
        calls["hess"] = solver.outside(functools.partial(record.hessian, programs.hessian))
    return calls


def _is_of_a_call(error: BaseException) -> bool:
    """Whether it comes out of what SciPy called, not out of SciPy itself."""
    return any(frame.f_code.co_filename == _record.__file__ for frame, _ in traceback.walk_tb(error.__traceback__))


def _read_ending(record: Record, method: Method, options: Options, found: Any) -> tuple[Status, str]:
    """A status from the numbers, never from SciPy's words, which change from version to version."""
    own = method.ending or " or ".join(each for each in method.tests if each in options.native)  # tests that we lack
    said = f"SciPy's {method.name} ended by its own rule{own and f' ({own})'}: {found.message}"
    point = record.find(found.x)
    if point is None:  # a method that ends at a point it has not just evaluated
        point = record.evaluate(found.x)
    if method.derivatives == "none":
        point, failed = _end_at_best(record, method, options, point, found)
        if failed is not None:
            return failed
    elif point.finite and record.iterate is not None and not np.array_equal(point.x, record.iterate.x):
        record.iteration(found.x)  # by which it may converge
    record.iterate = point
    if point.finite and record.projected_norm(point) <= options.gtol:
        return Status.GTOL, ""
    lost = record.lost or record.cut if point.finite else point
    # A step that was cut short to stay where the objective is finite changes little, and proves nothing.
    if found.success and method.own_stops and options.ftol > 0 and not lost and not record.misled:
        return Status.FTOL, ""
    if found.success and own and (lost is None or method.ending):
        return Status.FTOL, said
    if record.nit >= options.maxiter:
        return Status.MAXITER, ""
    if lost is not None:
        return Status.NONFINITE, record.tell_lost(lost)
    tried = record.first_trial is not None or _hides_unit_step(record, point)  # else there is no reduction to judge
    if tried and _is_noise(record) and options.ftol > 0 and point.grad is not None:
        record.settle(point)
        return Status.FTOL, ""
    if _is_noise(record):
        return Status.NOISE_FLOOR, said
    return Status.LINESEARCH, " ".join(filter(None, (said, method.needs)))


def _end_at_best(
    record: Record, method: Method, options: Options, point: Point, found: Any
) -> tuple[Point, tuple[Status, str] | None]:
    """The best point, in the place of where a method without derivatives ended; why it may not say success there."""
    best, wall = record.best, record.wall
    assert best is not None
    if not found.success or (point.finite and point.value <= best.value):
        best = point if point.finite and point.value <= best.value else best
        alone = found.success and not record.compared and wall is not None
        return best, (Status.NONFINITE, record.tell_lost(wall)) if alone and wall else None
    if not point.finite:
        return best, (Status.NONFINITE, record.tell_lost(point))
    if is_flat(point.value, best.value, max(options.ftol, ENDS_HIGHER)):
        return best, None
    return best, (Status.LINESEARCH, f"SciPy's {method.name} ended at a higher point, where fun is {point.value:.6g}.")


def _hides_unit_step(record: Record, point: Point) -> bool:
    return bool(record.projected_norm(point) <= NOISE * record.rounding * abs(point.value))


def _is_noise(record: Record) -> bool:
    """Whether rounding hides from the objective what the last search began with."""
    iterate, trial = record.iterate, record.first_trial
    if iterate is None or iterate.grad is None:
        return True
    if record.contradicted:
        return False
    if trial is None:  # the method tried nothing: would a step of unit length, as a first one is, be lost?
        return record.idle or _hides_unit_step(record, iterate)
    promised = abs(float(iterate.grad @ (trial.x - iterate.x)))
    return bool(promised <= NOISE * record.rounding * max(abs(iterate.value), abs(trial.value)))


def _confirm(record: Record, method: Method, options: Options, status: Status) -> tuple[Status, Point]:
    """The final point of a converged solve, else the best one; and the status, unless the final point is against it."""
    point, best = record.iterate, record.best or record.iterate
    assert point is not None and best is not None, "SciPy evaluated nothing"
    tested = method.derivatives == "none" or bool(record.projected_norm(point) <= options.gtol)
    if is_false(status, point.finite, tested):
        status = Status.LINESEARCH if point.finite else Status.NONFINITE
    return status, point if status.success else best
