"""L-BFGS-B for a compiled loop: one evaluation per step, with the state of the line search in the carry.

The algorithm is that of L-BFGS-B 3.0, so that the iterates are SciPy's: R. H. Byrd, P. Lu, J. Nocedal and C. Zhu,
SIAM J. Scientific Computing 16 (1995), 1190-1208 [BLNZ]; C. Zhu, R. H. Byrd, P. Lu and J. Nocedal, ACM Transactions
on Mathematical Software 23 (1997), 550-560; J. L. Morales and J. Nocedal (2011).

Each step evaluates the trial point, decides whether it is the next iterate and whether the search is over, stores
the pair, computes the full step, and chooses the next trial. The start is the first trial, so the loop contains the
objective once. Nothing branches, so a batch of solves costs one loop, in which each solve advances independently.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from ..._core.status import RUNNING
from ..device_solver import Evaluated
from ..limits import Box, Tolerances
from ..loop_tools import COUNT_MODULUS, select, write_rows
from .bounded import bounded_direction
from .control import accept_start, process_trial
from .direction import Direction
from .lanes import Flag, Lanes, Rule, Scalars, pack, select_fused, split, unpack
from .lengths import first_step, project, step_max, take_step
from .linesearch import LARGEST_STEP, Search
from .memory import NewPair, Scalar, Vector, sum_products
from .records import OUTCOME_KINDS, SCALAR_KINDS, SolveScalars, TrialEvaluation, TrialOutcome
from .unbounded import UNBOUNDED

Rules = tuple[Rule, Rule]
STEP_LANE = 1  # the first number, which is the step of Search


class State(NamedTuple):
    """The carry. `trial` is evaluated next; x, grad and aux belong to the current iterate."""

    trial: Vector
    x: Vector
    grad: Vector
    x_full_step: Vector  # the point to which the full step from x leads
    best_x: Vector
    best_grad: Vector
    aux: PyTree
    best_aux: PyTree
    memory: PyTree  # see Direction
    scalars: Lanes  # Search, whose value_start is the value at x, SolveScalars, and the TrialOutcome before
    nit: Int[Array, ""]
    nfev: Int[Array, ""]
    rows: Float[Array, "rows 3"]

    @property
    def inner(self) -> PyTree:
        """There is no inner transformation."""
        return ()


def start_state(x: Any, aux: PyTree, maxcor: int, rows: int, box: Box | None) -> State:
    """Make the carry before the first evaluation. If `x` is on the host, nothing needs to be compiled for it.

    Args:
        x: the start, a vector of JAX or of NumPy.
        aux: shapes and types of the auxiliary output.
        maxcor: number of pairs in memory.
        rows: number of rows of the trace.
        box: the bounds, or None.
    """
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    x = x if box is None else xp.clip(x, box.lower, box.upper)
    zeros = xp.zeros(x.shape, x.dtype)
    return State(
        trial=x,
        x=x,
        grad=zeros,
        x_full_step=x,
        best_x=x,
        best_grad=zeros,
        aux=_zeros_like(xp, aux),
        best_aux=_zeros_like(xp, aux),  # other arrays than those of `aux`: the loop donates each of them
        memory=_direction(box).empty_memory(xp, x.size, maxcor, x.dtype),
        scalars=xp.asarray(_start_scalars(), x.dtype),
        nit=xp.zeros((), np.int32),
        nfev=xp.zeros((), np.int32),
        rows=xp.zeros((rows, 3), x.dtype),
    )


@cache
def _start_scalars() -> list[Any]:
    """Return the packed scalars before the first evaluation."""
    search, scalars = unpack(SCALAR_KINDS, np.zeros(len(pack(SCALAR_KINDS, ()))))
    scalars = scalars._replace(status=RUNNING, least_value=np.inf, best_value=np.inf, is_start=True, memory_empty=True)
    return pack(OUTCOME_KINDS, (search, scalars))


def read_scalars(state: State) -> tuple[Search, SolveScalars]:
    """Unpack the scalars of a state."""
    return unpack(SCALAR_KINDS, split(state.scalars))


def _zeros_like(xp: ModuleType, aux: PyTree) -> PyTree:
    """Make zeros of these shapes and types, in NumPy on the host. PRNG keys exist only in JAX."""

    def zeros(leaf: jax.ShapeDtypeStruct) -> Array | np.ndarray:
        module = jnp if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else xp
        return module.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(zeros, aux)


def process(
    state: State,
    evaluated: Evaluated,
    limits: Tolerances,
    box: Box | None,
    active: Flag,
    rules: Rules = (accept_start, process_trial),
    *records: Scalars,
) -> State:
    """Process the value, the gradient and the auxiliary output at the trial. If not `active`, change nothing.

    Args:
        state: the carry.
        evaluated: value, gradient and auxiliary output at the trial; one evaluation.
        limits: the tolerances.
        box: the bounds, or None.
        active: whether this solve goes on.
        rules: what decides at a start, and at any other trial; see `control`.
        records: what other rules than those of `control` need to know.
    """
    value, grad, aux, _ = evaluated
    searched, before = read_scalars(state)
    evaluation = _measure(state, before.is_start, value, grad, box)
    lanes, search, scalars, outcome = _process(state, before.is_start, evaluation, limits, active, rules, records)
    accepted, improves_best = outcome.accepted, outcome.improves_best
    nit, nfev = state.nit + (accepted & (state.nfev > 0)), state.nfev + active
    x, grad_at_x = select(accepted, (state.trial, grad), (state.x, state.grad))
    pair = _new_pair(state, searched.step, before.slot, scalars.grad_scale, evaluation, grad, outcome)
    memory = _direction(box).update(state.memory, pair)
    full_step = _direction(box).full_step(memory, x, grad_at_x * scalars.grad_scale)
    x_full_step = jnp.where(accepted | outcome.search_failed, full_step, state.x_full_step)
    length = search.step if box is None else first_step(search.step, x, x_full_step, before.is_start, box)
    best_x = jnp.where(improves_best, state.trial, state.best_x)
    trial = jnp.where(outcome.restarts, best_x, take_step(x, x_full_step, length, box))
    return State(
        trial=jnp.where(active, trial, state.trial),
        x=x,
        grad=grad_at_x,
        x_full_step=x_full_step,
        best_x=best_x,
        best_grad=jnp.where(improves_best, grad, state.best_grad),
        aux=select(accepted, aux, state.aux),
        best_aux=select(improves_best, aux, state.best_aux),
        memory=memory,
        scalars=lanes if box is None else lanes.at[STEP_LANE].set(length),
        nit=nit,
        nfev=nfev,
        rows=_record(state.rows, jnp.where(accepted, nit, nit + 1), nfev, evaluation, active),
    )


def _process(
    state: State,
    is_start: Flag,
    evaluation: TrialEvaluation,
    limits: Tolerances,
    active: Flag,
    rules: Rules,
    records: tuple[Scalars, ...],
) -> tuple[Lanes, Search, SolveScalars, TrialOutcome]:
    """Return the scalars and the outcome of this trial, packed and unpacked."""
    left = limits._replace(maxiter=limits.maxiter - state.nit, maxfun=limits.maxfun - state.nfev)
    lanes = select_fused(is_start, *rules, SCALAR_KINDS, OUTCOME_KINDS, state.scalars, evaluation, left, *records)
    lanes = jnp.where(active, lanes, state.scalars)
    search, scalars, outcome = unpack(OUTCOME_KINDS, split(lanes))
    return lanes, search, scalars, TrialOutcome(*(flag & active for flag in outcome))


def _measure(state: State, is_start: Flag, value: Scalar, grad: Vector, box: Box | None) -> TrialEvaluation:
    """Compute the scalars that the control logic needs."""
    direction = state.x_full_step - state.x
    along = jnp.where(is_start, grad, direction)
    own = () if box is None else (grad,)  # without a box the gradient and the projected gradient are the same
    slope, slope_start, grad_norm, *grad_max = sum_products(
        along, grad, state.grad, project(state.trial, grad, box), *own
    )
    longest = jnp.asarray(LARGEST_STEP) if box is None else step_max(state.x, direction, state.nit, box)
    return TrialEvaluation(value, slope, slope_start, grad_norm, grad_max[0] if grad_max else grad_norm, longest)


def _new_pair(
    state: State,
    step: Scalar,
    slot: Scalar,
    grad_scale: Scalar,
    evaluation: TrialEvaluation,
    grad: Vector,
    outcome: TrialOutcome,
) -> NewPair:
    """Return the step to the trial and the change of the scaled gradient over it."""
    return NewPair(
        s=step * (state.x_full_step - state.x),
        y=(grad - state.grad) * grad_scale,
        curvature=(evaluation.slope - evaluation.slope_start) * step * grad_scale,
        slot=slot.astype(jnp.int32),
        keep=outcome.store_pair,
        drop=outcome.search_failed,
    )


def _direction(box: Box | None) -> Direction:
    """Return the kind of step. Without bounds nothing of the bounded one is compiled."""
    return UNBOUNDED if box is None else bounded_direction(box)


def _record(rows: Array, place: Array, nfev: Array, evaluation: TrialEvaluation, active: Flag) -> Array:
    """Write the trial's row of the trace. Row k modulo their number belongs to iteration k.

    A trial that is not accepted is written to the next iteration, and the next trial overwrites it. A caller that
    keeps no trace has no rows.
    """
    count = lax.rem(nfev, jnp.int32(COUNT_MODULUS)).astype(rows.dtype)
    row = jnp.stack([evaluation.value, evaluation.grad_norm, count])
    if not rows.shape[0]:
        return rows
    return write_rows(rows, lax.rem(place, jnp.int32(rows.shape[0])), row[None], active)
