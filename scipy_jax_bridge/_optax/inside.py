"""Solve inside a trace, as of `jax.jit` or `jax.vmap`: one uninterrupted loop without a clock."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core.manual import is_manual, vary_with
from .._core.options import COUNT_MAX, Options
from .._core.outcome import FlatOutcome
from .._core.promotion import standard_promotion
from .._core.trace import unknown
from .._problem.problem import Problem
from .._result import Trace
from .algorithm import MakeSolver
from .device_solver import ROWS_INSIDE, DeviceState, Leaves, LoopReport, LoopScalars, find_points, unwrap_counts
from .limits import Box, box_of, tolerances_of
from .loop import advance
from .loop_tools import select


def trace_optax(make: MakeSolver, problem: Problem, options: Options) -> FlatOutcome:
    """Minimize inside a trace. The Trace keeps the last ROWS_INSIDE iterations.

    `make` is that of an Algorithm, and not the algorithm itself, which may hold what JAX is tracing.
    """
    # One row more than the result has: a solve that ends within a search leaves an unfinished trial in it.
    solver, box = make(problem, options, ROWS_INSIDE + 1), box_of(problem)
    state = _vary(solver.start(_forbid_crossed(problem.start_leaves, box), problem.data, box), problem)
    state = advance(solver, state, problem.data, tolerances_of(problem, options), box, jnp.int32(COUNT_MAX))
    with standard_promotion():
        return _read_end(solver.report(state), state)


def _vary(state: DeviceState, problem: Problem) -> DeviceState:
    """Return the first state such that each part varies over the axes of a mesh over which it will."""
    if not is_manual():
        return state
    _, aux = problem.spec.flat.value(state.x, problem.data)
    state = vary_with(state, problem.start_leaves)
    return state._replace(
        aux=jax.tree.map(vary_with, state.aux, aux), best_aux=jax.tree.map(vary_with, state.best_aux, aux)
    )


def _forbid_crossed(free: Leaves, box: Box | None) -> Leaves:
    """Make the start NaN if lower bounds exceed upper ones: traced bounds cannot raise an error."""
    if box is None:
        return free
    crossed = ~jnp.all(box.lower <= box.upper)
    return [jnp.where(crossed, jnp.asarray(jnp.nan, leaf.dtype), leaf) for leaf in map(jnp.asarray, free)]


def _read_end(report: LoopReport, state: DeviceState) -> FlatOutcome:
    """Return the outcome of a loop inside a trace."""
    scalars = LoopScalars(*report.counts, *report.values)
    converged, last, best = find_points(state, report, scalars)
    point = select(converged, last, best)
    counts = (scalars.nit, scalars.nfev, scalars.status)
    x, value, grad = map(jnp.asarray, (point.x, point.value, point.grad))
    return FlatOutcome(x, value, grad, point.aux, *counts, _trace_inside(state.rows, scalars))


def _trace_inside(ring: Float[Array, "rows 3"], scalars: LoopScalars) -> Trace:
    """Return the last iterations as columns of one length. nfev is 0 in the rows that no iteration has filled."""
    first = jnp.maximum(scalars.nit + 1 - ROWS_INSIDE, 0)
    rows = jnp.roll(ring, -first, axis=0)[:ROWS_INSIDE]
    filled = jnp.arange(ROWS_INSIDE) <= scalars.nit
    fun, grad_norm = (jnp.where(filled, rows[:, column], unknown()) for column in range(2))
    nfev = jnp.where(filled, unwrap_counts(rows[:, 2].astype(jnp.int32), scalars.nfev), 0)
    return Trace(fun, grad_norm, nfev, jnp.full(ROWS_INSIDE, unknown()))
