"""Decide the status and the final point of a solve after SciPy has returned.

The status follows from the numbers. SciPy's messages are not parsed: their wording changes between versions.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import OptimizeResult

from .._core.status import Status
from .._core.stopping import CLEAR_FACTOR, is_false, is_flat
from .evaluation import Evaluation
from .methods import Method
from .recorder import SolveRecorder

ENDS_HIGHER = 1e-3  # relative: how far above its best point a method without derivatives may end and succeed

TINY = np.finfo(np.float64).tiny


def read_ending(recorder: SolveRecorder, method: Method, found: OptimizeResult) -> tuple[Status, str]:
    """Return the status of a method that ended by itself, and a message if the status needs one."""
    options = recorder.options
    # A method without derivatives, or a native tolerance that the user set, may end the solve by a test of its own.
    rule = method.stopping_rule or " or ".join(each for each in method.native_tolerances if each in options.native)
    said = f"SciPy's {method.name} ended by its own rule{rule and f' ({rule})'}: {found.message}"
    point = recorder.find(found.x)
    if point is None:  # some methods end at a point that is not among their last evaluations
        point = recorder.evaluate(found.x)
    if method.derivatives == "none":
        point, failure = _end_at_best(recorder, method, point, found)
        if failure is not None:
            return failure
    elif point.finite and recorder.iterate is not None and not np.array_equal(point.x, recorder.iterate.x):
        recorder.iteration(found.x)  # raises Stop if a test holds there
    recorder.iterate = point
    if point.finite and recorder.evaluator.projected_norm(point) <= options.gtol:
        return Status.GTOL, ""
    nonfinite = recorder.reduced_by if point.finite else point
    # A step that was reduced to stay where the objective is finite changes little, and proves no convergence.
    if found.success and method.native_stopping and options.ftol > 0 and not nonfinite and not recorder.misled:
        return Status.FTOL, ""
    if found.success and rule and (nonfinite is None or method.stopping_rule):
        return Status.FTOL, said
    if recorder.nit >= options.maxiter:
        return Status.MAXITER, ""
    if nonfinite is not None:
        return Status.NONFINITE, recorder.describe_trial(nonfinite)
    return _explain_no_progress(recorder, method, point, said)


def choose_final(recorder: SolveRecorder, method: Method, status: Status) -> tuple[Status, Evaluation]:
    """Return the last iterate of a converged solve, else the best point; correct a status that its point refutes."""
    point, best = recorder.iterate, recorder.best or recorder.iterate
    assert point is not None and best is not None, "SciPy evaluated nothing"
    norm_holds = method.derivatives == "none" or recorder.evaluator.projected_norm(point) <= recorder.options.gtol
    if is_false(status, point.finite, bool(norm_holds)):
        status = Status.LINESEARCH if point.finite else Status.NONFINITE
    return status, point if status.success else best


def _explain_no_progress(recorder: SolveRecorder, method: Method, point: Evaluation, said: str) -> tuple[Status, str]:
    """Return whether rounding or something else keeps the method from a lower point."""
    is_noise = _is_noise(recorder)
    # Without a trial, and unless even a unit step would be lost, there is no reduction for ftol to judge.
    tried = recorder.search.first_trial is not None or _hides_unit_step(recorder, point)
    if tried and is_noise and recorder.options.ftol > 0 and point.grad is not None:
        recorder.settle(point)
        return Status.FTOL, ""
    if is_noise:
        return Status.NOISE_FLOOR, said
    return Status.LINESEARCH, " ".join(filter(None, (said, method.failure_hint)))


def _end_at_best(
    recorder: SolveRecorder, method: Method, point: Evaluation, found: OptimizeResult
) -> tuple[Evaluation, tuple[Status, str] | None]:
    """Return the best point for a method without derivatives; and a failure if it may not claim success there."""
    best, nonfinite = recorder.best, recorder.last_nonfinite
    assert best is not None
    if not found.success or (point.finite and point.value <= best.value):
        best = point if point.finite and point.value <= best.value else best
        if found.success and not recorder.finite.compared and nonfinite is not None:  # no other finite value was seen
            return best, (Status.NONFINITE, recorder.describe_trial(nonfinite))
        return best, None
    if not point.finite:
        return best, (Status.NONFINITE, recorder.describe_trial(point))
    if is_flat(point.value, best.value, max(float(recorder.options.ftol), ENDS_HIGHER)):
        return best, None
    return best, (Status.LINESEARCH, f"SciPy's {method.name} ended at a higher point, where fun is {point.value:.6g}.")


def _hides_unit_step(recorder: SolveRecorder, point: Evaluation) -> bool:
    """Return whether rounding hides what a step of unit length is predicted to change."""
    return bool(recorder.evaluator.projected_norm(point) <= CLEAR_FACTOR * recorder.noise.level(abs(point.value)))


def _is_noise(recorder: SolveRecorder) -> bool:
    """Return whether noise hides what the first trial of the last search is predicted to change."""
    search, seen = recorder.search, recorder.noise
    iterate, trial = recorder.iterate, search.farthest or search.first_trial
    if iterate is None or iterate.grad is None:
        return True
    if seen.contradicted:
        return False
    if trial is None:  # the method tried nothing: judge a step of unit length, as a first step is, or the last one
        if recorder.idle or _hides_unit_step(recorder, iterate):
            return True
        iterate, trial = recorder.before, iterate
    if iterate is None or iterate.grad is None:
        return False
    step = trial.x - iterate.x
    predicted = abs(float(iterate.grad @ step))
    if trial is search.farthest and trial.finite and trial.grad is not None:  # it may be far too long a step
        seen.see(iterate, trial)
        if seen.contradicted:
            return False
        predicted *= min(1.0, predicted / max(2 * float((trial.grad - iterate.grad) @ step), TINY))
    return bool(predicted <= CLEAR_FACTOR * seen.level(max(abs(iterate.value), abs(trial.value))))
