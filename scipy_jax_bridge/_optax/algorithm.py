"""Choose the algorithm for a `method`: L-BFGS-B for None, else the loop of an Optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax

from .._core.options import Options
from .._problem.objective import TracedMethod
from .._problem.problem import Problem
from . import transformation
from .device_solver import DeviceSolver
from .lbfgsb import solver as lbfgsb
from .method_trace import trace_method


@dataclass(frozen=True)
class Algorithm:
    """What the user selects with `method=`.

    Args:
        method: the transformation, or None for L-BFGS-B.
        takes_bounds: whether it can solve problems with bounds.
        has_pairs: whether its state depends on maxcor.
        trace: (problem, method) -> its moves, traced; None for L-BFGS-B, which has nothing of the user's in it.
    """

    method: optax.GradientTransformation | None
    takes_bounds: bool
    has_pairs: bool
    trace: Callable[[Problem, Any], TracedMethod] | None


def algorithm_of(method: optax.GradientTransformation | None) -> Algorithm:
    """Return the algorithm."""
    if method is None:
        return Algorithm(
            method=None,
            takes_bounds=True,
            has_pairs=True,
            trace=None,
        )
    return Algorithm(
        method=method,
        takes_bounds=False,
        has_pairs=False,
        trace=trace_method,
    )


def make_device_solver(problem: Problem, options: Options, rows: int) -> DeviceSolver:
    """Return the solver of a problem, with this number of rows of the trace."""
    algorithm = lbfgsb if problem.method is None else transformation
    return algorithm.device_solver(problem, options, rows)
