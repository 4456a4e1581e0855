"""Choose the algorithm for a `method`: L-BFGS-B for None, else the loop of an Optax transformation."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import optax

from .._core.options import Options
from .._problem.fingerprint import structure_of
from .._problem.problem import Problem
from . import transformation
from .device_solver import DeviceSolver
from .lbfgsb import solver as lbfgsb


@dataclass(frozen=True)
class Algorithm:
    """What the user selects with `method=`.

    Args:
        method: the transformation, or None for L-BFGS-B.
        key: equal for methods that compute the same.
        name: the name in results and messages.
        takes_bounds: whether it can solve problems with bounds.
        has_pairs: whether its state depends on maxcor.
        device_solver: (problem, options, rows of the trace) -> its solver.
    """

    method: optax.GradientTransformation | None
    key: Hashable
    name: str
    takes_bounds: bool
    has_pairs: bool
    device_solver: Callable[[Problem, Options, int], DeviceSolver[Any]]


def algorithm_of(method: optax.GradientTransformation | None) -> Algorithm:
    """Return the algorithm. This is the only place of the backend that asks whether there is a method."""
    key = structure_of(method)
    if method is None:
        return Algorithm(method, key, "L-BFGS-B", takes_bounds=True, has_pairs=True, device_solver=lbfgsb.device_solver)
    make = partial(transformation.device_solver, method)
    return Algorithm(method, key, "GradientTransformation", takes_bounds=False, has_pairs=False, device_solver=make)
