"""Hold single components of a leaf, which `fixed` marks with an array of booleans, by equal bounds.

Bounds are inputs of the compiled programs, so holding another component compiles nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._core.types import Params, is_traced
from .bounds import Bounds, Side
from .prefix import PerLeaf, leaf_paths, spread_prefix


def has_mask(fixed: PyTree) -> bool:
    """Whether `fixed` marks components of a leaf, or depends on traced values."""
    return any(hasattr(leaf, "dtype") and not isinstance(leaf, np.bool_) for leaf in jax.tree.leaves(fixed))


def hold_components(fixed: PyTree, bounds: Bounds | None, params: Params) -> tuple[PerLeaf, Bounds]:
    """Return `fixed` and `bounds` for each leaf, with equal bounds at the start in place of masks.

    Raises:
        TypeError: a mask is not of booleans.
        ValueError: a mask or a side of the bounds does not fit params, or a held component is not finite.
    """
    bounds = Bounds() if bounds is None else bounds
    sides = [spread_prefix(bounds.lower, params, "bounds.lower"), spread_prefix(bounds.upper, params, "bounds.upper")]
    marks = spread_prefix(fixed, params, "fixed")
    for place, (mark, start) in enumerate(zip(marks, jax.tree.leaves(params), strict=True)):
        if hasattr(mark, "dtype") and not isinstance(mark, np.bool_):
            mask = _read_mask(mark, start, leaf_paths(params, "fixed")[place])
            _check_finite(mask, start, leaf_paths(params)[place])
            marks[place] = False
            for side, unbounded in zip(sides, (-np.inf, np.inf), strict=True):
                side[place] = _hold(mask, start, unbounded if side[place] is None else side[place])
    lower, upper = map(PerLeaf, sides)
    return PerLeaf(marks), Bounds(lower, upper)


def _read_mask(mark: PyTree, start: PyTree, path: str) -> Side:
    if mark.dtype != bool:
        raise TypeError(f"{path} must be True or False, or an array of booleans, not one of {mark.dtype}.")
    try:
        return (jnp if is_traced(mark) else np).broadcast_to(mark, np.shape(start))
    except ValueError as error:
        raise ValueError(
            f"{path} has shape {np.shape(mark)}, which does not broadcast to the shape {np.shape(start)} of the leaf."
        ) from error


def _check_finite(mask: Side, start: PyTree, path: str) -> None:
    if is_traced((mask, start)):
        return
    wrong = np.flatnonzero(mask & ~np.isfinite(np.asarray(start, np.float64)))
    if wrong.size:
        value = np.ravel(np.asarray(start, np.float64))[wrong[0]]
        raise ValueError(
            f"{path} is {value} at component {wrong[0]}, which `fixed` holds there. Hold a finite value, or leave the "
            "component out of params."
        )


def _hold(mask: Side, start: PyTree, side: PyTree) -> PyTree:
    """Return the side of the bounds with the start where the mask holds; a side that is wrong as it is."""
    if is_traced((mask, start, side)):
        return jnp.where(mask, start, side)
    try:
        start, side = np.asarray(start, np.float64), np.asarray(side, np.float64)
        return np.where(mask & np.isfinite(start), start, side)  # the first evaluation refuses a start that is not
    except (TypeError, ValueError):
        return side
