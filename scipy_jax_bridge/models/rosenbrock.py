"""Rosenbrock's function in many dimensions: tiny evaluations, so a solver's own costs show.

Source: H. Rosenbrock, An Automatic Method for Finding the Greatest or Least Value of a Function,
The Computer Journal 3, 1960, in the chained form of `scipy.optimize.rosen`. On this function
users measured Optax's L-BFGS at ten times SciPy's time:
https://github.com/google-deepmind/optax/issues/1298
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scipy_jax_bridge.models._model import Model


def flatten(params: Any) -> Float[Array, " n"]:
    """Join the leaves, in the order of the tree, into one vector."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])


def objective(params: Any) -> Float[Array, ""]:
    r"""Rosenbrock's function of all leaves joined, `scipy.optimize.rosen`.

    $$ f(x) = \sum_{i=1}^{n-1} 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2 $$

    Args:
        params: any pytree of floating-point arrays, n >= 2 numbers together.

    Returns:
        The objective, a scalar; its least value is 0, where every number is 1.
    """
    x = flatten(params)
    return jnp.sum(100 * jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(1 - x[:-1]))


def metrics(params: Any, args: tuple[()] = ()) -> dict[str, float]:
    """The largest absolute difference from the global minimizer, where every number is 1."""
    return {"largest_error": float(jnp.max(jnp.abs(flatten(params) - 1)))}


def build(n: int = 100, leaves: int = 1) -> Model:
    """Rosenbrock's function from the start -1.2, 1, -1.2, 1, ...

    Args:
        n: how many numbers, at least 2.
        leaves: 1 for `params` a vector of shape (n,), more for a dict of that many equal vectors
            whose keys sort in order. It must divide `n`.

    Returns:
        The model, without `args`.

    Raises:
        ValueError: `n` is less than 2, or `leaves` does not divide it.
    """
    if n < 2 or leaves < 1 or n % leaves:
        raise ValueError(
            f"Rosenbrock's function takes n >= 2 numbers in equal leaves, not n={n} in "
            f"leaves={leaves}; choose a number of leaves that divides n"
        )
    start = np.where(np.arange(n) % 2 == 0, -1.2, 1.0)
    names = [f"block_{index:0{len(str(leaves - 1))}d}" for index in range(leaves)]
    shape = "one vector" if leaves == 1 else f"{leaves} leaves"
    return Model(
        name="rosenbrock",
        title=f"Rosenbrock's function of {n} numbers in {shape}",
        fun=objective,
        params=start if leaves == 1 else dict(zip(names, np.split(start, leaves), strict=True)),
        note="Not convex. The least value is 0, where every number is 1; from this start L-BFGS-B reaches it.",
        metrics=metrics,
    )
