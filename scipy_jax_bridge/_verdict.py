"""What a comparison says in words: did the runs end at one minimum, and which of them takes less time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._result import Result
from ._status import Status

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
        slope: its gradient times its difference from the best; where the objective is convex between the two,
            this is at least `fun`.
        low: whether both objectives are the same, up to `SAME`.
    """

    fun: float
    params: float
    leaf: str
    relative: float
    slope: float
    low: bool

    @property
    def none(self) -> bool:
        """Whether both ended at the same point, up to the square root of `SAME` in the params."""
        return self.low and self.relative <= math.sqrt(SAME)


def find_best(results: Results) -> str:
    """The name of the run with the least objective, the first of equal ones; NaN is never the least."""
    values = {name: float(result.fun) for name, result in results.items()}
    return min(values, key=lambda name: values[name] if not math.isnan(values[name]) else math.inf)


def measure_gap(result: Result, best: Result) -> Gap:
    """How far from the best run this one ended; leaves that are not floating-point arrays are the same in both."""
    here, there, slopes = (_float_leaves(tree) for tree in (result.params, best.params, result.jac))
    moves = {path: here[path] - value for path, value in there.items() if value.size}
    sizes = {path: float(np.max(np.abs(move))) for path, move in moves.items()}
    leaf = max(sizes, key=lambda path: sizes[path], default="params")
    relative = [size / max(1.0, float(np.max(np.abs(there[path])))) for path, size in sizes.items()]
    fun, least = float(result.fun), float(best.fun)
    tolerance = max(SAME, 100 * float(jnp.finfo(jnp.asarray(best.fun).dtype).eps))
    return Gap(
        fun=fun - least,
        params=sizes.get(leaf, 0.0),
        leaf=leaf,
        relative=max(relative, default=0.0),
        slope=sum(float(np.vdot(slopes[path], move)) for path, move in moves.items() if path in slopes),
        low=fun - least <= tolerance * max(1.0, abs(least)),
    )


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
    name = min(costs, key=lambda each: (sum(costs[each]), costs[each][1]))
    switches = [(1, name)]
    while True:
        start, solve = costs[name]
        faster = {
            each: math.floor((first - start) / (solve - later)) + 1
            for each, (first, later) in costs.items()
            if later < solve
        }
        if not faster:
            return switches
        name = min(faster, key=lambda each: (faster[each], costs[each][1]))
        switches.append((faster[name], name))


def describe_agreement(results: Results, gaps: Mapping[str, Gap]) -> list[str]:
    """One sentence if all runs ended at one point, else one for each that did not."""
    best = find_best(results)
    if not math.isfinite(float(results[best].fun)):
        return ["No run found a finite objective."]
    apart = [_describe_gap(name, gap, results) for name, gap in gaps.items() if not gap.none]
    if apart or not gaps:
        return apart
    converged = all(result.success for result in results.values())
    place = "Same minimum" if converged else "Same point, but not every run converged"
    fun, widest = max(gap.fun for gap in gaps.values()), max(gaps.values(), key=lambda gap: gap.params)
    if fun == 0 and widest.params == 0:
        return [f"{place}: objectives and params agree to the last bit."]
    return [f"{place}: objectives within {fun:.1g}, params within {widest.params:.1g} (most in {widest.leaf})."]


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
    spans = [f"{name} up to {end:,} solves" for name, end in zip(names, ends, strict=False)]
    spans[0] = spans[0].replace("up to 1 solves", "for a single solve")
    return f"Break-even: least time, compilation included, is {', '.join(spans)}, {names[-1]} beyond."


def _describe_gap(name: str, gap: Gap, results: Results) -> str:
    result, least = results[name], find_best(results)
    if not math.isfinite(gap.fun):
        return f"{name} found no finite objective: {result.status.name}."
    distance = f"params up to {gap.params:.2g} apart (most in {gap.leaf})"
    if gap.low:
        return f"Same objective as {least}, but {name} has {distance}: a flat direction, or two minima."
    above = f"{name} ends {gap.fun:.2g} above {least}, {distance}"
    if not result.success:
        return f"Stopped early by {result.status.name}: {above}."
    if gap.fun <= gap.slope:
        return f"Not there yet: {above}, and the objective still slopes down there. Tighten gtol and ftol."
    kind = "minima" if {result.status, results[least].status} == {Status.GTOL} else "end points"
    return f"Different {kind}: {above}. Their times do not compare."


def _float_leaves(tree: PyTree) -> dict[str, np.ndarray]:
    """The floating-point leaves by path, on the host in double precision."""
    leaves = {f"params{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return {path: np.asarray(leaf, np.float64) for path, leaf in leaves.items() if _is_float(leaf)}


def _is_float(leaf: object) -> bool:
    return isinstance(leaf, float) or jnp.issubdtype(getattr(leaf, "dtype", np.int32), jnp.floating)
