"""The SciPy backend: SciPy drives on the host, one compiled program evaluates.

The program takes one array and returns one packed array, value and gradient, so an evaluation costs one copy in
and one out. All that is recorded is recorded as SciPy asks for it; nothing is evaluated for the record.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

from ._held import FreeVector, Held, find_held
from ._methods import METHODS, Method
from ._options import Options
from ._point import Point
from ._problem import Data, Problem
from ._record import Record, Stop
from ._result import FRESH_MEMORY, Outcome, Result, Timing
from ._status import Status
from ._threads import SingleThreaded
from ._types import FlatVector
from ._watch import Watch

NOISE = 1e3  # a first trial that should change the objective by less than this many roundings is lost in them
ALL_HELD = "Equal bounds hold every component: there is no other point."
UNLIMITED = np.iinfo(np.int32).max  # for a limit that the record keeps, to the evaluation


def compile_scipy(problem: Problem, method: str, options: Options) -> tuple[dict[str, Any], float, int]:
    """The programs that the method needs: name -> program; the seconds spent now, and how many were compiled."""
    needs = METHODS[method].derivatives
    x = jax.ShapeDtypeStruct((problem.plan.params.size,), problem.plan.dtype)
    wanted: dict[str, tuple[Callable[[Problem], Any], tuple[Any, ...]]] = {"packed": (_packed, (x,))}
    if needs == "none":
        wanted = {"bare": (_bare, (x,))}
    elif needs == "product":
        wanted["product"] = (_product, (x, x))
    elif needs == "hessian":
        wanted["hessian"] = (_hessian, (x,))
    programs, seconds = {}, []
    for name, (make, inputs) in wanted.items():
        programs[name], spent = problem.compile(
            ("scipy", name), lambda make=make, inputs=inputs: (jax.jit(make(problem)), (*inputs, problem.data))
        )
        seconds.append(spent)
    return programs, sum(seconds), sum(spent > 0 for spent in seconds)


def solve_scipy(problem: Problem, method: str, options: Options, watch: Watch, earlier: Result | None) -> Outcome:
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
    programs, compile_s, compiles = compile_scipy(problem, method, options)
    facts = METHODS[method]
    held = None if facts.own_stops else find_held(problem.bounds)  # L-BFGS-B copes, and its path is SciPy's
    evaluate = programs.get("packed") or programs["bare"]
    record = Record(
        problem,
        evaluate,
        has_grad=facts.derivatives != "none",
        tests=not facts.own_stops,
        held=held,
        options=options,
        watch=watch,
    )

    def hand_back(status: Status, detail: str) -> Outcome:
        solve_s, point = watch.seconds, _final(record, status)
        return Outcome(
            **problem.on_device(point.x, point.value, point.grad),
            aux=point.aux,
            nit=record.nit,
            nfev=record.nfev,
            status=int(status),
            trace=record.trace(),
            timing=Timing(compile_s, solve_s, compiles),
            detail=detail,
            note="" if earlier is None else FRESH_MEMORY,
        )

    watch.found = lambda: None if record.best is None else hand_back(Status.ERROR, "")
    watch.begin()
    return hand_back(*_drive(record, problem, facts, programs, options, held))


def _packed(problem: Problem) -> Callable[..., Any]:
    # Value and gradient and no more: another output would change their last bits, and with them SciPy's path.
    def packed(x: FlatVector, data: Data) -> tuple[Float[Array, " n_and_1"], Any]:
        value, grad, aux = problem.value_and_grad(x, data)
        return jnp.concatenate([value[None], grad]), aux

    return packed


def _bare(problem: Problem) -> Callable[..., Any]:
    def bare(x: FlatVector, data: Data) -> tuple[Float[Array, " 1"], Any]:
        value, aux = problem.value(x, data)
        return value[None], aux

    return bare


def _product(problem: Problem) -> Callable[..., Any]:
    def product(x: FlatVector, v: FlatVector, data: Data) -> tuple[FlatVector, None]:
        return jax.jvp(lambda x: problem.value_and_grad(x, data)[1], (x,), (v,))[1], None

    return product


def _hessian(problem: Problem) -> Callable[..., Any]:
    return lambda x, data: (jax.jacfwd(lambda x: problem.value_and_grad(x, data)[1])(x), None)


def _drive(
    record: Record, problem: Problem, method: Method, programs: dict[str, Any], options: Options, held: Held | None
) -> tuple[Status, str]:
    """Hand over to SciPy; why it ended, and what it said."""
    x0, bounds = _place(problem, held)
    native = {name: getattr(options, ours) for ours, name in method.common.items()}
    native |= dict(method.tests) | _own_options(method, options, held) | dict.fromkeys(method.limits, UNLIMITED)
    has_grad = method.derivatives != "none"
    with SingleThreaded() as solver:
        try:
            if x0.size == 0:
                record.evaluate(x0)
                return Status.GTOL, ALL_HELD
            found = scipy.optimize.minimize(
                solver.outside(record.value_and_grad if has_grad else record.value),
                x0,
                jac=True if has_grad else None,
                method=method.name,
                bounds=bounds,
                callback=record.iteration,
                options=native,
                **_second_derivatives(record, programs, solver),
            )
            return _read_ending(record, method, options, found)
        except Stop as stop:
            return stop.status, stop.detail


def _place(problem: Problem, held: Held | None) -> tuple[FreeVector, Any]:
    """The start and SciPy's bounds, both of what the method sees."""
    x0 = problem.plan.params.ravel_on_host(problem.free, np.float64)
    if problem.bounds is None:
        return x0, None
    lower, upper = problem.bounds.lower, problem.bounds.upper
    x0 = np.clip(x0, lower, upper)
    if held is not None:
        x0, lower, upper = held.reduce(x0), held.reduce(lower), held.reduce(upper)
    return x0, scipy.optimize.Bounds(lower, upper)


def _own_options(method: Method, options: Options, held: Held | None) -> dict[str, Any]:
    """The method's own options, without what they say of components that it does not see."""
    native = dict(options.native)
    if held is not None:
        native |= {name: held.reduce_option(native[name]) for name in method.by_component & native.keys()}
    return native


def _second_derivatives(record: Record, programs: dict[str, Any], solver: SingleThreaded) -> dict[str, Any]:
    """hessp or hess, for a method that uses them."""
    if "product" in programs:
        return {"hessp": solver.outside(functools.partial(record.product, programs["product"]))}
    if "hessian" in programs:
        return {"hess": solver.outside(functools.partial(record.hessian, programs["hessian"]))}
    return {}


def _read_ending(record: Record, method: Method, options: Options, found: Any) -> tuple[Status, str]:
    """A status from the numbers, never from SciPy's words, which change from version to version."""
    own = method.ending or " or ".join(each for each in method.tests if each in options.native)  # tests that we lack
    said = f"SciPy's {method.name} ended by its own rule{own and f' ({own})'}: {found.message}"
    point = record.find(found.x)
    if point is None:  # a method that ends at a point it has not just evaluated
        point = record.evaluate(found.x)
    record.iterate = point
    if record.projected_norm(point) <= options.gtol:
        return Status.GTOL, ""
    lost = record.lost or record.cut if point.finite else point
    # A step that was cut short to stay where the objective is finite changes little, and proves nothing.
    if found.success and method.own_stops and options.ftol > 0 and not lost and not record.misled:
        return Status.FTOL, ""
    if found.success and own:
        return Status.FTOL, said
    if record.nit >= options.maxiter:
        return Status.MAXITER, ""
    if lost is not None:
        return Status.NONFINITE, record.tell_lost(lost)
    if _is_noise(record) and options.ftol > 0 and point.grad is not None:
        record.settle(point)
        return Status.FTOL, ""
    if _is_noise(record):
        return Status.NOISE_FLOOR, said
    return Status.LINESEARCH, " ".join(filter(None, (said, method.needs)))


def _is_noise(record: Record) -> bool:
    """Whether rounding hides from the objective what the last search began with."""
    iterate, trial = record.iterate, record.first_trial
    if iterate is None or iterate.grad is None:
        return True
    if record.contradicted:
        return False
    if trial is None:  # the method tried nothing: would a step of unit length, as a first one is, be lost?
        return record.idle or bool(record.projected_norm(iterate) <= NOISE * record.rounding * abs(iterate.value))
    promised = abs(float(iterate.grad @ (trial.x - iterate.x)))
    return bool(promised <= NOISE * record.rounding * max(abs(iterate.value), abs(trial.value)))


def _final(record: Record, status: Status) -> Point:
    """The final point of a converged solve, else the best one."""
    point = record.iterate if status.success else record.best or record.iterate
    assert point is not None, "SciPy evaluated nothing"
    return point
