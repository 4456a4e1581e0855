"""The transformation `lbfgsb` in a loop of the caller's: its path against `minimize`, its time against `optax.lbfgs`.

    python benchmarks/lbfgsb.py
    python benchmarks/lbfgsb.py --rows path --max-n 100
    python benchmarks/lbfgsb.py --rows scan --rows step --repeats 15

The path: Rosenbrock, logistic regression and the CUTEst problems A to H, free and bounded. Solves of at most 50
iterations must have the same counts in 90 %, and end as low to 1e-6 of the reduction in all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cutest_problems
import scipy_jax_bridge as sjb
from timing import compare, header, interleave, table

GTOL, ITERATIONS, STEPS, N = 1e-5, 50, 100, 100
Objective = Callable[..., jax.Array]


def rosenbrock(x: jax.Array) -> jax.Array:
    """Rosenbrock's function in any dimension."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def make_step(optimizer: Any, fun: Objective, *, zoom: bool = False) -> Callable[..., Any]:
    """One step of the plain loop; Optax's own L-BFGS also takes the gradient and the function."""

    def step(carry: Any, _: None = None) -> Any:
        params, state = carry
        value, grads = jax.value_and_grad(fun)(params)
        more = {"grad": grads, "value_fn": fun} if zoom else {}
        updates, state = optimizer.update(grads, state, params, value=value, **more)
        return (optax.apply_updates(params, updates), state), value

    return step


def cases(max_n: int) -> Iterator[tuple[str, Objective, Any, Any]]:
    """Name, objective of the params alone, start, and bounds."""
    x0 = jnp.where(jnp.arange(20) % 2 == 0, -1.2, 1.0)
    yield "rosenbrock", rosenbrock, x0, None
    yield "rosenbrock, bounded", rosenbrock, jnp.clip(x0, -0.5, 0.5), (-0.5, 0.5)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 10)), rng.integers(0, 2, 200)

    def logistic(w: jax.Array) -> jax.Array:
        return jnp.mean(jnp.logaddexp(0, -(2 * y - 1) * (x @ w))) + 1e-3 * w @ w

    yield "logistic regression", logistic, jnp.zeros(10), None
    yield "logistic regression, bounded", logistic, jnp.zeros(10), (-0.1, 0.1)
    for kind, name, _ in cutest_problems.select(cutest_problems.KINDS, ("A", "H"), (), max_n):
        problem = cutest_problems.load(kind, name)
        yield f"{name}, {kind}", lambda y, p=problem: p.objective(y, p.args), problem.y0, problem.bounds


def follow(fun: Objective, start: Any, bounds: Any) -> tuple[int, int, float]:
    """Iterations, evaluations and the least value of the plain loop."""
    optimizer = sjb.lbfgsb(bounds, gtol=GTOL)
    step = jax.jit(lambda carry: make_step(optimizer, fun)(carry)[0])
    carry = (start, optimizer.init(start))
    while int(carry[1].status) == -1 and int(carry[1].nit) < ITERATIONS:
        carry = step(carry)
    return int(carry[1].nit), int(carry[1].nfev), float(carry[1].best_value)


def show_path(max_n: int) -> None:
    """Print where the plain loop differs from `minimize`, and how often it does not."""
    same = total = low = 0
    options = {"gtol": GTOL, "ftol": 0.0, "maxiter": ITERATIONS}
    for name, fun, start, bounds in cases(max_n):
        try:
            result = sjb.minimize(fun, start, backend="optax", bounds=bounds, options=options)
        except ValueError as error:
            print(f"{name}: left out, {str(error)[:60]}")
            continue
        nit, nfev, value = follow(fun, start, bounds)
        reduction = float(result.trace.fun[0]) - float(result.fun)
        equal = (nit, nfev) == (result.nit, result.nfev)
        as_low = value - float(result.fun) <= 1e-6 * abs(reduction)
        same, low, total = same + equal, low + as_low, total + 1
        if not (equal and as_low):
            print(f"{name}: {nit}, {nfev}, {value:.9g}; minimize {result.nit}, {result.nfev}, {result.fun:.9g}")
    print(f"the same counts in {same} of {total} ({same / total:.1%}), as low in {low} of {total}")


def timed_steps() -> tuple[dict[str, Callable[..., Any]], dict[str, Any]]:
    """The steps by name, and the carries that they begin with."""
    x0 = jnp.where(jnp.arange(N) % 2 == 0, -1.2, 1.0)
    made = {"lbfgsb": (sjb.lbfgsb(), False), "optax.lbfgs": (optax.lbfgs(), True)}
    steps = {name: make_step(optimizer, rosenbrock, zoom=zoom) for name, (optimizer, zoom) in made.items()}
    return steps, {name: (x0, optimizer.init(x0)) for name, (optimizer, _) in made.items()}


def show_times(rows: list[str], repeats: int) -> None:
    """Print the table of times."""
    steps, starts = timed_steps()
    found = []
    if "scan" in rows:
        scans = {
            name: jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, length=STEPS))
            for name, step in steps.items()
        }
        for name, scan in scans.items():
            (params, _), values = scan(starts[name])
            if not (float(rosenbrock(params)) < 0.2 * float(values[0]) and np.isfinite(values).all()):
                raise AssertionError(f"{name} made no progress")
        times = interleave({name: lambda name=name: scans[name](starts[name]) for name in scans}, repeats)
        found.append(compare(f"{STEPS} steps in one scan, n = {N}", times, "lbfgsb", "optax.lbfgs", 0.5))
    if "step" in rows:
        jitted = {name: jax.jit(step) for name, step in steps.items()}
        times = interleave({name: lambda name=name: jitted[name](starts[name]) for name in jitted}, repeats, calls=50)
        found.append(compare(f"one step from Python, n = {N}", times, "lbfgsb", "optax.lbfgs", 1.0))
    print(table(found))


def main() -> None:
    """Print the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", action="append", choices=("path", "scan", "step"))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--max-n", type=int, default=200, help="variables of a CUTEst problem at most")
    given = parser.parse_args()
    rows = given.rows or ["scan", "step", "path"]
    jax.config.update("jax_enable_x64", True)
    print(header())
    if set(rows) - {"path"}:
        show_times(rows, given.repeats)
    if "path" in rows:
        show_path(given.max_n)


if __name__ == "__main__":
    main()
