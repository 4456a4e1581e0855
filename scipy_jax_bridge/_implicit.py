"""A solve inside a trace, and its derivative: implicit differentiation at the solution, never unrolling.

At a minimizer x(a) the projected gradient vanishes. With F the components that no bound holds, H the Hessian of
the objective and g its gradient, differentiating g_F(x(a), a) = 0 gives

    H_FF dx_F = -(dg/da da)_F - H_FA dx_A,        dx_A = the change of the bounds that hold A,

solved by conjugate gradients on Hessian-vector products. Source: A. V. Fiacco, "Introduction to Sensitivity and
Stability Analysis in Nonlinear Programming", 1983, section 3.2; M. Blondel et al., "Efficient and modular implicit
differentiation", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.scipy.sparse.linalg import cg

from ._backends import Backend
from ._bounds import FlatBounds
from ._cache import Programs
from ._identity import structure_of
from ._options import Options
from ._problem import Problem
from ._result import Outcome, Timing, Trace
from ._trace import unknown
from ._types import Tracer, is_traced
from ._watch import Watch

Inputs = tuple[list[Any], Any, Any]  # the start, the data with hoisted constants, the bounds


CG_ACCURACY = 0.85  # of the digits: closer to rounding, an ill-conditioned residual never gets
CG_MOST = 20_000  # products, however many parameters
LIMITS = ("gtol", "ftol", "maxiter", "maxfun", "maxls")  # options that may be traced


class TracedCall(RuntimeError):
    """What runs on the host was asked for inside jit or vmap."""


class Host(NamedTuple):
    """What the caller wants of the host while it solves."""

    watch: Callable[[], AbstractContextManager[Watch]]
    wanted: tuple[str, ...]  # the arguments that need it


def solve_in_trace(backend: Backend, problem: Problem, options: Options, host: Host) -> Outcome:
    """Solve where something is traced: a derivative is being taken, a batch made, or a program compiled.

    Arguments:
        backend, problem, options: what to solve, and by whom.
        host: who may stop it, if the values themselves are known and only their derivative is traced.

    Errors:
        TracedCall: the values themselves are traced, and the backend runs eagerly, or somebody waits for a report.
    """
    objective, hoisted = _hoist(problem)
    move = _mover(objective)
    if not hoisted:  # it knows nothing of this call, and serves the next one too
        move = problem.plan.programs.keep("move", lambda: jax.jit(move))
    bounds = None if problem.bounds is None else (problem.bounds.lower, problem.bounds.upper)
    inputs = jax.tree.map(jnp.asarray, (problem.free, (problem.data, hoisted), bounds))

    @jax.custom_jvp
    def solve(inputs: Inputs) -> tuple[Any, ...]:
        return _run(backend, problem, objective, options, host, inputs)

    @solve.defjvp
    def differentiate(primals: Any, tangents: Any) -> Any:
        solution = solve(*primals)
        return solution, _tangents(move, solution, primals[0], tangents[0])

    x, value, grad, aux, nit, nfev, status, *trace = solve(inputs)
    timing = Timing(unknown(), unknown(), 0)
    return Outcome(x, value, grad, aux, nit, nfev, status, Trace(*trace), timing)


def _hoist(problem: Problem) -> tuple[Callable[..., Any], list[Any]]:
    """The objective with the traced values it closes over made arguments, as custom derivatives need them.

    It is made of the program that the user's function traces to, and does not refer to the function.
    """
    x = jnp.zeros(problem.plan.params.size, problem.plan.dtype)
    program, output = jax.make_jaxpr(problem.value, return_shape=True)(x, problem.data)
    places = [place for place, const in enumerate(program.consts) if isinstance(const, Tracer)]
    known = [None if place in places else const for place, const in enumerate(program.consts)]
    treedef = jax.tree.structure(output)

    def objective(x: Any, data: Any, *hoisted: Any) -> Any:
        consts = list(known)
        for place, value in zip(places, hoisted, strict=True):
            consts[place] = value
        leaves = jaxpr_as_fun(ClosedJaxpr(program.jaxpr, consts))(*jax.tree.leaves((x, data)))
        return jax.tree.unflatten(treedef, leaves)

    return objective, [program.consts[place] for place in places]


def _run(
    backend: Backend,
    problem: Problem,
    objective: Callable[..., Any],
    options: Options,
    host: Host,
    inputs: Inputs,
) -> tuple[Any, ...]:
    """The solve itself, by values that are traced (optax) or known (scipy, while a derivative is taken)."""
    free, (data, hoisted), bounds = inputs
    limits = {name: getattr(options, name) for name in LIMITS}
    if is_traced((inputs, limits)):
        _check_traceable(backend, host)
        return _trace(backend, problem, objective, options, inputs, limits)
    if hoisted:  # its programs serve this call alone
        problem = _convert(replace(problem, plan=replace(problem.plan, programs=Programs())), objective, hoisted)
    box = None if bounds is None else FlatBounds(*map(np.asarray, bounds))
    with host.watch() as watch:
        outcome = backend.solve(replace(problem, free=free, data=data, bounds=box), options, watch)
    ravel, dtype = problem.plan.params.ravel, problem.plan.dtype
    grad = None if outcome.grad is None else ravel(outcome.grad, dtype)
    return _columns(replace(outcome, x=ravel(outcome.x, dtype), value=outcome.value.astype(dtype), grad=grad))


def _check_traceable(backend: Backend, host: Host) -> None:
    if not backend.traceable:
        raise TracedCall(
            "backend='scipy' runs on the host and cannot be called inside jax.jit or jax.vmap. "
            "Take backend='optax', which can, or call it outside. jax.grad of a call that is not jitted works."
        )
    if host.wanted:
        raise TracedCall(
            f"{' and '.join(host.wanted)} cannot be served inside jax.jit or jax.vmap, where the solve is part of a "
            "compiled program. Leave it out there, or call minimize outside."
        )


def _trace(
    backend: Backend,
    problem: Problem,
    objective: Callable[..., Any],
    options: Options,
    inputs: Inputs,
    limits: dict[str, Any],
) -> tuple[Any, ...]:
    """The loop inside the trace. It is one jitted function, so that a batch made outside jit compiles it once."""
    detached = replace(problem, fun=objective, riders=[], free=[], data=([], []), bounds=None)

    def solve(inputs: Inputs, limits: dict[str, Any]) -> tuple[Any, ...]:
        free, (data, hoisted), bounds = inputs
        box = None if bounds is None else FlatBounds(*bounds)
        own = replace(_convert(detached, objective, hoisted), free=free, data=data, bounds=box)
        return _columns(backend.trace(own, replace(options, **limits)))

    if not inputs[1][1]:
        name = ("trace", structure_of(backend.method), inputs[2] is None, options.maxcor)
        solve = problem.plan.programs.keep(name, lambda: jax.jit(solve))
    return solve(
        inputs, {name: each if isinstance(each, (Tracer, int)) else float(each) for name, each in limits.items()}
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


def _tangents(move: Callable[..., Any], solution: tuple[Any, ...], inputs: Inputs, tangents: Inputs) -> Any:
    """How the solution moves with the inputs; counters and the trace do not."""
    moved = move(solution[:4], inputs[1:], _real_leaves(tangents[1:]))
    return (*_complete(moved, solution[:4]), *jax.tree.map(_zero_tangent, solution[4:]))


def _mover(objective: Callable[..., Any]) -> Callable[..., Any]:
    """How params, value, gradient and aux move with the data and the bounds; real tangents in, real tangents out."""

    def evaluate(x: Any, extended: Any) -> tuple[Any, Any, Any]:
        data, hoisted = extended
        (value, aux), grad = jax.value_and_grad(objective, has_aux=True)(x, data, *hoisted)
        return value, grad, aux

    def move(point: tuple[Any, ...], inputs: tuple[Any, Any], real_tangents: list[Any]) -> list[Any]:
        (x, _, grad, _), (extended, bounds) = point, inputs
        d_extended, d_bounds = _complete(real_tangents, inputs)
        dx = _move_solution(lambda *at: evaluate(*at)[1], x, grad, extended, d_extended, bounds, d_bounds)
        _, moved = jax.jvp(evaluate, (x, extended), (dx, d_extended))
        return _real_leaves((dx, *moved))

    return move


def _move_solution(
    gradient: Callable[..., Any], x: Any, grad: Any, extended: Any, d_extended: Any, bounds: Any, d_bounds: Any
) -> Any:
    """dx, by conjugate gradients on the components that no bound holds."""
    held, d_held = jnp.zeros(x.shape, bool), jnp.zeros_like(x)
    if bounds is not None:
        at_lower, at_upper = (x <= bounds[0]) & (grad >= 0), (x >= bounds[1]) & (grad <= 0)
        held = at_lower | at_upper
        d_lower, d_upper = (d.astype(x.dtype) for d in d_bounds)
        d_held = jnp.where(at_lower, d_lower, jnp.where(at_upper, d_upper, 0))
    _, d_grad = jax.jvp(gradient, (x, extended), (d_held, d_extended))
    multiply = _hessian_at(lambda x: gradient(x, extended), x)

    def hessian(v: Any) -> Any:
        return jnp.where(held, v, multiply(jnp.where(held, 0, v)))

    def solve(matvec: Callable[[Any], Any], b: Any) -> Any:
        rounding = float(jnp.finfo(b.dtype).eps)
        return cg(matvec, b, tol=rounding**CG_ACCURACY, maxiter=min(20 * b.size, CG_MOST))[0]

    step = lax.custom_linear_solve(hessian, jnp.where(held, 0, -d_grad), solve, symmetric=True)
    return step + d_held


def _hessian_at(gradient: Callable[[Any], Any], x: Any) -> Callable[[Any], Any]:
    """v -> H v, by the gradient's derivative in reverse, which rules of jax.custom_vjp allow; H is symmetric.

    Loops of unknown length inside the gradient have none in reverse; then forward.
    """
    try:
        _, pull = jax.vjp(gradient, x)
        jax.eval_shape(pull, x)
    except ValueError:
        return jax.linearize(gradient, x)[1]
    return lambda v: pull(v)[0]


def _zero_tangent(value: Any) -> Any:
    return np.zeros(value.shape, value.dtype if _is_real(value) else jax.dtypes.float0)


def _is_real(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))


def _real_leaves(tangents: Any) -> list[Any]:
    """Without those of integers, which a jitted function does not take."""
    return [tangent for tangent in jax.tree.leaves(tangents) if tangent.dtype != jax.dtypes.float0]


def _complete(real_tangents: list[Any], values: Any) -> Any:
    """The tangents of these values again."""
    real = iter(real_tangents)
    return jax.tree.map(lambda value: next(real) if _is_real(value) else _zero_tangent(value), values)
