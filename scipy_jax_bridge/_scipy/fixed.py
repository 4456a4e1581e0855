"""Components that equal bounds hold leave the vector that a method sees: few methods can cope with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from .._core.types import HostVector
from .._problem.bounds import FlatBounds

FreeVector = Float[np.ndarray, " free"]  # of what a method sees


@dataclass(frozen=True)
class FixedComponents:
    """The way from the whole vector to the free components and back.

    Arguments:
        free: indices of the components that are not held.
        values: the whole vector, of which only the held components mean something.
    """

    free: np.ndarray
    values: HostVector

    def reduce(self, x: Any) -> Any:
        """The free components; of a matrix, along both axes."""
        return x[np.ix_(*[self.free] * x.ndim)]

    def restore(self, x: FreeVector) -> HostVector:
        """The whole point."""
        whole = self.values.copy()
        whole[self.free] = x
        return whole

    def embed(self, step: np.ndarray) -> HostVector:
        """The whole step, zero where nothing moves."""
        whole = np.zeros_like(self.values)
        whole[self.free] = step
        return whole

    def reduce_option(self, value: Any) -> Any:
        """An option with one number for a component; of a simplex or of directions, the rows of the free ones.

        A simplex has one row more than there are components, its start, which comes first and stays.
        """
        array = np.asarray(value)
        if array.ndim == 0 or array.shape[-1] != self.values.size:
            return value  # not for each component: SciPy says what it thinks of it
        if array.ndim == 1:
            return array[self.free]
        more = len(array) - self.values.size
        return array[np.r_[: max(more, 0), more + self.free]][:, self.free]


def find_fixed(bounds: FlatBounds | None) -> FixedComponents | None:
    """What the bounds hold; None if nothing."""
    if bounds is None:
        return None
    held = bounds.lower == bounds.upper
    return FixedComponents(np.flatnonzero(~held), np.where(held, bounds.lower, 0.0)) if held.any() else None
