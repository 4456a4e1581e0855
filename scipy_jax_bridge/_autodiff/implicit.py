"""A solve inside a trace: where a derivative is taken, a batch made, or a program compiled.

Nothing that JAX keeps may refer to a traced value: what is traced goes in as an argument, also the limits and what
the objective closes over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from .._backend import Backend
from .._core.monitor import SolveMonitor
from .._core.options import Options
from .._core.trace import unknown
from .._core.types import Tracer, is_traced
from .._problem.bounds import FlatBounds
from .._problem.cache import Programs
from .._problem.problem import Problem
from .._result import Outcome, Timing, Trace
from .derivative import Derivative, warn_of_early_end

Inputs = tuple[list[Any], Any, Any, dict[str, Any]]  # start, data with hoisted constants, bounds, traced limits


LIMITS = ("gtol", "ftol", "maxiter", "maxfun", "maxls")  # options that may be traced


class TracedCall(RuntimeError):
    """What runs on the host was asked for inside jit or vmap."""


class HostServices(NamedTuple):
    """What the caller wants of the host while it solves."""

    monitor: Callable[[], AbstractContextManager[SolveMonitor]]
    attach: Callable[[BaseException, Problem, SolveMonitor], None]  # the best result so far to an exception
    wanted: tuple[str, ...]  # the arguments that need it


def solve_in_trace(backend: Backend, problem: Problem, options: Options, host: HostServices) -> Outcome:
    """Solve where something is traced: a derivative is being taken, a batch made, or a program compiled.

    Arguments:
        backend, problem, options: what to solve, and by whom.
        host: who may stop it, if the values themselves are known and only their derivative is traced.

    Errors:
        TracedCall: the values themselves are traced, and the backend runs eagerly, or somebody waits for a report.
    """
    objective, hoisted = _hoist(problem)
    rounding = problem.spec.rounding
    if hoisted:
        derivative = Derivative(objective, rounding)
    else:  # it knows nothing of this call, and serves the next one too
        derivative = problem.spec.programs.keep("derivative", lambda: Derivative(objective, rounding))
    inputs, solver = _separate(backend, problem, options, host, objective, hoisted)

    @jax.custom_jvp
    def solve(inputs: Inputs) -> tuple[Any, ...]:
        return solver.run(inputs)

    @solve.defjvp
    def differentiate(primals: Any, tangents: Any) -> Any:
        solution = solve(*primals)
        for known in solver.eager:
            warn_of_early_end(known.status, known.x, known.grad, primals[0][2])
        moved = derivative.tangents(solution, primals[0][1:3], tangents[0][1:3], reports=bool(solver.eager))
        return solution, moved

    try:
        x, value, grad, aux, nit, nfev, status, *trace = solve(inputs)
    finally:
        solver.hosts.clear()
    outcome = Outcome(x, value, grad, aux, nit, nfev, status, Trace(*trace), Timing(unknown(), unknown(), 0))
    if not solver.eager:
        return outcome
    told = solver.eager.pop()
    return replace(outcome, timing=told.timing, detail=told.detail, note=told.note)


def _separate(
    backend: Backend,
    problem: Problem,
    options: Options,
    host: HostServices,
    objective: Callable[..., Any],
    hoisted: list[Any],
) -> tuple[Inputs, _Solver]:
    """What may be traced, and a solver that holds nothing of it."""
    bounds = None if problem.bounds is None else (problem.bounds.lower, problem.bounds.upper)
    limits = {name: limit for name in LIMITS if isinstance(limit := getattr(options, name), Tracer)}
    inputs = jax.tree.map(jnp.asarray, (problem.free, (problem.data, hoisted), bounds, limits))
    fun = objective if hoisted else problem.fun
    detached = replace(problem, fun=fun, static_leaves=[], free=[], data=([], []), bounds=None)
    options = replace(options, **dict.fromkeys(limits, 1))  # in place of what is traced
    return inputs, _Solver(backend, detached, objective, options, host.wanted, [host])


def _hoist(problem: Problem) -> tuple[Callable[..., Any], list[Any]]:
    """The objective with the traced values it closes over made arguments, as custom derivatives need them.

    It is made of the program that the user's function traces to, and does not refer to the function.
    """
    x = jnp.zeros(problem.spec.params.size, problem.spec.dtype)
    program, output = jax.make_jaxpr(problem.value, return_shape=True)(x, problem.data)
    places = [place for place, const in enumerate(program.consts) if isinstance(const, Tracer)]
    known = [None if place in places else const for place, const in enumerate(program.consts)]
    jaxpr, treedef = program.jaxpr, jax.tree.structure(output)  # not the program, which holds the traced values

    def objective(x: Any, data: Any, *hoisted: Any) -> Any:
        consts = list(known)
        for place, value in zip(places, hoisted, strict=True):
            consts[place] = value
        leaves = jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*jax.tree.leaves((x, data)))
        return jax.tree.unflatten(treedef, leaves)

    return objective, [program.consts[place] for place in places]


@dataclass(frozen=True)
class _Solver:
    """Solves by values that are traced (optax) or known (scipy, while a derivative is taken); it holds none of them."""

    backend: Backend
    problem: Problem
    objective: Callable[..., Any]
    options: Options
    wanted: tuple[str, ...]
    hosts: list[HostServices]  # the caller's, until the call is over: it refers to what may be traced
    eager: list[Outcome] = field(default_factory=list)  # what a solve by known values told, until it is fetched

    def run(self, inputs: Inputs) -> tuple[Any, ...]:
        """The outcome as arrays."""
        if is_traced(inputs):
            _check_traceable(self.backend, self.wanted)
            return self._trace(inputs)
        outcome = self._solve(inputs)
        ravel, dtype = self.problem.spec.params.ravel, self.problem.spec.dtype
        grad = None if outcome.grad is None else ravel(outcome.grad, dtype)
        outcome = replace(outcome, x=ravel(outcome.x, dtype), value=outcome.value.astype(dtype), grad=grad)
        self.eager[:] = [outcome]
        return _columns(outcome)

    def _solve(self, inputs: Inputs) -> Outcome:
        """On the host, with its clock and its keyboard."""
        free, (data, hoisted), bounds, limits = inputs
        problem = self.problem
        if hoisted:  # its programs serve this call alone
            problem = replace(problem, spec=replace(problem.spec, programs=Programs()))
            problem = _convert(problem, self.objective, hoisted)
        box = None if bounds is None else FlatBounds(*map(np.asarray, bounds))
        problem = replace(problem, free=free, static_leaves=data[0], data=data, bounds=box)
        options = replace(self.options, **{name: limit.item() for name, limit in limits.items()})
        host = self.hosts[0]
        with host.monitor() as monitor:
            try:
                return self.backend.solve(problem, options, monitor)
            except BaseException as error:
                host.attach(error, problem, monitor)
                raise

    def _trace(self, inputs: Inputs) -> tuple[Any, ...]:
        """The loop inside the trace. It is one jitted function, so that a batch made outside jit compiles it once."""
        backend, options = self.backend, self.options
        detached = replace(self.problem, fun=self.objective)

        def solve(inputs: Inputs, limits: dict[str, Any]) -> tuple[Any, ...]:
            free, (data, hoisted), bounds, _ = inputs
            box = None if bounds is None else FlatBounds(*bounds)
            own = replace(_convert(detached, detached.fun, hoisted), free=free, data=data, bounds=box)
            return _columns(backend.trace(own, replace(options, **limits)))

        if not inputs[1][1]:
            name = ("trace", backend.program_key, inputs[2] is None, options.maxcor)
            solve = self.problem.spec.programs.keep(name, lambda: jax.jit(solve))
        return solve(inputs, {name: inputs[3].get(name, float(getattr(options, name))) for name in LIMITS})


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


def _convert(problem: Problem, objective: Callable[..., Any], hoisted: list[Any]) -> Problem:
    """The problem with the flat objective, which got the values that it closes over as arguments."""
    own = {each.name: getattr(problem, each.name) for each in fields(problem)}
    return _Converted(**{**own, "fun": objective}, hoisted=hoisted)


@dataclass(frozen=True)
class _Converted(Problem):
    """A problem whose objective got the values that it closes over as arguments."""

    hoisted: list[Any] = field(default_factory=list)

    def value(self, x: Any, data: Any) -> tuple[Any, Any]:
        return self.fun(x, data, *self.hoisted)

    def value_and_grad(self, x: Any, data: Any) -> tuple[Any, Any, Any]:
        (value, aux), grad = jax.value_and_grad(self.value, has_aux=True)(x, data)
        return value, grad, aux


def _columns(outcome: Outcome) -> tuple[Any, ...]:
    """The outcome as arrays."""
    parts = (outcome.x, outcome.value, outcome.grad, outcome.aux, outcome.nit, outcome.nfev, outcome.status)
    return jax.tree.map(_as_array, (*parts, *outcome.trace))


def _as_array(value: Any) -> Any:
    """An array of a type that JAX knows; on the host if it was there, where nothing is compiled for its shape."""
    if isinstance(value, jax.Array):
        return value
    value = np.asarray(value)
    return value.astype(jax.dtypes.canonicalize_dtype(value.dtype))
