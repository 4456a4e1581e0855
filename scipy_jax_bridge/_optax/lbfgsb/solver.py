"""L-BFGS-B as a device solver: the contract of `device_solver`, fulfilled by `loop`."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Int

from ..._core.options import Options
from ..._core.status import Status
from ..._problem.objective import Data
from ..._problem.problem import Problem
from ..device_solver import Box, DeviceSolver, Leaves, LoopReport, LoopScalars, Tolerances, make_report
from .loop import State, advance, start_state


def device_solver(problem: Problem, options: Options, rows: int) -> DeviceSolver[State]:
    """Return the solver of this problem, with this number of rows of the trace."""
    spec, flat = problem.spec, problem.spec.flat

    def start_at(x: Any, box: Box | None) -> State:
        return start_state(x, spec.objective.aux, options.maxcor, rows, box)

    def start(free: Leaves, data: Data, box: Box | None) -> State:
        return start_at(spec.params.ravel(free, spec.dtype), box)

    def start_on_host(free: Leaves, box: Box | None) -> State:
        return start_at(spec.params.ravel_on_host(free, spec.dtype), box)

    def advance_with(state: State, data: Data, limits: Tolerances, box: Box | None, until: Int[Array, ""]) -> State:
        return advance(lambda x: flat.value_and_grad(x, data), state, limits, box, until)

    return DeviceSolver(
        start=start,
        start_on_host=start_on_host,
        advance=advance_with,
        report=_report,
        with_status=_with_status,
        find_value=lambda state: state.scalars.number("value_start"),
        find_nonfinite=_find_nonfinite,
        with_hyperparams=lambda state, fresh: state,
    )


def _report(state: State) -> LoopReport:
    search, scalars = state.scalars.read()
    return make_report(
        state,
        LoopScalars(
            nit=state.nit,
            nfev=state.nfev,
            status=scalars.status,
            value=search.value_start,
            grad_norm=scalars.grad_norm,
            best_value=scalars.best_value,
        ),
    )


def _with_status(state: State, status: Status | int) -> State:
    return state._replace(scalars=state.scalars.with_number("status", float(status)))


def _find_nonfinite(state: State) -> np.ndarray:
    """Return the last trial that was not finite. `retreat` has stored its step as the longest one allowed."""
    search, _ = state.scalars.read()
    step = np.asarray(search.step_max)
    return np.asarray(state.x) + step * (np.asarray(state.x_full_step) - np.asarray(state.x))
