"""Rows of `by_hand.py`: loops on the device against the loops that one would write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import engine as engine_rows
import scipy_jax_bridge as sjb
from by_hand_scipy import bowl, use
from rivals import GTOL, MAXITER
from scipy_jax_bridge.models import rosenbrock
from scipy_jax_bridge.models.optax_loop import documented_loop
from timing import Row, compare, interleave

SIZES, STEPS = (20, 100, 1000), 20_000
OPTIONS = {"gtol": GTOL, "ftol": 0.0, "maxiter": MAXITER}
RATE = 1e-4
METHODS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "adam": lambda: optax.adam(RATE),
    "adamw": lambda: optax.adamw(RATE),
    "clip + adam": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE)),
    "adam, a schedule": lambda: optax.adam(optax.cosine_decay_schedule(RATE, 2 * STEPS)),
    "sgd": lambda: optax.sgd(RATE),
}
GOALS = {"sgd": ((2.2, 2.2, 1.5), 1.3)}  # others: those of Adam
GOALS_OF_ADAM = ((1.7, 1.6, 1.3), 1.2)


def bare_loop(fun: Callable[..., Any], method: optax.GradientTransformation, gtol: float, maxiter: int) -> Callable:
    """The loop that one writes: it carries point, state, value and gradient, and ends at a small gradient."""
    evaluate = jax.value_and_grad(fun)

    def solve(x: jax.Array) -> Any:
        def step(carry: Any) -> Any:
            x, state, _, grad, count = carry
            updates, state = method.update(grad, state, x)
            x = optax.apply_updates(x, updates)
            return x, state, *evaluate(x), count + 1

        def goes_on(carry: Any) -> jax.Array:
            return (carry[4] < maxiter) & (jnp.max(jnp.abs(carry[3])) > gtol)

        return jax.lax.while_loop(goes_on, step, (x, method.init(x), *evaluate(x), 0))

    return solve


def quadratic(n: int) -> Callable[[jax.Array], jax.Array]:
    """A convex function that costs as little as one can."""
    weights = np.geomspace(1e-2, 1.0, n)
    return lambda x: 0.5 * jnp.sum(weights * (x - 1) ** 2)


def transformations(repeats: int) -> list[Row]:
    """20,000 steps of first-order methods."""
    rows = []
    for name in METHODS:
        targets, aim = GOALS.get(name, GOALS_OF_ADAM)
        for n, target in zip(SIZES, targets, strict=True):
            times = interleave(_steps(name, n), repeats)
            rows.append(compare(f"{name}, n = {n}, {STEPS:,} steps", times, "ours", "a while_loop", target, aim))
    return rows


def _steps(name: str, n: int) -> dict[str, Callable[[], Any]]:
    fun, x0, make = quadratic(n), jnp.asarray(np.where(np.arange(n) % 2 == 0, -1.2, 0.0)), METHODS[name]
    options = {"gtol": 1e-12, "ftol": 0.0, "maxiter": STEPS, "maxfun": 2 * STEPS}
    solve = sjb.Minimizer(fun, backend="optax", method=make(), options=options)
    loop = jax.jit(bare_loop(fun, make(), 1e-12, STEPS))
    result, end = solve(x0), loop(x0)
    assert result.nit == end[4] == STEPS, (result.nit, end[4])
    np.testing.assert_allclose(result.trace.fun[-1], end[2], rtol=1e-9)
    return {"ours": lambda: use(solve(x0)), "a while_loop": lambda: loop(x0)}


def inside(method: optax.GradientTransformation | None = None) -> Callable[..., Any]:
    """A solve inside jit, with what the documented loop finds, and the gradient, returned."""

    def solve(fun: Callable[..., Any], x: jax.Array) -> Any:
        result = sjb.minimize(fun, x, backend="optax", method=method, options=OPTIONS)
        return result.params, result.fun, result.jac, result.nit, result.nfev, result.code

    return jax.jit(solve, static_argnums=0)


def optax_lbfgs(repeats: int) -> list[Row]:
    """`method=optax.lbfgs()` inside jit, time an iteration."""
    return _against_documented("method=optax.lbfgs()", inside(optax.lbfgs()), (1.05, 1.05, 1.05), repeats)


def engine(repeats: int) -> list[Row]:
    """L-BFGS-B inside jit, time an iteration."""
    return _against_documented("the engine", inside(), (0.27, 0.18, 0.46), repeats)


def _against_documented(what: str, solve: Callable[..., Any], targets: tuple[float, ...], repeats: int) -> list[Row]:
    rows, fun, theirs = [], rosenbrock.objective, "the documented loop"
    loop = jax.jit(documented_loop(fun, GTOL, MAXITER))
    for n, target in zip(SIZES, targets, strict=True):
        x0 = jnp.asarray(rosenbrock.build(n).params)
        found, end = solve(fun, x0), loop(x0)
        assert float(jnp.max(jnp.abs(found[2]))) <= GTOL and end.grad_norm <= GTOL
        times = interleave({"ours": lambda x=x0: solve(fun, x), theirs: lambda x=x0: loop(x)}, repeats)
        counts = {"ours": int(found[3]), theirs: int(end.nit)}
        times = {name: [seconds / counts[name] for seconds in each] for name, each in times.items()}
        rows.append(compare(f"{what} inside jit, n = {n}, an iteration", times, "ours", theirs, target))
    return rows


def call(repeats: int) -> list[Row]:
    """A repeated call with two parameters, against the loop alone."""
    x0, solve, alone = jnp.zeros(2), sjb.Minimizer(bowl, backend="optax", options=OPTIONS), inside()
    result, found = solve(x0), alone(bowl, x0)
    assert np.array_equal(result.params, found[0]) and result.nit == found[3]
    contenders = {"ours": lambda: use(solve(x0)), "the bare loop": lambda: alone(bowl, x0)}
    times = interleave(contenders, repeats, calls=3, warm_up=5)
    return [compare("a repeated device call, 2 parameters", times, "ours", "the bare loop", 6.0, 4.0)]


def vmap(repeats: int) -> list[Row]:
    """64 solves of Rosenbrock's function in one vmap; `engine.py` has more of them."""
    goals = {
        "64 calls of the jitted documented loop": (0.15, None),
        "64 SciPy solves": (0.02, 0.01),
        "64 SciPy solves, one BLAS thread": (0.02, 0.01),
    }
    rows = [row for row in engine_rows.batch_rows(repeats) if row.against in goals]
    return [replace(row, target=goals[row.against][0], aim=goals[row.against][1]) for row in rows]
