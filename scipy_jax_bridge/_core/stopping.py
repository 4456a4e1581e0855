"""What a difference between two values of the objective says, where both are rounded; for both backends.

Plain formulas of numbers on the host and of arrays on the device. A trial is told by three numbers: by how much its
value rises over the iterate's, and the two slopes times the step, at the iterate (`begin`) and at the trial (`end`).
"""

from __future__ import annotations

from typing import Any

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
