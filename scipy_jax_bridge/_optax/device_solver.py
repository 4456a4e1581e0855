"""The loops that run on the device, as three pure functions each: start, advance, report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._core.options import COUNT_MAX, Options
from .._core.status import Status
from .._core.stopping import is_false
from .._core.types import Tracer
from .._problem.bounds import FlatBounds
from .._problem.problem import Data, Problem
from .lbfgsb import loop as engine
from .loop_tools import COUNT_MODULUS
from .transformation import Translation, advance_transform, start_transform

ROWS = 4096  # iterations of which the device keeps the trace; the host collects them chunk by chunk
ROWS_INSIDE = 1024  # the same inside a trace, where nobody collects


class Report(NamedTuple):
    """What a loop tells when it returns control; it outlives the carry, which the next chunk takes over."""

    counts: Any  # the first three of Numbers, whole
    values: Any  # the others
    rows: Any  # a ring: iteration k is row k modulo their number
    best: tuple[Any, Any, Any]  # the best point, its gradient and auxiliary output


class LoopScalars(NamedTuple):
    """The numbers of a report."""

    nit: Any
    nfev: Any
    status: Any
    value: Any  # at the current iterate
    grad_norm: Any  # the same
    best_value: Any


class Found(NamedTuple):
    """A point to hand back, flat."""

    x: Any
    value: Any
    grad: Any
    aux: Any


class DeviceSolver(NamedTuple):
    """A solver on the device: the carry before the first evaluation, the loop, its report, and tools of the host."""

    start: Callable[[list[Any], Any], Any]
    start_on_host: Callable[[list[Any], Any], Any] | None  # the same with nothing compiled; None if it cannot be had
    advance: Callable[..., Any]
    report: Callable[[Any], Report]
    with_status: Callable[[Any, float], Any]  # on the host: the carry with another status
    find_value: Callable[[Any], float]  # on the host: the objective at the carry's x
    find_lost: Callable[[Any], Any]  # on the host, after NONFINITE: the last point that was not finite


def make_device_solver(problem: Problem, method: Any, options: Options, rows: int) -> DeviceSolver:
    """The engine, or the loop of a transformation, for this problem, with so many rows of trace."""
    structure, dtype = problem.spec.params, problem.spec.dtype

    def evaluate_with(data: Data) -> Callable[[Any], Any]:
        return lambda x: problem.value_and_grad(x, data)

    def ravel(free: list[Any]) -> Any:
        return structure.ravel(free, dtype)

    def ravel_on_host(free: list[Any]) -> np.ndarray:
        return structure.ravel_on_host(free, dtype)

    def start_with(ravel: Callable[[list[Any]], Any]) -> Callable[[list[Any], Any], Any]:
        return lambda free, box: engine.start_state(ravel(free), problem.spec.aux, options.maxcor, rows, box)

    if method is None:
        return DeviceSolver(
            start=start_with(ravel),
            start_on_host=start_with(ravel_on_host),
            advance=lambda state, data, limits, box, until: engine.advance(
                evaluate_with(data), state, limits, box, until
            ),
            report=_report_engine,
            with_status=_with_status,
            find_value=lambda state: state.scalars.number("value_start"),
            find_lost=_find_nonfinite,
        )
    translation = Translation(
        to_tree=lambda x: structure.params_or_none(structure.unravel(x)),
        to_vector=lambda tree: ravel(jax.tree.leaves(tree)),
    )
    aux = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), problem.spec.aux)
    return DeviceSolver(
        start=lambda free, box: start_transform(method, translation, ravel(free), aux, rows),
        start_on_host=None,
        advance=lambda state, data, limits, box, until: advance_transform(
            method, translation, evaluate_with(data), state, limits, until
        ),
        report=_report_transform,
        with_status=lambda state, status: state._replace(status=np.int32(status)),
        find_value=lambda state: float(state.value),
        find_lost=lambda state: state.trial,
    )


def find_points(state: Any, report: Report, numbers: LoopScalars) -> tuple[Any, Found, Found]:
    """Whether the solve converged; its last iterate, to hand back if it did; the best point, if not."""
    converged = (numbers.status == Status.GTOL) | (numbers.status == Status.FTOL)
    x, grad, aux = report.best
    last = Found(state.x, numbers.value, state.grad, state.aux)
    return converged, last, Found(x, numbers.best_value, grad, aux)


def _report_engine(state: engine.State) -> Report:
    search, progress = state.scalars.read()
    return _report(
        state,
        nit=state.nit,
        nfev=state.nfev,
        status=progress.status,
        value=search.value_start,
        grad_norm=progress.grad_norm,
        best_value=progress.best_value,
    )


def _report_transform(state: Any) -> Report:
    return _report(
        state,
        nit=state.nit - (state.retreats > 0).astype(jnp.int32),  # after a retreat the last move has led nowhere yet
        nfev=state.nfev,
        status=state.status,
        value=state.value,
        grad_norm=state.grad_norm,
        best_value=state.best_value,
    )


def _report(state: Any, **numbers: Any) -> Report:
    told = LoopScalars(**numbers)
    finite = jnp.isfinite(told.value) & jnp.isfinite(told.grad_norm)
    told = told._replace(status=jnp.where(is_false(told.status, finite), Status.NONFINITE, told.status))
    counts, values = told[:3], told[3:]
    return Report(
        counts=jnp.stack([jnp.asarray(each, jnp.int32) for each in counts]),
        values=jnp.stack([jnp.asarray(each, state.x.dtype) for each in values]),
        rows=state.rows,
        best=(state.best_x, state.best_grad, state.best_aux),
    )


def count_on(rows: Any, nfev: Any) -> Any:
    """The evaluations in rows of the trace, which hold them modulo COUNT_MODULUS, up to `nfev`, the last count."""
    return nfev - (nfev - rows) % COUNT_MODULUS


def tolerances_of(problem: Problem, options: Options) -> engine.Tolerances:
    """The tolerances as inputs of the program, in the type of its arithmetic."""
    dtype = np.dtype(problem.spec.dtype)
    return engine.Tolerances(
        gtol=_as(options.gtol, dtype),
        ftol=_as(options.ftol, dtype),
        maxiter=_as_count(options.maxiter),
        maxfun=_as_count(options.maxfun),
        maxls=_as(options.maxls, dtype),
        maxcor=_as(options.maxcor, dtype),
        rounding=_as(problem.spec.rounding, dtype),
    )


def _as_count(value: Any) -> Any:
    if not isinstance(value, Tracer):
        return np.int32(value)
    if jnp.issubdtype(value.dtype, jnp.floating):  # 2**31 is more than an int32 holds; this is below it in float32 too
        value = value.astype(jnp.float32 if value.dtype.itemsize < 4 else value.dtype)
        value = jnp.minimum(value, jnp.asarray(2.0**31 - 128, value.dtype))
    elif value.dtype.itemsize > 4 or jnp.issubdtype(value.dtype, jnp.unsignedinteger):
        value = jnp.minimum(value, jnp.asarray(COUNT_MAX, value.dtype))
    return value.astype(jnp.int32)


def _as(value: Any, dtype: Any) -> Any:
    return value.astype(dtype) if isinstance(value, Tracer) else dtype.type(value)


def box_of(problem: Problem) -> engine.Box | None:
    """The bounds as inputs of the program, in the type of its arithmetic."""
    bounds: FlatBounds | None = problem.bounds
    if bounds is None:
        return None
    return engine.Box(bounds.lower.astype(problem.spec.dtype), bounds.upper.astype(problem.spec.dtype))


def _with_status(state: engine.State, status: float) -> engine.State:
    """The carry of a solve that was stopped, with another status; on the host."""
    return state._replace(scalars=state.scalars.with_number("status", status))


def _find_nonfinite(state: engine.State) -> Any:
    """After NONFINITE: the last trial that was not finite; `retreat` has left its step as the longest."""
    search, _ = state.scalars.read()
    step = np.asarray(search.step_max)
    return np.asarray(state.x) + step * (np.asarray(state.x_full_step) - np.asarray(state.x))
