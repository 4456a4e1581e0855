"""The loop for objectives that Python evaluates: the turns of `loop`, each as compiled programs around one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.promotion import standard_promotion
from .._problem.objective import Data
from .._problem.problem import Problem
from .device_solver import DeviceSolver, DeviceState, Evaluated, LoopReport
from .limits import Box, Tolerances, box_of

Advance = Callable[..., tuple[DeviceState, LoopReport]]


def compile_turn(
    problem: Problem,
    solver: DeviceSolver,
    name: tuple[object, ...],
    shapes: Callable[[], DeviceState],
    limits: Tolerances,
) -> tuple[Advance, float]:
    """Return one turn as `advance` of LoopPrograms, and the seconds spent on compiling.

    Args:
        problem: with a host objective.
        solver: the solver.
        name: what its programs depend on.
        shapes: gives the shapes and types of its state.
        limits: the tolerances.
    """
    spec, on, box = problem.spec, jnp.ones((), bool), box_of(problem)
    x = jax.ShapeDtypeStruct((spec.params.size,), spec.dtype)
    value, nfev = (jax.ShapeDtypeStruct((), dtype) for dtype in (spec.dtype, np.int32))

    def propose(state: DeviceState, data: Data, box: Box | None) -> DeviceState:
        with standard_promotion():
            return solver.propose(state, data, box, on)

    def process(
        state: DeviceState, known: tuple[Any, ...], limits: Tolerances, box: Box | None
    ) -> tuple[DeviceState, LoopReport]:
        with standard_promotion():
            state = solver.process(state, Evaluated(*known), limits, box, on)
            return state, solver.report(state)

    known = (value, x, spec.objective.aux, nfev)
    to_propose = lambda: (jax.jit(propose, donate_argnums=0), (shapes(), problem.data, box))  # noqa: E731
    to_process = lambda: (jax.jit(process, donate_argnums=0), (shapes(), known, limits, box))  # noqa: E731
    first, first_s = problem.compile(("propose", *name), to_propose)
    then, then_s = problem.compile(("process", *name), to_process)

    def advance(
        state: DeviceState, data: Data, limits: Tolerances, box: Box | None, until: np.integer
    ) -> tuple[DeviceState, LoopReport]:
        state = first(state, data, box)
        return then(state, _evaluate(problem, state, data), limits, box)

    return advance, first_s + then_s


def _evaluate(problem: Problem, state: DeviceState, data: Data) -> tuple[Any, ...]:
    """Call the objective at the trial of the state. Return the fields of Evaluated, in NumPy."""
    spec = problem.spec
    assert spec.objective.host is not None
    value, grads, aux = spec.objective.host(np.asarray(state.trial), data)
    grad = np.concatenate([np.ravel(grad).astype(spec.dtype) for grad in grads])
    return value.astype(spec.dtype), grad, aux, np.int32(1)
