"""L-BFGS-B as a device solver: the contract of `device_solver`, fulfilled by `step`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..._core.options import Options
from ..._core.status import Status
from ..._core.types import Vector
from ..._problem.objective import Data
from ..._problem.problem import Problem
from ..._problem.split import SplitSpec
from ..device_solver import DeviceSolver, Evaluated, Leaves, LoopReport, LoopScalars, make_report
from ..limits import Box
from .cauchy_parts import in_parts
from .lanes import pack, unpack
from .linesearch import Search
from .records import OUTCOME_KINDS, SCALAR_KINDS, SolveScalars
from .step import State, process, read_scalars, start_state


def device_solver(problem: Problem, options: Options, rows: int) -> DeviceSolver[State]:
    """Return the solver of this problem, with this number of rows of the trace."""
    spec, flat = problem.spec, problem.spec.flat

    def start_at(x: Vector, box: Box | None) -> State:
        return start_state(x, spec.objective.aux, options.maxcor, rows, box)

    def start(free: Leaves, data: Data, box: Box | None) -> State:
        return start_at(spec.params.ravel(free, spec.dtype), box)

    def start_on_host(free: Leaves, box: Box | None) -> State:
        return start_at(spec.params.ravel_on_host(free, spec.dtype), box)

    def evaluate(state: State, data: Data, box: Box | None) -> Evaluated:
        return Evaluated(*flat.value_and_grad(state.trial, data), 1)

    return DeviceSolver(
        start=start,
        start_on_host=start_on_host,
        propose=lambda state, data, box, active: state,
        evaluate=evaluate,
        process=_process_parts(spec.params) if isinstance(spec.params, SplitSpec) else process,
        status=lambda state: read_scalars(state)[1].status,
        report=_report,
        with_status=_with_status,
        find_value=lambda state: float(_scalars_on_host(state)[0].value_start),
        find_nonfinite=_find_nonfinite,
        with_hyperparams=lambda state, fresh: state,
    )


def _process_parts(params: SplitSpec) -> Callable[..., State]:
    """Return the function that processes a trial, for vectors that are split over devices."""

    def process_parts(*inputs: Any) -> State:
        with in_parts(params.devices):
            return process(*inputs)

    return process_parts


def _report(state: State) -> LoopReport:
    search, scalars = read_scalars(state)
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


def _scalars_on_host(state: State) -> tuple[Search, SolveScalars]:
    return unpack(SCALAR_KINDS, np.asarray(state.scalars))


def _with_status(state: State, status: Status | int) -> State:
    search, scalars = _scalars_on_host(state)
    lanes = pack(OUTCOME_KINDS, (search, scalars._replace(status=status)))
    return state._replace(scalars=np.asarray(lanes, state.x.dtype))


def _find_nonfinite(state: State) -> np.ndarray:
    """Return the last trial that was not finite. `retreat` has stored its step as the longest one allowed."""
    search, _ = _scalars_on_host(state)
    return np.asarray(state.x) + search.step_max * (np.asarray(state.x_full_step) - np.asarray(state.x))
