"""Going on from an earlier result: bit for bit if everything is as it was, else from its params with fresh memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.options import Options
from .._core.status import RUNNING, Status
from .._problem.problem import Problem
from .._result import FRESH_MEMORY, Result, ResumeState
from .chunked import ChunkedRun, Seen
from .device_solver import DeviceSolver
from .digest import fingerprint

FORMAT = 1  # of the carry; add one when its leaves change their meaning
SLACK = 1e3  # roundings between two evaluations at one point

ANOTHER_VERSION = "The result is of another version of scipy_jax_bridge."
PARAMS = "The params have other leaves, shapes or types than those of the result."
BOUNDS = "The bounds differ from those of the result."
MAXCOR = "maxcor differs from that of the result."
METHOD = "The method differs from that of the result."
AUX = "The auxiliary output has another form than that of the result."
REPLACED = "The params are not those that the earlier solve handed back."
OBJECTIVE = "The objective or its data differ from those of the result."
HYPERPARAMS = "The hyperparameters of the method differ from those of the result. Its state was kept."


def make_carry(state: Any, problem: Problem, method: Any, options: Options) -> ResumeState:
    """What goes into the result of a solve that was stopped. The trace is in the result already."""
    leaves = jax.tree.leaves(state._replace(rows=()))
    bounds, (code, numbers) = problem.bounds, fingerprint(method)
    return ResumeState(
        leaves=tuple(leaves),
        structure=str(jax.tree.structure((state.aux, getattr(state, "inner", ())))),
        format=FORMAT,
        params=tuple(f"{leaf.kind} {leaf.shape} {leaf.dtype}" for leaf in problem.spec.params.leaves),
        bounds=None if bounds is None else (bounds.lower, bounds.upper),
        maxcor=options.maxcor if method is None else 0,
        method=code,
        hyperparams=numbers,
    )


def resume(
    earlier: Result,
    chunks: ChunkedRun,
    loop: DeviceSolver,
    fresh: Any,
    start: Callable[[list[Any]], Any],
    problem: Problem,
    method: Any,
    options: Options,
) -> tuple[Any, str]:
    """The carry to begin with, and what is to be said of it.

    Arguments:
        earlier: what to go on from.
        chunks: what has been solved so far, to be filled with the earlier solve.
        loop: the solver.
        fresh: the carry of a new solve from the earlier params, clipped into the bounds of now.
        start: makes such a carry.
        problem, method, options: of now.
    """
    if earlier.carry is None:
        return fresh, FRESH_MEMORY
    now = make_carry(fresh, problem, method, options)
    differences = find_differences(earlier.carry, now)
    if differences:
        return fresh, " ".join((*differences, FRESH_MEMORY))
    leaves = [_copy(leaf) for leaf in earlier.carry.leaves]  # the loop takes over what it is given
    state = jax.tree.structure(fresh._replace(rows=())).unflatten(leaves)._replace(rows=fresh.rows)
    if not _is_at(problem, state.best_x):
        return fresh, f"{REPLACED} {FRESH_MEMORY}"
    if hasattr(state, "inner"):
        state = state._replace(inner=_take_hyperparams(state.inner, fresh.inner))
    if not _is_same_objective(loop, state, chunks.look_at(start, state.x)):
        return fresh, f"{OBJECTIVE} {FRESH_MEMORY}"
    chunks.go_on(earlier)
    status = Status.MAXFUN if earlier.nfev >= options.maxfun else RUNNING
    status = Status.MAXITER if earlier.nit >= options.maxiter else status
    note = "" if earlier.carry.hyperparams == now.hyperparams else HYPERPARAMS
    return loop.with_status(state, float(status)), note


def find_differences(earlier: ResumeState, now: ResumeState) -> list[str]:
    """What is not as it was, a sentence each; empty if the leaves of the earlier carry serve."""
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


def _are_equal(bounds: Any, others: Any) -> bool:
    if bounds is None or others is None:
        return bounds is others
    return all(np.array_equal(side, other) for side, other in zip(bounds, others, strict=True))


def _is_at(problem: Problem, x: Any) -> bool:
    """Whether params are this point; a result may have been given others with `dataclasses.replace`."""
    leaves = problem.spec.params.unravel(np.asarray(x))
    pairs = zip(leaves, problem.start_leaves, strict=True)
    return all(np.array_equal(leaf, np.asarray(given)) for leaf, given in pairs)


def _take_hyperparams(inner: Any, fresh: Any) -> Any:
    """The state of a transformation with today's numbers, where `optax.inject_hyperparams` keeps them in it."""

    def holds(node: Any) -> bool:
        return "hyperparams" in getattr(node, "_fields", ())

    def take(old: Any, new: Any) -> Any:
        if not holds(old):
            return old
        inner_state = _take_hyperparams(old.inner_state, new.inner_state)
        return old._replace(hyperparams=new.hyperparams, inner_state=inner_state)

    return jax.tree.map(take, inner, fresh, is_leaf=holds)


def _copy(leaf: Any) -> Any:
    """On the host; random keys stay where they are."""
    return jnp.array(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else np.array(leaf)


def _is_same_objective(loop: DeviceSolver, state: Any, seen: Seen) -> bool:
    """Whether the objective is what the carry was made with: its value and gradient at the carry's point, but for
    what a device may sum in another order."""
    value, grad = loop.find_value(state), np.asarray(state.grad)
    slack = SLACK * np.finfo(grad.dtype).eps
    near = abs(seen.value - value) <= slack * abs(value)
    return bool(near and np.all(np.abs(seen.grad - grad) <= slack * np.abs(grad).max(initial=0.0)))
