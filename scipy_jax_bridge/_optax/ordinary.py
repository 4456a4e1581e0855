"""Ordinary turns of a transformation, in a small loop of their own.

Most turns only take the next step: value and gradient are finite, no test ends the solve, and the best point stays
what it is, the newest or an older one. Such turns write value and gradient norm into a short block. XLA's CPU runs a
loop of few and small buffers several times faster than one that also holds the trace, the best point and the judgment.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

from .._core.manual import vary_with
from .._core.stopping import is_flat
from .._core.types import FlatVector
from .._problem.objective import Data, FlatObjective, TracedMethod
from .device_solver import Evaluated, Flag, Scalar
from .limits import Tolerances
from .loop_tools import COUNT_MODULUS, Held, hold, select
from .transform_step import TransformState

BLOCK = 64  # turns

Count = Int[Array, ""]


class Point(NamedTuple):
    """A point, with the gradient and the auxiliary output there."""

    x: FlatVector
    grad: FlatVector
    aux: list[Array]


class Run(NamedTuple):
    """The carry: the newest evaluation and the one before it; value and gradient norm at the start and of all turns."""

    before: Point
    newest: Point
    value: Scalar  # of the newest
    inner: list[Array]
    turns: Count
    goes_on: Flag
    values: Float[Array, " block"]
    norms: Float[Array, " block"]


def can_run(method: TracedMethod) -> bool:
    """Return whether moves may be computed in vain, and need one evaluation each: no line search is among them."""
    return not (method.has_effects or method.searches)


def run_ordinary(
    method: TracedMethod,
    objective: FlatObjective,
    state: TransformState,
    data: Data,
    limits: Tolerances,
    held: Held,
    until: Count,
    active: Flag,
) -> tuple[TransformState, Evaluated]:
    """Make ordinary turns, at most BLOCK; return the state and what is known of the first trial to be judged.

    The state is that of as many turns of `propose`, `evaluate_trial` and `process_trial`, and one more `propose`.
    In a batch no turn is ordinary, so that no solve waits for another.
    """
    moves = active & (state.nfev > 0) & (state.retreats == 0)
    is_best, most = state.value == state.best_value, _most_turns(state, limits, until, moves)

    def turn(run: Run) -> Run:
        old, before = run.newest, run.value
        moved = method.move(old.x, old.grad, before, run.inner, held, data)
        trial, *inner = select(moves | (run.turns > 0), moved, [state.trial, *run.inner])
        value, grad, aux = objective.value_and_grad(trial, data)
        norm = jnp.max(jnp.abs(hold(held, 0, grad)))
        finite = jnp.isfinite(value) & (jnp.isfinite(norm) if held is None else jnp.all(jnp.isfinite(grad)))
        same_best = (value < jnp.where(is_best, before, state.best_value)) == is_best
        judged = (norm <= limits.gtol) | (value == before) | is_flat(before, value, limits.ftol)
        goes_on = _unless_batched(finite & same_best & ~judged & (run.turns < most))
        turns = run.turns + 1
        columns = _put(run.values, turns, value), _put(run.norms, turns, norm)
        return Run(old, Point(trial, grad, aux), value, inner, turns, goes_on, *columns)

    point, turns, on = Point(state.x, state.grad, state.aux), jnp.zeros((), jnp.int32), jnp.ones((), bool)
    columns = (jnp.full(BLOCK, each) for each in (state.value, state.grad_norm))
    start = Run(point, point, state.value, state.inner, *vary_with((turns, on), state.value), *columns)
    run = lax.while_loop(lambda run: run.goes_on, turn, start)
    return _after(state, run, is_best, moves), Evaluated(run.value, run.newest.grad, run.newest.aux, 1)


def _most_turns(state: TransformState, limits: Tolerances, until: Count, moves: Flag) -> Count:
    """Return how many turns may pass before a trial must be judged, or the block or the trace would be full."""
    rows = state.rows.shape[0]
    left = jnp.minimum(jnp.minimum(until, limits.maxfun) - state.nfev, limits.maxiter - state.nit) - 1
    room = jnp.minimum(rows - lax.rem(state.nit + 1, jnp.int32(rows)), BLOCK - 2)
    return jnp.where(moves & (state.unmoved == 0), jnp.minimum(left, room), 0)


def _after(state: TransformState, run: Run, is_best: Flag, moves: Flag) -> TransformState:
    """Return the state whose trial is the newest evaluation, with the turns before it recorded."""
    passed, before = run.turns - 1, run.before
    counts = lax.rem(state.nfev + jnp.arange(BLOCK, dtype=jnp.int32), jnp.int32(COUNT_MODULUS))
    block = jnp.stack([run.values, run.norms, counts.astype(run.values.dtype)], axis=1)
    best = (state.best_x, state.best_value, state.best_grad, state.best_aux)
    newer = (before.x, run.values[passed], before.grad, before.aux)
    best_x, best_value, best_grad, best_aux = select(is_best & (passed > 0), newer, best)
    return state._replace(
        trial=run.newest.x,
        **before._asdict(),
        value=run.values[passed],
        grad_norm=run.norms[passed],
        best_x=best_x,
        best_value=best_value,
        best_grad=best_grad,
        best_aux=best_aux,
        inner=run.inner,
        nit=state.nit + passed + moves,
        nfev=state.nfev + passed,
        rows=_write_block(state.rows, lax.rem(state.nit + 1, jnp.int32(state.rows.shape[0])), block[1:], passed),
    )


def _put(column: Float[Array, " block"], place: Count, value: Scalar) -> Float[Array, " block"]:
    return lax.dynamic_update_index_in_dim(column, value, place, 0)


@custom_vmap
def _unless_batched(flag: Any) -> Array:
    """Return the flag; false in a batch."""
    return flag


@_unless_batched.def_vmap
def _never_in_batch(size: int, batched: list[bool], flag: Any) -> tuple[Array, bool]:
    return jnp.zeros((), bool), False


@custom_vmap
def _write_block(rows: Any, place: Any, block: Any, count: Any) -> Array:
    """Write the first `count` rows of the block from `place` on, which do not reach beyond the end."""
    first = jnp.minimum(place, max(rows.shape[0] - block.shape[0], 0))
    old = lax.dynamic_slice_in_dim(rows, first, min(block.shape[0], rows.shape[0]))
    turn = jnp.arange(old.shape[0]) - (place - first)
    new = jnp.where(((turn >= 0) & (turn < count))[:, None], block[turn], old)
    return lax.dynamic_update_slice_in_dim(rows, new, first, 0)


@_write_block.def_vmap
def _write_none_in_batch(
    size: int, batched: list[bool], rows: Any, place: Any, block: Any, count: Any
) -> tuple[Array, bool]:
    return rows, batched[0]
