"""Where a value went bad: the first leaf of the parameters and of the gradient that is not finite, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from .params import TreeSpec, leaf_paths


def describe_nonfinite(structure: TreeSpec, x: Any, value: Any, grad: Any | None) -> str:
    """What the objective and its gradient are at a point that is no good.

    Arguments:
        structure: of the parameters.
        x, grad: flat vectors on the host; no gradient where none is known.
        value: the objective.
    """
    parts = [f"the objective is {float(value):.6g}", _first_bad(structure, x, "params", "all of params is finite")]
    if grad is not None:
        parts.append(_first_bad(structure, grad, "the gradient of params", "the gradient is finite"))
    return "; ".join(parts)


class NonfiniteStart(ValueError):
    """The objective or its gradient is not finite at the start."""


def refuse_start(what: str) -> NonfiniteStart:
    """The error of a start that is not finite."""
    return NonfiniteStart(
        f"there is no way down from this start: {what}. Start where the objective and its gradient are finite, or make "
        "it safe there with jnp.where on the argument; jax_debug_nans shows the operation."
    )


def _first_bad(structure: TreeSpec, vector: Any, name: str, otherwise: str) -> str:
    vector = np.asarray(vector)
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size == 0:
        return otherwise
    ends = np.cumsum([leaf.size for leaf in structure.free])
    leaf = int(np.searchsorted(ends, bad[0], side="right"))
    path = leaf_paths(structure.params_or_none(range(len(ends))), name)[leaf]
    place = int(bad[0] - ends[leaf] + structure.free[leaf].size)
    where = f"{path}, component {place} of {structure.free[leaf].size}," if structure.free[leaf].shape else path
    return f"{where} is {float(vector[bad[0]]):.6g}"
