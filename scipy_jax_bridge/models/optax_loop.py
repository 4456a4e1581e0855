"""The loop of Optax's L-BFGS documentation, stopped by the gradient: what a solve costs without this package.

The command line and the benchmarks time it: https://github.com/google-deepmind/optax/issues/1298
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class LoopEnd(NamedTuple):
    """Where the loop ended.

    Args:
        params: the last iterate.
        value: the objective there.
        grad_norm: max abs of the gradient there.
        nit, nfev: iterations and evaluations.
    """

    params: Any
    value: Float[Array, ""]
    grad_norm: Float[Array, ""]
    nit: Int[Array, ""]
    nfev: Int[Array, ""]


def documented_loop(fun: Callable[..., Array], gtol: float, maxiter: int) -> Callable[..., LoopEnd]:
    """Return a function of params and args that minimizes `fun`; every call without `jax.jit` compiles anew.

    Args:
        fun: the objective, `fun(params, *args)` is a real scalar.
        gtol: stop when the max abs of the gradient is at most this.
        maxiter: stop after this many iterations.
    """
    solver = optax.lbfgs()

    def solve(params: Any, *args: Any) -> LoopEnd:
        def objective(params: Any) -> Array:
            return fun(params, *args)

        value_and_grad = optax.value_and_grad_from_state(objective)

        def advance(carry: tuple[Any, optax.OptState, Array]) -> tuple[Any, optax.OptState, Array]:
            x, state, nfev = carry
            value, grad = value_and_grad(x, state=state)
            step, state = solver.update(grad, state, x, value=value, grad=grad, value_fn=objective)
            return optax.apply_updates(x, step), state, nfev + optax.tree.get(state, "num_linesearch_steps")

        def goes_on(carry: tuple[Any, optax.OptState, Array]) -> Array:
            nit, grad = (optax.tree.get(carry[1], name) for name in ("count", "grad"))
            return (nit == 0) | ((nit < maxiter) & (_max_abs(grad) > gtol))

        params, state, nfev = jax.lax.while_loop(goes_on, advance, (params, solver.init(params), jnp.asarray(1)))
        nit, value, grad = (optax.tree.get(state, name) for name in ("count", "value", "grad"))
        return LoopEnd(params, value, _max_abs(grad), nit, nfev)

    return solve


def _max_abs(tree: Any) -> Array:
    return jnp.max(jnp.asarray([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))
