"""A turn of the loop with any Optax transformation, with the stopping rules of L-BFGS-B.

A transformation sees the tree of the free parameters, so labels, masks and per-leaf rules work as in Optax.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from .._core.status import RUNNING, Status
from .._core.stopping import BACKOFF, CURVATURE, is_flat
from .._core.types import FlatVector
from .._problem.objective import Data, FlatObjective, TracedMethod
from .device_solver import Evaluated, Flag, Scalar
from .limits import Tolerances
from .loop_tools import COUNT_MODULUS, Held, hold, select, write_rows

MAX_UNMOVED = 100  # zero steps in a row; schedules may begin at zero, and some transformations accumulate their steps
LINE_SEARCH_STATES = (optax.ScaleByZoomLinesearchState, optax.ScaleByBacktrackingLinesearchState)

Count = Int[Array, ""]


class TransformState(NamedTuple):
    """The carry: the point to evaluate next, and the last and best points evaluated."""

    trial: FlatVector
    x: FlatVector
    value: Scalar
    grad: FlatVector
    aux: list[Array]
    best_x: FlatVector
    best_value: Scalar
    best_grad: FlatVector
    best_aux: list[Array]
    inner: list[Array]  # leaves of the transformation's own state
    grad_norm: Scalar
    nit: Count
    nfev: Count
    status: Count
    retreats: Count  # number of trials in a row that were not finite
    unmoved: Count  # number of steps in a row that were zero
    step_was_reduced: Flag  # a line search backed off, and the steps have been short since
    rows: Float[Array, "rows 3"]


class Trial(NamedTuple):
    """What is known after the evaluation of a trial."""

    value: Scalar
    grad_norm: Scalar
    searched: Count  # evaluations that line searches made for it
    step_was_reduced: Flag


def start_transform(method: TracedMethod, x: FlatVector, aux: list[Array], data: Data, rows: int) -> TransformState:
    """Make the carry before the first evaluation. `aux` is a placeholder of the right shapes."""
    zeros, infinity, zero = jnp.zeros_like(x), jnp.full((), jnp.inf, x.dtype), jnp.zeros((), jnp.int32)
    return TransformState(
        trial=x,
        x=x,
        value=infinity,
        grad=zeros,
        aux=aux,
        best_x=x,
        best_value=infinity,
        best_grad=zeros,
        best_aux=aux,
        inner=method.start(x, data),
        grad_norm=infinity,
        nit=zero,
        nfev=zero,
        status=zero + RUNNING,
        retreats=zero,
        unmoved=zero,
        step_was_reduced=jnp.zeros((), bool),
        rows=jnp.zeros((rows, 3), x.dtype),
    )


def evaluate_trial(
    method: TracedMethod, objective: FlatObjective, state: TransformState, data: Data, held: Held
) -> Evaluated:
    """Evaluate the trial, or reuse what a line search knows of it."""
    # A search knows no gradient of held components.
    search = _last_search(method.tree.unflatten(state.inner)) if method.can_reuse and held is None else None
    if search is None or not jax.tree.leaves(search.grad) or state.aux:
        return Evaluated(*objective.value_and_grad(state.trial, data), 1)
    unknown = ~jnp.isfinite(search.value) | (state.retreats > 0)

    def recall(_: FlatVector) -> tuple[Scalar, FlatVector]:
        grad = objective.leaves.ravel(jax.tree.leaves(search.grad), objective.dtype)
        return jnp.asarray(search.value, state.value.dtype), grad

    value, grad = lax.cond(unknown, lambda x: objective.value_and_grad(x, data)[:2], recall, state.trial)
    return Evaluated(value, grad, state.aux, unknown.astype(jnp.int32))


def _last_search(inner: PyTree) -> PyTree:
    """Return the state of the line search that chose the trial, or None if a later part may have changed its step.

    The state of a chain is the tuple of the states of its parts. A part without state has an empty one, so the last
    element always belongs to the last part.
    """
    while type(inner) is tuple and inner:
        inner = inner[-1]
    return inner if isinstance(inner, LINE_SEARCH_STATES) else None


def process_trial(
    method: TracedMethod, state: TransformState, evaluated: Evaluated, limits: Tolerances, held: Held, active: Flag
) -> TransformState:
    """Record the trial and decide whether it ends the solve. If not `active`, return the state unchanged.

    From a trial that is not finite the loop retreats towards the last point, at most maxls times in a row.
    """
    inner, (value, grad, aux, count) = method.tree.unflatten(state.inner), evaluated
    nfev, first = state.nfev + count, state.nfev == 0
    grad_norm = jnp.max(jnp.abs(hold(held, 0, grad)))
    trial = Trial(value, grad_norm, _count_searches(inner), _is_reduced(state, inner, grad))
    finite = jnp.isfinite(value) & (jnp.isfinite(grad_norm) if held is None else jnp.all(jnp.isfinite(grad)))
    # A zero step is no convergence: the next one may be longer, unless a line search found no step.
    at_x = ~first & (state.retreats == 0) & jnp.all(state.trial == state.x)
    unmoved = jnp.where(at_x, state.unmoved + 1, 0)
    closer = state.x + BACKOFF * (state.trial - state.x)
    lost = ~finite & (first | (state.retreats >= limits.maxls) | jnp.all(closer == state.x))
    limited = jnp.where(nfev >= limits.maxfun, Status.MAXFUN, RUNNING)
    status = jnp.where(lost, Status.NONFINITE, limited)
    status = jnp.where(finite, _status_at(state, trial, limited, at_x, unmoved, limits), status)
    row = jnp.stack([value, trial.grad_norm, lax.rem(nfev, jnp.int32(COUNT_MODULUS)).astype(value.dtype)])
    place = lax.rem(state.nit, jnp.int32(state.rows.shape[0]))
    accepted = finite | first
    best = {"best_x": state.trial, "best_value": value, "best_grad": grad, "best_aux": aux}
    current = {"x": state.trial, "value": value, "grad": grad, "aux": aux, "grad_norm": trial.grad_norm}
    after = state._replace(
        **_update(finite & (value < state.best_value), state, best),
        **_update(accepted, state, current),
        trial=jnp.where(accepted | lost, state.trial, closer),
        retreats=jnp.where(accepted, 0, state.retreats + 1),
        unmoved=unmoved,
        step_was_reduced=trial.step_was_reduced,
        nfev=nfev,
        status=status.astype(jnp.int32),
        rows=write_rows(state.rows, place, row[None], jnp.ones((), bool)),
    )
    return select(active, after, state)


def _update(condition: Flag, state: TransformState, new: dict[str, PyTree]) -> dict[str, PyTree]:
    """Return the new values of these fields where the condition holds, else those of the state."""
    return {name: select(condition, value, getattr(state, name)) for name, value in new.items()}


def _status_at(
    state: TransformState, trial: Trial, limited: Count, at_x: Flag, unmoved: Count, limits: Tolerances
) -> Count:
    """Return the status after a finite trial; `limited` is what the limit of evaluations says."""
    stuck = at_x & ((unmoved >= MAX_UNMOVED) | (trial.searched > 0))
    # A small decrease is no convergence after a retreat or a reduced step.
    comparable = (state.nfev > 0) & ~at_x & ~trial.step_was_reduced & (state.retreats == 0)
    status = jnp.where(state.nit >= limits.maxiter, Status.MAXITER, limited)
    status = jnp.where(comparable & is_flat(state.value, trial.value, limits.ftol), Status.FTOL, status)
    status = jnp.where(stuck, Status.LINESEARCH, status)
    return jnp.where(trial.grad_norm <= limits.gtol, Status.GTOL, status)


def _is_reduced(state: TransformState, inner: PyTree, grad: FlatVector) -> Flag:
    """Return whether the step may be short because a line search backed off from trials that were not finite.

    A line search reports only how many trials it made, so more than one is taken for a sign of it. A step is short,
    and its small decrease no sign of convergence, if the objective is almost as steep at its end as at its start.
    """
    if not optax.tree_utils.tree_get_all_with_path(inner, "num_linesearch_steps"):
        return state.step_was_reduced
    step = state.trial - state.x
    slope, slope_start = jnp.vdot(grad, step), jnp.vdot(state.grad, step)
    short = (slope < CURVATURE * slope_start) | ~(slope_start < 0)
    return short & (state.step_was_reduced | (_count_searches(inner) > 1))


def propose(method: TracedMethod, state: TransformState, data: Data, held: Held, active: Flag) -> TransformState:
    """Apply the transformation at an iterate. At the start and after a retreat the trial is known already."""

    def move(state: TransformState) -> TransformState:
        trial, *inner = method.move(state.x, state.grad, state.value, state.inner, held, data)
        searched = _count_searches(method.tree.unflatten(inner))
        return state._replace(trial=trial, inner=inner, nit=state.nit + 1, nfev=state.nfev + searched)

    return lax.cond(active & (state.nfev > 0) & (state.retreats == 0), move, lambda state: state, state)


def _count_searches(inner: PyTree) -> Count:
    """Return the number of evaluations that line searches made in the last move."""
    counts = optax.tree_utils.tree_get_all_with_path(inner, "num_linesearch_steps")
    return sum((jnp.asarray(count, jnp.int32) for _, count in counts), jnp.zeros((), jnp.int32))
