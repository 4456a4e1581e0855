"""Rows of `by_hand.py`: what it costs that a loop returns to the host ten times a second."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import scipy_jax_bridge as sjb
from by_hand_loops import quadratic
from by_hand_scipy import use
from timing import Row, compare, interleave

METHODS: dict[str, Any] = {"L-BFGS": lambda: None, "Adam": lambda: optax.adam(1e-6)}
STEPS = {("L-BFGS", 20): 150_000, ("L-BFGS", 1000): 50_000, ("Adam", 20): 900_000, ("Adam", 1000): 300_000}


def long_valley(x: jax.Array) -> jax.Array:
    """Nesterov's Chebyshev-Rosenbrock function, of each 20 numbers: more iterations than anyone waits for."""
    x = x.reshape(-1, 20)
    return jnp.sum((x[:, 0] - 1) ** 2 / 4) + jnp.sum((x[:, 1:] - 2 * x[:, :-1] ** 2 + 1) ** 2)


def chunks(repeats: int) -> list[Row]:
    """Solves of a second: a `Minimizer`, in chunks, against `minimize` inside jit, one loop."""
    rows = []
    for (name, n), steps in STEPS.items():
        fun = long_valley if name == "L-BFGS" else quadratic(n)
        x0 = jnp.ones(n).at[::20].set(-1.0) if name == "L-BFGS" else jnp.zeros(n)
        options = {"gtol": 0.0, "ftol": 0.0, "maxiter": steps, "maxfun": 2 * steps}
        settings = {"backend": "optax", "method": METHODS[name](), "options": options}
        solve = sjb.Minimizer(fun, **settings)
        alone = jax.jit(lambda x, fun=fun, settings=settings: sjb.minimize(fun, x, **settings))
        result, whole = solve(x0), alone(x0)
        assert result.nit == whole.nit == steps, (result.nit, whole.nit)
        np.testing.assert_array_equal(result.params, whole.params)
        both = {"in chunks": lambda s=solve, x=x0: use(s(x)), "one loop": lambda s=alone, x=x0: s(x)}
        rows.append(compare(f"{name}, n = {n}, {steps:,} iterations", interleave(both, repeats), *both, 1.03))
    return rows
