"""Where the runs of a comparison ended: a table of params, and how far apart they are."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from .._core.types import Params
from .._problem.prefix import dotted_paths
from .._render.summary import format_estimate, format_value
from .._result import Result
from .verdict import is_float

RUNS = 3  # columns
LEAVES = 8  # rows


def tabulate_ends(results: Mapping[str, Result], best: str) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells: for each leaf its value in each run, and the largest difference from the best run.

    With many runs the best is shown and those that differ most. With many leaves those are shown that differ most, in
    the order of the tree.
    """
    ends = {name: _numbers(result.params) for name, result in results.items()}
    target = ends[best]
    apart = {name: {path: _size(end[path] - value) for path, value in target.items()} for name, end in ends.items()}
    far = {path: max(each[path] for each in apart.values()) for path in target}
    relative = {path: far[path] / max(1.0, _size(value)) for path, value in target.items()}
    leaves = sorted(relative, key=lambda path: -relative[path])[:LEAVES]
    others = sorted((name for name in ends if name != best), key=lambda name: -max(apart[name].values(), default=0.0))
    runs = [name for name in ends if name in [best, *others[: RUNS - 1]]]
    lines = [
        [path or "params", *(format_value(ends[name][path], short=True) for name in runs), format_estimate(far[path])]
        for path in target
        if path in leaves
    ]
    return ["leaf", *runs, "apart"], lines


def _numbers(params: Params) -> dict[str, np.ndarray]:
    """Return the floating-point leaves by path, in float64."""
    pairs = zip(dotted_paths(params), jax.tree.leaves(params), strict=True)
    return {path: np.asarray(leaf, np.float64) for path, leaf in pairs if is_float(leaf) and np.size(leaf)}


def _size(value: np.ndarray) -> float:
    return float(np.abs(value).max())
