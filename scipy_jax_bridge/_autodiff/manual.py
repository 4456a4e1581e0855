"""A solve inside `jax.shard_map` starts from a point that varies over the axes of the mesh over which it will move."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import PyTree

from .._core.manual import is_manual, vary_with
from .._problem.problem import Problem


def vary_start(problem: Problem, limits: PyTree) -> Problem:
    """Return the problem with a start that varies as the objective, the bounds and the limits do."""
    if not is_manual():
        return problem
    box = None if problem.bounds is None else (problem.bounds.lower, problem.bounds.upper)
    start = vary_with(problem.start_leaves, problem.start_leaves, box, limits)
    value, _ = problem.value(problem.spec.params.ravel(start, problem.spec.dtype), problem.data)
    return replace(problem, start_leaves=vary_with(start, value))
