"""The scalars of a solve, and what a trial tells and decides, as records that fit into the lanes of one array."""

from __future__ import annotations

from typing import NamedTuple

from .lanes import Flag
from .linesearch import Scalar, Search


class SolveScalars(NamedTuple):
    """The scalars of a solve, without those of its line search and without its counts.

    The counts are no part of it because float32 lanes could not hold them.
    """

    status: Scalar
    grad_norm: Scalar  # max abs of the projected gradient at the current iterate
    least_value: Scalar  # of all that were seen
    best_value: Scalar  # at the best point
    best_grad_norm: Scalar
    noise: Scalar  # of the values, as trials have shown it
    slot: Scalar  # the memory slot of the next pair
    evals_since_progress: Scalar
    grad_max: Scalar  # max abs of the gradient at the current iterate
    grad_scale: Scalar  # the memory stores gradients times this; 1 unless their square would overflow
    is_start: Flag  # the next trial is the start of the solve, or of a restart
    memory_empty: Flag


class TrialEvaluation(NamedTuple):
    """What is known after the evaluation of a trial."""

    value: Scalar
    slope: Scalar  # along the search direction; at a start, along the gradient itself
    slope_start: Scalar  # along the search direction at the iterate
    grad_norm: Scalar  # max abs of the projected gradient
    grad_max: Scalar  # max abs of the gradient
    step_max: Scalar  # the longest step that the search may take


class TrialOutcome(NamedTuple):
    """What follows from a trial."""

    accepted: Flag  # the trial is the next iterate
    search_failed: Flag  # the search ended without a new iterate
    restarts: Flag  # the search failed without memory, but a lower point was seen: start again from there
    improves_best: Flag  # the trial is the best point so far
    store_pair: Flag  # the step and the change of the gradient go into the memory


SCALAR_KINDS = (Search, SolveScalars)
OUTCOME_KINDS = (*SCALAR_KINDS, TrialOutcome)
Before = tuple[Search, SolveScalars]
After = tuple[Search, SolveScalars, TrialOutcome]
