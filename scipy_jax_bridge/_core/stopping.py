"""What a difference between two values of the objective says, where both are rounded; for both backends.

Plain formulas of numbers on the host and of arrays on the device. A trial is told by three numbers: by how much its
value rises over the iterate's, and the two slopes times the step, at the iterate (`begin`) and at the trial (`end`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .status import Status
from .types import HostVector

SUFFICIENT_DECREASE = 1e-3  # mu in (1.1) of Moré and Thuente, in the line searches of both backends
CURVATURE = 0.9  # eta in (1.2)
BACKOFF = 0.1  # after a trial that is not finite: this far from the best step towards it
ROUNDING = 10.0  # two values closer than this times eps times their size cannot be told apart
CLEAR = 100.0  # times that: so much is no noise, even of an objective noisier than its type
LONGEST = 0.99e10  # steps; the search's own limit, but for rounding
STAIRS = 6  # trials of one search, after which one that changes nothing ends it


def noise(size: Any, rounding: Any) -> Any:
    """How much of a difference between values of this size may be rounding, each of them `rounding` relative."""
    return ROUNDING * rounding * size


def contradicts(rise: Any, begin: Any, end: Any, floor: Any) -> Any:
    """Whether a trial speaks against the gradient, if its search finds nothing lower.

    The slopes promise a decrease clearly above the noise: if both fall, that of the trapezoid, and yet the value
    rises; if the slope turns, that at the minimum of the parabola. Or the value rises, clearly above the noise, by
    more than the slope at the trial explains.
    """
    clear = CLEAR * floor
    falls = (end <= 0) & (rise > floor) & (-(begin + end) > 2 * clear)
    turns = (end > 0) & (begin * begin > 2 * clear * (end - begin))
    return falls | turns | ((rise > clear) & (rise - end > clear))


def is_endless(reduction: Any, step: Any, begin: Any, end: Any, eps: Any) -> Any:
    """Whether an accepted step, counted in first steps, is as long as a search allows, and the slope still falls.

    The objective is a line to the last digit, or bends down, over ten thousand million times the step that the
    solver takes for natural. One that bends up at all, however badly scaled, has another slope there.
    """
    return (reduction > 0) & (step >= LONGEST) & (end - begin <= -eps * begin)


def is_small(reduction: Any, ftol: Any, size: Any) -> Any:
    """Whether ftol holds; 0 disables it. `size` is the larger of both values and 1."""
    return (ftol > 0) & (reduction <= ftol * size)


def is_flat(before: Any, after: Any, ftol: Any) -> Any:
    """FTOL: the objective falls by at most ftol, relative to max(abs(before), abs(after), 1); 0 disables the test.

    A rise is no convergence: not every method descends.
    """
    fell = before - after
    small = is_small(fell, ftol, abs(before)) | is_small(fell, ftol, abs(after)) | is_small(fell, ftol, 1.0)
    return (fell >= 0) & small


def is_false(status: Any, finite: Any, gtol_holds: Any = True) -> Any:
    """Whether the status claims a success that the point does not bear out.

    Arguments:
        status: what the solve says.
        finite: whether the value, and for methods that use it the gradient, is finite at the point.
        gtol_holds: whether the projected gradient there is at most gtol.
    """
    gtol, ftol = status == Status.GTOL, status == Status.FTOL
    return ((gtol | ftol) & (finite == False)) | (gtol & (gtol_holds == False))  # noqa: E712


def projected_norm(x: HostVector, grad: HostVector, lower: HostVector, upper: HostVector) -> float:
    """Max abs of the gradient projected onto the bounds: how far from x a step of length 1 downhill can go."""
    return float(np.abs(np.where(grad < 0, np.maximum(x - upper, grad), np.minimum(x - lower, grad))).max())
