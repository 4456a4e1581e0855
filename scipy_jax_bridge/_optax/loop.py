"""The loop of the device: one `lax.while_loop` for every solver."""

from __future__ import annotations

from jax import lax
from jaxtyping import Array, Bool, Int

from .._core.promotion import standard_promotion
from .._core.status import RUNNING
from .._problem.objective import Data
from .device_solver import DeviceSolver, State
from .limits import Box, Tolerances
from .loop_tools import any_active, is_active


def advance(
    solver: DeviceSolver[State],
    state: State,
    data: Data,
    limits: Tolerances,
    box: Box | None,
    until: Int[Array, ""],
) -> State:
    """Run until the solve has ended or `until` evaluations have been made."""

    def goes_on(state: State) -> Bool[Array, ""]:
        return (solver.status(state) == RUNNING) & (state.nfev < until)

    def body(state: State) -> State:
        active = is_active(goes_on(state))
        if solver.run is None:
            state = solver.propose(state, data, box, active)
            known = solver.evaluate(state, data, box)
        else:
            state, known = solver.run(state, data, limits, box, until, active)
        return solver.process(state, known, limits, box, active)

    with standard_promotion():
        return lax.while_loop(lambda state: any_active(goes_on(state)), body, state)
