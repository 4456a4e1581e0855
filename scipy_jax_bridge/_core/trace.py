"""The record of a solve as columns, and its timing."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from .types import ResultFloat, ResultInt


class Trace(NamedTuple):
    """The record of a solve: one row per iteration; row 0 is the start.

    Inside jit and vmap the columns hold the last 1024 iterations. Unfilled rows have nfev 0 and NaN elsewhere. All
    seconds are NaN there. Under `jax_debug_nans`, -1 replaces NaN.

    Attributes:
        fun: the objective.
        grad_norm: max abs of the projected gradient.
        nfev: evaluations so far.
        seconds: time since the solve began. A device loop has no clock: the time of each chunk is spread evenly over
            its evaluations.

    Examples:
        >>> import scipy_jax_bridge as sjb
        >>> result = sjb.minimize(lambda x: (x - 1.0) ** 2, 3.0)
        >>> len(result.trace.fun) == result.nit + 1, float(result.trace.fun[0])
        (True, 4.0)
    """

    fun: Array | np.ndarray
    grad_norm: Array | np.ndarray
    nfev: Array | np.ndarray
    seconds: Array | np.ndarray


def unknown() -> float:
    """Return the placeholder of an unknown number, such as a time inside jit: NaN, or -1 under `jax_debug_nans`."""
    return -1.0 if jax.config.jax_debug_nans else math.nan  # type: ignore[attr-defined]


class Timing(NamedTuple):
    """What this call took.

    Attributes:
        compile_s: seconds of tracing and compiling.
        solve_s: seconds of solving.
        compiles: number of programs compiled.
    """

    compile_s: ResultFloat
    solve_s: ResultFloat
    compiles: ResultInt


def drop_padding(trace: Trace) -> Trace:
    """Return the filled rows, on the host. A compiled program has a fixed number of rows and fills some."""
    columns = [np.asarray(column, np.float64) for column in trace]
    written = columns[2] > 0
    if not written.all():
        columns = [column[written] for column in columns]
    fun, grad_norm, nfev, seconds = columns
    return Trace(fun, grad_norm, nfev, np.where(seconds >= 0, seconds, np.nan))
