"""The loop of any Optax transformation: one `lax.while_loop`, the stopping rule of the interface.

A transformation sees the tree of the free parameters, so labels, masks and per-leaf rules work as in Optax.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from .._core.promotion import standard_promotion, with_user_promotion
from .._core.status import RUNNING, Status
from .._core.stopping import BACKOFF, CURVATURE, is_flat
from .._core.types import FlatVector
from .lbfgsb.lanes import (
    Flag,
)
from .loop_tools import COUNT_MODULUS, write_rows

IDLE_MOVES = 100  # in a row that lead nowhere; schedules begin at zero, and some transformations save up their steps
SEARCHES = (optax.ScaleByZoomLinesearchState, optax.ScaleByBacktrackingLinesearchState)

Scalar = Float[Array, ""]
Evaluate = Callable[[FlatVector], tuple[Scalar, FlatVector, Any]]


class Translation(NamedTuple):
    """From the flat vector to the tree that the transformation sees, and back."""

    to_tree: Callable[[FlatVector], Any]
    to_vector: Callable[[Any], FlatVector]


class TransformState(NamedTuple):
    """The carry: the point to evaluate next, and the last and best points evaluated."""

    trial: FlatVector
    x: FlatVector
    value: Scalar
    grad: FlatVector
    aux: Any
    best_x: FlatVector
    best_value: Scalar
    best_grad: FlatVector
    best_aux: Any
    inner: Any  # the transformation's own state
    grad_norm: Scalar
    nit: Int[Array, ""]
    nfev: Int[Array, ""]
    status: Int[Array, ""]
    retreats: Int[Array, ""]  # from trials that were not finite, since the last one that was
    idle: Int[Array, ""]  # moves in a row that led nowhere
    cut: Flag  # a line search drew back, and its steps have been short since
    rows: Float[Array, "rows 3"]


def start_transform(method: Any, translation: Translation, x: FlatVector, aux: Any, rows: int) -> TransformState:
    """The carry before anything is evaluated; `aux` is a placeholder of the right shape."""
    zeros, infinity, whole = jnp.zeros_like(x), jnp.full((), jnp.inf, x.dtype), jnp.zeros((), jnp.int32)
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
        inner=method.init(translation.to_tree(x)),
        grad_norm=infinity,
        nit=whole,
        nfev=whole,
        status=whole + RUNNING,
        retreats=whole,
        idle=whole,
        cut=jnp.zeros((), bool),
        rows=jnp.zeros((rows, 3), x.dtype),
    )


def advance_transform(
    method: Any, translation: Translation, evaluate: Evaluate, state: TransformState, limits: Any, until: Int[Array, ""]
) -> TransformState:
    """Run until the solve has ended or `until` evaluations are made."""
    method = optax.with_extra_args_support(method)
    remembers = method.update.__module__.partition(".")[0] == optax.__name__  # nobody else takes its steps further

    def goes_on(state: TransformState) -> Flag:
        return (state.status == RUNNING) & (state.nfev < until)

    def turn(state: TransformState) -> TransformState:
        state = _move(method, translation, evaluate_as_set, state)
        value, grad, aux, fresh = _evaluate(translation, evaluate_as_set, state, remembers)
        return _judge(state, value, grad, aux, fresh, limits)

    evaluate_as_set = with_user_promotion(evaluate)
    with standard_promotion():
        return lax.while_loop(goes_on, turn, state)


def _evaluate(
    translation: Translation, evaluate: Evaluate, state: TransformState, remembers: bool
) -> tuple[Scalar, FlatVector, Any, Array]:
    """At the trial point, and how many evaluations that took: none if a line search left value and gradient."""
    search = _last_search(state.inner) if remembers else None
    if search is None or not jax.tree.leaves(search.grad) or jax.tree.leaves(state.aux):
        return *evaluate(state.trial), jnp.ones((), jnp.int32)
    unknown = ~jnp.isfinite(search.value) | (state.retreats > 0)

    def recall(_: FlatVector) -> tuple[Scalar, FlatVector]:
        return jnp.asarray(search.value, state.value.dtype), translation.to_vector(search.grad)

    value, grad = lax.cond(unknown, lambda x: evaluate(x)[:2], recall, state.trial)
    return value, grad, state.aux, unknown.astype(jnp.int32)


def _last_search(inner: Any) -> Any:
    """The state of the line search that chose the trial; None if there is none, or its step was changed after it.

    A chain's state is the tuple of its parts' states, and a part without one leaves an empty state in its place. So
    what ends such a tuple is the state of the last part.
    """
    while type(inner) is tuple and inner:
        inner = inner[-1]
    return inner if isinstance(inner, SEARCHES) else None


def _judge(
    state: TransformState, value: Scalar, grad: FlatVector, aux: Any, fresh: Array, limits: Any
) -> TransformState:
    """Record the point and decide whether it ends the solve.

    From a trial that is not finite the loop draws back towards the last point, maxls times at most.
    """
    grad_norm = jnp.max(jnp.abs(grad))
    nfev = state.nfev + fresh
    first = state.nfev == 0
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
    better = finite & (value < state.best_value)
    # A small decrease after a retreat is no convergence.
    # Nor is no step at all: the next one may be longer, unless a line search has found none.
    unmoved = ~first & (state.retreats == 0) & jnp.all(state.trial == state.x)
    idle = jnp.where(unmoved, state.idle + 1, 0)
    stays = unmoved & ((idle >= IDLE_MOVES) | (_count_searches(state.inner) > 0))
    cut = _is_cut(state, grad)
    flat = ~first & ~unmoved & ~cut & (state.retreats == 0) & is_flat(state.value, value, limits.ftol)
    status = jnp.where(nfev >= limits.maxfun, Status.MAXFUN, RUNNING)
    status = jnp.where(state.nit >= limits.maxiter, Status.MAXITER, status)
    status = jnp.where(flat, Status.FTOL, status)
    status = jnp.where(stays, Status.LINESEARCH, status)
    status = jnp.where(grad_norm <= limits.gtol, Status.GTOL, status)
    closer = state.x + BACKOFF * (state.trial - state.x)
    lost = ~finite & (first | (state.retreats >= limits.maxls) | jnp.all(closer == state.x))
    limited = jnp.where(nfev >= limits.maxfun, Status.MAXFUN, RUNNING)
    status = jnp.where(finite, status, jnp.where(lost, Status.NONFINITE, limited)).astype(jnp.int32)
    row = jnp.stack([value, grad_norm, lax.rem(nfev, jnp.int32(COUNT_MODULUS)).astype(value.dtype)])
    place = lax.rem(state.nit, jnp.int32(state.rows.shape[0]))
    best = (state.trial, value, grad, aux)
    kept = (state.best_x, state.best_value, state.best_grad, state.best_aux)
    best_x, best_value, best_grad, best_aux = jax.tree.map(lambda new, old: jnp.where(better, new, old), best, kept)
    taken = finite | first
    x, value, grad, aux, grad_norm = jax.tree.map(
        lambda new, old: jnp.where(taken, new, old),
        (state.trial, value, grad, aux, grad_norm),
        (state.x, state.value, state.grad, state.aux, state.grad_norm),
    )
    return state._replace(
        trial=jnp.where(taken | lost, state.trial, closer),
        retreats=jnp.where(taken, 0, state.retreats + 1),
        idle=idle,
        cut=cut,
        x=x,
        value=value,
        grad=grad,
        aux=aux,
        best_x=best_x,
        best_value=best_value,
        best_grad=best_grad,
        best_aux=best_aux,
        grad_norm=grad_norm,
        nfev=nfev,
        status=status,
        rows=write_rows(state.rows, place, row[None], jnp.ones((), bool)),
    )


def _is_cut(state: TransformState, grad: FlatVector) -> Flag:
    """Whether the step may be short because trials of a line search were not finite: the search tells only of many.

    Short, and so no sign of convergence, is a step along which the objective falls on as steeply.
    """
    if not optax.tree_utils.tree_get_all_with_path(state.inner, "num_linesearch_steps"):
        return state.cut
    step = state.trial - state.x
    slope, slope_before = jnp.vdot(grad, step), jnp.vdot(state.grad, step)
    short = (slope < CURVATURE * slope_before) | ~(slope_before < 0)
    return short & (state.cut | (_count_searches(state.inner) > 1))


def _move(method: Any, translation: Translation, evaluate: Evaluate, state: TransformState) -> TransformState:
    """The transformation's step, from an iterate; not at the start, nor after a retreat, where the trial is known."""

    def value_of(tree: Any) -> Scalar:
        return evaluate(translation.to_vector(tree))[0]

    def move(state: TransformState) -> TransformState:
        tree, grad = translation.to_tree(state.x), translation.to_tree(state.grad)
        known = _accepted(method.update, value=state.value, grad=grad, value_fn=value_of)
        updates, inner = method.update(grad, state.inner, tree, **known)
        searched = _count_searches(inner)
        trial = translation.to_vector(optax.apply_updates(tree, updates))
        return state._replace(trial=trial, inner=inner, nit=state.nit + 1, nfev=state.nfev + searched)

    return lax.cond((state.nfev > 0) & (state.retreats == 0), move, lambda state: state, state)


def _count_searches(inner: Any) -> Int[Array, ""]:
    """Evaluations of the line searches of the last move."""
    counts = optax.tree_utils.tree_get_all_with_path(inner, "num_linesearch_steps")
    return sum((jnp.asarray(count, jnp.int32) for _, count in counts), jnp.zeros((), jnp.int32))


def _accepted(update: Callable[..., Any], **known: Any) -> dict[str, Any]:
    """What an update takes of that which is known: not all that ask for one more argument take any."""
    parameters = inspect.signature(update).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return known
    return {name: value for name, value in known.items() if name in parameters}
