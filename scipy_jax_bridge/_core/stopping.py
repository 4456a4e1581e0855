"""Formulas that decide when a solve ends, given that every value of the objective is rounded.

Both backends use them: with numbers on the host, with arrays on the device. Along a search direction d a trial
x + t d is described by three numbers:

    rise = f(x + t d) - f(x),   begin = t g(x)'d,   end = t g(x + t d)'d.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array

from .status import Status
from .types import HostVector, Number

Rise = tuple[Number, Number, Number]  # (rise, begin, end) of a trial

SUFFICIENT_DECREASE = 1e-3  # mu in (1.1) of Moré and Thuente, in the line searches of both backends
CURVATURE = 0.9  # eta in (1.2)
BACKOFF = 0.1  # after a trial that is not finite, the next one is this fraction of the way from the best step to it
NOISE_FACTOR = 10.0  # two values that differ by less than this times eps times their size count as equal
CLEAR_FACTOR = 100.0  # this many times the noise is a real difference, even if the objective is noisier than its type
# A trial shorter by SHORTER shows noise if what its slopes do not explain is still LASTING of the longer one's. Noise
# of two trials may differ much more; so a much shorter one may show less, by the eighth root of the lengths' ratio.
SHORTER, LASTING = 0.55, 0.75
NOISE_SPREAD = 2.0  # the noise is taken for this many times what two trials show of it
DOUBT = 0.1  # of the noise that trials have shown: it is measured, so that less of a contradiction is clear
LOST_FACTOR = 10.0  # slopes below this many times the noise cannot be seen in the values
LONGEST_STEP = 0.99e10  # the limit of the line search is 1e10; the margin allows for rounding
TINY = float(np.finfo(np.float32).tiny)  # keeps a quotient finite in both types
MAX_UNCHANGED_TRIALS = 6  # trials of one search; from then on a trial that leaves the value unchanged ends the search


def noise(size: Number, rounding: Number) -> Any:
    """Bound the rounding error in the difference of two values.

    Args:
        size: the magnitude of the values.
        rounding: the relative error of each value.
    """
    return NOISE_FACTOR * rounding * size


def contradiction(rise: Number, begin: Number, end: Number, xp: Any) -> Any:
    """Return the noise of the values up to which a trial does not contradict the gradient.

    The slopes predict a decrease: (begin + end) / 2 by the trapezoid if both fall, and
    -begin^2 / (2 (end - begin)), the minimum of a parabola, if the slope changes sign. The trial contradicts the
    gradient if this prediction is clearly above the noise and the search still finds nothing lower. It also does if
    the value rises by clearly more than the noise and than `end` explains.

    Args:
        rise, begin, end: the trial, as in the module's header.
        xp: numpy or jax.numpy, for numbers of this kind.
    """
    falls = xp.minimum(rise, -(begin + end) / (2 * CLEAR_FACTOR))
    turns = begin * begin / (2 * CLEAR_FACTOR * xp.maximum(end - begin, abs(begin) + TINY))
    beyond = xp.minimum(rise, rise - end) / CLEAR_FACTOR
    return xp.maximum(xp.where(end > 0, turns, falls), beyond)


def largest_noise(size: Number, rounding: Number, xp: Any) -> Any:
    """Return the largest difference of two values that is taken for noise: half of the digits. More is a jump.

    Args:
        size, rounding: as in `noise`.
        xp: numpy or jax.numpy.
    """
    return xp.sqrt(rounding) * size


def unexplained(rise: Number, begin: Number, end: Number) -> Any:
    """Return what the trapezoid of the slopes leaves unexplained of a rise."""
    return rise - (begin + end) / 2


def measured_noise(trial: Rise, longer: Rise, limit: Number, xp: Any) -> Any:
    """Return the noise of the values that two trials of one search show, 0 if they show none.

    What slopes leave unexplained shrinks with the step if the objective is smooth, with its third power, and if the
    gradient is wrong, with its first. Noise does not shrink. See J. J. Moré and S. M. Wild, SIAM J. Sci. Comput. 33
    (2011), for estimates of noise by differences.

    Args:
        trial, longer: (rise, begin, end) of each, as in the module's header.
        limit: see `largest_noise`.
        xp: numpy or jax.numpy.
    """
    short, long = abs(unexplained(*trial)), abs(unexplained(*longer))
    shrink = abs(trial[1]) / xp.maximum(abs(longer[1]), TINY)
    lasts = (shrink <= SHORTER) & (short >= LASTING * long * xp.sqrt(xp.sqrt(xp.sqrt(shrink))))
    unlike = short > abs(trial[1]) + abs(trial[2])
    level = NOISE_SPREAD * xp.maximum(short, long)
    return xp.where(lasts & unlike & (level <= limit), level, 0)


def is_endless(reduction: Number, step: Number, begin: Number, end: Number, eps: Number) -> Any:
    """Return whether an accepted step suggests that the objective has no minimum.

    The step, in units of the search's first step, is as long as the search allows, and the slope has not flattened.
    An objective that curves up at all, however badly scaled, would show another slope there.
    """
    return (reduction > 0) & (step >= LONGEST_STEP) & (end - begin <= -eps * begin)


def is_small(reduction: Number, ftol: Number, size: Number) -> Any:
    """Return whether reduction <= ftol * size. An ftol of 0 disables the test.

    `size` is the largest of 1 and the magnitudes of the two values.
    """
    return (ftol > 0) & (reduction <= ftol * size)


def is_flat(before: Number, after: Number, ftol: Number) -> Any:
    """Return whether 0 <= before - after <= ftol max(|before|, |after|, 1). An ftol of 0 disables the test.

    A rise never counts as convergence: some methods do not descend in every step.
    """
    fell = before - after
    small = is_small(fell, ftol, abs(before)) | is_small(fell, ftol, abs(after)) | is_small(fell, ftol, 1.0)
    return (fell >= 0) & small


def is_false(status: Number, finite: bool | np.bool_ | Array, gtol_holds: bool | np.bool_ | Array = True) -> Any:
    """Return whether the status claims a success that the final point contradicts.

    Args:
        status: the code that the method reports.
        finite: whether the value, and the gradient if the method uses it, is finite at the point.
        gtol_holds: whether the projected gradient there is at most gtol.
    """
    gtol, ftol = status == Status.GTOL, status == Status.FTOL
    return ((gtol | ftol) & (finite == False)) | (gtol & (gtol_holds == False))  # noqa: E712


def projected_norm(x: HostVector, grad: HostVector, lower: HostVector, upper: HostVector) -> float:
    """Return max |P(x - g) - x|, where P projects onto the bounds."""
    return float(np.abs(np.where(grad < 0, np.maximum(x - upper, grad), np.minimum(x - lower, grad))).max())
