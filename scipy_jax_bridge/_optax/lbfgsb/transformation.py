"""L-BFGS-B as an Optax transformation: the step of `loop`, one evaluation of the caller's for each update.

The caller evaluates, so the trial is what the caller's params are, not what was asked for. See `_follow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PyTree

from ..._core.options import COUNT_MAX, Options
from ..._core.promotion import standard_promotion
from ..._core.status import RUNNING, Status
from ..._core.types import Number
from ..._problem.bounds import Bounds, flatten_bounds
from ..._problem.params import TreeSpec, partition_params
from ..._problem.prefix import leaf_paths
from ..device_solver import Box, Tolerances
from ..loop_tools import select
from .control import (
    OUTCOME_KINDS,
    After,
    Before,
    TrialEvaluation,
    accept_start,
    process_trial,
)
from .lanes import Lanes, split, unpack
from .linesearch import Search, start_search
from .loop import State, process, read_scalars, start_state
from .memory import Scalar, Vector
from .rounding import Rounding, reachable

CALL = "updates, state = optimizer.update(grads, state, params, value=value)"


class LbfgsbState(NamedTuple):
    """The state of `lbfgsb`. The iterate is the last point that the line search accepted; it is in no field as a tree.

    count: updates made.
    status: -1 while the search goes on, then the code of a Status. From then on all updates are zero.
    nit: iterations.
    nfev: evaluations that were used.
    accepted: whether the last params became the iterate.
    value: the objective at the iterate.
    grad: its gradient there, as the tree of params.
    best_value: the least finite value so far.
    best_params: where it was seen.
    trial: the point that the last update leads to, as one vector.
    x: the iterate, as one vector.
    x_full_step: the point to which the full step from x leads.
    memory: the pairs.
    scalars: the numbers of the line search and of the solve.
    box: the bounds, or None.
    """

    count: Int[Array, ""]
    status: Int[Array, ""]
    nit: Int[Array, ""]
    nfev: Int[Array, ""]
    accepted: Bool[Array, ""]
    value: Scalar
    grad: PyTree
    best_value: Scalar
    best_params: PyTree
    trial: Vector
    x: Vector
    x_full_step: Vector
    memory: PyTree
    scalars: Lanes
    box: Box | None


class Limits(NamedTuple):
    """What an update reads of Options: inputs of its program."""

    gtol: Number
    ftol: Number
    maxls: Number
    maxcor: Number


class Moved(NamedTuple):
    """Whether the trial is another than the one asked for."""

    moved: Scalar


@dataclass(frozen=True)
class Lbfgsb:
    """The two functions of the transformation.

    Args:
        bounds: the bounds, or None.
        options: the settings.
    """

    bounds: Bounds | None
    options: Options

    def init(self, params: PyTree) -> LbfgsbState:
        """Return the state before the first evaluation."""
        params = jax.tree.map(jnp.asarray, params)
        spec, leaves = _read(params)
        with standard_promotion():
            dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in spec.leaves))
            x = spec.ravel(leaves, dtype)
            flat = None if self.bounds is None else flatten_bounds(self.bounds, params, spec)
            box = flat and Box(jnp.asarray(flat.lower, dtype), jnp.asarray(flat.upper, dtype))
            loop = start_state(x, (), self.options.maxcor, 0, box)
            state = LbfgsbState(
                count=loop.nit,
                status=jnp.full((), RUNNING, jnp.int32),
                nit=loop.nit,
                nfev=loop.nfev,
                accepted=jnp.zeros((), bool),
                value=jnp.full((), jnp.inf, dtype),
                grad=jax.tree.map(jnp.zeros_like, params),
                best_value=jnp.full((), jnp.inf, dtype),
                best_params=_unravel(loop.x, params),
                trial=loop.trial,
                x=loop.x,
                x_full_step=loop.x_full_step,
                memory=loop.memory,
                scalars=loop.scalars,
                box=box,
            )
            return jax.tree.map(jnp.copy, state)  # a caller who donates the state donates each array once

    def update(
        self,
        updates: PyTree,
        state: LbfgsbState,
        params: PyTree | None = None,
        *,
        value: Array | float | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, LbfgsbState]:
        """Return the updates that lead to the next trial, and the state.

        Args:
            updates: the gradient at params, as their tree.
            state: the state.
            params: where value and gradient were evaluated.
            value: the objective there.
            extra_args: those of other transformations in a chain; not used.
        """
        if params is None or value is None:
            missing = "params" if params is None else "value"
            raise TypeError(f"lbfgsb needs {missing}= in each update. Write\n    {CALL}")
        _check_structure(updates, params)
        limits = Limits(*(getattr(self.options, name) for name in Limits._fields))
        return _update(updates, state, params, value, limits)


def make_lbfgsb(bounds: Bounds | None, options: Options) -> optax.GradientTransformationExtraArgs:
    """Return the transformation."""
    functions = Lbfgsb(bounds, options)
    return optax.GradientTransformationExtraArgs(functions.init, functions.update)


def _read(params: PyTree) -> tuple[TreeSpec, list[Any]]:
    """Return the spec of the params and their leaves."""
    spec, leaves, _ = partition_params(params, None)
    for path, leaf in zip(leaf_paths(params), spec.leaves, strict=True):
        if leaf.kind != "free":
            what = repr(leaf.static.value) if leaf.static else f"of type {leaf.dtype}"
            raise TypeError(
                f"{path} is {what}; lbfgsb takes trees of floating-point arrays. Leave others out with "
                "optax.masked, eqx.filter(model, eqx.is_inexact_array) or nnx.Param."
            )
    return spec, leaves


def _check_structure(updates: PyTree, params: PyTree) -> None:
    """Raise ValueError if the gradient has not the tree and the shapes of params."""
    trees = [jax.tree.structure(each) for each in (updates, params)]
    if trees[0] != trees[1]:
        raise ValueError(f"The gradient has another tree than params: {trees[0]}, not {trees[1]}.")
    for path, grad, leaf in zip(leaf_paths(params), *map(jax.tree.leaves, (updates, params)), strict=True):
        if np.shape(grad) != np.shape(leaf):
            raise ValueError(f"The gradient of {path} has shape {np.shape(grad)}, not {np.shape(leaf)}.")


@jax.jit
def _update(
    grads: PyTree, state: LbfgsbState, params: PyTree, value: Array, limits: Limits
) -> tuple[PyTree, LbfgsbState]:
    """Process the evaluation at params, and choose the next trial."""
    with standard_promotion():
        dtype, box = state.x.dtype, state.box
        rounding = Rounding(tuple((leaf.size, leaf.dtype) for leaf in jax.tree.leaves(params)), dtype)
        at, grad = _ravel(params, dtype), _ravel(grads, dtype)
        inside = jnp.ones((), bool) if box is None else jnp.all((at >= box.lower) & (at <= box.upper))
        running = state.status == RUNNING
        before, moved = _follow(state, at, rounding)
        evaluated = (jnp.asarray(value).astype(dtype), grad, ())
        rules, active = (_accept_start, _process_trial), running & inside
        after = process(before, evaluated, _tolerances(limits, state), box, active, rules, Moved(moved))
        search, scalars, outcome = unpack(OUTCOME_KINDS, split(after.scalars))
        status = jnp.asarray(scalars.status, jnp.int32)
        end = jnp.where((status == Status.GTOL) | (status == Status.FTOL), after.x, after.best_x)
        target = jnp.where(status == RUNNING, after.trial, end)
        target = target if box is None else jnp.clip(jnp.where(inside, target, at), box.lower, box.upper)
        update = jnp.where(running, reachable(at, target, box, inside, rounding), 0)
        following = LbfgsbState(
            count=optax.safe_increment(state.count),
            status=status,
            nit=after.nit,
            nfev=after.nfev,
            accepted=outcome.accepted & active,
            value=search.value_start,
            grad=_unravel(after.grad, params),
            best_value=scalars.best_value,
            best_params=_unravel(after.best_x, params),
            trial=jnp.where(active, rounding(at + update), state.trial),
            x=after.x,
            x_full_step=after.x_full_step,
            memory=after.memory,
            scalars=after.scalars,
            box=box,
        )
        return _unravel(update, params), following


def _follow(state: LbfgsbState, at: Vector, rounding: Rounding) -> tuple[State, Array]:
    """Return the carry of the loop with the params as its trial, and whether these are not what was asked for.

    Another transformation in a chain, a projection, or the caller may have changed them. The search then looks along
    the line from the iterate to them, as if it had chosen them, and forgets its earlier trials. So each pair is of
    two points that were evaluated.
    """
    carry = State(
        trial=at,
        x=state.x,
        grad=_ravel(state.grad, at.dtype),
        x_full_step=state.x_full_step,
        best_x=_ravel(state.best_params, at.dtype),
        best_grad=at,  # not read: the results of an update have no use for it
        aux=(),
        best_aux=(),
        memory=state.memory,
        scalars=state.scalars,
        nit=state.nit,
        nfev=state.nfev,
        rows=jnp.zeros((0, 3), at.dtype),
    )
    search, scalars = read_scalars(carry)
    size = jnp.maximum(jnp.abs(at), jnp.abs(state.trial))
    moved = jnp.any(jnp.abs(at - state.trial) > 4 * rounding.eps * size) & ~scalars.is_start
    line = state.x + (at - state.x) / _step_of(search)
    return carry._replace(x_full_step=jnp.where(moved, line, state.x_full_step)), moved


def _step_of(search: Search) -> Scalar:
    return jnp.where(search.step > 0, search.step, 1)


def _accept_start(numbers: Before, evaluation: TrialEvaluation, limit: Tolerances, moved: Moved) -> After:
    """Make the params the first iterate, whatever was asked for."""
    return accept_start(numbers, evaluation, limit)


def _process_trial(numbers: Before, evaluation: TrialEvaluation, limit: Tolerances, moved: Moved) -> After:
    """Process a trial of a search, which begins anew if the trial is another than it chose."""
    search, before = numbers
    anew = start_search(search.value_start, _step_of(search))
    return process_trial((select(moved.moved > 0, anew, search), before), evaluation, limit)


def _tolerances(limits: Limits, state: LbfgsbState) -> Tolerances:
    """Return what ends the search. There is no limit of iterations and of evaluations: the caller counts."""
    dtype, never = state.x.dtype, jnp.full((), COUNT_MAX, jnp.int32)
    eps = jnp.asarray(jnp.finfo(dtype).eps, dtype)
    gtol, ftol, maxls, maxcor = (jnp.asarray(each).astype(dtype) for each in limits)
    return Tolerances(gtol, ftol, never, never, maxls, maxcor, eps)


def _ravel(tree: PyTree, dtype: Any) -> Vector:
    """Return the leaves as one vector."""
    leaves = [jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0, dtype)


def _unravel(x: Vector, like: PyTree) -> PyTree:
    """Return the vector as a tree with the shapes and types of another."""
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([0, *(np.size(leaf) for leaf in leaves)])
    parts = [x[begin:end] for begin, end in zip(ends[:-1], ends[1:], strict=True)]
    return treedef.unflatten(
        [part.reshape(np.shape(leaf)).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    )
