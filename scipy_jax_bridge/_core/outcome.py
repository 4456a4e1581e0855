"""What a backend returns, before it becomes a public Result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from .trace import Timing, Trace
from .types import FlatVector, Leaf, Vector

Count = Any  # an int; an array inside a trace

FRESH_MEMORY = (
    "Went on from the params of the earlier result with fresh memory; nit, nfev and trace are of this call alone."
)


@dataclass(frozen=True, eq=False)
class ResumeState:
    """The state from which the device loop continues bit for bit, and what that state belongs to.

    The defaults are those of pickles older than the field.

    Args:
        leaves: leaves of the loop's carry, in the order of its tree.
        structure: trees of the auxiliary output and of a transformation's state, as text.
        format: version of the meaning of `leaves`; see `FORMAT` in `_optax/resume.py`.
        params: kind, shape and type of each leaf of params, as text.
        bounds: the lower and the upper flat vector; None without bounds.
        maxcor: number of pairs in memory; 0 for a transformation.
        method, hyperparams: the fingerprint of the transformation.
    """

    leaves: tuple[Array | np.ndarray | np.generic, ...]
    structure: str
    format: int = 0
    params: tuple[str, ...] = ()
    bounds: tuple[Vector, Vector] | None = None
    maxcor: int = 0
    method: str = ""
    hyperparams: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a backend returns. It belongs to the final point if the solve converged, otherwise to the best point.

    Args:
        leaves: the optimized leaves.
        value: the objective.
        grad: its gradient, leaf by leaf; None after a method without derivatives.
        aux: leaves of the auxiliary output.
        nit, nfev: iterations and evaluations.
        status: code of a Status.
        trace, timing: as in a Result.
        detail: what the method itself reports.
        note: further remarks.
        carry: the state to continue from.
    """

    leaves: list[Leaf]
    value: Array | np.ndarray
    grad: list[Leaf] | None
    aux: list[Leaf]
    nit: Count
    nfev: Count
    status: Count
    trace: Trace
    timing: Timing
    detail: str = ""
    note: str = ""
    carry: ResumeState | None = None


class FlatOutcome(NamedTuple):
    """What a backend returns inside a trace: a pytree of arrays, with flat vectors. Fields as in Outcome."""

    x: FlatVector
    value: Array | np.ndarray
    grad: FlatVector | None
    aux: list[Leaf]
    nit: Count
    nfev: Count
    status: Count
    trace: Trace
