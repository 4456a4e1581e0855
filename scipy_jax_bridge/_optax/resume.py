"""Resume an earlier solve: bit for bit if nothing has changed, else from its params with fresh memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .._core.options import Options
from .._core.status import RUNNING, Status
from .._core.types import Leaf, Vector, is_whole
from .._problem.problem import Problem
from .._result import FRESH_MEMORY, Result, ResumeState
from .algorithm import Algorithm
from .chunked import ChunkedRun
from .device_solver import DeviceSolver, DeviceState, Evaluation, Leaves
from .digest import digest

FORMAT = 3  # version of the leaves of a ResumeState; increase it when their meaning changes
TOLERANCE_EPS = 1e3  # multiples of eps by which two evaluations at one point may differ

ANOTHER_VERSION = "The result is of another version of scipy_jax_bridge."
PARAMS = "The params have other leaves, shapes or types than those of the result."
BOUNDS = "The bounds differ from those of the result."
MAXCOR = "maxcor differs from that of the result."
METHOD = "The method differs from that of the result."
AUX = "The auxiliary output has another form than that of the result."
REPLACED = "The params are not those that the earlier solve handed back."
OBJECTIVE = "The objective or its data differ from those of the result."
HYPERPARAMS = "The hyperparameters of the method differ from those of the result. Its state was kept."


def make_resume_state(state: DeviceState, problem: Problem, algorithm: Algorithm, options: Options) -> ResumeState:
    """Return what the result of a stopped solve keeps for `resume`. The trace is in the result already."""
    leaves = jax.tree.leaves(state._replace(rows=()))
    bounds, (code, numbers) = problem.bounds, digest(algorithm.method)
    aux = problem.spec.objective.aux_tree.unflatten(state.aux)
    inner = () if problem.method is None else problem.method.tree.unflatten(state.inner)
    return ResumeState(
        leaves=tuple(leaves),
        structure=str(jax.tree.structure((aux, inner))),
        format=FORMAT,
        params=tuple(f"{leaf.kind} {leaf.shape} {leaf.dtype}" for leaf in problem.spec.params.leaves),
        bounds=None if bounds is None else (bounds.lower, bounds.upper),
        maxcor=options.maxcor if algorithm.has_pairs else 0,
        method=code,
        hyperparams=numbers,
    )


def resume(
    earlier: Result,
    chunks: ChunkedRun,
    solver: DeviceSolver,
    fresh: DeviceState,
    start: Callable[[Leaves], DeviceState],
    problem: Problem,
    algorithm: Algorithm,
    options: Options,
) -> tuple[DeviceState, str]:
    """Return the state to begin with, and a note for the result.

    Args:
        earlier: the result to go on from.
        chunks: the new run, which takes over the counts and the trace.
        solver: the device solver.
        fresh: the state of a new solve from the earlier params, clipped into the present bounds.
        start: makes such a state from the free leaves.
        problem, algorithm, options: those of the new solve.
    """
    if earlier.carry is None:
        return fresh, FRESH_MEMORY
    now = make_resume_state(fresh, problem, algorithm, options)
    differences = find_differences(earlier.carry, now)
    if differences:
        return fresh, " ".join((*differences, FRESH_MEMORY))
    leaves = [_copy(leaf) for leaf in earlier.carry.leaves]  # the loop donates its input
    state = jax.tree.structure(fresh._replace(rows=())).unflatten(leaves)._replace(rows=fresh.rows)
    if not _is_at(problem, state.best_x):
        return fresh, f"{REPLACED} {FRESH_MEMORY}"
    state = solver.with_hyperparams(state, fresh)
    if not _is_same_objective(solver.find_value(state), state, chunks.evaluate_at(start, state.x)):
        return fresh, f"{OBJECTIVE} {FRESH_MEMORY}"
    chunks.resume(earlier)
    status = Status.MAXFUN if earlier.nfev >= options.maxfun else RUNNING
    status = Status.MAXITER if earlier.nit >= options.maxiter else status
    note = "" if earlier.carry.hyperparams == now.hyperparams else HYPERPARAMS
    return solver.with_status(state, status), note


def find_differences(earlier: ResumeState, now: ResumeState) -> list[str]:
    """Return a sentence for each difference that forbids the use of the earlier state; empty if there is none."""
    if earlier.format != now.format:
        return [ANOTHER_VERSION]
    differs = {
        PARAMS: earlier.params != now.params,
        BOUNDS: not _are_equal(earlier.bounds, now.bounds),
        MAXCOR: 0 != earlier.maxcor != now.maxcor != 0,
        METHOD: earlier.method != now.method,
    }
    found = [sentence for sentence, holds in differs.items() if holds]
    forms = [(each.structure, [(leaf.shape, leaf.dtype) for leaf in each.leaves]) for each in (earlier, now)]
    if found or forms[0] == forms[1]:
        return found
    return [METHOD if earlier.hyperparams != now.hyperparams else AUX]  # a number may be the length of a memory


def _are_equal(bounds: tuple[ArrayLike, ArrayLike] | None, others: tuple[ArrayLike, ArrayLike] | None) -> bool:
    if bounds is None or others is None:
        return bounds is others
    return all(np.array_equal(side, other) for side, other in zip(bounds, others, strict=True))


def _is_at(problem: Problem, x: Vector) -> bool:
    """Return whether params are this point. `dataclasses.replace` may have given the result other params."""
    params = problem.spec.params
    leaves = params.unravel(np.asarray(x)) if is_whole(x) else params.snapshot(x)
    return all(map(_are_alike, leaves, problem.start_leaves))


def _are_alike(leaf: Leaf, given: Leaf) -> bool:
    """Return whether two leaves are equal; of what lies in several processes, whether the parts in this one are."""
    if is_whole(given):
        return np.array_equal(np.asarray(leaf), np.asarray(given))
    shards = zip(jnp.asarray(leaf).addressable_shards, jnp.asarray(given).addressable_shards, strict=True)
    return all(np.array_equal(part.data, other.data) for part, other in shards)


def _copy(leaf: jax.Array | np.ndarray | np.generic) -> jax.Array | np.ndarray:
    """Copy to the host. PRNG keys exist only in JAX, and an array over several processes stays where it is."""
    stays = jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or not is_whole(leaf)
    return jnp.array(leaf) if stays else np.array(leaf)


def _is_same_objective(value: float, state: DeviceState, now: Evaluation) -> bool:
    """Return whether the present evaluation at the state's x has the state's value and gradient.

    Differences of the size of rounding are allowed, because a device may add in another order.
    """
    xp: Any = np if is_whole(now.grad) else jnp  # all processes do this
    grad, grad_now = xp.asarray(state.grad), xp.asarray(now.grad)
    rtol = TOLERANCE_EPS * np.finfo(grad.dtype).eps
    near = abs(float(now.value) - value) <= rtol * abs(value)
    return bool(near and xp.all(xp.abs(grad_now - grad) <= rtol * xp.abs(grad).max(initial=0.0)))
