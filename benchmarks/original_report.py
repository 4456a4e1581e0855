"""The table of the report that this package grew from, then and now.

    python benchmarks/original_report.py

https://github.com/google-deepmind/optax/issues/1298 timed five ways to minimize Rosenbrock's function of 100 numbers:
its first table has the first two "then" figures of the documented loop's row, its second the others. Here each way is
timed as the report did and as it should be: compiled before, and waited for. Answers are checked before a time is
printed; they differ as the report's do, since each way has its own stopping rule.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

import scipy_jax_bridge as sjb
from results import Table, header, save
from rivals import documented_loop
from scipy_jax_bridge.models import load
from timing import interleave

REPEATS = 9
THEN = {
    "SciPy, NumPy function": ("63 ms", "498"),
    "SciPy, jitted JAX function": ("72 ms", "495"),
    "Optax, loop in Python, jitted step": ("560 ms", "495"),
    "Optax, documented loop, first call": ("283 ms", "516"),
    "Optax, documented loop, jitted, not waited for": ("0.05 ms", "516"),
}


def main() -> None:
    """Measures and prints the table."""
    jax.config.update("jax_enable_x64", True)
    print(header(), flush=True)
    model = load("rosenbrock", n=100)
    start = np.asarray(model.params)
    value_and_grad = jax.jit(jax.value_and_grad(model.fun))
    loop = jax.jit(documented_loop(model.fun))
    solvers = {backend: sjb.Minimizer(model.fun, backend=backend) for backend in ("scipy", "optax")}
    compile_s = {backend: solver.compile(start) for backend, solver in solvers.items()}
    calls: dict[str, Callable[[], Any]] = {
        "SciPy, NumPy function": lambda: _scipy(scipy.optimize.rosen, scipy.optimize.rosen_der, start),
        "SciPy, jitted JAX function": lambda: _scipy_jax(value_and_grad, start),
        "Optax, loop in Python, jitted step": _python_loop(model.fun, start),
        "Optax, documented loop, first call": lambda: documented_loop(model.fun)(jnp.asarray(start)),
        "Optax, documented loop, jitted, not waited for": lambda: loop(jnp.asarray(start)),
        'this package, backend="scipy"': lambda: solvers["scipy"](start).params,
        'this package, backend="optax"': lambda: solvers["optax"](start).params,
    }
    for name, call in calls.items():
        found = np.asarray(call())
        assert np.abs(found - 1).max() < 1e-2, f"{name} did not find the minimum"
    times = interleave(calls, REPEATS)
    times["Optax, documented loop, jitted, not waited for"] = [_dispatch(loop, start) for _ in range(REPEATS)]
    waited = statistics.median(interleave({"loop": lambda: loop(jnp.asarray(start))}, REPEATS)["loop"])
    lines = []
    for name in calls:
        then, nit = THEN.get(name, ("", ""))
        lines.append((name, then, nit, _format(statistics.median(times[name]))))
    lines.insert(5, ("the same, waited for", "", "", _format(waited)))
    note = "Compiled ahead, beside these times: " + ", ".join(
        f"{_format(seconds)} for {backend}" for backend, seconds in compile_s.items()
    )
    title = "The original report's table, then and now"
    save("original_report", [Table(title, ("what was timed", "then", "iterations then", "now"), lines, note + ".")])


def _scipy(fun: Any, jac: Any, start: np.ndarray) -> np.ndarray:
    return scipy.optimize.minimize(fun, start, jac=jac, method="L-BFGS-B").x


def _scipy_jax(value_and_grad: Any, start: np.ndarray) -> np.ndarray:
    return scipy.optimize.minimize(value_and_grad, start, jac=True, method="L-BFGS-B").x


def _python_loop(fun: Any, start: np.ndarray, gtol: float = 1e-5) -> Callable[[], jax.Array]:
    """One jitted step, called from Python until the gradient is small."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(fun)

    @jax.jit
    def step(x: jax.Array, state: Any) -> tuple[jax.Array, Any, jax.Array]:
        value, grad = value_and_grad(x, state=state)
        update, state = solver.update(grad, state, x, value=value, grad=grad, value_fn=fun)
        return optax.apply_updates(x, update), state, jnp.max(jnp.abs(optax.tree.get(state, "grad")))

    def run() -> jax.Array:
        x, state = jnp.asarray(start), solver.init(jnp.asarray(start))
        for _ in range(2000):
            x, state, steepest = step(x, state)
            if steepest <= gtol:
                break
        return x

    return run


def _dispatch(loop: Any, start: np.ndarray) -> float:
    """Seconds until the call returns; the answer comes later."""
    x = jnp.asarray(start)
    began = time.perf_counter()
    found = loop(x)
    seconds = time.perf_counter() - began
    jax.block_until_ready(found)
    return seconds


def _format(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


if __name__ == "__main__":
    main()
