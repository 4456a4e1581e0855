"""What the trials of a solve show of the noise of the objective's values, and which of them contradict its gradient."""

from __future__ import annotations

import numpy as np

from .._core.stopping import DOUBT, Rise, contradiction, largest_noise, measured_noise, noise
from .._core.types import HostVector
from .evaluation import Evaluation

ACROSS = 0.1  # this part of a step may lie across a line to which it belongs
ROUNDING = 8 * float(np.finfo(np.float64).eps)


class NoiseMeter:
    """Measures the noise; the device loop does the same, see `_optax/lbfgsb/noise.py`.

    Args:
        rounding: the relative rounding error of the objective.
    """

    def __init__(self, rounding: float) -> None:
        self._rounding = rounding
        self.shown = 0.0  # the noise that trials have shown
        self._contradiction = 0.0
        self._trials: list[Rise] = []  # of this search, along one line
        self._step: HostVector | None = None  # to the last of them

    @property
    def contradicted(self) -> bool:
        """Whether a trial of this search contradicts the gradient."""
        return bool(self._contradiction > DOUBT * self.shown)

    def begin_search(self, progress: bool) -> None:
        """Forget the trials of the last search; with progress, also what contradicted."""
        self._trials, self._step = [], None
        if progress:
            self._contradiction = 0.0

    def level(self, size: float) -> float:
        """Return the noise of values of this size."""
        return max(float(noise(size, self._rounding)), self.shown)

    def see(self, iterate: Evaluation, trial: Evaluation | None) -> None:
        """Compare value and slopes of a trial with each other and with the trials before."""
        rise = None if trial is None else _rise(iterate, trial)
        if rise is None or trial is None:
            return
        step = trial.x - iterate.x
        if self._step is not None and not _is_along(self._step, step, trial.x):  # SciPy began anew, along the gradient
            self._trials = []
        size = max(abs(float(iterate.value)), abs(float(trial.value)), 1.0)
        limit = largest_noise(size, self._rounding, np)
        self.shown = max(self.shown, *(float(measured_noise(rise, longer, limit, np)) for longer in self._trials), 0.0)
        self._trials, self._step = [*self._trials, rise], step
        level = float(contradiction(*rise, np))
        if level > noise(size, self._rounding):
            self._contradiction = max(self._contradiction, level)


def _is_along(line: HostVector, step: HostVector, x: HostVector) -> bool:
    """Return whether a step to x lies along a line, but for the rounding of x."""
    square = float(line @ line)
    across = step - line * (float(step @ line) / square if square else 0.0)
    return float(np.linalg.norm(across)) <= ACROSS * float(np.linalg.norm(step)) + ROUNDING * float(np.linalg.norm(x))


def _rise(iterate: Evaluation, trial: Evaluation) -> Rise | None:
    """Return the trial as the formulas of `stopping` describe it; None if it is not finite or no descent."""
    if not trial.finite or iterate.grad is None or trial.grad is None:
        return None
    step = trial.x - iterate.x
    begin, end = float(iterate.grad @ step), float(trial.grad @ step)
    return (float(trial.value) - float(iterate.value), begin, end) if begin < 0 else None
