"""An Optax transformation as a device solver: the contract of `device_solver`, fulfilled by `transform_loop`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from .._core.options import Options
from .._problem.problem import Data, Problem
from .device_solver import Box, DeviceSolver, Leaves, LoopReport, LoopScalars, Tolerances, make_report
from .transform_loop import TransformState, Translation, advance_transform, start_transform


def device_solver(
    method: optax.GradientTransformation, problem: Problem, options: Options, rows: int
) -> DeviceSolver[TransformState]:
    """Return the solver of this problem, with this number of rows of the trace."""
    spec = problem.spec.params
    translation = Translation(
        to_tree=lambda x: spec.params_or_none(spec.unravel(x)),
        to_vector=lambda tree: spec.ravel(jax.tree.leaves(tree), problem.spec.dtype),
    )
    aux = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), problem.spec.aux)

    def start(free: Leaves, box: Box | None) -> TransformState:
        return start_transform(method, translation, spec.ravel(free, problem.spec.dtype), aux, rows)

    def advance(
        state: TransformState, data: Data, limits: Tolerances, box: Box | None, until: Int[Array, ""]
    ) -> TransformState:
        evaluate = lambda x: problem.value_and_grad(x, data)  # noqa: E731
        return advance_transform(method, translation, evaluate, state, limits, until)

    return DeviceSolver(
        start=start,
        start_on_host=None,
        advance=advance,
        report=_report,
        with_status=lambda state, status: state._replace(status=np.int32(status)),
        find_value=lambda state: float(state.value),
        find_nonfinite=lambda state: np.asarray(state.trial),
        with_hyperparams=lambda state, fresh: state._replace(inner=_take_hyperparams(state.inner, fresh.inner)),
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
