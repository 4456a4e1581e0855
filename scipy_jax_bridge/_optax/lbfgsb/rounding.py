"""What `optax.apply_updates` yields: params + update, rounded to the type of each leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..device_solver import Box
from .lanes import Flag
from .memory import Vector


@dataclass(frozen=True)
class Rounding:
    """Round a flat vector to the types of the leaves.

    Args:
        leaves: the size and the type of each leaf.
        dtype: the type of the vector.
    """

    leaves: tuple[tuple[int, Any], ...]
    dtype: Any

    def __call__(self, x: Vector) -> Vector:
        """Return the vector, each part rounded to the type of its leaf."""
        if all(dtype == self.dtype for _, dtype in self.leaves):
            return x
        ends = np.cumsum([0, *(size for size, _ in self.leaves)])
        parts = [
            jax.lax.reduce_precision(x[begin:end], jnp.finfo(dtype).nexp, jnp.finfo(dtype).nmant)
            for begin, end, (_, dtype) in zip(ends[:-1], ends[1:], self.leaves, strict=True)
        ]
        return jnp.concatenate(parts)

    @property
    def eps(self) -> float | Array:
        """The relative rounding of each component."""
        found = {float(jnp.finfo(dtype).eps) for _, dtype in self.leaves}
        if len(found) <= 1:
            return max(found, default=0.0)
        return jnp.concatenate([jnp.full(size, jnp.finfo(dtype).eps, self.dtype) for size, dtype in self.leaves])


def reachable(at: Vector, target: Vector, box: Box | None, inside: Flag, rounding: Rounding) -> Vector:
    """Return an update with which `at + update`, rounded, is the target to rounding, and within the bounds.

    A sum that rounds beyond a bound is moved inside. A component whose box is narrower than the rounding of the sum
    stays where it is.
    """
    update = rounding(rounding(target) - at)
    if box is None:
        return update
    total = rounding(at + update)
    margin = 2 * rounding.eps * jnp.maximum(jnp.abs(at), jnp.abs(update))
    inward = jnp.where(total < box.lower, margin, jnp.where(total > box.upper, -margin, 0))
    nudged = rounding(update + inward)
    total = rounding(at + nudged)
    beyond = (total < box.lower) | (total > box.upper)
    return jnp.where(beyond & inside, 0, nudged)
