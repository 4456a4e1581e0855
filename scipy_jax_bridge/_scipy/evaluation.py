"""One evaluation of the objective, and formulas that judge a trial by the iterate before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree
from scipy.linalg.blas import dasum, idamax  # type: ignore[attr-defined]

from .._core.options import Options
from .._core.status import Status
from .._core.stopping import BACKOFF, CURVATURE, SUFFICIENT_DECREASE, is_endless, is_flat
from .._core.types import HostVector

# Value and slope, in units of the predicted decrease, of a parabola whose minimum lies at BACKOFF times the step.
# The device loop retreats to the same place after a trial that is not finite.
SURROGATE = (0.5 / BACKOFF - 1, 1 / BACKOFF - 1)


class Stop(Exception):
    """Ends SciPy's loop from inside an evaluation or a callback."""

    def __init__(self, status: Status, detail: str = "") -> None:
        self.status, self.detail = status, detail


class Evaluation(NamedTuple):
    """The objective at one point.

    Args:
        x: the point, fixed components included.
        value: the objective.
        grad: its gradient; None for a method without derivatives.
        aux: the auxiliary output; None without one.
        finite: whether the value and the gradient are finite.
    """

    x: HostVector
    value: float
    grad: HostVector | None
    aux: PyTree
    finite: bool


@dataclass
class Search:
    """What is known of the evaluations since the last iterate."""

    first_trial: Evaluation | None = None
    nonfinite_trial: Evaluation | None = None  # the first that is not finite
    finite_trials: int = 0
    farthest: Evaluation | None = None  # from the iterate; known if not every evaluation is a trial
    distance: float = 0.0  # of the farthest

    def note_distance(self, iterate: Evaluation, evaluation: Evaluation) -> None:
        """Keep the farthest evaluation, of a method that also evaluates very near the iterate."""
        distance = float(np.linalg.norm(evaluation.x - iterate.x))
        if distance > self.distance:
            self.farthest, self.distance = evaluation, distance


def nonfinite_surrogate(iterate: Evaluation, trial: Evaluation, rounding: float) -> tuple[float, HostVector]:
    """Return the value and gradient that SciPy gets for a trial that is not finite.

    They belong to a parabola that begins like the objective at the iterate and has its minimum at BACKOFF times the
    step. Interpolation in SciPy's line search then leads there.
    """
    assert iterate.grad is not None
    step = trial.x - iterate.x
    predicted = max(abs(float(iterate.grad @ step)), rounding * max(abs(iterate.value), 1.0))
    height, slope = (each * predicted for each in SURROGATE)
    return iterate.value + height, step * (slope / max(float(step @ step), np.finfo(np.float64).tiny))


def nonfinite_value(best: Evaluation, trial: Evaluation, highest: float) -> float:
    """Return the value that a method without derivatives gets: above all finite ones, and rising with the distance."""
    distance = float(np.linalg.norm(trial.x - best.x))
    return highest + (abs(highest) + 1) * (2 - 1 / (1 + distance))


def hides_decrease(before: Evaluation, after: Evaluation, rounding: float) -> bool:
    """Return whether the sufficient decrease of this step is below the rounding of the value.

    Then an equal value may be an accepted step. Otherwise it is a trial on the other side of a valley, which SLSQP
    reports too.
    """
    assert before.grad is not None
    required = SUFFICIENT_DECREASE * float(before.grad @ (after.x - before.x))
    return bool(abs(required) <= rounding / 2 * abs(before.value))


def judge_iterate(
    before: Evaluation | None, point: Evaluation, norm: float, options: Options, rounding: float, *, reduced: bool
) -> Status | None:
    """Apply gtol and ftol for a method whose own tests are different.

    Args:
        before: the iterate before, or None.
        point: the new iterate.
        norm: the norm of its projected gradient.
        options: the tolerances.
        rounding: relative rounding of the objective.
        reduced: whether a trial that was not finite shortened the step; such a step proves nothing.
    """
    if norm <= options.gtol:
        return Status.GTOL
    if before is None or before.grad is None or reduced or not is_flat(before.value, point.value, options.ftol):
        return None
    return Status.FTOL if before.value > point.value or hides_decrease(before, point, rounding) else None


def still_descends(before: Evaluation | None, after: Evaluation) -> bool:
    """Return whether the slope at the end of the step is still below CURVATURE times the slope at its start.

    A trust region that shrank after trials that were not finite stays small for many such iterations.
    """
    if before is None or before.grad is None or after.grad is None:
        return False
    step = after.x - before.x
    return bool(after.grad @ step < CURVATURE * (before.grad @ step))


def is_endless_step(before: Evaluation, first: Evaluation, after: Evaluation, rounding: float) -> bool:
    """Return whether the step to `after` has the greatest length a search allows and the objective still falls there.

    Args:
        before: the iterate where the step begins.
        first: the first trial of the search; the length is counted in its step.
        after: the iterate where the step ends.
        rounding: relative rounding of the objective.
    """
    finite = before.finite and first.finite and after.finite
    if first is after or not finite or before.grad is None or after.grad is None:
        return False
    step, unit = after.x - before.x, float(np.abs(first.x - before.x).max(initial=0.0))
    steps = float(np.abs(step).max(initial=0.0)) / unit if unit > 0 else 0.0
    begin, end = float(before.grad @ step), float(after.grad @ step)
    return bool(is_endless(float(before.value) - float(after.value), steps, begin, end, rounding))


def is_finite(grad: HostVector) -> bool:
    """Return whether every component is finite.

    The sum of absolute values tells in one pass, unless it overflows. BLAS gives no overflow warning.
    """
    return math.isfinite(dasum(grad)) or bool(np.isfinite(grad).all())


def max_abs(grad: HostVector) -> float:
    """Return the largest absolute component, NaN if one is NaN; `idamax` does not see a NaN."""
    return abs(float(grad[idamax(grad)])) if is_finite(grad) else float(np.abs(grad).max())
