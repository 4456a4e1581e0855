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

SUFFICIENT_DECREASE = 1e-3  # mu in (1.1) of Moré and Thuente, in the line searches of both backends
CURVATURE = 0.9  # eta in (1.2)
BACKOFF = 0.1  # after a trial that is not finite, the next one is this fraction of the way from the best step to it
NOISE_FACTOR = 10.0  # two values that differ by less than this times eps times their size count as equal
CLEAR_FACTOR = 100.0  # this many times the noise is a real difference, even if the objective is noisier than its type
LONGEST_STEP = 0.99e10  # the limit of the line search is 1e10; the margin allows for rounding
MAX_UNCHANGED_TRIALS = 6  # trials of one search; from then on a trial that leaves the value unchanged ends the search


def noise(size: Number, rounding: Number) -> Any:
    """Bound the rounding error in the difference of two values.

    Args:
        size: the magnitude of the values.
        rounding: the relative error of each value.
    """
    return NOISE_FACTOR * rounding * size


def contradicts(rise: Number, begin: Number, end: Number, noise_level: Number) -> Any:
    """Return whether a trial suggests that the gradient is wrong.

    The slopes predict a decrease: (begin + end) / 2 by the trapezoid if both fall, and
    -begin^2 / (2 (end - begin)), the minimum of a parabola, if the slope changes sign. The trial contradicts the
    gradient if this prediction is clearly above the noise and the search still finds nothing lower. It also does if
    the value rises by clearly more than the noise and than `end` explains.

    Args:
        rise, begin, end: the trial, as in the module's header.
        noise_level: the noise of the values.
    """
    clear = CLEAR_FACTOR * noise_level
    falls = (end <= 0) & (rise > noise_level) & (-(begin + end) > 2 * clear)
    turns = (end > 0) & (begin * begin > 2 * clear * (end - begin))
    return falls | turns | ((rise > clear) & (rise - end > clear))


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
