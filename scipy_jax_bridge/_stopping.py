"""What a difference between two values of the objective says, where both are rounded; for both backends.

Plain formulas of numbers on the host and of arrays on the device. A trial is told by three numbers: by how much its
value rises over the iterate's, and the two slopes times the step, at the iterate (`begin`) and at the trial (`end`).
"""

from __future__ import annotations

from typing import Any

ROUNDING = 10.0  # two values closer than this times eps times their size cannot be told apart
CLEAR = 100.0  # times that: so much is no noise, even of an objective noisier than its type
STAIRS = 6  # trials of one search, after which one that changes nothing ends it


def noise(size: Any, rounding: Any) -> Any:
    """How much of a difference between values of this size may be rounding, each of them `rounding` relative."""
    return ROUNDING * rounding * size


def contradicts(rise: Any, begin: Any, end: Any, floor: Any) -> Any:
    """Whether a trial speaks against the gradient, if its search finds nothing lower.

    The slopes promise a decrease clearly above the noise: if both fall, that of the trapezoid, and yet the value
    rises; if the slope turns, that at the minimum of the parabola.
    """
    falls = (end <= 0) & (rise > floor) & (-(begin + end) > 2 * CLEAR * floor)
    turns = (end > 0) & (begin * begin > 2 * CLEAR * floor * (end - begin))
    return falls | turns


def is_small(reduction: Any, ftol: Any, size: Any) -> Any:
    """Whether ftol holds; 0 disables it. `size` is the larger of both values and 1."""
    return (ftol > 0) & (reduction <= ftol * size)
