"""What a user would write without this package, stopped by the same rule: max abs of the gradient.

Each maker takes the objective and the limits and gives a function of the start (and of data), to be jitted;
`by_hand` gives a call that runs SciPy on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import threadpoolctl

from scipy_jax_bridge.models import optax_loop

GTOL = 1e-5
MAXITER = 15000
Objective = Callable[..., jax.Array]


def documented_loop(fun: Objective, gtol: float = GTOL, maxiter: int = MAXITER) -> Callable[..., Any]:
    """The loop of Optax's L-BFGS documentation, for any tree; the largest gradient entry ends it, not the 2-norm."""
    solve = optax_loop.documented_loop(fun, gtol, maxiter)
    return lambda params, *args: solve(params, *args).params


def jaxopt_lbfgs(fun: Objective, gtol: float = GTOL, maxiter: int = MAXITER) -> Callable[..., Any]:
    """`jaxopt.LBFGS.run`; its error is replaced by the largest gradient entry."""
    import jaxopt

    class GradientRule(jaxopt.LBFGS):
        def update(self, params: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
            found = super().update(params, state, *args, **kwargs)
            return found._replace(state=found.state._replace(error=max_abs(found.state.grad)))

    solver = GradientRule(fun, tol=gtol, maxiter=maxiter)
    return lambda params, *args: solver.run(params, *args).params


def optimistix_lbfgs(fun: Objective, gtol: float = GTOL, maxiter: int = MAXITER) -> Callable[..., Any]:
    """`optimistix.LBFGS`; its Cauchy rule is replaced by the largest gradient entry."""
    import optimistix

    class GradientRule(optimistix.LBFGS):
        def terminate(self, fn: Any, y: Any, args: Any, options: Any, state: Any, tags: Any) -> Any:
            flat = max_abs(state.f_info.grad) <= gtol
            return (state.num_accepted_steps > 0) & flat, state.result

    solver = GradientRule(rtol=0.0, atol=0.0)

    def solve(params: Any, *args: Any) -> Any:
        found = optimistix.minimise(
            lambda params, args: fun(params, *args), solver, params, args, max_steps=20 * maxiter, throw=False
        )
        return found.value

    return solve


def packed(fun: Objective) -> Callable[..., jax.Array]:
    """Value and gradient of the flat vector in one array, so that an evaluation is one copy in and one out."""

    def value_and_grad(x: jax.Array, *args: Any) -> jax.Array:
        value, grad = jax.value_and_grad(fun)(x, *args)
        return jnp.concatenate([value[None], grad])

    return value_and_grad


def by_hand(
    fun: Objective, x0: np.ndarray, args: tuple = (), *, one_thread: bool = False, **options: Any
) -> Callable[[], Any]:
    """A hand-tuned `scipy.optimize.minimize` on the flat vector.

    Args:
        fun: the objective of the flat vector.
        x0: the start, float64.
        args: data, on the device already.
        one_thread: whether BLAS is held to one thread during the solve.
        options: of L-BFGS-B.

    Returns:
        A call that solves; it returns SciPy's result.
    """
    compiled = jax.jit(packed(fun)).lower(x0, *args).compile()
    controller = threadpoolctl.ThreadpoolController()

    def value_and_grad(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        both = np.asarray(compiled(x, *args))
        return both[0], both[1:]

    def run(x0: np.ndarray = x0) -> Any:
        return scipy.optimize.minimize(value_and_grad, x0, jac=True, method="L-BFGS-B", options=options)

    def run_on_one_thread(x0: np.ndarray = x0) -> Any:
        with controller.limit(limits=1, user_api="blas"):
            return run(x0)

    return run_on_one_thread if one_thread else run


def max_abs(tree: Any) -> jax.Array:
    """The largest absolute entry of a tree."""
    return jnp.max(jnp.asarray([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def check_stationary(fun: Objective, points: dict[str, Any], gtol: float = GTOL, *args: Any) -> None:
    """All points have a gradient of at most `gtol`, up to rounding.

    Raises:
        AssertionError: which one has not; no time of it should be printed.
    """
    gradient = jax.jit(jax.grad(fun))
    for name, point in points.items():
        steepest = float(max_abs(gradient(point, *args)))
        assert steepest <= gtol * (1 + 1e-6), f"{name} ended with a gradient of {steepest:.3g}, above {gtol:g}"
