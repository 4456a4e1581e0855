"""Solve inside a trace: where a derivative is taken, a batch made, or a program compiled.

Functions that JAX keeps must not refer to traced values. So everything traced is passed in as an argument: also the
limits, and the values that the objective and the method close over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from .._backend import Backend
from .._core.context import to_arrays
from .._core.manual import is_manual
from .._core.monitor import SolveMonitor
from .._core.options import Options
from .._core.outcome import FlatOutcome, Outcome
from .._core.trace import Timing, unknown
from .._core.types import Leaf, is_traced
from .._problem.bounds import FlatBounds
from .._problem.objective import Data
from .._problem.problem import Problem
from .._problem.second_order import second_order_key
from .implicit import Derivative
from .warning import Sides, warn_of_early_end

TRACEABLE_OPTIONS = ("gtol", "ftol", "maxiter", "maxfun", "maxls")


class TracedCall(RuntimeError):
    """A feature that needs the host was requested inside jit or vmap."""


class HostServices(NamedTuple):
    """What the host does during a solve.

    Args:
        solve: (problem, options, monitor) -> outcome.
        monitor: makes the context in which the solve runs.
        attach: attaches the best result so far to an exception.
        wanted: names of the arguments that need the host, such as "callback".
    """

    solve: Callable[[Problem, Options, SolveMonitor], Outcome]
    monitor: Callable[[], AbstractContextManager[SolveMonitor]]
    attach: Callable[[BaseException, Problem, SolveMonitor], None]
    wanted: tuple[str, ...]


class Inputs(NamedTuple):
    """Everything of a solve that may be traced.

    Args:
        start: the optimized leaves at the start.
        data: the data of the problem.
        slope_data: those of the problem with its gradient; None if that is the same problem.
        bounds: of the flat vector; None without bounds.
        limits: the traced options.
    """

    start: list[Leaf]
    data: Data
    slope_data: Data | None
    bounds: Sides | None
    limits: dict[str, Array]

    @property
    def of_derivative(self) -> tuple[Data, Sides | None]:
        """What the derivative of the solution depends on."""
        return self.data if self.slope_data is None else self.slope_data, self.bounds


def solve_in_trace(backend: Backend, problem: Problem, slope: Problem, options: Options, host: HostServices) -> Outcome:
    """Solve where something is traced: a derivative is taken, a batch made, or a program compiled.

    Args:
        backend, problem, options: what to solve, and how.
        slope: the same problem with its gradient.
        host: serves the solve if the values are known and only their derivative is traced.

    Raises:
        TracedCall: the values are traced, and the backend runs on the host or a service of the host is wanted.
    """
    derivative = _derivative_of(slope)
    inputs, solver = _separate(backend, problem, slope, options, host)

    @jax.custom_jvp
    def solve(inputs: Inputs) -> FlatOutcome:
        return solver.run(inputs)

    @solve.defjvp
    def differentiate(primals: tuple[Inputs], tangents: tuple[Inputs]) -> tuple[FlatOutcome, FlatOutcome]:
        if isinstance(derivative, TypeError):
            raise derivative
        solution = solve(*primals)
        for known, _ in solver.eager:
            warn_of_early_end(known.status, known.x, known.grad, primals[0].bounds)
        given, moved = primals[0].of_derivative, tangents[0].of_derivative
        return solution, derivative.tangents(solution, given, moved, reports=bool(solver.eager))

    try:
        found: FlatOutcome = solve(inputs)
    finally:
        solver.hosts.clear()
    unravel = problem.spec.params.unravel
    grads = None if found.grad is None else unravel(found.grad)
    outcome = Outcome(unravel(found.x), found.value, grads, *found[3:], timing=Timing(unknown(), unknown(), 0))
    if not solver.eager:
        return outcome
    _, eager = solver.eager.pop()
    return replace(outcome, timing=eager.timing, detail=eager.detail, note=eager.note)


def _derivative_of(slope: Problem) -> Derivative | TypeError:
    """Return the derivative of the minimizer, with its compiled functions if an equal one was made before.

    Where the objective has none, return the error, which is raised if the derivative is asked for.
    """
    flat, rounding = slope.spec.flat, slope.spec.rounding
    if is_manual():  # what is compiled there is compiled for its mesh
        return Derivative(flat, rounding)
    try:
        key = second_order_key(slope)
    except TypeError as error:
        return error.with_traceback(None)
    return slope.spec.programs.keep(("derivative", key), lambda: Derivative(flat, rounding))


def _separate(
    backend: Backend, problem: Problem, slope: Problem, options: Options, host: HostServices
) -> tuple[Inputs, _Solver]:
    """Separate what may be traced from a solver that refers to none of it."""
    bounds = None if problem.bounds is None else (problem.bounds.lower, problem.bounds.upper)
    given = {name: getattr(options, name) for name in TRACEABLE_OPTIONS}
    limits = {name: limit for name, limit in given.items() if is_traced(limit)}
    slope_data = None if slope is problem else slope.data
    inputs = to_arrays(Inputs(problem.start_leaves, problem.data, slope_data, bounds, limits))
    options = replace(options, **dict.fromkeys(limits, 1))  # placeholders of the traced options
    return inputs, _Solver(backend.trace_with, problem.detached(), options, host.wanted, [host])


@dataclass(frozen=True)
class _Solver:
    """Solve for inputs that are traced (Optax only) or known. It refers to no traced value.

    Args:
        trace_with: as in Backend.
        problem, options: what to solve, without the values that may be traced.
        wanted: names of the arguments that need the host.
        hosts: the caller's services, dropped after the call, since they refer to values that may be traced.
        eager: the outcome of a solve for known inputs, flat and as the backend returned it, until the caller reads it.
    """

    trace_with: Callable[[Problem, Options], FlatOutcome] | None
    problem: Problem
    options: Options
    wanted: tuple[str, ...]
    hosts: list[HostServices]
    eager: list[tuple[FlatOutcome, Outcome]] = field(default_factory=list)

    def run(self, inputs: Inputs) -> FlatOutcome:
        """Solve, inside the trace if the inputs are traced, else on the host."""
        if is_traced(inputs):
            return self._trace(_check_traceable(self.trace_with, self.wanted), inputs)
        outcome = self._solve(inputs)
        ravel, dtype = self.problem.spec.params.ravel, self.problem.spec.dtype
        grad = None if outcome.grad is None else ravel(outcome.grad, dtype)
        counts = (outcome.nit, outcome.nfev, outcome.status)
        x, value = ravel(outcome.leaves, dtype), outcome.value.astype(dtype)
        flat = FlatOutcome(x, value, grad, outcome.aux, *counts, outcome.trace)
        self.eager[:] = [(flat, outcome)]
        return jax.tree.map(_as_array, flat)

    def _solve(self, inputs: Inputs) -> Outcome:
        """Solve on the host, with its clock and Ctrl-C."""
        sides = None if inputs.bounds is None else FlatBounds(*map(np.asarray, inputs.bounds))
        problem = self.problem.with_arrays(inputs.start, inputs.data, sides).placed()
        options = replace(self.options, **{name: limit.item() for name, limit in inputs.limits.items()})
        host = self.hosts[0]
        with host.monitor() as monitor:
            try:
                return host.solve(problem, options, monitor)
            except BaseException as error:
                host.attach(error, problem, monitor)
                raise

    def _trace(self, trace: Callable[[Problem, Options], FlatOutcome], inputs: Inputs) -> FlatOutcome:
        """Solve inside the trace, in one jitted function: a batch made outside jit compiles it once."""
        options, problem = self.options, self.problem.without_trees()

        def solve(inputs: Inputs, limits: dict[str, float | Array]) -> FlatOutcome:
            sides = None if inputs.bounds is None else FlatBounds(*inputs.bounds)
            given = problem.with_arrays(inputs.start, inputs.data, sides)
            return jax.tree.map(_as_array, trace(given, replace(options, **limits)))

        name = ("trace", problem.method_key, inputs.bounds is None, options.maxcor)
        jitted = jax.jit(solve) if is_manual() else problem.spec.programs.keep(name, lambda: jax.jit(solve))
        known = {name: float(getattr(options, name)) for name in TRACEABLE_OPTIONS}
        return jitted(inputs, known | inputs.limits)


def _check_traceable(
    trace: Callable[[Problem, Options], FlatOutcome] | None, wanted: tuple[str, ...]
) -> Callable[[Problem, Options], FlatOutcome]:
    if trace is None:
        raise TracedCall(
            "backend='scipy' runs on the host and cannot be called inside jax.jit or jax.vmap. "
            "Take backend='optax', which can, or call it outside. jax.grad of a call that is not jitted works."
        )
    if wanted:
        raise TracedCall(
            f"{' and '.join(wanted)} cannot be served inside jax.jit or jax.vmap, where the solve is part of a "
            "compiled program. Leave it out there, or call minimize outside."
        )
    return trace


def _as_array(value: Leaf) -> Array | np.ndarray:
    """Convert to an array of a type that JAX has. A value on the host stays there: nothing is compiled for it."""
    if isinstance(value, jax.Array):
        return value
    value = np.asarray(value)
    return value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
