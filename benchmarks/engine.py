"""The engine's compile, warm and batch times against its peers, all in one run.

    python benchmarks/engine.py
    python benchmarks/engine.py --rows compile --repeats 9

Double precision, one stopping rule for all: max abs of the gradient at most 1e-5. Every point that is timed is
checked to meet it. Compile rows are cold: a new function and emptied caches each time. The rows over the CUTEst
problems are in `benchmarks/cutest.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import scipy_jax_bridge as sjb
from rivals import GTOL, by_hand, check_stationary, documented_loop, jaxopt_lbfgs, optimistix_lbfgs
from scipy_jax_bridge._problem.cache import compile_anew
from scipy_jax_bridge.models import rosenbrock
from timing import Row, Seconds, compare, interleave, measure_rows
from workloads import WORKLOADS, Workload

OPTIONS = {"gtol": GTOL, "ftol": 0.0}
LANES = 64


def engine(fun: Callable[..., jax.Array]) -> Callable[..., Any]:
    """The engine as a traceable function of the start and of data."""
    return lambda params, *args: sjb.minimize(fun, params, args, backend="optax", options=OPTIONS).params


def compile_rows(repeats: int) -> list[Row]:
    """Trace plus compile, in multiples of value-and-gradient alone."""
    rows = []
    for name, workload in WORKLOADS.items():
        times = interleave(_compilations(workload()), repeats, before=jax.clear_caches)
        alone = "value and gradient alone"
        rows += [
            compare(f"compile {name}: Minimizer.compile", times, "Minimizer", alone, 2.0),
            compare(f"compile {name}: jit of minimize", times, "jit", alone, 2.0),
            compare(f"compile {name}: documented Optax loop", times, "loop", alone, None),
        ]
    return rows


def _compilations(workload: Workload) -> dict[str, Callable[[], Any]]:
    make, params, args = workload
    args = tuple(jax.device_put(arg) for arg in args)

    def ahead(function: Callable[..., Any]) -> Any:
        return jax.jit(function).lower(params, *args).compile()

    def minimizer() -> float:
        with compile_anew():
            return sjb.Minimizer(make(), backend="optax", options=OPTIONS).compile(params, args)

    return {
        "value and gradient alone": lambda: ahead(jax.value_and_grad(make())),
        "Minimizer": minimizer,
        "jit": lambda: ahead(engine(make())),
        "loop": lambda: ahead(documented_loop(make())),
    }


def warm_rows(repeats: int) -> list[Row]:
    """One solve of Rosenbrock's function, n = 100, compiled before."""
    model = rosenbrock.build(100)
    fun, x0 = model.fun, jax.device_put(model.params)
    minimizer = sjb.Minimizer(fun, backend="optax", options=OPTIONS)
    makers = {
        "documented Optax loop": documented_loop,
        "jaxopt.LBFGS": jaxopt_lbfgs,
        "optimistix.LBFGS": optimistix_lbfgs,
        "ours, jitted": engine,
    }
    solves = {name: jax.jit(make(fun)) for name, make in makers.items()}
    contenders = {name: (lambda solve=solve: solve(x0)) for name, solve in solves.items()}
    contenders["ours, Minimizer"] = lambda: minimizer(x0).params
    check_stationary(fun, {name: call() for name, call in contenders.items()})
    times = interleave(contenders, repeats, warm_up=3)
    peers = [name for name in times if not name.startswith("ours")]
    fastest = min(peers, key=lambda name: statistics.median(times[name]))
    rows = [
        compare("warm, Rosenbrock 100: jitted", times, "ours, jitted", name, 1.0 if name == fastest else None)
        for name in peers
    ]
    return [*rows, compare("warm, Rosenbrock 100: Minimizer call", times, "ours, Minimizer", fastest, None)]


def batch_rows(repeats: int) -> list[Row]:
    """64 solves of Rosenbrock's function, n = 20: one vmap against one after another."""
    fun = rosenbrock.objective
    host = np.random.default_rng(0).uniform(-2.0, 2.0, (LANES, 20))
    starts = jax.device_put(host)
    each = [jax.device_put(start) for start in host]
    batched = jax.jit(jax.vmap(engine(fun)))
    batched_loop = jax.jit(jax.vmap(documented_loop(fun)))
    alone, loop = jax.jit(engine(fun)), jax.jit(documented_loop(fun))
    scipy, alone_scipy = (by_hand(fun, host[0], one_thread=held, **OPTIONS) for held in (False, True))
    contenders: dict[str, Callable[[], Any]] = {
        "vmap": lambda: batched(starts),
        "64 calls of the jitted documented loop": lambda: [loop(start) for start in each],
        "vmap of the documented loop": lambda: batched_loop(starts),
        "64 calls of our jitted solve": lambda: [alone(start) for start in each],
        "64 SciPy solves": lambda: [scipy(start).x for start in host],
        "64 SciPy solves, one BLAS thread": lambda: [alone_scipy(start).x for start in host],
    }
    _check_lanes(fun, {name: np.asarray(call()) for name, call in contenders.items()})
    times: Seconds = interleave(contenders, repeats, warm_up=2)
    targets = dict.fromkeys(contenders) | {
        "64 calls of the jitted documented loop": 0.33,
        "64 SciPy solves": 0.01,
        "64 SciPy solves, one BLAS thread": 0.01,
    }
    return [
        compare("64 Rosenbrocks (n = 20) in one vmap", times, "vmap", name, target)
        for name, target in targets.items()
        if name != "vmap"
    ]


def _check_lanes(fun: Callable[..., jax.Array], points: dict[str, np.ndarray]) -> None:
    """Every lane of every contender is stationary; says how many are at the global minimum."""
    for name, lanes in points.items():
        check_stationary(fun, {f"{name}, lane {lane}": point for lane, point in enumerate(lanes)})
        least = sum(float(fun(point)) < 1e-6 for point in lanes)
        print(f"{name}: {least} of {LANES} lanes end at the global minimum, the others at the local one")


ROWS = {"compile": (compile_rows, 7), "warm": (warm_rows, 101), "vmap": (batch_rows, 21)}


if __name__ == "__main__":
    measure_rows(str(__doc__), ROWS)
