"""One cell of the benchmark: one solver on one problem, its answer evaluated here."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import peers
from cutest_problems import Problem, load, rosenbrock

MEASURED = (
    *("message", "nit", "nfev", "fun0", "fun", "grad_norm", "outside"),
    *("compile_s", "first_s", "warm_s"),
)
LONG_SECONDS = 5.0  # a solve that takes longer is timed once


def use_doubles() -> None:
    """Turns double precision on, before anything is traced."""
    jax.config.update("jax_enable_x64", True)


def measure(kind: str, name: str, solver: str, settings: peers.Settings, repeats: int) -> dict[str, Any]:
    """Compiles, solves, times, and evaluates the final point.

    Args:
        kind: "unconstrained" or "bounded".
        name: the problem.
        solver: a key of `peers.SOLVERS[kind]`.
        settings: tolerances and limits.
        repeats: warm runs after the first; 0 leaves `warm_s` out.

    Returns:
        A row with `fun0`, `fun` and `grad_norm` (max abs, projected) at the start and the final
        point clipped into the bounds, `outside` (how far it was clipped), `nit`, `nfev`,
        `message`, `compile_s`, `first_s`, `warm_s`. What is not finite or not known is None.
    """
    _warm_up(kind, solver)
    problem, evaluate = _loaded(kind, name)
    run, compile_s = _timed(lambda: peers.SOLVERS[kind][solver](problem, settings))
    answer, first_s = _timed(run)
    warm_s = None
    if repeats:
        count = repeats if first_s < LONG_SECONDS else 1
        warm_s = statistics.median(_timed(run)[1] for _ in range(count))
    point = np.clip(answer.x, *problem.box)
    fun, grad_norm = evaluate(point)
    return {
        **failed_row(kind, name, solver, point.size, None),
        **{"nit": answer.nit, "nfev": answer.nfev, "message": answer.message},
        **{"fun0": evaluate(problem.x0)[0], "fun": fun, "grad_norm": grad_norm},
        **{"outside": _finite(np.max(np.abs(answer.x - point)))},
        **{"compile_s": compile_s, "first_s": first_s, "warm_s": warm_s},
    }


def failed_row(kind: str, name: str, solver: str, n: int, error: str | None) -> dict[str, Any]:
    """A row of which only the cell and the reason are known."""
    known = {"kind": kind, "problem": name, "solver": solver, "n": n, "error": error}
    return known | dict.fromkeys(MEASURED)


@cache
def _warm_up(kind: str, solver: str) -> None:
    """Pays for imports and first use before the first timing of a solver."""
    peers.SOLVERS[kind][solver](rosenbrock(kind), peers.Settings(maxiter=5))()


@cache
def _loaded(kind: str, name: str) -> tuple[Problem, Callable[..., Any]]:
    """The problem, with its evaluator; building that traces the objective before any timing."""
    problem = load(kind, name)
    lower, upper = problem.box

    @jax.jit
    def value_and_norm(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, grad = jax.value_and_grad(problem.fun)(x, problem.args)
        room = jnp.where(grad < 0, jnp.maximum(x - upper, grad), jnp.minimum(x - lower, grad))
        return value, jnp.max(jnp.abs(room))

    def evaluate(x: Any) -> tuple[float | None, float | None]:
        value, norm = value_and_norm(x)
        return _finite(value), _finite(norm)

    evaluate(problem.x0)
    return problem, evaluate


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def _finite(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None
