"""What a comparison says in words: did the runs end at one minimum, and which of them takes less time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._result import Result

SAME = 1e-6
"""Objectives this close, relative to the larger of their size and 1, are the same. In a precision whose rounding
is coarser it is 100 units of rounding."""

Results = Mapping[str, Result]


@dataclass(frozen=True)
class Gap:
    """How far from the best run another one ended.

    Attributes:
        fun: its objective less that of the best.
        params: the largest absolute difference of a parameter.
        leaf: the path of the leaf where that is, such as "params['bias']".
        relative: the largest difference of a leaf, relative to the leaf's size or to 1.
        ridge: the highest objective met on the straight way to the best, less that of this run; NaN where nobody
            looked or the objective is not defined there.
        low: whether both objectives are the same, up to `SAME`.
    """

    fun: float
    params: float
    leaf: str
    relative: float
    ridge: float
    low: bool

    @property
    def near(self) -> bool:
        """Whether both ended at one point, up to the square root of `SAME` in the params."""
        return self.low and self.relative <= math.sqrt(SAME)

    @property
    def open(self) -> bool:
        """Whether no higher ground was seen between the two."""
        return self.ridge <= 0.0


def find_best(results: Results) -> str:
    """The name of the run with the least objective, the first of equal ones; NaN is never the least."""
    values = {name: float(result.fun) for name, result in results.items()}
    return min(values, key=lambda name: values[name] if not math.isnan(values[name]) else math.inf)


def measure_gap(result: Result, best: Result, between: Sequence[float] = ()) -> Gap:
    """How far from the best run this one ended.

    Arguments:
        result: of this run; its leaves that are not floating-point arrays are the same as in the best.
        best: of the best run.
        between: objectives on the straight way from here to there.
    """
    here, there = _float_leaves(result.params), _float_leaves(best.params)
    sizes = {path: float(np.max(np.abs(here[path] - value))) for path, value in there.items() if value.size}
    leaf = max(sizes, key=lambda path: sizes[path], default="params")
    relative = [size / max(1.0, float(np.max(np.abs(there[path])))) for path, size in sizes.items()]
    fun, least = float(result.fun), float(best.fun)
    same = max(SAME, 100 * float(jnp.finfo(jnp.asarray(best.fun).dtype).eps)) * max(1.0, abs(least))
    low = fun - least <= same
    return Gap(
        fun=fun - least,
        params=sizes.get(leaf, 0.0),
        leaf=leaf,
        relative=max(relative, default=0.0),
        ridge=float(np.max(between)) - fun - (same if low else 0.0) if len(between) else math.nan,
        low=low,
    )


def points_between(here: PyTree, there: PyTree) -> list[PyTree]:
    """Three points on the straight way from one tree to another; other leaves than floating-point ones stay."""

    def step(part: float) -> Callable[[Any, Any], Any]:
        def between(start: Any, end: Any) -> Any:
            if not _is_float(start):
                return start
            one, other = np.asarray(start), np.asarray(end)  # on the host, where nothing is compiled for it
            return np.asarray(one + part * (other - one), one.dtype)

        return between

    return [jax.tree.map(step(part), here, there) for part in (0.25, 0.5, 0.75)]


def find_switches(costs: Mapping[str, tuple[float, float]]) -> list[tuple[int, str]]:
    """Which entry costs least, from which number of solves on.

    Arguments:
        costs: for each name the seconds of compilation and those of one solve.

    Returns:
        Pairs (number of solves, name), the first number being 1 and the others larger.

    Example:
        >>> find_switches({"slow": (0.1, 0.05), "fast": (1.0, 0.01)})
        [(1, 'slow'), (23, 'fast')]
    """
    if not costs:
        return []
    solves, switches = 1, list[tuple[int, str]]()
    name = min(costs, key=lambda each: (sum(costs[each]), costs[each][1]))
    while True:
        switches.append((solves, name))
        start, solve = costs[name]
        faster = {
            each: max(math.floor((first - start) / (solve - later)), solves) + 1
            for each, (first, later) in costs.items()
            if later < solve
        }
        if not faster:
            return switches
        solves = min(faster.values())
        total = {each: costs[each][0] + solves * costs[each][1] for each in faster if faster[each] == solves}
        name = min(total, key=lambda each: total[each])


def describe_agreement(results: Results, gaps: Mapping[str, Gap]) -> list[str]:
    """One sentence if all runs ended at one point, else one for each that did not."""
    best = find_best(results)
    if not math.isfinite(float(results[best].fun)):
        return ["No run found a finite objective."]
    apart = [
        _describe_gap(name, gap, results) for name, gap in gaps.items() if not (gap.near or (gap.low and gap.open))
    ]
    if apart or not gaps:
        return apart
    converged = all(result.success for result in results.values())
    place = "Same minimum" if converged else "Same point, but not every run converged"
    fun, widest = max(gap.fun for gap in gaps.values()), max(gaps.values(), key=lambda gap: gap.params)
    if fun == 0 and widest.params == 0:
        return [f"{place}: objectives and params agree to the last bit."]
    flat = "" if all(gap.near for gap in gaps.values()) else "; the objective is flat between them"
    return [f"{place}: objectives within {fun:.1g}, params within {widest.params:.1g} (most in {widest.leaf}){flat}."]


def describe_switches(switches: list[tuple[int, str]], able: int) -> str:
    """The break-even in one sentence.

    Arguments:
        switches: from `find_switches`, of the runs that reached the best objective.
        able: how many those are.
    """
    names = [name for _, name in switches]
    if able == 1:
        return f"No break-even: {names[0]} alone reached the best objective."
    if len(names) == 1:
        return f"No break-even: {names[0]} takes the least time from the first solve on, compilation included."
    ends = [start - 1 for start, _ in switches[1:]]
    spans = [f"{name} up to {end:,} solve{'s' * (end > 1)}" for name, end in zip(names, ends, strict=False)]
    last = f"{names[-1]} from {switches[-1][0]:,} on"
    return f"Break-even: the least time, compilation included, is that of {', '.join(spans)}, {last}."


def recommend(switches: list[tuple[int, str]], solve_s: Mapping[str, Sequence[float]]) -> str:
    """Which run to take, in one sentence.

    Arguments:
        switches: from `find_switches`, of the runs that reached the best objective.
        solve_s: the seconds of each solve of those.
    """
    (_, first), *later = switches
    if not later:
        return f"Recommended: {first}, for one solve and for many."
    if _overlap(solve_s[later[0][1]], solve_s[first]):
        other = f"{later[0][1]} may pay from {later[0][0]:,} solves on"
        return f"Recommended: {first}. {other}, but the seconds of their solves overlap; more repeats would tell."
    middle = [f"{name} for {start:,} to {end - 1:,}" for (start, name), (end, _) in pairwise(later)]
    parts = [f"{first} for up to {later[0][0] - 1:,} solves of this shape", *middle, f"{later[-1][1]} for more"]
    return f"Recommended: {', '.join(parts)}."


def describe_unlike(values: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A sentence for each thing in which the runs differ, so that times are not taken for like with like.

    Arguments:
        values: what differs or not -> for each run its value.
    """
    return [
        f"Not alike in {what}: {', '.join(f'{name} {value}' for name, value in each.items())}."
        for what, each in values.items()
        if len(set(each.values())) > 1
    ]


def measure_drift(start: PyTree, end: PyTree) -> dict[str, float]:
    """For each floating-point leaf by path the largest absolute change of a number in it."""
    here, there = _float_leaves(start), _float_leaves(end)
    return {path: float(np.max(np.abs(there[path] - value))) for path, value in here.items() if value.size}


def _overlap(fast: Sequence[float], slow: Sequence[float]) -> bool:
    """Whether the middle halves of the two overlap, so that their order may be chance."""
    if min(len(fast), len(slow)) < 2:
        return False
    return statistics.quantiles(fast, n=4)[2] > statistics.quantiles(slow, n=4)[0]


def _describe_gap(name: str, gap: Gap, results: Results) -> str:
    result, least = results[name], find_best(results)
    if not math.isfinite(gap.fun):
        return f"{name} found no finite objective: {result.status.name}."
    distance = f"params up to {gap.params:.2g} apart (most in {gap.leaf})"
    if gap.low:
        return f"Same objective as {least}, but {name} has {distance}, with higher ground between: two minima?"
    above = f"{name} ends {gap.fun:.2g} above {least}, {distance}"
    if not result.success:
        return f"Stopped early by {result.status.name}: {above}."
    if gap.open:
        return f"Held back: {above}, and no higher ground between: tolerances, bounds or a saddle point keep it there."
    return f"Different minima: {above}, with higher ground between. Their times do not compare."


def _float_leaves(tree: PyTree) -> dict[str, np.ndarray]:
    """The floating-point leaves by path, on the host in double precision."""
    leaves = {f"params{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return {path: np.asarray(leaf, np.float64) for path, leaf in leaves.items() if _is_float(leaf)}


def _is_float(leaf: object) -> bool:
    return isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", np.int32), jnp.floating)
