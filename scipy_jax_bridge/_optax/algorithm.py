"""The algorithms of this backend: L-BFGS-B, and any Optax transformation."""

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
from .lbfgsb.transformation import Lbfgsb, lbfgsb_of
from .method_trace import trace_method
from .names import name_of_transformation

MakeSolver = Callable[[Problem, Options, int], DeviceSolver[Any]]


@dataclass(frozen=True)
class Algorithm:
    """What the user selects with `method=`.

    Args:
        method: the transformation; None for L-BFGS-B, whose settings are those of the solve.
        name: the name in results and messages.
        takes_bounds: whether it can solve problems with bounds.
        has_pairs: whether its state depends on maxcor.
        device_solver: (problem, options, rows of the trace) -> its solver.
        trace: (problem) -> its moves, traced; None for L-BFGS-B, which has nothing of the user's in it.
        own: the settings that the user gave with the method, or None.
    """

    method: optax.GradientTransformation | None
    name: str
    takes_bounds: bool
    has_pairs: bool
    device_solver: MakeSolver
    trace: Callable[[Problem], TracedMethod] | None
    own: Lbfgsb | None = None


def algorithm_of(method: optax.GradientTransformation | None) -> Algorithm:
    """Return the algorithm. None is `lbfgsb()`."""
    own = lbfgsb_of(method)
    if method is None or own is not None:
        return Algorithm(
            method=None,
            name="L-BFGS-B",
            takes_bounds=True,
            has_pairs=True,
            device_solver=lbfgsb.device_solver,
            trace=None,
            own=own,
        )
    return Algorithm(
        method=method,
        name=name_of_transformation(method),
        takes_bounds=False,
        has_pairs=False,
        device_solver=transformation.device_solver,
        trace=lambda problem: trace_method(problem, method),
    )
