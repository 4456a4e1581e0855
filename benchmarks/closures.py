"""What a new closure costs at each call: `minimize` traces it, finds its program, and compiles nothing.

    python benchmarks/closures.py

Against it stand tracing value and gradient alone, plus the same call through a `Minimizer` that has traced before.
Both run in turns, with new data of one shape at each call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import scipy_jax_bridge as sjb
from timing import header

Objective = Callable[[Any], Any]


def least_squares(rng: np.random.Generator) -> Objective:
    """20 parameters, 100 rows."""
    a, y = jnp.asarray(rng.normal(size=(100, 20))), jnp.asarray(rng.normal(size=100))
    return lambda x: jnp.mean((a @ x[:20] - y) ** 2) + jnp.sum(x**2)


def logistic(rng: np.random.Generator) -> Objective:
    """A logistic regression with softplus, whose derivative is a rule."""
    a, y = jnp.asarray(rng.normal(size=(100, 20))), jnp.asarray(rng.integers(0, 2, size=100))
    return lambda x: jnp.mean(jax.nn.softplus(a @ x) - y * (a @ x)) + 0.01 * jnp.sum(x**2)


def gaussian_process(rng: np.random.Generator) -> Objective:
    """A marginal likelihood with 30 points; the first three of the parameters."""
    points, y = jnp.sort(jnp.asarray(rng.uniform(size=30))), jnp.asarray(rng.normal(size=30))

    def fun(x: Any) -> Any:
        scale, length, noise = jnp.exp(x[:3])
        kernel = scale * jnp.exp(-(((points[:, None] - points) / length) ** 2)) + (0.1 + noise) * jnp.eye(30)
        factor = jnp.linalg.cholesky(kernel)
        residual = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
        return 0.5 * jnp.sum(residual**2) + jnp.sum(jnp.log(jnp.diag(factor))) + jnp.sum(x**2)

    return fun


def measure(make: Callable[[np.random.Generator], Objective], backend: str, calls: int) -> str:
    """The median seconds of both, and their difference."""
    rng, start = np.random.default_rng(0), jnp.zeros(20)
    options = {"maxiter": 5}
    sjb.minimize(make(rng), start, backend=backend, options=options)
    rows = []
    for _ in range(calls):
        fun = make(rng)
        kept = sjb.Minimizer(fun, backend=backend, options=options)
        kept(start)
        began = time.perf_counter()
        jax.block_until_ready(sjb.minimize(fun, start, backend=backend, options=options).params)
        fresh_s = time.perf_counter() - began
        again = lambda x, fun=fun: fun(x)  # noqa: E731  # JAX has not traced it
        began = time.perf_counter()
        jax.make_jaxpr(jax.value_and_grad(again))(start)
        trace_s = time.perf_counter() - began
        began = time.perf_counter()
        jax.block_until_ready(kept(start).params)
        rows.append((fresh_s, trace_s, time.perf_counter() - began))
    fresh, trace, again_s = np.median(rows, axis=0)
    return (
        f"{make.__name__}, {backend}: fresh closure {1e3 * fresh:.2f} ms; tracing {1e3 * trace:.2f} + Minimizer "
        f"{1e3 * again_s:.2f} ms; ratio {fresh / (trace + again_s):.2f}, {1e3 * (fresh - trace - again_s):+.2f} ms"
    )


def main() -> None:
    """All rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100, help="of each row")
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(header())
    for make in (least_squares, logistic, gaussian_process):
        for backend in ("scipy", "optax"):
            print(measure(make, backend, given.calls))


if __name__ == "__main__":
    main()
