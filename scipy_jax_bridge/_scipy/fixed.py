"""Remove components fixed by equal bounds before calling SciPy; few methods accept them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .._core.types import HostVector
from .._problem.bounds import FlatBounds

FreeVector = Float[np.ndarray, " free"]  # the components that SciPy sees


@dataclass(frozen=True)
class FixedComponents:
    """Convert between the whole vector and its free components.

    Args:
        free: indices of the free components.
        values: a whole vector whose fixed components have their values.
    """

    free: Int[np.ndarray, " free"]
    values: HostVector

    def reduce(self, array: np.ndarray) -> np.ndarray:
        """Return the free components of a vector, or the free rows and columns of a matrix."""
        return array[np.ix_(*[self.free] * array.ndim)]

    def restore(self, x: FreeVector) -> HostVector:
        """Return the whole point."""
        whole = self.values.copy()
        whole[self.free] = x
        return whole

    def embed(self, step: FreeVector) -> HostVector:
        """Return the whole step; it is zero in the fixed components."""
        whole = np.zeros_like(self.values)
        whole[self.free] = step
        return whole

    def reduce_option(self, value: Any) -> Any:
        """Reduce a native option that holds one number for each component.

        Of a simplex or of directions the rows and columns of the free components stay. A simplex has one row more
        than there are components: its first row is the start and stays too. Anything else is returned as it is, for
        SciPy to judge.
        """
        array = np.asarray(value)
        if array.ndim == 0 or array.shape[-1] != self.values.size:
            return value
        if array.ndim == 1:
            return array[self.free]
        extra = len(array) - self.values.size
        return array[np.r_[: max(extra, 0), extra + self.free]][:, self.free]


def find_fixed(bounds: FlatBounds | None) -> FixedComponents | None:
    """Return the components with equal bounds; None if there are none."""
    if bounds is None:
        return None
    fixed = bounds.lower == bounds.upper
    return FixedComponents(np.flatnonzero(~fixed), np.where(fixed, bounds.lower, 0.0)) if fixed.any() else None
