"""One update of the transformation: the step of `step`, at the params that the caller evaluated.

The trial is what the caller's params are, not what was asked for. See `_follow`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..._core.options import COUNT_MAX
from ..._core.promotion import standard_promotion
from ..._core.status import RUNNING, Status
from ..._core.types import Number
from ..device_solver import Evaluated
from ..limits import Box, Tolerances
from ..loop_tools import select
from .control import accept_start, process_trial
from .lanes import Lanes, split, unpack
from .layout import Layout
from .linesearch import Search, start_search
from .memory import Scalar, Vector, largest
from .records import OUTCOME_KINDS, After, Before, TrialEvaluation
from .step import State, process, read_scalars


class LbfgsbState(NamedTuple):
    """The state of `lbfgsb`. The iterate is the last point that the line search accepted; it is in no field as a tree.

    count: updates made.
    status: -1 while the search goes on, then the code of a Status. From then on all updates are zero.
    nit: iterations.
    nfev: evaluations that were used.
    accepted: whether the last params became the iterate.
    value: the objective at the iterate.
    grad: its gradient there, as the tree of params.
    best_value: the objective at the best point: the lowest or, with an ftol of 0, the flattest of the equally low.
    best_params: the best point.
    trial: the point that the last update leads to, as one vector.
    x: the iterate, as one vector.
    x_full_step: the point to which the full step from x leads.
    memory: the pairs.
    scalars: the numbers of the line search and of the solve.
    box: the bounds, or None.
    """

    count: Int[Array, ""]  # type: ignore[assignment]  # Optax's word, and a method of tuples
    status: Int[Array, ""]
    nit: Int[Array, ""]
    nfev: Int[Array, ""]
    accepted: Bool[Array, ""]
    value: Scalar
    grad: PyTree
    best_value: Scalar
    best_params: PyTree
    trial: Vector
    x: Vector
    x_full_step: Vector
    memory: PyTree
    scalars: Lanes
    box: Box | None


class Limits(NamedTuple):
    """What an update reads of Options: inputs of its program."""

    gtol: Number
    ftol: Number
    maxls: Number
    maxcor: Number


class Moved(NamedTuple):
    """Whether the trial is another than the one asked for."""

    moved: Scalar


@jax.jit
def update(
    grads: PyTree, state: LbfgsbState, params: PyTree, value: Array, limits: Limits
) -> tuple[PyTree, LbfgsbState]:
    """Process the evaluation at params, and choose the next trial."""
    with standard_promotion():
        layout, box = Layout.of(params), state.box
        at, grad = layout.ravel(params), layout.ravel(grads)
        moved, inside = _compare(state, at, layout)
        running = state.status == RUNNING
        before, moved = _follow(state, at, moved, layout)
        evaluated = Evaluated(value.astype(layout.dtype), grad, (), 1)
        rules, active = (_accept_start, _process_trial), running & inside
        after = process(before, evaluated, _tolerances(limits, value, layout), box, active, rules, Moved(moved))
        search, scalars, outcome = unpack(OUTCOME_KINDS, split(after.scalars))
        status = jnp.asarray(scalars.status, jnp.int32)
        target = _target(after, status)
        target = target if box is None else jnp.clip(jnp.where(inside, target, at), box.lower, box.upper)
        change = jnp.where(running, layout.reach(at, target, box, inside), 0)
        reached = layout.round(at + change)
        following = LbfgsbState(
            count=state.count + 1,
            status=status,
            nit=after.nit,
            nfev=after.nfev,
            accepted=outcome.accepted & active,
            value=search.value_start,
            grad=layout.unravel(after.grad),
            best_value=scalars.best_value,
            best_params=layout.unravel(after.best_x),
            trial=reached if box is None else jnp.where(active, reached, state.trial),
            x=after.x,
            x_full_step=after.x_full_step,
            memory=after.memory,
            scalars=after.scalars,
            box=box,
        )
        return layout.unravel(change), following


def _target(state: State, status: Array) -> Vector:
    """Return the next trial; at the end the iterate that converged, else the best point."""
    converged = (status == Status.GTOL) | (status == Status.FTOL)
    return jnp.where(status == RUNNING, state.trial, jnp.where(converged, state.x, state.best_x))


def _compare(state: LbfgsbState, at: Vector, layout: Layout) -> tuple[Array, Array]:
    """Return whether the params are other than asked for, beyond rounding, and whether they are within the bounds."""
    size, box = jnp.maximum(jnp.abs(at), jnp.abs(state.trial)), state.box
    apart = jnp.abs(at - state.trial) - 4 * layout.eps * size
    beyond = jnp.zeros_like(at) if box is None else jnp.maximum(box.lower - at, at - box.upper)
    apart, beyond = largest(apart, beyond)
    return apart > 0, beyond <= 0


def _follow(state: LbfgsbState, at: Vector, moved: Array, layout: Layout) -> tuple[State, Array]:
    """Return the carry of the loop with the params as its trial, and whether these are not what was asked for.

    Another transformation in a chain, a projection, or the caller may have changed them. The search then looks along
    the line from the iterate to them, as if it had chosen them, and forgets its earlier trials. So each pair is of
    two points that were evaluated.
    """
    carry = State(
        trial=at,
        x=state.x,
        grad=layout.ravel(state.grad),
        x_full_step=state.x_full_step,
        best_x=layout.ravel(state.best_params),
        best_grad=at,  # not read: the results of an update have no use for it
        aux=(),
        best_aux=(),
        memory=state.memory,
        scalars=state.scalars,
        nit=state.nit,
        nfev=state.nfev,
        rows=jnp.zeros((0, 3), at.dtype),
    )
    search, scalars = read_scalars(carry)
    moved &= ~scalars.is_start
    line = state.x + (at - state.x) / _step_of(search)
    return carry._replace(x_full_step=jnp.where(moved, line, state.x_full_step)), moved


def _step_of(search: Search) -> Float[Array, ...]:
    return jnp.where(search.step > 0, search.step, 1)


def _accept_start(numbers: Before, evaluation: TrialEvaluation, limit: Tolerances, moved: Moved) -> After:
    """Make the params the first iterate, whatever was asked for."""
    return accept_start(numbers, evaluation, limit)


def _process_trial(numbers: Before, evaluation: TrialEvaluation, limit: Tolerances, moved: Moved) -> After:
    """Process a trial of a search, which begins anew if the trial is another than it chose."""
    search, before = numbers
    anew = start_search(search.value_start, _step_of(search))
    return process_trial((select(moved.moved > 0, anew, search), before), evaluation, limit)


def _tolerances(limits: Limits, value: Array, layout: Layout) -> Tolerances:
    """Return what ends the search. There is no limit of iterations and of evaluations: the caller counts."""
    dtype, never = layout.dtype, jnp.full((), COUNT_MAX, jnp.int32)
    eps = jnp.asarray(max(jnp.finfo(dtype).eps, jnp.finfo(value.dtype).eps), dtype)
    gtol, ftol, maxls, maxcor = (jnp.asarray(each).astype(dtype) for each in limits)
    return Tolerances(gtol, ftol, never, never, maxls, maxcor, eps)
