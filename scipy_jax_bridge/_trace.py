"""The record of a solve as columns, and the measure of its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ._types import HostVector


class Trace(NamedTuple):
    """The record of a solve: one row an iteration, row 0 the start.

    fun: the objective. grad_norm: max abs of the projected gradient. nfev: evaluations so far. seconds: since
    the solve began; in a device loop, which has no clock, spread evenly over the evaluations of each chunk.
    """

    fun: Any
    grad_norm: Any
    nfev: Any
    seconds: Any


class Timing(NamedTuple):
    """Seconds spent on compiling and on solving in this call, and the number of programs compiled in it."""

    compile_s: Any
    solve_s: Any
    compiles: Any


def drop_padding(trace: Trace) -> Trace:
    """The rows that were written, on the host: a program that JAX compiles has room for more than it needs."""
    columns = [np.asarray(column, np.float64) for column in trace]
    written = np.isfinite(columns[2])
    return Trace(*(column[written] for column in columns))


def projected_norm(x: HostVector, grad: HostVector, lower: HostVector, upper: HostVector) -> float:
    """Max abs of the gradient projected onto the bounds: how far from x a step of length 1 downhill can go."""
    return float(np.abs(np.where(grad < 0, np.maximum(x - upper, grad), np.minimum(x - lower, grad))).max())
