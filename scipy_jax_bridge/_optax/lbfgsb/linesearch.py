"""The Moré-Thuente line search as a state machine: one evaluation per step, no inner loop.

Source: J. J. Moré and D. J. Thuente, "Line search algorithms with guaranteed sufficient decrease",
ACM Transactions on Mathematical Software 20 (1994), 286-307, with the constants of L-BFGS-B 3.0.
phi(t) is the objective along the direction and t the step. Every function is pure, so the state of a search is a
few numbers in the carry of the solver's loop. Section numbers below are those of the paper.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._core.stopping import BACKOFF, CURVATURE, SUFFICIENT_DECREASE
from ..loop_tools import select
from .lanes import Flag

INTERVAL = 0.1  # a bracket is narrow enough when its width is at most this fraction of its upper end
LARGEST_STEP = 1e10
EXTRAPOLATE = (1.1, 4.0)  # ends of the interval for the next step while there is no bracket, section 4
SHRINK = 0.66  # a bracket that does not shrink by this factor in two trials is bisected, section 4

Scalar = Float[Array, "..."]  # a scalar, or one value for each lane


class Trial(NamedTuple):
    """A trial: the step t, phi(t) and phi'(t)."""

    step: Scalar
    value: Scalar
    slope: Scalar


class Search(NamedTuple):
    """The state of a search. `best` is the trial of least value, `other` the opposite end of the bracket."""

    step: Scalar
    value_start: Scalar
    step_best: Scalar
    value_best: Scalar
    slope_best: Scalar
    step_other: Scalar
    value_other: Scalar
    slope_other: Scalar
    step_max: Scalar
    width: Scalar
    width_before: Scalar
    evaluations: Scalar
    contradiction: Scalar  # the noise up to which no trial contradicts the gradient
    bracketed: Flag
    second_stage: Flag
    nonfinite_trial: Flag  # some trial had a value or gradient that is not finite
    step_was_reduced: Flag  # the search backed off from a trial that was not finite or whose slope overflowed


class Verdict(NamedTuple):
    """What a trial means for the search. Both `accepted` and `stuck` end it."""

    accepted: Flag
    stuck: Flag  # no better step is left in the bracket


def start_search(value: Scalar, step: Scalar) -> Search:
    """Start a search from phi(0) = `value` with the first trial at `step`. `open_search` adds the slope later."""
    zero, no = jnp.zeros_like(value), jnp.zeros_like(value, bool)
    return Search(
        step=step,
        value_start=value,
        step_best=zero,
        value_best=value,
        slope_best=zero,
        step_other=zero,
        value_other=value,
        slope_other=zero,
        step_max=zero,
        width=zero,
        width_before=zero,
        evaluations=zero,
        contradiction=zero,
        bracketed=no,
        second_stage=no,
        nonfinite_trial=no,
        step_was_reduced=no,
    )


def open_search(search: Search, slope_start: Scalar, step_max: Scalar) -> Search:
    """At the first trial of a search, fill in phi'(0) and the longest step that may be tried."""
    first = search.evaluations == 0
    return search._replace(
        slope_best=jnp.where(first, slope_start, search.slope_best),
        slope_other=jnp.where(first, slope_start, search.slope_other),
        step_max=jnp.where(first, step_max, search.step_max),
        width=jnp.where(first, step_max, search.width),
        width_before=jnp.where(first, 2 * step_max, search.width_before),
    )


def judge(search: Search, slope_start: Scalar, trial: Trial) -> Verdict:
    """Test the strong Wolfe conditions (1.1) and (1.2) at a trial, and whether the search is stuck.

    `slope_start` is phi'(0).
    """
    (step, value, slope), steep = trial, SUFFICIENT_DECREASE * slope_start
    enough = _is_enough(value, search.value_start, step * steep)
    accepted = enough & (jnp.abs(slope) <= -CURVATURE * slope_start)
    low, high = _interval(search)
    outside = (step <= low) | (step >= high)
    narrow = high - low <= INTERVAL * high
    at_most = (step == search.step_max) & enough & (slope <= steep)
    at_least = (step == 0) & (~enough | (slope >= steep))
    stuck = (search.bracketed & (outside | narrow)) | at_most | at_least
    return Verdict(accepted, stuck)


def _is_enough(value: Scalar, value_start: Scalar, change: Scalar) -> Flag:
    """Test (1.1). In float64 the sum is that of L-BFGS-B; a coarser type compares the difference, which rounds less."""
    if value.dtype == jnp.float64:
        return value <= value_start + change
    return value - value_start <= change


def next_trial(search: Search, slope_start: Scalar, trial: Trial) -> Search:
    """Shrink the bracket with the trial just evaluated and choose the next step, section 4."""
    tilt = SUFFICIENT_DECREASE * slope_start
    enough = _is_enough(trial.value, search.value_start, trial.step * tilt)
    second_stage = search.second_stage | (enough & (trial.slope >= 0))
    # In the first stage the step is chosen with psi(t) = phi(t) - phi(0) - mu phi'(0) t as long as psi(t) > 0.
    # The constant phi(0) does not matter, so it is left out.
    tilt = jnp.where(~second_stage & (trial.value <= search.value_best) & ~enough, tilt, 0)
    best = _tilted(Trial(search.step_best, search.value_best, search.slope_best), -tilt)
    other = _tilted(Trial(search.step_other, search.value_other, search.slope_other), -tilt)
    trial = _tilted(trial, -tilt)
    rises = trial.value > best.value  # case 1 of section 4
    turns = trial.slope * jnp.sign(best.slope) < 0  # case 2
    step = _trial_step(search, best, other, trial, rises, turns)
    other = _tilted(select(rises, trial, select(turns, best, other)), tilt)
    best = _tilted(select(rises, best, trial), tilt)
    return _safeguard(
        search._replace(
            step=step,
            step_best=best.step,
            value_best=best.value,
            slope_best=best.slope,
            step_other=other.step,
            value_other=other.value,
            slope_other=other.slope,
            bracketed=search.bracketed | rises | turns,
            second_stage=second_stage,
        )
    )


def retreat(search: Search) -> Search:
    """After a trial that is not finite, make it the longest step allowed and move much closer to the best step."""
    step = search.step_best + BACKOFF * (search.step - search.step_best)
    return search._replace(step=step, step_max=jnp.where(search.step > search.step_best, search.step, search.step_max))


def _interval(search: Search) -> tuple[Scalar, Scalar]:
    """Return the interval for the next step: the bracket or, while there is none, an interval beyond the trial."""
    ahead = search.step - search.step_best
    low = jnp.where(search.evaluations == 0, 0, search.step + EXTRAPOLATE[0] * ahead)
    lower, upper = (take(search.step_best, search.step_other) for take in (jnp.minimum, jnp.maximum))
    high = search.step + EXTRAPOLATE[1] * ahead
    return jnp.where(search.bracketed, lower, low), jnp.where(search.bracketed, upper, high)


def _tilted(trial: Trial, slope: Scalar) -> Trial:
    """Return the trial of phi(t) + slope t."""
    return Trial(trial.step, trial.value + trial.step * slope, trial.slope + slope)


def _safeguard(search: Search) -> Search:
    """Bisect a bracket that shrinks too slowly, and keep the step inside the bracket and the limits."""
    spread = jnp.abs(search.step_other - search.step_best)
    bisect = search.bracketed & (spread >= SHRINK * search.width_before)
    middle = search.step_best + 0.5 * (search.step_other - search.step_best)
    step = jnp.where(bisect, middle, search.step)
    step = jnp.clip(step, 0, search.step_max)
    low, high = _interval(search)
    exhausted = search.bracketed & ((step <= low) | (step >= high) | (high - low <= INTERVAL * high))
    return search._replace(
        step=jnp.where(exhausted, search.step_best, step),
        width_before=jnp.where(search.bracketed, search.width, search.width_before),
        width=jnp.where(search.bracketed, spread, search.width),
    )


def _trial_step(search: Search, best: Trial, other: Trial, trial: Trial, rises: Flag, turns: Flag) -> Scalar:
    """Choose the trial step of section 4. All four cases use a cubic through the trial and an end of the bracket.

    Case 1, higher value: the cubic step if it is closer to the best step than the quadratic one, else their mean.
    Case 2, lower value, slope of opposite sign: of the cubic and the secant step, the one farther from the trial.
    Case 3, lower value, same sign, smaller slope: in a bracket the one closer to the trial, else the one farther.
        The cubic step counts only if its minimum lies beyond the trial.
    Case 4, same sign, slope not smaller: in a bracket the cubic step through its other end, else the longest step.
    """
    steeper = ~rises & ~turns & (jnp.abs(trial.slope) >= jnp.abs(best.slope))
    flatter = ~rises & ~turns & ~steeper
    grows = trial.step > best.step
    end = select(steeper, other, best)
    # Steps are measured from `near` towards `far`: from the best step in case 1, else from the trial.
    near, far = select(rises, best, trial), select(rises, trial, end)
    cubic, leads_beyond = _cubic_step(near, far, end, trial)
    low, high = _interval(search)
    limit = jnp.where(grows, high, low)
    cubic = jnp.where(flatter & ~leads_beyond, limit, cubic)
    drop = (best.value - trial.value) / (trial.step - best.step)
    bend = jnp.where(rises, 2 * (drop + best.slope), trial.slope - best.slope)
    secant = near.step + near.slope / bend * (far.step - near.step)
    shorter = jnp.abs(cubic - near.step) < jnp.abs(secant - near.step)
    longer = jnp.abs(cubic - near.step) > jnp.abs(secant - near.step)
    closer, farther = jnp.where(shorter, cubic, secant), jnp.where(longer, cubic, secant)
    edge = trial.step + SHRINK * (other.step - trial.step)
    inside = jnp.where(grows, jnp.minimum(edge, closer), jnp.maximum(edge, closer))
    beyond = jnp.maximum(low, jnp.minimum(high, farther))
    step = jnp.where(search.bracketed, jnp.where(steeper, cubic, inside), jnp.where(steeper, limit, beyond))
    step = jnp.where(turns, farther, step)
    return jnp.where(rises, jnp.where(shorter, cubic, cubic + (secant - cubic) / 2), step)


def _cubic_step(near: Trial, far: Trial, end: Trial, trial: Trial) -> tuple[Scalar, Flag]:
    """Minimize the cubic through `near` and `far`; say whether the minimum lies beyond `near`, away from `far`.

    `end` and `trial` are the same two points in the order of the paper. gamma is 0 if the cubic has no minimum. No
    quotient is used twice: the compiler would compute it in a kernel of its own.
    """
    theta = 3 * (end.value - trial.value) / (trial.step - end.step) + end.slope + trial.slope
    scale = jnp.maximum(jnp.abs(theta), jnp.maximum(jnp.abs(end.slope), jnp.abs(trial.slope)))
    square = (theta / scale) ** 2 - (end.slope / scale) * (trial.slope / scale)
    gamma = scale * jnp.sqrt(jnp.maximum(square, 0))
    gap = far.step - near.step
    gamma = jnp.where(gap < 0, -gamma, gamma)
    above, below = (gamma - near.slope) + theta, ((gamma - near.slope) + gamma) + far.slope
    return near.step + above / below * gap, (gamma != 0) & (above != 0) & ((above < 0) != (below < 0))
