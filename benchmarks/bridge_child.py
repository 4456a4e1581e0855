"""What `bridge.py` measures in a fresh process: settings that JAX and OpenBLAS read once. Prints one line of JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

import scipy_jax_bridge as sjb
from rivals import by_hand
from scipy_jax_bridge.models import rosenbrock
from timing import interleave

TIGHT_CALLS = 3000
SOLVES = 9
LARGE_SOLVES = 3
ITERATIONS = 25


class Evaluations:
    """Times every call of a compiled program, to the moment its result is there, and remembers the last."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.last: Callable[[], Any] | None = None

    def __enter__(self) -> Evaluations:
        self._original = original = jax.stages.Compiled.__call__

        def timed(program: Any, *inputs: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = jax.block_until_ready(original(program, *inputs, **named))
            self.seconds.append(time.perf_counter() - start)
            self.last = lambda: original(program, *inputs, **named)
            return result

        jax.stages.Compiled.__call__ = timed
        return self

    def __exit__(self, *_: object) -> None:
        jax.stages.Compiled.__call__ = self._original


def dispatch(mode: str) -> dict[str, float]:
    """Seconds of one evaluation inside the solve and in a tight loop, and of a whole solve without the clock.

    Args:
        mode: "off" runs programs inline; the setting is made before JAX has a CPU client.
    """
    if mode == "off":
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    model = rosenbrock.build(100, leaves=20)
    solve = sjb.Minimizer(model.fun)
    solve(model.params)
    inside = []
    with Evaluations() as evaluations:
        for _ in range(SOLVES):
            evaluations.seconds.clear()
            nfev = int(solve(model.params).nfev)
            assert len(evaluations.seconds) >= nfev, "the evaluations did not go through a compiled program"
            inside.append(statistics.median(evaluations.seconds))
    assert evaluations.last is not None
    tight = interleave({"tight": evaluations.last}, TIGHT_CALLS)["tight"]
    whole = interleave({"solve": lambda: solve(model.params).params}, SOLVES)["solve"]
    return {
        "inside": statistics.median(inside),
        "tight": statistics.median(tight),
        "solve": statistics.median(whole),
    }


def diagonal(x: jax.Array, scales: jax.Array) -> jax.Array:
    """A quadratic whose curvatures span four decades."""
    return 0.5 * jnp.sum(scales * x**2)


def threads(what: str) -> dict[str, float]:
    """Seconds of one evaluation of a solve, by this package and by hand; or the threads the objective sees."""
    if what == "kept":
        return _threads_kept()
    x0 = np.ones(100_000)
    scales = jax.device_put(np.logspace(0.0, 4.0, x0.size))
    options = {"maxiter": ITERATIONS, "gtol": 0.0, "ftol": 0.0}
    solve = sjb.Minimizer(diagonal, options=options)
    hand = by_hand(diagonal, x0, (scales,), **options)
    ours, theirs = solve(x0, (scales,)), hand()
    np.testing.assert_allclose(float(ours.fun), theirs.fun, rtol=1e-2)
    contenders = {"ours": lambda: solve(x0, (scales,)).params, "hand": lambda: hand().x}
    times = interleave(contenders, LARGE_SOLVES)
    counts = {"ours": int(ours.nfev), "hand": theirs.nfev}
    return {name: statistics.median(seconds) / counts[name] for name, seconds in times.items()}


def _threads_kept() -> dict[str, float]:
    """BLAS threads before, during (seen from within the objective) and after a solve."""
    seen = []

    def look(value: Any) -> Any:
        seen.append(_blas_threads())
        return value

    def objective(x: jax.Array) -> jax.Array:
        plain = jnp.sum((x - 1.0) ** 2)
        jax.debug.callback(look, plain)
        return plain

    outside = _blas_threads()
    sjb.minimize(objective, np.zeros(50))
    jax.effects_barrier()
    return {"outside": outside, "objective": min(seen), "after": _blas_threads()}


def _blas_threads() -> int:
    return max(each["num_threads"] for each in threadpoolctl.threadpool_info() if "scipy" in each["filepath"])


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps({"dispatch": dispatch, "threads": threads}[sys.argv[1]](sys.argv[2])))
