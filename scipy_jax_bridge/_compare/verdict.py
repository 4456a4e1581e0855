"""Say whether the runs of a comparison ended at one minimum, and which takes the least time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._result import Result

SAME = 1e-6
"""Objectives are the same if they differ by at most this, relative to the larger of their size and 1. In a precision
with coarser rounding it is 100 units of rounding."""

Results = Mapping[str, Result]
Leaf = TypeVar("Leaf")


@dataclass(frozen=True)
class Gap:
    """How far from the best run another one ended.

    Attributes:
        fun: its objective minus that of the best.
        params: the largest absolute difference of a parameter.
        leaf: the path of the leaf where that is, such as "params['bias']".
        relative: the largest difference in a leaf, relative to the larger of the leaf's size and 1.
        barrier: the highest objective on the straight line to the best, minus that of this run. NaN if it was not
            evaluated there, infinite if it is not finite there.
        same_fun: whether both objectives are the same, up to `SAME`.
    """

    fun: float
    params: float
    leaf: str
    relative: float
    barrier: float
    same_fun: bool

    @property
    def same_point(self) -> bool:
        """Whether both ended at one point: the same objective, and params up to the square root of `SAME`."""
        return self.same_fun and self.relative <= math.sqrt(SAME)

    @property
    def no_barrier(self) -> bool:
        """Whether the objective was evaluated between the two and nowhere higher than at this run's end."""
        return self.barrier <= 0.0


def find_best(results: Results) -> str:
    """Return the run with the least objective, the first of equal ones; NaN counts as infinite."""
    values = {name: float(result.fun) for name, result in results.items()}
    return min(values, key=lambda name: values[name] if not math.isnan(values[name]) else math.inf)


def measure_gap(result: Result, best: Result, between: Sequence[float] = ()) -> Gap:
    """Measure how far from the best run this one ended.

    Args:
        result: of this run; leaves other than floating-point arrays are equal in both runs.
        best: of the best run.
        between: objectives on the straight line from here to there.
    """
    here, there = _float_leaves(result.params), _float_leaves(best.params)
    sizes = {path: float(np.max(np.abs(here[path] - value))) for path, value in there.items() if value.size}
    leaf = max(sizes, key=lambda path: sizes[path], default="params")
    relative = [size / max(1.0, float(np.max(np.abs(there[path])))) for path, size in sizes.items()]
    fun, least = float(result.fun), float(best.fun)
    same = max(SAME, 100 * float(jnp.finfo(jnp.asarray(best.fun).dtype).eps)) * max(1.0, abs(least))
    same_fun = fun - least <= same
    return Gap(
        fun=fun - least,
        params=sizes.get(leaf, 0.0),
        leaf=leaf,
        relative=max(relative, default=0.0),
        barrier=float(np.max(between)) - fun - (same if same_fun else 0.0) if len(between) else math.nan,
        same_fun=same_fun,
    )


def points_between(here: PyTree, there: PyTree) -> list[PyTree]:
    """Return three points on the straight line between two trees; only floating-point leaves change."""

    def step(part: float) -> Callable[[Leaf, Leaf], Leaf | np.ndarray]:
        def between(start: Leaf, end: Leaf) -> Leaf | np.ndarray:
            if not is_float(start):
                return start
            one, other = np.asarray(start), np.asarray(end)  # on the host, where nothing has to be compiled
            return np.asarray(one + part * (other - one), one.dtype)

        return between

    return [jax.tree.map(step(part), here, there) for part in (0.25, 0.5, 0.75)]


def find_break_even_points(costs: Mapping[str, tuple[float, float]]) -> list[tuple[int, str]]:
    """Find which entry costs least, from which number of solves on.

    Args:
        costs: for each name the seconds of compilation and those of one solve.

    Returns:
        Pairs (number of solves, name). The first number is 1, the others are larger.

    Examples:
        >>> find_break_even_points({"slow": (0.1, 0.05), "fast": (1.0, 0.01)})
        [(1, 'slow'), (23, 'fast')]
    """
    if not costs:
        return []
    solves, points = 1, list[tuple[int, str]]()
    name = min(costs, key=lambda each: (sum(costs[each]), costs[each][1]))
    while True:
        points.append((solves, name))
        start, solve = costs[name]
        faster = {
            each: max(math.floor((first - start) / (solve - later)), solves) + 1
            for each, (first, later) in costs.items()
            if later < solve
        }
        if not faster:
            return points
        solves = min(faster.values())
        total = {each: costs[each][0] + solves * costs[each][1] for each in faster if faster[each] == solves}
        name = min(total, key=lambda each: total[each])


def describe_agreement(results: Results, gaps: Mapping[str, Gap]) -> list[str]:
    """Return one sentence if all runs ended at one point, else one for each that did not."""
    best = find_best(results)
    if not math.isfinite(float(results[best].fun)):
        return ["No run found a finite objective."]
    apart = [
        _describe_gap(name, gap, results)
        for name, gap in gaps.items()
        if not (gap.same_point or (gap.same_fun and gap.no_barrier))
    ]
    if apart or not gaps:
        return apart
    converged = all(result.success for result in results.values())
    place = "Same minimum" if converged else "Same point, but not every run converged"
    fun, widest = max(gap.fun for gap in gaps.values()), max(gaps.values(), key=lambda gap: gap.params)
    if fun == 0 and widest.params == 0:
        return [f"{place}: objectives and params agree to the last bit."]
    flat = "" if all(gap.same_point for gap in gaps.values()) else "; the objective is flat between them"
    objectives = f"within {fun:.1g}" if fun else "equal"
    return [f"{place}: objectives {objectives}, params within {widest.params:.1g} (most in {widest.leaf}){flat}."]


def describe_break_even(points: list[tuple[int, str]], able: int) -> str:
    """Say in one sentence where the break-even is.

    Args:
        points: from `find_break_even_points`, of the runs that reached the best objective.
        able: how many those are.
    """
    names = [name for _, name in points]
    if able == 1:
        return f"No break-even: {names[0]} alone reached the best objective."
    if len(names) == 1:
        return f"No break-even: {names[0]} takes the least time from the first solve on, compilation included."
    ends = [start - 1 for start, _ in points[1:]]
    spans = [f"{name} up to {_about(end)} solve{'s' * (end > 1)}" for name, end in zip(names, ends, strict=False)]
    last = f"{names[-1]} from {_about(points[-1][0])} on"
    return f"Break-even: the least time, compilation included, is that of {', '.join(spans)}, {last}."


def recommend(points: list[tuple[int, str]], solve_s: Mapping[str, Sequence[float]]) -> str:
    """Say in one sentence which run to take.

    Args:
        points: from `find_break_even_points`, of the runs that reached the best objective.
        solve_s: the seconds of each solve of those runs.
    """
    (_, first), *later = points
    if not later:
        return f"Recommended: {first}, for one solve and for many."
    if _overlap(solve_s[later[0][1]], solve_s[first]):
        other = f"{later[0][1]} may pay from {_about(later[0][0])} solves on"
        return f"Recommended: {first}. {other}, but the seconds of their solves overlap; more repeats would tell."
    middle = [f"{name} for {_about(start)} to {_about(end - 1)}" for (start, name), (end, _) in pairwise(later)]
    parts = [f"{first} for up to {_about(later[0][0] - 1)} solves of this shape", *middle, f"{later[-1][1]} for more"]
    return f"Recommended: {', '.join(parts)}."


def describe_unlike(values: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a sentence for each property in which the runs differ and their times therefore do not compare.

    Args:
        values: property -> value of each run.
    """
    return [
        f"Not alike in {what}: {', '.join(f'{name} {value}' for name, value in each.items())}."
        for what, each in values.items()
        if len(set(each.values())) > 1
    ]


def measure_change(start: PyTree, end: PyTree) -> dict[str, float]:
    """Return the largest absolute change in each floating-point leaf, by path."""
    here, there = _float_leaves(start), _float_leaves(end)
    return {path: float(np.max(np.abs(there[path] - value))) for path, value in here.items() if value.size}


def _about(solves: int) -> str:
    """Write a number of solves, which is an estimate, with two significant digits."""
    return str(solves) if solves < 100 else f"about {int(float(f'{solves:.1e}')):,}"


def _overlap(fast: Sequence[float], slow: Sequence[float]) -> bool:
    """Return whether the middle halves of the two samples overlap, so that their order may be chance."""
    if min(len(fast), len(slow)) < 2:
        return False
    return statistics.quantiles(fast, n=4)[2] > statistics.quantiles(slow, n=4)[0]


def _describe_gap(name: str, gap: Gap, results: Results) -> str:
    result, least = results[name], find_best(results)
    if not math.isfinite(gap.fun):
        return f"{name} found no finite objective: {result.status.name}."
    distance = f"params up to {gap.params:.2g} apart (most in {gap.leaf})"
    if gap.same_fun:
        return f"Same objective as {least}, but {name} has {distance}, with higher ground between: two minima?"
    above = f"{name} ends {gap.fun:.2g} above {least}, {distance}"
    if not result.success:
        return f"Stopped early by {result.status.name}: {above}."
    if gap.no_barrier:
        return f"Held back: {above}, and no higher ground between: tolerances, bounds or a saddle point keep it there."
    return f"Different minima: {above}, with higher ground between. Their times do not compare."


def _float_leaves(tree: PyTree) -> dict[str, np.ndarray]:
    """Return the floating-point leaves by path, on the host in float64."""
    leaves = {f"params{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return {path: np.asarray(leaf, np.float64) for path, leaf in leaves.items() if is_float(leaf)}


def is_float(leaf: object) -> bool:
    """Whether a leaf is a floating-point number or array."""
    return isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", np.int32), jnp.floating)
