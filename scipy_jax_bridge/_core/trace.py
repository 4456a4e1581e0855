"""The record of a solve as columns, and the measure of its gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import numpy as np


class Trace(NamedTuple):
    """The record of a solve: one row an iteration, row 0 the start.

    fun: the objective. grad_norm: max abs of the projected gradient. nfev: evaluations so far. seconds: since
    the solve began; in a device loop, which has no clock, spread evenly over the evaluations of each chunk.

    Inside jit and vmap it has room for the last 1024 iterations. In the rows that are not filled nfev is 0 and the
    others are NaN, as are all seconds; under `jax_debug_nans` they are -1.
    """

    fun: Any
    grad_norm: Any
    nfev: Any
    seconds: Any


def unknown() -> float:
    """What stands for a number that is not known, as times are inside a trace: NaN, or -1 where JAX forbids NaN."""
    return -1.0 if jax.config.jax_debug_nans else math.nan  # type: ignore[attr-defined]


class Timing(NamedTuple):
    """Seconds spent on compiling and on solving in this call, and the number of programs compiled in it."""

    compile_s: Any
    solve_s: Any
    compiles: Any


def drop_padding(trace: Trace) -> Trace:
    """The rows that were written, on the host: a program that JAX compiles has room for more than it needs."""
    columns = [np.asarray(column, np.float64) for column in trace]
    written = columns[2] > 0
    fun, grad_norm, nfev, seconds = (column[written] for column in columns)
    return Trace(fun, grad_norm, nfev, np.where(seconds >= 0, seconds, np.nan))
