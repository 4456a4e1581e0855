"""L-BFGS-B in one compiled loop: one evaluation a step, the line search in the carry.

The algorithm is that of L-BFGS-B 3.0, from R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, SIAM J. Scientific
Computing 16 (1995), 1190-1208 [BLNZ], C. Zhu, R. H. Byrd, P. Lu and J. Nocedal, ACM Transactions on Mathematical
Software 23 (1997), 550-560, and J. L. Morales and J. Nocedal (2011), so that the path is SciPy's.

One turn of the loop: evaluate the trial point; decide (is it the next iterate, is the search over); remember
the pair; find the next direction; choose the next trial. The start is the first trial, so the loop holds the
objective once. Nothing branches, so a batch of solves costs one loop in which each advances by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from ..._core.promotion import standard_promotion, with_user_promotion
from ..._core.status import RUNNING
from ..loop_tools import COUNT_MODULUS, any_active, runs, write_rows
from . import bounded as _bounded, unbounded as _free
from .control import OUTCOME, Decision, Facts, Progress, Tolerances, accept_start, weigh_trial
from .lanes import (
    Packed,
    choose,
    pack_constants,
)
from .linesearch import LARGEST_STEP, Search
from .memory import Flag, NewPair, Scalar, Vector, sum_products

Evaluate = Callable[[Vector], tuple[Scalar, Vector, Any]]  # x -> value, gradient, aux


class Box(NamedTuple):
    """Lower and upper bounds; infinite where there is none."""

    lower: Vector
    upper: Vector


class State(NamedTuple):
    """The carry. `trial` is evaluated next; x, grad and aux belong to the current iterate."""

    trial: Vector
    x: Vector
    grad: Vector
    target: Vector  # where the full step from x leads
    best_x: Vector
    best_grad: Vector
    aux: Any
    best_aux: Any
    memory: Any
    numbers: Packed  # Search, whose value_start is the value at x, and Progress
    nit: Int[Array, ""]
    nfev: Int[Array, ""]
    rows: Float[Array, "rows 3"]


def start_state(x: Any, aux: Any, maxcor: int, rows: int, box: Box | None) -> State:
    """The carry before anything is evaluated, made where `x` is: on the host nothing needs to be compiled for it.

    Arguments:
        x: the start; a NumPy array on the host.
        aux: shapes and types of the auxiliary output.
        maxcor: pairs in memory.
        rows: of the trace.
        box: the bounds, or None.
    """
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    x = x if box is None else xp.clip(x, box.lower, box.upper)
    zeros = xp.zeros(x.shape, x.dtype)
    zero: Any = 0.0
    progress = Progress(*(zero,) * len(Progress._fields))._replace(
        status=zero + RUNNING, best_value=zero + np.inf, starts=zero == 0, empty=zero == 0
    )
    return State(
        trial=x,
        x=x,
        grad=zeros,
        target=x,
        best_x=x,
        best_grad=zeros,
        aux=_nothing(xp, aux),
        best_aux=_nothing(xp, aux),  # not the same arrays: the loop takes them over
        memory=_room(box).empty_memory(xp, x.size, maxcor, x.dtype),
        numbers=pack_constants(x.dtype, OUTCOME, Search(*(zero,) * len(Search._fields)), progress),
        nit=xp.zeros((), np.int32),
        nfev=xp.zeros((), np.int32),
        rows=xp.zeros((rows, 3), x.dtype),
    )


def _nothing(xp: Any, aux: Any) -> Any:
    """Zeros of these shapes and types, of NumPy or of JAX; random keys are of JAX alone."""

    def zeros(leaf: Any) -> Any:
        room = jnp if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else xp
        return room.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(zeros, aux)


def advance(evaluate: Evaluate, state: State, limits: Tolerances, box: Box | None, until: Int[Array, ""]) -> State:
    """Run until the solve has ended or `until` evaluations are made."""

    def goes_on(state: State) -> Flag:
        _, progress = state.numbers.read()
        return (progress.status == RUNNING) & (state.nfev < until)

    def step(state: State) -> State:
        return turn(evaluate_as_set, state, limits, box, runs(goes_on(state)))

    evaluate_as_set = with_user_promotion(evaluate)
    with standard_promotion():
        return lax.while_loop(lambda state: any_active(goes_on(state)), step, state)


def turn(evaluate: Evaluate, state: State, limits: Tolerances, box: Box | None, active: Flag) -> State:
    """One evaluation and all that follows from it; nothing does unless `active`."""
    value, grad, aux = evaluate(state.trial)
    searched, before = state.numbers.read()
    facts = _measure(state, before.starts, value, grad, box)
    left = limits._replace(maxiter=limits.maxiter - state.nit, maxfun=limits.maxfun - state.nfev)
    outcome = choose(before.starts, accept_start, weigh_trial, OUTCOME, state.numbers, facts, left)
    verdict = outcome.or_else(active, state.numbers)
    search, progress, decision = verdict.read()
    moves, better = decision.moves, decision.better
    nit, nfev = state.nit + (moves & (state.nfev > 0)), state.nfev + active
    x, base = jnp.where(moves, state.trial, state.x), jnp.where(moves, grad, state.grad)
    pair = _new_pair(state, searched.step, before.slot, progress.scale, facts, grad, decision)
    memory = _room(box).update_memory(state.memory, pair)
    target = jnp.where(
        moves | decision.fails, _room(box).find_target(memory, x, base * progress.scale, box), state.target
    )
    step = search.step if box is None else _first_step(search.step, x, target, before.starts, box)
    best_x = jnp.where(better, state.trial, state.best_x)
    return State(
        trial=jnp.where(active, jnp.where(decision.renews, best_x, _take_step(x, target, step, box)), state.trial),
        x=x,
        grad=base,
        target=target,
        best_x=best_x,
        best_grad=jnp.where(better, grad, state.best_grad),
        aux=_select(moves, aux, state.aux),
        best_aux=_select(better, aux, state.best_aux),
        memory=memory,
        numbers=_keep_numbers(verdict, step, box),
        nit=nit,
        nfev=nfev,
        rows=_record(state.rows, jnp.where(moves, nit, nit + 1), nfev, facts, active),
    )


def _measure(state: State, starts: Flag, value: Scalar, grad: Vector, box: Box | None) -> Facts:
    """What the decision needs to know of the trial."""
    direction = state.target - state.x
    along = jnp.where(starts, grad, direction)
    own = () if box is None else (grad,)
    slope, slope_start, grad_norm, *size = sum_products(along, grad, state.grad, project(state.trial, grad, box), *own)
    reach = jnp.asarray(LARGEST_STEP) if box is None else _reach(state.x, direction, state.nit, box)
    return Facts(value, slope, slope_start, grad_norm, size[0] if size else grad_norm, reach)


def _new_pair(
    state: State, step: Scalar, slot: Scalar, scale: Scalar, facts: Facts, grad: Vector, decision: Decision
) -> NewPair:
    """The step to the trial and the change of the scaled gradient over it."""
    return NewPair(
        s=step * (state.target - state.x),
        y=(grad - state.grad) * scale,
        curvature=(facts.slope - facts.slope_start) * step * scale,
        slot=slot.astype(jnp.int32),
        keep=decision.keep,
        drop=decision.fails,
    )


def with_status(state: State, status: float) -> State:
    """The carry of a solve that was stopped, with another status; on the host."""
    return state._replace(numbers=state.numbers.with_number("status", status))


def find_lost(state: State) -> Any:
    """After NONFINITE: the last trial that was not finite; `retreat` has left its step as the longest."""
    search, _ = state.numbers.read()
    step = np.asarray(search.step_max)
    return np.asarray(state.x) + step * (np.asarray(state.target) - np.asarray(state.x))


def project(x: Vector, grad: Vector, box: Box | None) -> Vector:
    """The projected gradient (6.1) of BLNZ: the gradient, cut where its step would leave the box."""
    if box is None:
        return grad
    return jnp.where(grad < 0, jnp.maximum(x - box.upper, grad), jnp.minimum(x - box.lower, grad))


def _room(box: Box | None) -> Any:
    """Which step to take; without bounds nothing of the bounded one is compiled."""
    return _free if box is None else _bounded


def _select(condition: Flag, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _reach(x: Vector, direction: Vector, nit: Int[Array, ""], box: Box) -> Scalar:
    """How far the box lets the direction go; the full step is feasible, and all there is in the first iteration."""
    room = jnp.where(direction < 0, box.lower - x, box.upper - x)
    reach = jnp.min(jnp.where(direction != 0, room / direction, LARGEST_STEP), initial=LARGEST_STEP)
    return jnp.where(nit == 0, 1, jnp.maximum(reach, 1))


def _first_step(step: Scalar, x: Vector, target: Vector, starts: Flag, box: Box) -> Scalar:
    """In a box, unit length is along the way to the Cauchy point, and not kept to if every side is finite."""
    direction = target - x
    unit = jnp.minimum(1 / jnp.sqrt(jnp.sum(direction * direction)), 1)
    boxed = jnp.all(jnp.isfinite(box.lower) & jnp.isfinite(box.upper))
    return jnp.where(starts, jnp.where(boxed, 1, unit), step)


def _take_step(x: Vector, target: Vector, step: Scalar, box: Box | None) -> Vector:
    """x + step * (target - x); exactly the target after a full step, and inside the box whatever the rounding."""
    trial = x + step * (target - x)
    trial = trial if box is None else jnp.clip(trial, box.lower, box.upper)
    return jnp.where(step == 1, target, jnp.where(step > 0, trial, x))


def _keep_numbers(verdict: Packed, step: Scalar, box: Box | None) -> Packed:
    """What the verdict says of the search and the progress, with the step that the box left."""
    numbers = verdict.take(Search, Progress)
    return numbers if box is None else Packed(numbers.values.at[0].set(step), numbers.kinds)


def _record(rows: Array, place: Array, nfev: Array, facts: Facts, active: Flag) -> Array:
    """A row of the trace for every trial, over the one before unless that was an iterate.

    A ring: iteration k is row k modulo the number of rows.
    """
    row = jnp.stack([facts.value, facts.grad_norm, lax.rem(nfev, jnp.int32(COUNT_MODULUS)).astype(rows.dtype)])
    return write_rows(rows, lax.rem(place, jnp.int32(rows.shape[0])), row[None], active)
