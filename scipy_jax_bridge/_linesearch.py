"""The Moré-Thuente line search as a state machine: one evaluation a step, no inner loop.

Source: J. J. Moré and D. J. Thuente, "Line search algorithms with guaranteed sufficient decrease",
ACM Transactions on Mathematical Software 20 (1994), 286-307, with the constants that L-BFGS-B 3.0 uses.
phi(t) is the objective along the direction, t the step. Every function is pure, so the whole search
is a few numbers in the carry of the solver's loop.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._kernel import Flag

SUFFICIENT_DECREASE = 1e-3  # mu in (1.1)
CURVATURE = 0.9  # eta in (1.2)
INTERVAL = 0.1  # the bracket is small enough when it is this fraction of its upper end
LARGEST_STEP = 1e10
EXTRAPOLATE = (1.1, 4.0)  # the trial interval beyond the best step, section 4
SHRINK = 0.66  # the bracket must shrink by this factor in two trials, section 4
RETREAT = 0.1  # after a trial that is not finite: this far from the best step towards it
ROUNDING = 10.0  # two values closer than this times eps times their size cannot be told apart

Scalar = Float[Array, "..."]  # one, or one in each lane


class Search(NamedTuple):
    """Where a search stands. `best` has the least value so far, `other` is the far end of the bracket."""

    step: Scalar
    value_start: Scalar
    slope_start: Scalar
    step_best: Scalar
    value_best: Scalar
    slope_best: Scalar
    step_other: Scalar
    value_other: Scalar
    slope_other: Scalar
    step_low: Scalar
    step_high: Scalar
    step_max: Scalar
    width: Scalar
    width_before: Scalar
    bracketed: Flag
    second_stage: Flag
    contradicted: Flag  # at some trial the value rose although both slopes fall
    evaluations: Scalar


class Verdict(NamedTuple):
    """What a trial means for the search: `accepted` ends it, and so does `stuck` (nothing better is near)."""

    accepted: Flag
    stuck: Flag
    contradicted: Flag  # the value rises, the slopes fall: the gradient is not that of the objective


def start_search(value: Scalar, step: Scalar) -> Search:
    """A search from phi(0) = `value`, whose first trial is `step`; `open_search` adds what is not known yet."""
    zero = jnp.zeros_like(value)
    return Search(
        step=step,
        value_start=value,
        slope_start=zero,
        step_best=zero,
        value_best=value,
        slope_best=zero,
        step_other=zero,
        value_other=value,
        slope_other=zero,
        step_low=zero,
        step_high=step + EXTRAPOLATE[1] * step,
        step_max=zero,
        width=zero,
        width_before=zero,
        bracketed=jnp.zeros_like(value, bool),
        second_stage=jnp.zeros_like(value, bool),
        contradicted=jnp.zeros_like(value, bool),
        evaluations=zero,
    )


def open_search(search: Search, slope_start: Scalar, step_max: Scalar) -> Search:
    """The search at its first trial, with phi'(0) and the longest step that may be tried."""
    opens = search.evaluations == 0
    return search._replace(
        slope_start=slope_start,
        slope_best=jnp.where(opens, slope_start, search.slope_best),
        slope_other=jnp.where(opens, slope_start, search.slope_other),
        step_max=jnp.where(opens, step_max, search.step_max),
        width=jnp.where(opens, step_max, search.width),
        width_before=jnp.where(opens, 2 * step_max, search.width_before),
    )


def noise(size: Scalar) -> Scalar:
    """How much of a difference between values of this size may be rounding."""
    return ROUNDING * jnp.finfo(size.dtype).eps * size


def judge(search: Search, value: Scalar, slope: Scalar) -> Verdict:
    """The strong Wolfe conditions (1.1) and (1.2) at the trial, and the ways a search can be stuck.

    Where rounding hides the decrease that (1.1) asks for, (1.2) alone decides: the approximate Wolfe conditions
    of W. W. Hager and H. Zhang, SIAM J. Optimization 16 (2005), 170-192, section 3.
    """
    step, steep, floor = search.step, SUFFICIENT_DECREASE * search.slope_start, noise(jnp.abs(search.value_start))
    enough = value <= search.value_start + step * steep
    hidden = (-step * steep <= floor) & (step > 0) & (value <= search.value_start + floor)
    accepted = (enough | hidden) & (jnp.abs(slope) <= -CURVATURE * search.slope_start)
    outside = (step <= search.step_low) | (step >= search.step_high)
    narrow = search.step_high - search.step_low <= INTERVAL * search.step_high
    at_most = (step == search.step_max) & enough & (slope <= steep)
    at_least = (step == 0) & (~enough | (slope >= steep))
    stuck = (search.bracketed & (outside | narrow)) | at_most | at_least
    rises = value > search.value_start + noise(jnp.maximum(jnp.abs(value), 1))
    return Verdict(accepted, stuck, rises & (slope <= 0))


def next_trial(search: Search, value: Scalar, slope: Scalar) -> Search:
    """Section 4: shrink the bracket with the trial just evaluated, and choose the next step."""
    tilt = SUFFICIENT_DECREASE * search.slope_start
    enough = value <= search.value_start + search.step * tilt
    second_stage = search.second_stage | (enough & (slope >= 0))
    # In the first stage psi(t) = phi(t) - phi(0) - mu phi'(0) t predicts the step, as long as its
    # value is still above zero; adding the constant phi(0) to it changes nothing.
    tilt = jnp.where(~second_stage & (value <= search.value_best) & ~enough, tilt, 0)
    tilted = search._replace(
        value_best=search.value_best - search.step_best * tilt,
        slope_best=search.slope_best - tilt,
        value_other=search.value_other - search.step_other * tilt,
        slope_other=search.slope_other - tilt,
    )
    moved = _update_interval(tilted, value - search.step * tilt, slope - tilt)
    moved = moved._replace(
        value_best=moved.value_best + moved.step_best * tilt,
        slope_best=moved.slope_best + tilt,
        value_other=moved.value_other + moved.step_other * tilt,
        slope_other=moved.slope_other + tilt,
        second_stage=second_stage,
    )
    return _safeguard(moved)


def retreat(search: Search) -> Search:
    """The trial was not finite: nothing beyond it is worth a look, try much closer to the best step."""
    step = search.step_best + RETREAT * (search.step - search.step_best)
    return search._replace(
        step=step,
        step_max=jnp.where(search.step > search.step_best, search.step, search.step_max),
        step_high=jnp.where(search.bracketed, search.step_high, step + EXTRAPOLATE[1] * (step - search.step_best)),
    )


def _safeguard(search: Search) -> Search:
    """Bisect a bracket that shrinks too slowly, renew the trial interval, stay within the limits."""
    spread = jnp.abs(search.step_other - search.step_best)
    bisect = search.bracketed & (spread >= SHRINK * search.width_before)
    middle = search.step_best + 0.5 * (search.step_other - search.step_best)
    step = jnp.where(bisect, middle, search.step)
    ahead = step - search.step_best
    low = jnp.where(search.bracketed, jnp.minimum(search.step_best, search.step_other), step + EXTRAPOLATE[0] * ahead)
    high = jnp.where(search.bracketed, jnp.maximum(search.step_best, search.step_other), step + EXTRAPOLATE[1] * ahead)
    step = jnp.clip(step, 0, search.step_max)
    hopeless = search.bracketed & ((step <= low) | (step >= high) | (high - low <= INTERVAL * high))
    return search._replace(
        step=jnp.where(hopeless, search.step_best, step),
        step_low=low,
        step_high=high,
        width_before=jnp.where(search.bracketed, search.width, search.width_before),
        width=jnp.where(search.bracketed, spread, search.width),
    )


def _update_interval(search: Search, value: Scalar, slope: Scalar) -> Search:
    """The trial step of section 4, cases 1 to 4, and the new ends of the interval."""
    rises = value > search.value_best  # case 1
    turns = slope * jnp.sign(search.slope_best) < 0  # case 2
    flatter = jnp.abs(slope) < jnp.abs(search.slope_best)  # case 3
    step = jnp.where(
        rises,
        _step_when_higher(search, value, slope),
        jnp.where(
            turns,
            _step_when_turning(search, value, slope),
            jnp.where(flatter, _step_when_flatter(search, value, slope), _step_when_steeper(search, value, slope)),
        ),
    )
    trial = (search.step, value, slope)
    best = (search.step_best, search.value_best, search.slope_best)
    other = (search.step_other, search.value_other, search.slope_other)
    other = tuple(
        jnp.where(rises, new, jnp.where(turns, old, same)) for new, old, same in zip(trial, best, other, strict=True)
    )
    best = tuple(jnp.where(rises, same, new) for new, same in zip(trial, best, strict=True))
    return search._replace(
        step=step,
        step_best=best[0],
        value_best=best[1],
        slope_best=best[2],
        step_other=other[0],
        value_other=other[1],
        slope_other=other[2],
        bracketed=search.bracketed | rises | turns,
    )


def _cubic(gap: Scalar, value_a: Scalar, slope_a: Scalar, value_b: Scalar, slope_b: Scalar) -> tuple[Scalar, Scalar]:
    """theta and |gamma| of the cubic through two points `gap` = b - a apart; gamma is 0 where it has no minimum."""
    theta = 3 * (value_a - value_b) / gap + slope_a + slope_b
    scale = jnp.maximum(jnp.abs(theta), jnp.maximum(jnp.abs(slope_a), jnp.abs(slope_b)))
    square = (theta / scale) ** 2 - (slope_a / scale) * (slope_b / scale)
    return theta, scale * jnp.sqrt(jnp.maximum(square, 0))


def _step_when_higher(search: Search, value: Scalar, slope: Scalar) -> Scalar:
    """Case 1: the value rose. The cubic step, or halfway to the quadratic one if that is closer."""
    gap = search.step - search.step_best
    theta, gamma = _cubic(gap, search.value_best, search.slope_best, value, slope)
    gamma = jnp.where(gap < 0, -gamma, gamma)
    ratio = ((gamma - search.slope_best) + theta) / (((gamma - search.slope_best) + gamma) + slope)
    cubic = search.step_best + ratio * gap
    secant = search.slope_best / ((search.value_best - value) / gap + search.slope_best)
    quadratic = search.step_best + secant / 2 * gap
    nearer = jnp.abs(cubic - search.step_best) < jnp.abs(quadratic - search.step_best)
    return jnp.where(nearer, cubic, cubic + (quadratic - cubic) / 2)


def _step_when_turning(search: Search, value: Scalar, slope: Scalar) -> Scalar:
    """Case 2: lower, and the slope changed sign. Of cubic and secant step, the one farther away."""
    gap = search.step - search.step_best
    theta, gamma = _cubic(gap, search.value_best, search.slope_best, value, slope)
    gamma = jnp.where(gap > 0, -gamma, gamma)
    ratio = ((gamma - slope) + theta) / (((gamma - slope) + gamma) + search.slope_best)
    cubic = search.step - ratio * gap
    secant = search.step - slope / (slope - search.slope_best) * gap
    return jnp.where(jnp.abs(cubic - search.step) > jnp.abs(secant - search.step), cubic, secant)


def _step_when_flatter(search: Search, value: Scalar, slope: Scalar) -> Scalar:
    """Case 3: lower, same sign, smaller slope. The cubic step only where it leads on beyond the trial."""
    step, gap = search.step, search.step - search.step_best
    theta, gamma = _cubic(gap, search.value_best, search.slope_best, value, slope)
    gamma = jnp.where(gap > 0, -gamma, gamma)
    ratio = ((gamma - slope) + theta) / ((gamma + (search.slope_best - slope)) + gamma)
    limit = jnp.where(gap > 0, search.step_high, search.step_low)
    cubic = jnp.where((ratio < 0) & (gamma != 0), step - ratio * gap, limit)
    secant = step - slope / (slope - search.slope_best) * gap
    nearer = jnp.abs(cubic - step) < jnp.abs(secant - step)
    farther = jnp.abs(cubic - step) > jnp.abs(secant - step)
    edge = step + SHRINK * (search.step_other - step)
    inside = jnp.where(nearer, cubic, secant)
    inside = jnp.where(gap > 0, jnp.minimum(edge, inside), jnp.maximum(edge, inside))
    beyond = jnp.maximum(search.step_low, jnp.minimum(search.step_high, jnp.where(farther, cubic, secant)))
    return jnp.where(search.bracketed, inside, beyond)


def _step_when_steeper(search: Search, value: Scalar, slope: Scalar) -> Scalar:
    """Case 4: lower, same sign, slope no smaller. The cubic through the far end, or as far as allowed."""
    gap = search.step_other - search.step
    theta, gamma = _cubic(gap, value, slope, search.value_other, search.slope_other)
    gamma = jnp.where(gap < 0, -gamma, gamma)
    ratio = ((gamma - slope) + theta) / (((gamma - slope) + gamma) + search.slope_other)
    limit = jnp.where(search.step > search.step_best, search.step_high, search.step_low)
    return jnp.where(search.bracketed, search.step + ratio * gap, limit)
