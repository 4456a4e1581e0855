"""The solvers under comparison, each behind one signature: `prepare(problem, settings) -> run`.

`prepare` traces and compiles, so its wall time is the cold time. `run()` solves from the start and
returns when the answer is on the host, so its wall time is the warm time. The box solvers keep to
`problem.bounds`; the others are for unconstrained problems.

How close each stopping rule comes to "max abs of the projected gradient at most gtol":

- SciPy, this engine, the documented Optax loop: that rule (the loop has no bounds).
- jaxopt.LBFGSB: that rule. jaxopt.LBFGS: the 2-norm of the gradient, which is stricter.
- optimistix.LBFGS: its own Cauchy rule looks at steps, so `terminate` is replaced by that rule.

Evaluations are what each solver counts, checked against a counting objective. The jaxopt solvers
evaluate the value alone once more in every iteration, and count it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from cutest_problems import INSTALL, Problem


@dataclass(frozen=True)
class Settings:
    """What every solver is asked for; `ftol` 0 leaves only the gradient to end a run."""

    gtol: float = 1e-5
    ftol: float = 0.0
    maxiter: int = 2000
    maxfun: int = 100_000

    def as_options(self) -> dict[str, Any]:
        """The fields by name: SciPy's L-BFGS-B and this package share the vocabulary."""
        return asdict(self)


class Answer(NamedTuple):
    """The final flat point, the counts the solver reports, and its own words."""

    x: np.ndarray
    nit: int
    nfev: int
    message: str


Run = Callable[[], Answer]
Prepare = Callable[[Problem, Settings], Run]


def scipy_by_hand(problem: Problem, settings: Settings) -> Run:
    """`scipy.optimize.minimize`, value and gradient packed into one compiled array."""
    from scipy.optimize import minimize

    def pack(x: jax.Array, args: Any) -> jax.Array:
        value, grad = jax.value_and_grad(problem.fun)(x, args)
        return jnp.concatenate([value[None], grad])

    compiled = jax.jit(pack).lower(problem.x0, problem.args).compile()
    x0 = np.asarray(problem.x0)
    bounds = None if problem.bounds is None else list(zip(*problem.box, strict=True))
    options = settings.as_options()

    def value_and_grad(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        packed = np.asarray(compiled(x, problem.args))
        return packed[0], packed[1:]

    def run() -> Answer:
        found = minimize(value_and_grad, x0, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return Answer(found.x, found.nit, found.nfev, found.message)

    return run


def bridge(backend: str) -> Prepare:
    """This package, on the device (`backend="optax"`) or through its SciPy callable."""

    def prepare(problem: Problem, settings: Settings) -> Run:
        sjb = _need("scipy_jax_bridge")
        solve = sjb.Minimizer(
            problem.objective,
            backend=backend,
            bounds=problem.bounds,
            options=settings.as_options(),
        )
        args = (problem.args,)
        solve.compile(problem.y0, args)

        def run() -> Answer:
            found = solve(problem.y0, args)
            x = np.asarray(ravel_pytree(found.params)[0])
            return Answer(x, int(found.nit), int(found.nfev), _status_name(found.status))

        return run

    return prepare


def optax_loop(problem: Problem, settings: Settings) -> Run:
    """The loop that Optax documents for L-BFGS, stopped by the largest gradient entry."""
    optax = _need("optax")
    solver = optax.lbfgs()

    def solve(x0: jax.Array, args: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        def objective(x: jax.Array) -> jax.Array:
            return problem.fun(x, args)

        value_and_grad = optax.value_and_grad_from_state(objective)

        def advance(carry: tuple) -> tuple:
            x, state, nfev = carry
            value, grad = value_and_grad(x, state=state)
            step, state = solver.update(grad, state, x, value=value, grad=grad, value_fn=objective)
            searched = optax.tree.get(state, "num_linesearch_steps")
            return optax.apply_updates(x, step), state, nfev + searched

        def unfinished(carry: tuple) -> jax.Array:
            state = carry[1]
            nit, grad = optax.tree.get(state, "count"), optax.tree.get(state, "grad")
            steep = jnp.max(jnp.abs(grad)) > settings.gtol
            return (nit == 0) | ((nit < settings.maxiter) & steep)

        start = (x0, solver.init(x0), jnp.asarray(1))
        x, state, nfev = jax.lax.while_loop(unfinished, advance, start)
        return x, optax.tree.get(state, "count"), nfev

    return _on_device(solve, problem)


def jaxopt_lbfgs(problem: Problem, settings: Settings) -> Run:
    """`jaxopt.LBFGS`; it stops on the 2-norm of the gradient, stricter than the largest entry."""
    solver = _need("jaxopt").LBFGS(problem.fun, tol=settings.gtol, maxiter=settings.maxiter)

    def solve(x0: jax.Array, args: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, state = solver.run(x0, args)
        return x, state.iter_num, state.num_fun_eval

    return _on_device(solve, problem)


def jaxopt_lbfgsb(problem: Problem, settings: Settings) -> Run:
    """`jaxopt.LBFGSB`; it stops on the largest entry of the projected gradient."""
    solver = _need("jaxopt").LBFGSB(problem.fun, tol=settings.gtol, maxiter=settings.maxiter)
    bounds = jax.tree.map(jnp.asarray, problem.box)

    def solve(x0: jax.Array, args: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, state = solver.run(x0, bounds, args)
        return x, state.iter_num, state.num_fun_eval

    return _on_device(solve, problem)


def optimistix_lbfgs(problem: Problem, settings: Settings) -> Run:
    """`optimistix.LBFGS` with its rule on steps replaced by the rule on the gradient.

    Each of its steps is one evaluation; the accepted ones, less the start, are its iterations.
    """
    optimistix = _need("optimistix")

    class GradientRule(optimistix.LBFGS):
        def terminate(self, fn, y, args, options, state, tags):
            flat = jnp.max(jnp.abs(state.f_info.grad)) <= settings.gtol
            spent = state.num_accepted_steps > settings.maxiter
            return (state.num_accepted_steps > 0) & (flat | spent), state.result

    solver = GradientRule(rtol=0.0, atol=0.0)

    def solve(x0: jax.Array, args: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        found = optimistix.minimise(problem.fun, solver, x0, args, max_steps=settings.maxfun, throw=False)
        return found.value, found.state.num_accepted_steps - 1, found.stats["num_steps"]

    return _on_device(solve, problem)


UNCONSTRAINED: dict[str, Prepare] = {
    "scipy": scipy_by_hand,
    "sjb": bridge("optax"),
    "sjb_scipy": bridge("scipy"),
    "optax_loop": optax_loop,
    "jaxopt_lbfgs": jaxopt_lbfgs,
    "jaxopt_lbfgsb": jaxopt_lbfgsb,
    "optimistix_lbfgs": optimistix_lbfgs,
}
BOUNDED = {name: UNCONSTRAINED[name] for name in ("scipy", "sjb", "sjb_scipy", "jaxopt_lbfgsb")}
SOLVERS: dict[str, dict[str, Prepare]] = {"unconstrained": UNCONSTRAINED, "bounded": BOUNDED}
LABELS = {
    "scipy": "SciPy L-BFGS-B",
    "sjb": "sjb engine",
    "sjb_scipy": "sjb SciPy backend",
    "optax_loop": "Optax documented loop",
    "jaxopt_lbfgs": "jaxopt.LBFGS",
    "jaxopt_lbfgsb": "jaxopt.LBFGSB",
    "optimistix_lbfgs": "optimistix.LBFGS",
}


def _on_device(solve: Callable[..., tuple[jax.Array, ...]], problem: Problem) -> Run:
    """Compiles `solve(x0, args) -> (x, nit, nfev)` ahead of time."""
    compiled = jax.jit(solve).lower(problem.x0, problem.args).compile()
    x0 = problem.x0

    def run() -> Answer:
        x, nit, nfev = jax.block_until_ready(compiled(x0, problem.args))
        return Answer(np.asarray(x), int(nit), int(nfev), "")

    return run


def _status_name(status: Any) -> str:
    return getattr(status, "name", str(status))


def _need(name: str) -> ModuleType:
    """Imports an optional peer, or says which extra brings it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"this benchmark needs {name} ({error}): {INSTALL}") from error
