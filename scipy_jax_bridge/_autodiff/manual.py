"""A solve inside `jax.shard_map` starts from a point that varies over the axes of the mesh over which it will move."""

from __future__ import annotations

from jaxtyping import PyTree

from .._core.manual import vary_with
from .._core.types import Params
from .._problem.problem import Problem


def vary_start(problem: Problem, limits: PyTree) -> Params:
    """Return params that vary as the objective, the bounds and the limits do."""
    spec = problem.spec
    box = None if problem.bounds is None else (problem.bounds.lower, problem.bounds.upper)
    start = vary_with(problem.start_leaves, problem.start_leaves, box, limits)
    value, _ = spec.flat.value(spec.params.ravel(start, spec.dtype), problem.data)
    return spec.params.combine(vary_with(start, value), problem.static_leaves)
