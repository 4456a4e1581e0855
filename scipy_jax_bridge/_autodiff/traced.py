"""Solve inside a trace: where a derivative is taken, a batch made, or a program compiled.

Functions that JAX keeps must not refer to traced values. So everything traced is passed in as an argument: also the
limits, and the values that the objective closes over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, PyTree

from .._backend import Backend
from .._core.manual import is_manual, vary_with
from .._core.monitor import SolveMonitor
from .._core.options import Options
from .._core.outcome import FlatOutcome, Outcome
from .._core.trace import Timing, unknown
from .._core.types import FlatVector, Leaf, Scalar, Tracer, is_traced
from .._problem.bounds import FlatBounds
from .._problem.cache import Programs
from .._problem.problem import Data, Problem
from .implicit import Derivative, Extended, FlatObjective
from .manual import vary_start
from .warning import Sides, warn_of_early_end

TRACEABLE_OPTIONS = ("gtol", "ftol", "maxiter", "maxfun", "maxls")


class TracedCall(RuntimeError):
    """A feature that needs the host was requested inside jit or vmap."""


class HostServices(NamedTuple):
    """What the host does during a solve.

    Args:
        monitor: makes the context in which the solve runs.
        attach: attaches the best result so far to an exception.
        wanted: names of the arguments that need the host, such as "callback".
    """

    monitor: Callable[[], AbstractContextManager[SolveMonitor]]
    attach: Callable[[BaseException, Problem, SolveMonitor], None]
    wanted: tuple[str, ...]


class Inputs(NamedTuple):
    """Everything of a solve that may be traced.

    Args:
        start: the optimized leaves at the start.
        extended: the data of the objective, and the traced values that it closes over.
        bounds: of the flat vector; None without bounds.
        limits: the traced options.
    """

    start: list[Leaf]
    extended: Extended
    bounds: Sides | None
    limits: dict[str, Array]


def solve_in_trace(backend: Backend, problem: Problem, options: Options, host: HostServices) -> Outcome:
    """Solve where something is traced: a derivative is taken, a batch made, or a program compiled.

    Args:
        backend, problem, options: what to solve, and how.
        host: serves the solve if the values are known and only their derivative is traced.

    Raises:
        TracedCall: the values are traced, and the backend runs on the host or a service of the host is wanted.
    """
    problem = vary_start(problem, [getattr(options, name) for name in TRACEABLE_OPTIONS])
    objective, closed_over = _convert_closure(problem)
    rounding = problem.spec.rounding
    if closed_over or is_manual():
        derivative = Derivative(objective, rounding)
    else:  # it depends on nothing of this call: keep it for the next one
        derivative = problem.spec.programs.keep("derivative", lambda: Derivative(objective, rounding))
    inputs, solver = _separate(backend, problem, options, host, objective, closed_over)

    @jax.custom_jvp
    def solve(inputs: Inputs) -> FlatOutcome:
        return solver.run(inputs)

    @solve.defjvp
    def differentiate(primals: tuple[Inputs], tangents: tuple[PyTree]) -> tuple[FlatOutcome, FlatOutcome]:
        solution = solve(*primals)
        for known, _ in solver.eager:
            warn_of_early_end(known.status, known.x, known.grad, primals[0].bounds)
        moved = derivative.tangents(solution, primals[0][1:3], tangents[0][1:3], reports=bool(solver.eager))
        return solution, moved

    try:
        flat: FlatOutcome = solve(inputs)
    finally:
        solver.hosts.clear()
    unravel = problem.spec.params.unravel
    grads = None if flat.grad is None else unravel(flat.grad)
    outcome = Outcome(unravel(flat.x), flat.value, grads, *flat[3:], timing=Timing(unknown(), unknown(), 0))
    if not solver.eager:
        return outcome
    _, eager = solver.eager.pop()
    return replace(outcome, timing=eager.timing, detail=eager.detail, note=eager.note)


def _separate(
    backend: Backend,
    problem: Problem,
    options: Options,
    host: HostServices,
    objective: FlatObjective,
    closed_over: list[Leaf],
) -> tuple[Inputs, _Solver]:
    """Separate what may be traced from a solver that refers to none of it."""
    bounds = None if problem.bounds is None else (problem.bounds.lower, problem.bounds.upper)
    given = {name: getattr(options, name) for name in TRACEABLE_OPTIONS}
    limits = {name: limit for name, limit in given.items() if is_traced(limit)}
    inputs = jax.tree.map(jnp.asarray, Inputs(problem.start_leaves, (problem.data, closed_over), bounds, limits))
    fun = objective if closed_over else problem.fun
    detached = replace(problem, fun=fun, static_leaves=[], start_leaves=[], data=([], []), bounds=None)
    options = replace(options, **dict.fromkeys(limits, 1))  # placeholders of the traced options
    return inputs, _Solver(backend, detached, objective, options, host.wanted, [host])


def _convert_closure(problem: Problem) -> tuple[FlatObjective, list[Leaf]]:
    """Return the objective with the traced values that it closes over as arguments, and these values.

    Custom derivatives need it so. The objective is made of the jaxpr of the user's function and does not refer to
    the function.
    """
    x = vary_with(jnp.zeros(problem.spec.params.size, problem.spec.dtype), problem.start_leaves)
    program, output = jax.make_jaxpr(problem.value, return_shape=True)(x, problem.data)
    places = [place for place, const in enumerate(program.consts) if isinstance(const, Tracer)]
    known = [None if place in places else const for place, const in enumerate(program.consts)]
    jaxpr, treedef = program.jaxpr, jax.tree.structure(output)  # not the program, which holds the traced values

    def objective(x: FlatVector, data: Data, *closed_over: Leaf) -> tuple[Scalar, PyTree]:
        consts = list(known)
        for place, value in zip(places, closed_over, strict=True):
            consts[place] = value
        leaves = jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*jax.tree.leaves((x, data)))
        return jax.tree.unflatten(treedef, leaves)

    return objective, [program.consts[place] for place in places]


@dataclass(frozen=True)
class _Solver:
    """Solve for inputs that are traced (Optax only) or known. It refers to no traced value.

    Args:
        backend, problem, options: what to solve, without the values that may be traced.
        objective: the converted objective.
        wanted: names of the arguments that need the host.
        hosts: the caller's services, dropped after the call, since they refer to values that may be traced.
        eager: the outcome of a solve for known inputs, flat and as the backend returned it, until the caller reads it.
    """

    backend: Backend
    problem: Problem
    objective: FlatObjective
    options: Options
    wanted: tuple[str, ...]
    hosts: list[HostServices]
    eager: list[tuple[FlatOutcome, Outcome]] = field(default_factory=list)

    def run(self, inputs: Inputs) -> FlatOutcome:
        """Solve, inside the trace if the inputs are traced, else on the host."""
        if is_traced(inputs):
            _check_traceable(self.backend, self.wanted)
            return self._trace(inputs)
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
        start, (data, closed_over), bounds, limits = inputs
        problem = self.problem
        if closed_over:  # the programs serve this call only
            problem = replace(problem, spec=replace(problem.spec, programs=Programs()))
            problem = _bind(problem, self.objective, closed_over)
        sides = None if bounds is None else FlatBounds(*map(np.asarray, bounds))
        problem = replace(problem, start_leaves=start, static_leaves=data[0], data=data, bounds=sides)
        options = replace(self.options, **{name: limit.item() for name, limit in limits.items()})
        host = self.hosts[0]
        with host.monitor() as monitor:
            try:
                return self.backend.solve(problem, options, monitor)
            except BaseException as error:
                host.attach(error, problem, monitor)
                raise

    def _trace(self, inputs: Inputs) -> FlatOutcome:
        """Solve inside the trace, in one jitted function: a batch made outside jit compiles it once."""
        backend, options, objective = self.backend, self.options, self.objective
        detached = replace(self.problem, fun=objective)

        def solve(inputs: Inputs, limits: dict[str, float | Array]) -> FlatOutcome:
            start, (data, closed_over), bounds, _ = inputs
            sides = None if bounds is None else FlatBounds(*bounds)
            problem = replace(_bind(detached, objective, closed_over), start_leaves=start, data=data, bounds=sides)
            return jax.tree.map(_as_array, backend.trace(problem, replace(options, **limits)))

        if not (inputs.extended[1] or is_manual()):
            name = ("trace", backend.program_key, inputs.bounds is None, options.maxcor)
            solve = self.problem.spec.programs.keep(name, lambda: jax.jit(solve))
        known = {name: float(getattr(options, name)) for name in TRACEABLE_OPTIONS}
        return solve(inputs, known | inputs.limits)


def _check_traceable(backend: Backend, wanted: tuple[str, ...]) -> None:
    if backend.trace_with is None:
        raise TracedCall(
            "backend='scipy' runs on the host and cannot be called inside jax.jit or jax.vmap. "
            "Take backend='optax', which can, or call it outside. jax.grad of a call that is not jitted works."
        )
    if wanted:
        raise TracedCall(
            f"{' and '.join(wanted)} cannot be served inside jax.jit or jax.vmap, where the solve is part of a "
            "compiled program. Leave it out there, or call minimize outside."
        )


def _bind(problem: Problem, objective: FlatObjective, closed_over: list[Leaf]) -> Problem:
    """Return the problem with the converted objective, and the values that it closes over bound to it."""
    return replace(problem, fun=objective, flat_objective=lambda x, data: objective(x, data, *closed_over))


def _as_array(value: Leaf) -> Array | np.ndarray:
    """Convert to an array of a type that JAX has. A value on the host stays there: nothing is compiled for it."""
    if isinstance(value, jax.Array):
        return value
    value = np.asarray(value)
    return value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
