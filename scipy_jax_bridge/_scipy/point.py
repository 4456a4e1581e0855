"""One evaluation, and what follows from it and the iterate before."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg.blas import dasum  # type: ignore[attr-defined]

from .._core.status import Status
from .._core.stopping import BACKOFF, CURVATURE, SUFFICIENT_DECREASE, contradicts, is_endless, noise
from .._core.types import HostVector

# Height and slope, over the decrease promised, of the parabola that turns where the device loop retreats to.
WALL = (0.5 / BACKOFF - 1, 1 / BACKOFF - 1)


class Stop(Exception):
    """Ends SciPy's loop from inside an evaluation or a callback."""

    def __init__(self, status: Status, detail: str = "") -> None:
        self.status, self.detail = status, detail


class Point(NamedTuple):
    """An evaluation: where, value, gradient (None for a derivative-free method), aux, and whether all is finite."""

    x: HostVector
    value: float
    grad: HostVector | None
    aux: Any
    finite: bool


def build_wall(iterate: Point, point: Point, rounding: float) -> tuple[float, HostVector]:
    """What the method is told of a point that is not finite, to make it try much closer to its iterate.

    Value and slope are those of the parabola that begins like the objective at the iterate and has its minimum
    a tenth of the way, so that every interpolation leads there, as the device loop does.
    """
    assert iterate.grad is not None
    away = point.x - iterate.x
    promised = max(abs(float(iterate.grad @ away)), rounding * max(abs(iterate.value), 1.0))
    height, slope = (each * promised for each in WALL)
    return iterate.value + height, away * (slope / max(float(away @ away), np.finfo(np.float64).tiny))


def is_hidden(before: Point, point: Point) -> bool:
    """Whether an equal value is an accepted step: rounding hides the decrease that a search asks for.

    Else it is a trial, of which SLSQP tells, on the other side of a valley.
    """
    assert before.grad is not None
    asked = SUFFICIENT_DECREASE * float(before.grad @ (point.x - before.x))
    return bool(before.value + asked == before.value)


def is_short(before: Point | None, point: Point) -> bool:
    """Whether the objective falls on as steeply at the end of the step.

    A trust region that trials which were not finite have made small stays small for many such iterations.
    """
    if before is None or before.grad is None or point.grad is None:
        return False
    step = point.x - before.x
    return bool(point.grad @ step < CURVATURE * (before.grad @ step))


def is_against(iterate: Point, point: Point, rounding: float) -> bool:
    """Whether a trial speaks against the gradient, if its search finds nothing lower."""
    if not point.finite or iterate.grad is None or point.grad is None:
        return False
    step, value, trial = point.x - iterate.x, float(iterate.value), float(point.value)
    begin, end = float(iterate.grad @ step), float(point.grad @ step)
    floor = noise(max(abs(value), abs(trial), 1.0), rounding)
    return begin < 0 and bool(contradicts(trial - value, begin, end, floor))


def leads_on(before: Point, first: Point, point: Point, rounding: float) -> bool:
    """Whether the step from one iterate to the next is the longest of all, in first trials, and leads on downward."""
    finite = before.finite and first.finite and point.finite
    if first is point or not finite or before.grad is None or point.grad is None:
        return False
    step, usual = point.x - before.x, float(np.abs(first.x - before.x).max(initial=0.0))
    steps = float(np.abs(step).max(initial=0.0)) / usual if usual > 0 else 0.0
    begin, end = float(before.grad @ step), float(point.grad @ step)
    return bool(is_endless(float(before.value) - float(point.value), steps, begin, end, rounding))


def is_finite(grad: HostVector) -> bool:
    """Whether every component is: their sum tells in one pass, unless it overflows; BLAS does not warn of that."""
    return math.isfinite(dasum(grad)) or bool(np.isfinite(grad).all())
