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
from jax import lax
from jaxtyping import Array, Float, Int

from . import _bounded, _free
from ._kernel import Packed, blank, compute, write_row
from ._linesearch import LARGEST_STEP, Search, judge, next_trial, retreat, start_search
from ._memory import Flag, NewPair, Scalar, Vector, multiply
from ._status import RUNNING, Status

Evaluate = Callable[[Vector], tuple[Scalar, Vector, Any]]  # x -> value, gradient, aux


class Limits(NamedTuple):
    """What ends a solve; traced, so a new tolerance compiles nothing."""

    gtol: Scalar
    ftol: Scalar
    maxiter: Int[Array, ""]
    maxfun: Int[Array, ""]
    maxls: Int[Array, ""]


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
    best_value: Scalar
    aux: Any
    best_aux: Any
    memory: Any
    search: Packed  # a Search; its value_start is the value at x
    grad_norm: Scalar
    nit: Int[Array, ""]
    nfev: Int[Array, ""]
    status: Int[Array, ""]
    rows: Float[Array, "rows 3"]


class Facts(NamedTuple):
    """What is known once the trial is evaluated."""

    value: Scalar
    slope: Scalar
    grad_norm: Scalar
    best_value: Scalar
    pairs: Int[Array, ""]
    nit: Int[Array, ""]
    nfev: Int[Array, ""]


class Decision(NamedTuple):
    """What follows from the trial."""

    moves: Flag  # it is the next iterate
    fails: Flag  # the search is over without one
    better: Flag  # the least value so far
    keep: Flag  # the step and the change of the gradient make a pair
    curvature: Scalar  # s'y of that pair
    step: Scalar  # how far along the direction it lies
    value: Scalar  # the objective at the iterate from here on
    status: Scalar


class Launch(NamedTuple):
    """How a search along a new direction starts."""

    slope: Scalar
    step: Scalar
    step_max: Scalar


def start_state(x: Vector, aux: Any, maxcor: int, rows: int, box: Box | None) -> State:
    """The carry before anything is evaluated; `aux` is a placeholder of the right shape."""
    dtype = x.dtype
    zero, whole = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    x = x if box is None else jnp.clip(x, box.lower, box.upper)
    zeros = jnp.zeros_like(x)
    return State(
        trial=x,
        x=x,
        grad=zeros,
        target=x,
        best_x=x,
        best_grad=zeros,
        best_value=jnp.full((), jnp.inf, dtype),
        aux=aux,
        best_aux=aux,
        memory=_room(box).empty_memory(x.size, maxcor, dtype),
        search=blank(dtype, Search),
        grad_norm=zero,
        nit=whole,
        nfev=whole,
        status=whole + RUNNING,
        rows=jnp.full((rows, 3), jnp.nan, dtype),
    )


def advance(evaluate: Evaluate, state: State, limits: Limits, box: Box | None, until: Int[Array, ""]) -> State:
    """Run until the solve has ended or `until` evaluations are made."""

    def goes_on(state: State) -> Flag:
        return (state.status == RUNNING) & (state.nfev < until)

    return lax.while_loop(goes_on, lambda state: turn(evaluate, state, limits, box), state)


def turn(evaluate: Evaluate, state: State, limits: Limits, box: Box | None) -> State:
    """One evaluation and all that follows from it."""
    value, grad, aux = evaluate(state.trial)
    grad_norm = jnp.max(jnp.abs(project(state.trial, grad, box)))
    direction = state.target - state.x
    slope = jnp.dot(grad, direction)
    facts = Facts(value, slope, grad_norm, state.best_value, state.memory.pairs.count, state.nit, state.nfev)
    verdict = lax.cond(state.nfev == 0, _judge_start, _judge_trial, state.search, facts, limits)
    decision, _ = verdict.read()
    moves, fails, better = decision.moves, decision.fails, decision.better

    x, base = jnp.where(moves, state.trial, state.x), jnp.where(moves, grad, state.grad)
    new = NewPair(decision.step * direction, grad - state.grad, decision.curvature, decision.keep)
    memory = _room(box).update_memory(state.memory, new, fails)
    memory, target = _room(box).find_target(memory, x, base, box)
    target = jnp.where(moves | fails, target, state.target)

    nit = state.nit + (moves & (state.nfev > 0))
    launch = _launch(x, base, target, nit, box)
    search = compute(_search_on, (Search,), value.dtype, verdict, launch)
    return State(
        trial=_take_step(x, target, search.values[0], box),
        x=x,
        grad=base,
        target=target,
        best_x=jnp.where(better, state.trial, state.best_x),
        best_grad=jnp.where(better, grad, state.best_grad),
        best_value=jnp.where(better, value, state.best_value),
        aux=_select(moves, aux, state.aux),
        best_aux=_select(better, aux, state.best_aux),
        memory=memory,
        search=search,
        grad_norm=jnp.where(moves, grad_norm, state.grad_norm),
        nit=nit,
        nfev=state.nfev + 1,
        status=_stop(decision, launch),
        rows=_record(state.rows, nit, moves, value, grad_norm, state.nfev + 1),
    )


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


def _judge_start(search: Packed, facts: Facts, limits: Limits) -> Packed:
    return compute(_accept_start, (Decision, Search), facts.value.dtype, search, facts, limits)


def _judge_trial(search: Packed, facts: Facts, limits: Limits) -> Packed:
    return compute(_weigh_trial, (Decision, Search), facts.value.dtype, search, facts, limits)


def _accept_start(searches: tuple[Search], facts: Facts, limits: Limits) -> tuple[Decision, Search]:
    """The start is the first iterate; it is converged already, or there is nothing to start from."""
    (search,) = searches
    finite, never = _is_finite(facts), facts.value != facts.value
    status = _limit_status(facts, limits, 0)
    status = jnp.where(facts.grad_norm <= limits.gtol, Status.GTOL, status)
    status = jnp.where(finite, status, Status.NONFINITE)
    zero = jnp.zeros_like(facts.value)
    decision = Decision(~never | never, never & ~never, finite, never & ~never, zero, zero, facts.value, status)
    return decision, search


def _weigh_trial(searches: tuple[Search], facts: Facts, limits: Limits) -> tuple[Decision, Search]:
    """The stopping tests of section 6 of BLNZ and the curvature test (3.9), in L-BFGS-B's order."""
    (search,) = searches
    finite = _is_finite(facts)
    tried = _select(finite, next_trial(search, facts.value, facts.slope), retreat(search))
    tried = tried._replace(evaluations=search.evaluations + 1)
    verdict = judge(search, facts.value, facts.slope)
    repeats = tried.step == search.step  # nothing better is left in the bracket
    moves = finite & (verdict.accepted | verdict.stuck | repeats)
    fails = ~moves & (tried.evaluations >= limits.maxls)

    size = jnp.maximum(jnp.maximum(jnp.abs(search.value_start), jnp.abs(facts.value)), 1)
    flat = (limits.ftol > 0) & (search.value_start - facts.value <= limits.ftol * size)
    curvature = (facts.slope - search.slope_start) * search.step
    bent = curvature > -jnp.finfo(size.dtype).eps * search.slope_start * search.step

    status = jnp.where(fails & (facts.pairs == 0), Status.LINESEARCH, _limit_status(facts, limits, moves))
    status = jnp.where(moves & flat, Status.FTOL, status)
    status = jnp.where(moves & (facts.grad_norm <= limits.gtol), Status.GTOL, status)
    better = finite & (facts.value < facts.best_value)
    value = jnp.where(moves, facts.value, search.value_start)
    return Decision(moves, fails, better, moves & bent, curvature, search.step, value, status), tried


def _is_finite(facts: Facts) -> Flag:
    return jnp.isfinite(facts.value) & jnp.isfinite(facts.grad_norm)


def _limit_status(facts: Facts, limits: Limits, iterations: Any) -> Array:
    """What the limits say, once this evaluation and this many more iterations are counted."""
    status = jnp.where(facts.nfev + 1 >= limits.maxfun, Status.MAXFUN, RUNNING)
    return jnp.where(facts.nit + iterations >= limits.maxiter, Status.MAXITER, status)


def _search_on(verdict: tuple[Decision, Search], launch: Launch) -> tuple[Search]:
    """The search's next state: a new one from a new iterate, else the next trial of this one."""
    decision, tried = verdict
    begun = start_search(decision.value, launch.slope, launch.step, launch.step_max)
    return (_select(decision.moves | decision.fails, begun, tried),)


def _launch(x: Vector, grad: Vector, target: Vector, nit: Int[Array, ""], box: Box | None) -> Launch:
    """The first trial is the full step, but of unit length in the first iteration, section 5 of Zhu et al."""
    direction = target - x
    slope, square = multiply(jnp.stack([grad, direction]), direction)
    unit = 1 / jnp.sqrt(square)
    if box is None:
        step_max = jnp.full_like(slope, LARGEST_STEP)
        return Launch(slope, jnp.where(nit == 0, jnp.minimum(unit, step_max), 1), step_max)
    room = jnp.where(direction < 0, box.lower - x, box.upper - x)
    reach = jnp.min(jnp.where(direction != 0, room / direction, LARGEST_STEP), initial=LARGEST_STEP)
    step_max = jnp.where(nit == 0, 1, jnp.maximum(reach, 1))  # the full step is feasible
    boxed = jnp.all(jnp.isfinite(box.lower) & jnp.isfinite(box.upper))
    short = (nit == 0) & ~boxed
    return Launch(slope, jnp.where(short, jnp.minimum(unit, 1), 1), step_max)


def _take_step(x: Vector, target: Vector, step: Scalar, box: Box | None) -> Vector:
    """x + step * (target - x); exactly the target after a full step, and inside the box whatever the rounding."""
    trial = x + step * (target - x)
    trial = trial if box is None else jnp.clip(trial, box.lower, box.upper)
    return jnp.where(step == 1, target, trial)


def _stop(decision: Decision, launch: Launch) -> Int[Array, ""]:
    """The decision's status, unless no descent is left to go on with."""
    lost = (decision.status == RUNNING) & ~(launch.slope < 0)
    return jnp.where(lost, Status.LINESEARCH, decision.status).astype(jnp.int32)


def _record(rows: Array, nit: Array, moves: Flag, value: Scalar, grad_norm: Scalar, nfev: Array) -> Array:
    """A row of the trace for a new iterate; where the room is used up, the last row is the newest."""
    row = jnp.stack([value, grad_norm, nfev.astype(value.dtype)])
    return write_row(rows, jnp.minimum(nit, rows.shape[0] - 1), row, moves)
