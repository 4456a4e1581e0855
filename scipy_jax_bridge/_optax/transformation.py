"""An Optax transformation as a device solver: the contract of `device_solver`, fulfilled by `transform_step`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._core.options import Options
from .._problem.objective import Data
from .._problem.problem import Problem
from .device_solver import DeviceSolver, Evaluated, Flag, Leaves, LoopReport, LoopScalars, make_report
from .limits import Box, Tolerances
from .ordinary import can_run, run_ordinary
from .transform_step import Held, TransformState, evaluate_trial, process_trial, propose, start_transform


def device_solver(problem: Problem, options: Options, rows: int) -> DeviceSolver[TransformState]:
    """Return the solver of this problem, with this number of rows of the trace."""
    flat, structs, method = problem.spec.flat, problem.spec.objective.aux, problem.method
    assert method is not None, "the backend has traced it"

    def start(free: Leaves, data: Data, box: Box | None) -> TransformState:
        aux = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in structs]
        return start_transform(method, flat.leaves.ravel(free, flat.dtype), aux, data, rows)

    def held(box: Box | None) -> Held:
        return None if box is None else box.lower == box.upper  # by a mask: a transformation takes no other bounds

    def with_hyperparams(state: TransformState, fresh: TransformState) -> TransformState:
        inner, new = (method.tree.unflatten(each.inner) for each in (state, fresh))
        return state._replace(inner=jax.tree.leaves(_take_hyperparams(inner, new)))

    def run(
        state: TransformState, data: Data, limits: Tolerances, box: Box | None, until: Array, active: Flag
    ) -> tuple[TransformState, Evaluated]:
        return run_ordinary(method, flat, state, data, limits, held(box), until, active)

    return DeviceSolver(
        start=start,
        start_on_host=None,
        propose=lambda state, data, box, active: propose(method, state, data, held(box), active),
        evaluate=lambda state, data, box: evaluate_trial(method, flat, state, data, held(box)),
        process=lambda state, known, limits, box, active: process_trial(
            method, state, known, limits, held(box), active
        ),
        status=lambda state: state.status,
        report=_report,
        with_status=lambda state, status: state._replace(status=np.int32(status)),
        find_value=lambda state: float(state.value),
        find_nonfinite=lambda state: np.asarray(state.trial),
        with_hyperparams=with_hyperparams,
        run=run if can_run(method) else None,
    )


def _report(state: TransformState) -> LoopReport:
    return make_report(
        state,
        LoopScalars(
            nit=state.nit - (state.retreats > 0).astype(jnp.int32),  # the move before a retreat is not complete yet
            nfev=state.nfev,
            status=state.status,
            value=state.value,
            grad_norm=state.grad_norm,
            best_value=state.best_value,
        ),
    )


def _take_hyperparams(inner: PyTree, fresh: PyTree) -> PyTree:
    """Return the state of a transformation with the numbers that `optax.inject_hyperparams` keeps in the fresh one."""

    def has_hyperparams(node: PyTree) -> bool:
        return "hyperparams" in getattr(node, "_fields", ())

    def take(old: PyTree, new: PyTree) -> PyTree:
        if not has_hyperparams(old):
            return old
        inner_state = _take_hyperparams(old.inner_state, new.inner_state)
        return old._replace(hyperparams=new.hyperparams, inner_state=inner_state)

    return jax.tree.map(take, inner, fresh, is_leaf=has_hyperparams)
