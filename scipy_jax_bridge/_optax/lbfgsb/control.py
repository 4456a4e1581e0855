"""Control logic after each trial: accept it, go on searching, restart, or stop with a status.

The rules are those of L-BFGS-B 3.0, except where that code would end with ABNORMAL. There the solve restarts from
the best point seen, and where noise hides the decrease the slopes decide (see `noise.py`). It ends when nothing has
improved for two whole searches, and reports whether noise is the reason.

All of it is elementwise logic of scalars, so that `select_fused` can compute it in the lanes of one array.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from ..._core.status import RUNNING, Status
from ..._core.stopping import CLEAR_FACTOR, MAX_UNCHANGED_TRIALS, is_endless, is_small, noise
from ..limits import Tolerances
from ..loop_tools import select
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
from .noise import Seen, see
from .records import After, Before, SolveScalars, TrialEvaluation, TrialOutcome

OVERFLOW_MARGIN = 2.0**-20  # distance to overflow: gradients may still grow, and n squares are summed
MAX_STALLED_SEARCHES = 2  # the solve ends after as many evaluations as these searches may take, without progress


def accept_start(numbers: Before, evaluation: TrialEvaluation, limit: Tolerances) -> After:
    """Make the start the first iterate. It may be converged already, or not finite."""
    _, before = numbers
    finite, no = _is_finite(evaluation), jnp.zeros_like(evaluation.value, bool)
    # The start of a solve is iteration 0; a restart is one more iteration.
    limited = _limit_status(jnp.isfinite(before.best_value), limit)
    after = before._replace(
        grad_norm=evaluation.grad_norm,
        least_value=jnp.where(finite, jnp.minimum(evaluation.value, before.least_value), before.least_value),
        best_value=jnp.where(finite, evaluation.value, before.best_value),
        best_grad_norm=evaluation.grad_norm,
        is_start=no,
        grad_max=evaluation.grad_max,
        grad_scale=_scale_of(evaluation.grad_max),
    )
    status = jnp.where(evaluation.grad_norm <= limit.gtol, Status.GTOL, limited)
    after = after._replace(status=jnp.where(finite, status, Status.NONFINITE))
    # A step of unit length along the gradient, section 5 of Zhu et al. The slope is g'g here and may overflow.
    unit = _unit_step(after, 1 / jnp.sqrt(evaluation.slope))
    search = start_search(evaluation.value, jnp.minimum(unit, LARGEST_STEP))
    outcome = TrialOutcome(accepted=~no, search_failed=no, restarts=no, improves_best=finite, store_pair=no)
    return search, after, outcome


def process_trial(numbers: Before, evaluation: TrialEvaluation, limit: Tolerances) -> After:
    """Do one step of the line search, then update the scalars and test section 6 of BLNZ in L-BFGS-B's order."""
    search, before = numbers
    search = open_search(search, evaluation.slope_start, evaluation.step_max)
    tried, verdict, seen = _try(search, before, evaluation, limit)
    # ftol proves nothing after a reduced step, nor at a trial that is not lower if value and slopes disagree.
    doubtful = seen.contradicted & (evaluation.value >= search.value_start - seen.noise)
    flat = _is_flat(search, evaluation, limit) & ~tried.step_was_reduced & ~doubtful
    outcome = _decide(search, tried, verdict, seen, before, evaluation, limit, flat)
    after = _update_scalars(search, seen, before, evaluation, limit, outcome)
    status = jnp.where(
        (outcome.search_failed & before.memory_empty & ~outcome.restarts)
        | (after.evals_since_progress >= MAX_STALLED_SEARCHES * limit.maxls),
        _failure_status(search, tried, seen, evaluation, limit),
        _limit_status(outcome.accepted, limit),
    )
    eps, reduction = jnp.finfo(evaluation.slope.dtype).eps, search.value_start - evaluation.value
    endless = is_endless(reduction, search.step, evaluation.slope_start, evaluation.slope, eps)
    endless = endless & (before.grad_scale == 1)
    status = jnp.where(outcome.accepted & endless, Status.UNBOUNDED, status)
    status = jnp.where(outcome.accepted & flat, Status.FTOL, status)
    status = jnp.where(outcome.accepted & (evaluation.grad_norm <= limit.gtol), Status.GTOL, status)
    # After NONFINITE the search keeps its state, from which the host finds the trial that was not finite.
    outcome = outcome._replace(search_failed=outcome.search_failed & (status != Status.NONFINITE))
    value = jnp.where(outcome.accepted, evaluation.value, search.value_start)
    step = jnp.where(after.memory_empty, _unit_step(after, jnp.ones_like(value)), 1)
    doubt = jnp.where(after.evals_since_progress == 0, 0, tried.contradiction)  # lasts until something improves
    next_search = start_search(value, step)._replace(contradiction=doubt)
    following = select(outcome.accepted | outcome.search_failed, next_search, tried)
    return following, after._replace(status=status), outcome


def _try(
    search: Search, before: SolveScalars, evaluation: TrialEvaluation, limit: Tolerances
) -> tuple[Search, Verdict, Seen]:
    """Return the search after this trial, what the trial means, and what noise lets be seen of it."""
    slope, slope_start = evaluation.slope, evaluation.slope_start
    finite = _is_finite(evaluation) & jnp.isfinite(slope)
    seen = see(search, (evaluation.value, slope), slope_start, finite, before.noise, limit)
    trial = Trial(search.step, seen.value, slope)
    verdict = judge(search, slope_start, trial)
    tried = select(finite, next_trial(search, slope_start, trial), retreat(search))
    return (
        tried._replace(
            evaluations=search.evaluations + 1,
            contradiction=seen.contradiction,
            nonfinite_trial=search.nonfinite_trial | ~_is_finite(evaluation),
            step_was_reduced=search.step_was_reduced | ~finite,
        ),
        verdict,
        seen,
    )


def _decide(
    search: Search,
    tried: Search,
    verdict: Verdict,
    seen: Seen,
    before: SolveScalars,
    evaluation: TrialEvaluation,
    limit: Tolerances,
    flat: Flag,
) -> TrialOutcome:
    slope, slope_start, start = evaluation.slope, evaluation.slope_start, search.value_start
    finite = _is_finite(evaluation) & jnp.isfinite(slope)
    descends = (slope_start < 0) & jnp.isfinite(slope_start)
    curvature = (slope - slope_start) * search.step
    exhausted = finite & (verdict.stuck | (tried.step == search.step))
    eps, last = jnp.finfo(slope.dtype).eps, tried.evaluations >= limit.maxls
    unchanged = jnp.abs(evaluation.value - start) <= noise(jnp.abs(start), limit.rounding)
    plateau = unchanged & (tried.evaluations >= MAX_UNCHANGED_TRIALS)
    # Only noise is left: with an ftol, that is a reduction of 0. Until the last trial the point must not be higher.
    settles = flat & plateau & ((evaluation.value <= start) | last)
    accepted = finite & descends & (verdict.accepted | (exhausted & ((seen.value < start) | flat)) | settles)
    coarse_plateau = plateau & (limit.rounding > eps) & ~flat  # the objective is coarser than the arithmetic
    search_failed = ~accepted & (~descends | exhausted | coarse_plateau | last)
    improves_best = finite & _is_better(evaluation, before, seen, limit)
    best_value = jnp.where(improves_best, evaluation.value, before.best_value)
    return TrialOutcome(
        accepted=accepted,
        search_failed=search_failed,
        restarts=search_failed & before.memory_empty & (best_value < start - seen.noise),
        improves_best=improves_best,
        store_pair=accepted & (curvature > -eps * slope_start * search.step),  # (3.9)
    )


def _is_better(evaluation: TrialEvaluation, before: SolveScalars, seen: Seen, limit: Tolerances) -> Flag:
    """Return whether the trial is the best point so far: the lowest, or of smallest gradient among the equally low."""
    lower = evaluation.value < before.least_value
    clearly = evaluation.value < before.least_value - seen.noise
    equal = evaluation.value <= before.least_value + seen.noise
    flatter = clearly | (equal & (evaluation.grad_norm < before.best_grad_norm))
    return jnp.where(limit.ftol == 0, flatter, lower)


def _update_scalars(
    search: Search,
    seen: Seen,
    before: SolveScalars,
    evaluation: TrialEvaluation,
    limit: Tolerances,
    outcome: TrialOutcome,
) -> SolveScalars:
    """Return the scalars of the solve after this trial, except the status."""
    accepted, improves_best = outcome.accepted, outcome.improves_best
    lower = _is_finite(evaluation) & (evaluation.value < before.least_value)
    progress = improves_best | lower | (accepted & (evaluation.value < search.value_start - seen.noise))
    memory_empty = outcome.search_failed | (before.memory_empty & ~outcome.store_pair)
    grad_max = jnp.where(accepted, evaluation.grad_max, before.grad_max)
    next_slot = before.slot + outcome.store_pair
    return before._replace(
        grad_norm=jnp.where(accepted, evaluation.grad_norm, before.grad_norm),
        least_value=jnp.where(lower, evaluation.value, before.least_value),
        best_value=jnp.where(improves_best, evaluation.value, before.best_value),
        best_grad_norm=jnp.where(improves_best, evaluation.grad_norm, before.best_grad_norm),
        noise=seen.shown,
        slot=jnp.where(next_slot < limit.maxcor, next_slot, 0),
        evals_since_progress=jnp.where(progress, 0, before.evals_since_progress + 1),
        is_start=outcome.restarts,
        memory_empty=memory_empty,
        grad_max=grad_max,
        grad_scale=jnp.where(memory_empty, _scale_of(grad_max), before.grad_scale),
    )


def _failure_status(search: Search, tried: Search, seen: Seen, evaluation: TrialEvaluation, limit: Tolerances) -> Array:
    """Return why nothing better was found: NOISE_FLOOR if noise hides the decrease and the gradient seems right."""
    predicted = -evaluation.slope_start * search.step
    level = jnp.maximum(noise(_value_size(search, evaluation), limit.rounding), seen.shown)
    hidden = ~seen.contradicted & (predicted <= CLEAR_FACTOR * level)
    reason = jnp.where(hidden, Status.NOISE_FLOOR, Status.LINESEARCH)
    return jnp.where(tried.nonfinite_trial | ~jnp.isfinite(evaluation.slope_start), Status.NONFINITE, reason)


def _is_flat(search: Search, evaluation: TrialEvaluation, limit: Tolerances) -> Flag:
    return is_small(search.value_start - evaluation.value, limit.ftol, _value_size(search, evaluation))


def _is_finite(evaluation: TrialEvaluation) -> Flag:
    return jnp.isfinite(evaluation.value) & jnp.isfinite(evaluation.grad_max)


def _scale_of(grad_max: Scalar) -> Scalar:
    """Return the factor for gradients in the memory with which no square and no slope overflows; usually 1."""
    info = jnp.finfo(grad_max.dtype)
    most, least = float(info.max), 4 * float(info.tiny)
    large = OVERFLOW_MARGIN * most**0.5
    scale = jnp.maximum(jnp.minimum(large, OVERFLOW_MARGIN**0.5 * most / grad_max) / grad_max, least)
    return jnp.where(grad_max > large, scale, 1)


def _unit_step(scalars: SolveScalars, otherwise: Scalar) -> Scalar:
    """Return the first step along a scaled gradient, and `otherwise` along one that is not scaled."""
    return jnp.where(scalars.grad_scale == 1, otherwise, 1 / (scalars.grad_max * scalars.grad_scale))


def _value_size(search: Search, evaluation: TrialEvaluation) -> Scalar:
    """Return max(|phi(0)|, |phi(t)|, 1)."""
    return jnp.maximum(jnp.maximum(jnp.abs(search.value_start), jnp.abs(evaluation.value)), 1)


def _limit_status(new_iterate: Flag, limit: Tolerances) -> Array:
    """Return what the limits say after this trial, and after this iteration if the trial ends one."""
    status = jnp.where(limit.maxfun <= 1, Status.MAXFUN, RUNNING)
    return jnp.where(new_iterate >= limit.maxiter, Status.MAXITER, status)
