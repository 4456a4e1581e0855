"""What is kept of the finite evaluations of a solve: the best one, and the range of their values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .evaluation import Evaluation
from .noise import NoiseMeter


class FiniteEvaluations:
    """The best of all finite evaluations: the lowest.

    Args:
        projected_norm: returns the norm of the projected gradient.
        noise: with it, the one of smallest gradient among those that are equally low within the noise.
    """

    def __init__(self, projected_norm: Callable[[Evaluation], float], noise: NoiseMeter | None) -> None:
        self._projected_norm, self._noise = projected_norm, noise
        self.best: Evaluation | None = None
        self.compared = False  # one differs from the best point
        self.highest, self._least = -math.inf, math.inf

    def add(self, evaluation: Evaluation) -> None:
        """Record a finite evaluation."""
        self.compared = self.compared or not (self.best is None or np.array_equal(evaluation.x, self.best.x))
        if self.best is None or self._is_better(evaluation, self.best):
            self.best = evaluation
        self.highest, self._least = max(self.highest, evaluation.value), min(self._least, evaluation.value)

    def start(self, start: Evaluation) -> None:
        """Begin anew with the start."""
        self.best, self.highest, self._least = start, start.value, start.value

    def _is_better(self, evaluation: Evaluation, best: Evaluation) -> bool:
        if self._noise is None or abs(evaluation.value - self._least) > self._noise.level(abs(self._least)):
            return bool(evaluation.value < self._least)
        return self._projected_norm(evaluation) < self._projected_norm(best)
