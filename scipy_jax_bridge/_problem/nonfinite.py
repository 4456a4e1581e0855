"""Explain a point where the objective or its gradient is not finite: which leaf, which component."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._core.errors import join_short
from .._core.types import Leaf, Vector
from .params import TreeSpec
from .prefix import leaf_paths


class NonfiniteStart(ValueError):
    """The objective or its gradient is not finite at the start.

    Examples:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> try:
        ...     sjb.minimize(lambda x: jnp.log(x), -1.0)
        ... except sjb.NonfiniteStart as error:
        ...     print("nan" in str(error))
        True
    """


def refuse_start(what: str, args: tuple[PyTree, ...]) -> NonfiniteStart:
    """Return the error of a start that is not finite.

    Args:
        what: from `describe_nonfinite`.
        args: the data of the objective, which may be the cause.
    """
    leaves = zip(leaf_paths(args, "args"), jax.tree.leaves(args), strict=True)
    bad = [path for path, leaf in leaves if not _is_finite(leaf)]
    cure = (
        f"The cause may be in the data: {join_short(bad)} {'is' if len(bad) == 1 else 'are'} not finite everywhere."
        if bad
        else "Start where the objective and its gradient are finite, or make it safe there with jnp.where on the "
        "argument; jax_debug_nans shows the operation."
    )
    return NonfiniteStart(f"there is no way down from this start: {what}. {cure}")


def _is_finite(leaf: PyTree) -> bool:
    """Whether all numbers of a leaf are finite; what is no number is."""
    if not jnp.issubdtype(getattr(leaf, "dtype", np.int32), jnp.floating):
        return not isinstance(leaf, float) or np.isfinite(leaf)
    return bool(np.isfinite(np.asarray(leaf).astype(np.float64)).all())


def describe_nonfinite(structure: TreeSpec, x: Vector, value: Leaf, grad: Vector | None) -> str:
    """Describe the objective, the point and the gradient where one of them is not finite.

    Args:
        structure: spec of params.
        x: flat vector of the point.
        value: the objective.
        grad: its gradient; None if unknown.
    """
    parts = [
        f"the objective is {float(np.asarray(value)):.6g}",
        _first_nonfinite(structure, x, "params", "all of params is finite"),
    ]
    if grad is not None:
        parts.append(_first_nonfinite(structure, grad, "the gradient of params", "the gradient is finite"))
    return "; ".join(parts)


def _first_nonfinite(structure: TreeSpec, vector: Vector, name: str, otherwise: str) -> str:
    vector = np.asarray(vector)
    bad = np.flatnonzero(~np.isfinite(vector))
    if bad.size == 0:
        return otherwise
    leaves = structure.optimized
    ends = np.cumsum([leaf.size for leaf in leaves])
    position = int(np.searchsorted(ends, bad[0], side="right"))
    leaf, path = leaves[position], leaf_paths(structure.params_or_none(range(len(ends))), name)[position]
    component = int(bad[0] - ends[position] + leaf.size)
    where = f"{path}, component {component} of {leaf.size}," if leaf.shape else path
    return f"{where} is {float(vector[bad[0]]):.6g}"
