"""How far a solve moved each leaf from its start, and how much of it ended at a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._core.types import Leaf
from .bounds import FlatBounds

Move = tuple[float, int, int, int]  # largest change; components at a lower bound, at an upper bound, and held


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a solve began, and its bounds.

    Args:
        start: the optimized leaves at the start.
        bounds: bounds of the flat vector; None without bounds.
    """

    start: Sequence[Leaf]
    bounds: FlatBounds | None

    @staticmethod
    def keep(start: Sequence[Leaf], bounds: FlatBounds | None) -> Origin:
        """Return the origin of a solve. It holds copies of NumPy arrays, which the caller may change."""
        return Origin([leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in start], bounds)

    def measure(self, ends: Sequence[Leaf]) -> list[Move]:
        """Return the moves to the optimized leaves of a result."""
        moves, place = [], 0
        for start, end in zip(self.start, ends, strict=True):
            before, after = (np.asarray(each).astype(np.float64).ravel() for each in (start, end))
            moved = float(np.abs(after - before).max(initial=0.0))
            part = slice(place, place + after.size)
            place += after.size
            moves.append((moved, *((0, 0, 0) if self.bounds is None else _count(after, self.bounds, part))))
        return moves


def _count(x: np.ndarray, bounds: FlatBounds, part: slice) -> tuple[int, int, int]:
    lower, upper = bounds.lower[part], bounds.upper[part]
    free = lower < upper
    return int(((x <= lower) & free).sum()), int(((x >= upper) & free).sum()), int((~free).sum())


def describe_move(move: Move, size: int) -> str:
    """Say how much of a leaf is held or at a bound; empty if nothing is."""
    _, lower, upper, held = move
    parts = []
    if held:
        parts.append("held" if held == size else f"{held} held")
    if lower or upper:
        side = "a" if lower and upper else "its lower" if lower else "its upper"
        count = lower + upper
        parts.append(f"at {side} bound" if size == 1 else f"{count} at {side} bound")
    return ", ".join(parts)
