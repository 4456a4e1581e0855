"""The words of the package: what a parameter tree, a flat vector and an objective are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer as Tracer
from jaxtyping import Array, Float, PyTree

Params = PyTree  # any tree; its floating-point leaves are optimized
Objective = Callable[..., Any]  # fun(params, *args) -> a real scalar, or (scalar, aux)
FlatVector = Float[Array, " n"]  # the free leaves, ravelled, on the device
HostVector = Float[np.ndarray, " n"]  # the same for SciPy: float64, on the host


def is_traced(tree: PyTree) -> bool:
    """Whether a leaf of the tree is a tracer: the call is being differentiated, batched or compiled."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))
