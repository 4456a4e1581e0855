"""What follows from a trial: is it the next iterate, is the search over, is the solve, and why.

The rules are those of L-BFGS-B 3.0 as long as it has one. Where it would end ABNORMAL the solve goes on: from the
least value seen, as a new start, and near the rounding floor by the approximate Wolfe conditions (`judge`). It
ends when the value has not fallen for two whole searches, and says whether rounding is the reason.

Scalar logic alone, and elementwise: `choose` runs it in the lanes of one array.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..._core.status import RUNNING, Status
from ..._core.stopping import STAIRS, is_endless, is_small, noise
from .lanes import Flag
from .linesearch import (
    LARGEST_STEP,
    Scalar,
    Search,
    Trial,
    Verdict,
    judge,
    next_trial,
    open_search,
    retreat,
    start_search,
)

SPARE = 2.0**-20  # between the gradients that are scaled and those whose square overflows: they may grow, and are many
IDLE_SEARCHES = 2  # whole searches, by evaluations, without a lower value: a solve goes on no longer


class Tolerances(NamedTuple):
    """What ends a solve; traced, so a new tolerance compiles nothing."""

    gtol: Scalar
    ftol: Scalar
    maxiter: Int[Array, ""]  # for the rules below: what is left of them before this trial
    maxfun: Int[Array, ""]
    maxls: Int[Array, ""]
    maxcor: int
    rounding: Scalar  # of the objective, relative


class Progress(NamedTuple):
    """The numbers of a solve, but for those of its search and for its counts, which no lane could hold in float32."""

    status: Scalar
    grad_norm: Scalar  # at the current iterate
    best_value: Scalar
    slot: Scalar  # of the memory, for the next pair
    idle: Scalar  # evaluations since the value last fell
    size: Scalar  # of the gradient at the current iterate
    scale: Scalar  # of the gradient as the memory knows it: 1, unless its square would overflow
    starts: Flag  # the next trial is where the solve begins, or begins again
    empty: Flag  # no pair is in memory


class Facts(NamedTuple):
    """What is known once the trial is evaluated."""

    value: Scalar
    slope: Scalar  # along the direction of the search; at the start, along the gradient itself
    slope_start: Scalar  # where the search began
    grad_norm: Scalar  # of the projected gradient
    size: Scalar  # largest absolute component of the gradient itself
    step_max: Scalar


class Decision(NamedTuple):
    """What follows from the trial."""

    moves: Flag  # it is the next iterate
    fails: Flag  # the search is over without one
    renews: Flag  # nothing is left to try from here, but a lower point was seen: begin again there
    better: Flag  # the least value so far
    keep: Flag  # the step and the change of the gradient make a pair


OUTCOME = (Search, Progress, Decision)


def accept_start(numbers: tuple[Search, Progress], fact: Facts, limit: Tolerances) -> tuple[Search, Progress, Decision]:
    """The start is the first iterate; it is converged already, or there is nothing to start from."""
    _, progress = numbers
    finite, no = _is_finite(fact), jnp.zeros_like(fact.value, bool)
    scale = _scale(fact.size)
    best = jnp.where(finite, fact.value, progress.best_value)
    # The start of a solve is iteration 0; where it begins again, that is one more.
    limited = _limit_status(jnp.isfinite(progress.best_value), limit)
    progress = progress._replace(grad_norm=fact.grad_norm, best_value=best, starts=no, size=fact.size, scale=scale)
    status = jnp.where(fact.grad_norm <= limit.gtol, Status.GTOL, limited)
    progress = progress._replace(status=jnp.where(finite, status, Status.NONFINITE))
    # A step of unit length along the gradient, section 5 of Zhu et al.; fact.slope is g'g here, and may overflow.
    unit = _unit_step(progress, 1 / jnp.sqrt(fact.slope))
    search = start_search(fact.value, jnp.minimum(unit, LARGEST_STEP))
    return search, progress, Decision(~no, no, no, finite, no)


def weigh_trial(numbers: tuple[Search, Progress], fact: Facts, limit: Tolerances) -> tuple[Search, Progress, Decision]:
    """One step of the line search; then the memory and the tests of section 6 of BLNZ, in L-BFGS-B's order."""
    search, before = numbers
    search = open_search(search, fact.slope_start, fact.step_max)
    tried, verdict = _try(search, fact, limit)
    # A step that was cut short proves nothing, nor does one that leads no lower where value and slopes disagree.
    against = tried.contradicted & (fact.value >= search.value_start - _floor(search, limit))
    flat = _is_flat(search, fact, limit) & ~tried.cut & ~against
    decision = _decide(search, tried, verdict, before, fact, limit, flat)
    progress = _count(search, before, fact, limit, decision)
    status = jnp.where(
        (decision.fails & before.empty & ~decision.renews) | (progress.idle >= IDLE_SEARCHES * limit.maxls),
        _failure(search, tried, fact, limit),
        _limit_status(decision.moves, limit),
    )
    eps, reduction = jnp.finfo(fact.slope.dtype).eps, search.value_start - fact.value
    endless = is_endless(reduction, search.step, fact.slope_start, fact.slope, eps) & (before.scale == 1)
    status = jnp.where(decision.moves & endless, Status.UNBOUNDED, status)
    status = jnp.where(decision.moves & flat, Status.FTOL, status)
    status = jnp.where(decision.moves & (fact.grad_norm <= limit.gtol), Status.GTOL, status)
    # Where a search is lost its numbers stay, for the host to tell where.
    decision = decision._replace(fails=decision.fails & (status != Status.NONFINITE))
    value = jnp.where(decision.moves, fact.value, search.value_start)
    step = jnp.where(progress.empty, _unit_step(progress, jnp.ones_like(value)), 1)
    following = _select(decision.moves | decision.fails, start_search(value, step), tried)
    return following, progress._replace(status=status), decision


def _try(search: Search, fact: Facts, limit: Tolerances) -> tuple[Search, Verdict]:
    """The search after this trial, and what the trial means; one that is not finite never contradicts."""
    trial, finite = Trial(search.step, fact.value, fact.slope), _is_finite(fact) & jnp.isfinite(fact.slope)
    lost, cut = search.lost | ~_is_finite(fact), search.cut | ~finite
    verdict = judge(search, fact.slope_start, trial, limit.rounding, limit.ftol == 0)
    tried = _select(finite, next_trial(search, fact.slope_start, trial), retreat(search))
    contradicted = search.contradicted | (finite & verdict.contradicted)
    return tried._replace(evaluations=search.evaluations + 1, contradicted=contradicted, lost=lost, cut=cut), verdict


def _decide(
    search: Search, tried: Search, verdict: Verdict, before: Progress, fact: Facts, limit: Tolerances, flat: Flag
) -> Decision:
    finite = _is_finite(fact) & jnp.isfinite(fact.slope)
    descends = (fact.slope_start < 0) & jnp.isfinite(fact.slope_start)
    curvature = (fact.slope - fact.slope_start) * search.step
    ends = finite & (verdict.stuck | (tried.step == search.step))  # nothing better is left in the bracket
    lower = fact.value < search.value_start
    eps, last = jnp.finfo(fact.slope.dtype).eps, tried.evaluations >= limit.maxls
    unchanged = jnp.abs(fact.value - search.value_start) <= _floor(search, limit)
    stairs = unchanged & (tried.evaluations >= STAIRS)
    # Nothing but noise is left: with an ftol, that is a reduction of 0; the point is not to be higher, if it can be.
    settles = flat & stairs & ((fact.value <= search.value_start) | last)
    moves = finite & descends & (verdict.accepted | (ends & (lower | flat)) | settles)
    chases = stairs & (limit.rounding > eps) & ~flat  # the objective is coarser than the arithmetic
    fails = ~moves & (~descends | ends | chases | last)
    better = finite & (fact.value < before.best_value)
    best_value = jnp.where(better, fact.value, before.best_value)
    return Decision(
        moves=moves,
        fails=fails,
        renews=fails & before.empty & (best_value < search.value_start - _floor(search, limit)),
        better=better,
        keep=moves & (curvature > -eps * fact.slope_start * search.step),  # (3.9)
    )


def _count(search: Search, before: Progress, fact: Facts, limit: Tolerances, decision: Decision) -> Progress:
    """The numbers of the solve after this trial, but for its status."""
    moves, fails, renews, better, keep = decision
    falls = better | (moves & (fact.value < search.value_start - _floor(search, limit)))
    empty, size = fails | (before.empty & ~keep), jnp.where(moves, fact.size, before.size)
    return before._replace(
        grad_norm=jnp.where(moves, fact.grad_norm, before.grad_norm),
        best_value=jnp.where(better, fact.value, before.best_value),
        slot=jnp.where(before.slot + keep < limit.maxcor, before.slot + keep, 0),
        idle=jnp.where(falls, 0, before.idle + 1),
        starts=renews,
        empty=empty,
        size=size,
        scale=jnp.where(empty, _scale(size), before.scale),
    )


def _failure(search: Search, tried: Search, fact: Facts, limit: Tolerances) -> Array:
    """Why nothing lower is found: rounding, if it hides the decrease and no trial contradicted the gradient."""
    hidden = ~tried.contradicted & (-fact.slope_start * search.step <= noise(_size(search, fact), limit.rounding))
    reason = jnp.where(hidden, Status.NOISE_FLOOR, Status.LINESEARCH)
    return jnp.where(tried.lost | ~jnp.isfinite(fact.slope_start), Status.NONFINITE, reason)


def _is_flat(search: Search, fact: Facts, limit: Tolerances) -> Flag:
    return is_small(search.value_start - fact.value, limit.ftol, _size(search, fact))


def _is_finite(fact: Facts) -> Flag:
    return jnp.isfinite(fact.value) & jnp.isfinite(fact.size)


def _scale(size: Scalar) -> Scalar:
    """What the memory is to multiply gradients with, so that no square of one and no slope along one overflows."""
    kind = jnp.finfo(size.dtype)
    most, least = float(kind.max), 4 * float(kind.tiny)
    large = SPARE * most**0.5
    return jnp.where(size > large, jnp.maximum(jnp.minimum(large, SPARE**0.5 * most / size) / size, least), 1)


def _unit_step(progress: Progress, otherwise: Scalar) -> Scalar:
    """The first step along a gradient so large that it is scaled; `otherwise` along all others."""
    return jnp.where(progress.scale == 1, otherwise, 1 / (progress.size * progress.scale))


def _size(search: Search, fact: Facts) -> Scalar:
    return jnp.maximum(jnp.maximum(jnp.abs(search.value_start), jnp.abs(fact.value)), 1)


def _floor(search: Search, limit: Tolerances) -> Scalar:
    return noise(jnp.abs(search.value_start), limit.rounding)


def _limit_status(iterates: Flag, limit: Tolerances) -> Array:
    """What the limits say, once this trial is counted, and this iteration if it makes one."""
    status = jnp.where(limit.maxfun <= 1, Status.MAXFUN, RUNNING)
    return jnp.where(iterates >= limit.maxiter, Status.MAXITER, status)


def _select(condition: Flag, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
