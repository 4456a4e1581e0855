"""The contract between a solver's loop on the device and the host, and what all such loops share.

A `DeviceSolver` is a few functions of its own state. The host makes a state, advances it with `loop` by chunks of
evaluations, and reads a `LoopReport` after each chunk. `DeviceState` declares the fields that the host reads from the
state itself. `lbfgsb.solver` and `transformation` each construct a DeviceSolver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._core.status import Status
from .._core.stopping import is_false
from .._core.types import FlatVector, HostVector, Leaf
from .._problem.objective import Data
from .limits import Box, Tolerances
from .loop_tools import COUNT_MODULUS

ROWS = 16384  # rows of the trace on the device; the host collects them after each chunk
ROWS_INSIDE = 1024  # rows of the trace of a solve inside jit or vmap, where no host collects them

Leaves = Sequence[Leaf]  # the free leaves of params
Scalar = Float[Array, ""]
Flag = Bool[Array, ""]


@runtime_checkable
class DeviceState(Protocol):
    """The carry of a loop: a NamedTuple of arrays with at least these fields.

    The compiled loop donates its input, so a state must not be used after it has been advanced.
    """

    @property
    def trial(self) -> FlatVector:
        """The point to evaluate next."""
        ...

    @property
    def x(self) -> FlatVector:
        """The current iterate. `grad` and `aux` belong to it. Read by `find_points`, `resume` and `solve`."""
        ...

    @property
    def grad(self) -> FlatVector:
        """The gradient at x. After the first evaluation of a new state it is the gradient at the start."""
        ...

    @property
    def aux(self) -> PyTree:
        """The auxiliary output at x."""
        ...

    @property
    def best_x(self) -> FlatVector:
        """The best finite point so far. Read by `make_report`, and by `resume` to recognize params."""
        ...

    @property
    def best_grad(self) -> FlatVector:
        """The gradient at best_x."""
        ...

    @property
    def best_aux(self) -> PyTree:
        """The auxiliary output at best_x."""
        ...

    @property
    def nit(self) -> Int[Array, ""]:
        """The number of iterations."""
        ...

    @property
    def nfev(self) -> Int[Array, ""]:
        """The number of evaluations. A loop returns when it reaches `until`."""
        ...

    @property
    def rows(self) -> Float[Array, "rows 3"]:
        """The trace: value, grad_norm, and nfev modulo COUNT_MODULUS. Iteration k has row k modulo their number.

        The host collects the new ones after each chunk. The others are those of earlier chunks and solves.
        """
        ...

    @property
    def inner(self) -> PyTree:
        """The state of a transformation, else (). A ResumeState names its structure."""
        ...

    @property
    def _replace(self) -> Callable[..., Self]:
        """Return the state with other values of some fields, as of any NamedTuple."""
        ...


State = TypeVar("State", bound=DeviceState)


class Evaluated(NamedTuple):
    """What is known of a trial: value, gradient, leaves of aux, and the evaluations made for it now."""

    value: Scalar
    grad: FlatVector
    aux: PyTree
    nfev: Int[Array, ""] | int


@dataclass(frozen=True)
class DeviceSolver(Generic[State]):
    """A solver on the device for one problem.

    Args:
        start: (free leaves, data, box) -> the state before the first evaluation.
        start_on_host: (free leaves, box) -> the same with NumPy, so that nothing is compiled; None if not possible.
        propose: (state, data, box, active) -> the state with the next trial; the same state if not `active`.
        evaluate: (state, data, box) -> what is known of the trial.
        process: (state, what is known of its trial, tolerances, box, active) -> the state after this turn of the
            loop; the same state if not `active`.
        status: the status code of a state.
        report: what the host needs to know of a state.
        with_status: on the host, the state with another status code.
        find_value: on the host, the objective at the state's x.
        find_nonfinite: on the host, after NONFINITE, the last trial that was not finite.
        with_hyperparams: (state, new state) -> the state with the hyperparameters of the new one.
        run: (state, data, tolerances, box, until, active) -> the state after turns that need no judgment, with the
            next trial, and what is known of that; None if every turn is judged. It takes the place of `propose` and
            `evaluate` in the loop.
    """

    start: Callable[[Leaves, Data, Box | None], State]
    start_on_host: Callable[[Leaves, Box | None], State] | None
    propose: Callable[[State, Data, Box | None, Flag], State]
    evaluate: Callable[[State, Data, Box | None], Evaluated]
    process: Callable[[State, Evaluated, Tolerances, Box | None, Flag], State]
    status: Callable[[State], Array]
    report: Callable[[State], LoopReport]
    with_status: Callable[[State, Status | int], State]
    find_value: Callable[[State], float]
    find_nonfinite: Callable[[State], np.ndarray]
    with_hyperparams: Callable[[State, State], State]
    run: Callable[[State, Data, Tolerances, Box | None, Array, Flag], tuple[State, Evaluated]] | None = None


class Evaluation(NamedTuple):
    """The objective at a point, all as flat vectors."""

    x: FlatVector | HostVector
    value: float | Scalar
    grad: FlatVector | HostVector
    aux: PyTree


class LoopScalars(NamedTuple):
    """The numbers of a report: whole numbers, then real ones."""

    nit: int | Int[Array, ""]
    nfev: int | Int[Array, ""]
    status: int | Array
    value: float | Scalar  # at the current iterate
    grad_norm: float | Scalar  # max abs of the projected gradient there
    best_value: float | Scalar


class LoopReport(NamedTuple):
    """What a loop reports after a chunk. It stays valid when the next chunk takes over the state."""

    counts: Int[Array, 3]  # the first three of LoopScalars
    values: Float[Array, 3]  # the others
    best: tuple[FlatVector, FlatVector, PyTree]  # the best point, its gradient and its auxiliary output


def make_report(state: DeviceState, scalars: LoopScalars) -> LoopReport:
    """Report a state. A success at a point that is not finite becomes NONFINITE."""
    finite = jnp.isfinite(scalars.value) & jnp.isfinite(scalars.grad_norm)
    status = jnp.where(is_false(scalars.status, finite), Status.NONFINITE, scalars.status)
    scalars = scalars._replace(status=status)
    counts, values = scalars[:3], scalars[3:]
    return LoopReport(
        counts=jnp.stack([jnp.asarray(each, jnp.int32) for each in counts]),
        values=jnp.stack([jnp.asarray(each, state.x.dtype) for each in values]),
        best=(state.best_x, state.best_grad, state.best_aux),
    )


def find_points(
    state: DeviceState, report: LoopReport, scalars: LoopScalars
) -> tuple[bool | Array, Evaluation, Evaluation]:
    """Return whether the solve converged, the current iterate, and the best point.

    The result is the iterate if the solve converged, else the best point.
    """
    converged = (scalars.status == Status.GTOL) | (scalars.status == Status.FTOL)
    x, grad, aux = report.best
    last = Evaluation(state.x, scalars.value, state.grad, state.aux)
    return converged, last, Evaluation(x, scalars.best_value, grad, aux)


def unwrap_counts(rows: Any, nfev: int | Int[Array, ""]) -> Any:
    """Return the counts of evaluations in rows that hold them modulo COUNT_MODULUS; `nfev` is the last one."""
    return nfev - (nfev - rows) % COUNT_MODULUS
