"""One call, two backends: what the convenience costs against code written by hand, all in one run.

    python benchmarks/bridge.py
    python benchmarks/bridge.py --rows scipy --rows compilations --repeats 31

Double precision; the main problem is Rosenbrock's function of 100 numbers, as one vector and as a dict of 20
leaves. Answers are checked to agree before a time is printed. Everything is warm: compiled before.
The rows on dispatch and threads run in fresh processes (`bridge_child.py`), because both settings are read once.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import scipy_jax_bridge as sjb
from rivals import GTOL, by_hand, check_stationary, documented_loop
from scipy_jax_bridge.models import rosenbrock
from timing import CompileCounter, Row, busy_core, compare, header, interleave, run_child, table

GRADIENT_ONLY = {"gtol": GTOL, "ftol": 0.0}
SCIPY_DEFAULTS = {"gtol": GTOL, "ftol": 2.220446049250313e-09}
CHILD = Path(__file__).with_name("bridge_child.py")
FURTHER_CALLS = 100


def scipy_rows(repeats: int) -> list[Row]:
    """The SciPy backend on a dict of 20 leaves against glue by hand, and against jaxopt on the same dict."""
    import jaxopt

    model, flat = rosenbrock.build(100, leaves=20), rosenbrock.build(100)
    solve = sjb.Minimizer(model.fun)
    wrapped = jaxopt.ScipyMinimize(fun=model.fun, method="L-BFGS-B", options=dict(SCIPY_DEFAULTS), maxiter=15000)
    hand, held = (by_hand(flat.fun, flat.params, one_thread=one) for one in (False, True))
    contenders: dict[str, Callable[[], Any]] = {
        "ours": lambda: solve(model.params).params,
        "packed callable by hand": lambda: hand().x,
        "packed callable by hand, one BLAS thread": lambda: held().x,
        "jaxopt.ScipyMinimize": lambda: wrapped.run(model.params).params,
    }
    points = {name: rosenbrock.flatten(call()) for name, call in contenders.items()}
    for name, point in points.items():
        np.testing.assert_allclose(point, np.ones(100), atol=1e-3, err_msg=name)
    ours, by_ours = solve(model.params), hand()
    same = np.array_equal(points["ours"], by_ours.x) and (int(ours.nit), int(ours.nfev)) == (by_ours.nit, by_ours.nfev)
    print(f"SciPy backend: nit {int(ours.nit)}, nfev {int(ours.nfev)}, the path by hand bit for bit: {same}")
    times = interleave(contenders, repeats)
    targets = {name: 0.10 if name.startswith("jaxopt") else 1.10 for name in contenders if name != "ours"}
    what = "SciPy backend, Rosenbrock 100, 20 leaves: solve"
    return [compare(what, times, "ours", name, target) for name, target in targets.items()]


def optax_rows(repeats: int) -> list[Row]:
    """The Optax backend, from a vector and from a dict, against the jitted documented loop on the vector."""
    model, flat = rosenbrock.build(100, leaves=20), rosenbrock.build(100)
    x0, params = jax.device_put(flat.params), jax.device_put(model.params)
    solve = {name: sjb.Minimizer(flat.fun, backend="optax", options=GRADIENT_ONLY) for name in ("vector", "dict")}
    jitted = jax.jit(lambda x: sjb.minimize(flat.fun, x, backend="optax", options=GRADIENT_ONLY).params)
    loop = jax.jit(documented_loop(flat.fun))
    contenders: dict[str, Callable[[], Any]] = {
        "Minimizer, vector": lambda: solve["vector"](x0).params,
        "Minimizer, 20 leaves": lambda: solve["dict"](params).params,
        "jitted minimize, vector": lambda: jitted(x0),
        "jitted documented loop": lambda: loop(x0),
    }
    check_stationary(flat.fun, {name: rosenbrock.flatten(call()) for name, call in contenders.items()})
    times = interleave(contenders, 4 * repeats, warm_up=3)
    return [
        compare(f"Optax backend, Rosenbrock 100: {name}", times, name, "jitted documented loop", 1.0)
        for name in contenders
        if name != "jitted documented loop"
    ]


def fit(params: dict[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
    """A straight line's mean squared error: two parameters."""
    return jnp.mean((params["slope"] * x + params["offset"] - y) ** 2)


def fixed_cost_rows(repeats: int) -> list[Row]:
    """A repeated call where the solve itself takes next to nothing."""
    x = jnp.linspace(0.0, 1.0, 20)
    params, args = {"slope": jnp.zeros(()), "offset": jnp.zeros(())}, (x, 2.0 * x + 1.0)
    solve = sjb.Minimizer(fit, backend="optax", options=GRADIENT_ONLY)
    bare = jax.jit(lambda params, *args: sjb.minimize(fit, params, args, backend="optax", options=GRADIENT_ONLY).params)
    loop = jax.jit(documented_loop(fit))
    contenders = {
        "ours": lambda: solve(params, args).params,
        "bare compiled loop: jit of minimize": lambda: bare(params, *args),
        "jitted documented loop": lambda: loop(params, *args),
    }
    for name, call in contenders.items():
        np.testing.assert_allclose(float(call()["slope"]), 2.0, atol=1e-3, err_msg=name)
    times = interleave(contenders, 2 * repeats, calls=20)
    bare_name, loop_name = list(contenders)[1:]
    what = "Minimizer call, line fit, 2 parameters"
    return [compare(what, times, "ours", bare_name, 6.0), compare(what, times, "ours", loop_name, None)]


def compilation_rows(_: int) -> list[Row]:
    """What JAX compiles in further calls with new data, new starts and new tolerances."""
    counter = CompileCounter()
    return [
        Row(f"compilations in {FURTHER_CALLS} further calls, {backend}", "none", count, 0, 0, unit="compilations")
        for backend in ("scipy", "optax")
        for count in [_compilations(counter, backend)]
    ]


def _compilations(counter: CompileCounter, backend: str) -> int:
    rng = np.random.default_rng(0)
    solve = sjb.Minimizer(fit, backend=backend)

    def call(gtol: float, ftol: float) -> None:
        data = rng.normal(size=20), rng.normal(size=20)
        start = {"slope": np.asarray(rng.normal()), "offset": np.asarray(rng.normal())}
        solve(start, data)
        sjb.minimize(fit, start, data, backend=backend, options={"gtol": gtol, "ftol": ftol})

    call(1e-5, 1e-9)
    with counter:
        for index in range(FURTHER_CALLS):
            call(10.0 ** -rng.uniform(3, 9), 0.0 if index % 2 else 10.0 ** -rng.uniform(6, 14))
    return counter.count


def dispatch_rows(repeats: int) -> list[Row]:
    """An evaluation inside the SciPy backend's solve against the same compiled callable in a tight loop."""
    modes = {"asynchronous (default)": "on", "inline (documented)": "off"}
    seen = _children(modes, max(3, repeats // 5), lambda mode: run_child(CHILD, "dispatch", mode))
    rows = [
        Row(f"evaluation in the solve, dispatch {mode}", "tight loop", times["inside"], times["tight"], target)
        for mode, target, times in zip(modes, (None, 2.0), seen.values(), strict=True)
    ]
    default, inline = seen.values()
    fastest = min(default["tight"], inline["tight"])
    rows.append(Row("evaluation in the solve, dispatch inline", "fastest tight loop", inline["inside"], fastest, 2.0))
    return [
        *rows,
        Row("whole solve, dispatch inline", "dispatch as by default", inline["solve"], default["solve"], None),
    ]


def thread_rows(repeats: int) -> list[Row]:
    """The SciPy backend on a large diagonal quadratic: default BLAS threads against the best setting."""
    rows = []
    for place, load in (("quiet", nullcontext), ("one core busy", busy_core)):
        settings = {"default": None, "1": "1", "2": "2"}
        with load():
            seen = _children(
                settings,
                max(3, repeats // 5),
                lambda threads: run_child(CHILD, "threads", "diagonal", OPENBLAS_NUM_THREADS=threads),
            )
        best = {who: min(seen, key=lambda name, who=who: seen[name][who]) for who in ("ours", "hand")}
        ours = seen["default"]["ours"]
        what = f"SciPy backend, quadratic n = 100,000, {place}"
        for who, label in (("ours", "itself"), ("hand", "by hand")):
            against = f"{label}, best of {', '.join(settings)}: {best[who]}"
            rows.append(Row(what, against, ours, seen[best[who]][who], 1.1))
        rows.append(Row(what, "by hand, default threads", ours, seen["default"]["hand"], None))
    kept = run_child(CHILD, "threads", "kept")
    print(f"BLAS threads: {kept['outside']} outside, {kept['objective']} in the objective, {kept['after']} after")
    return rows


def _children(settings: dict[str, Any], rounds: int, run: Callable[[Any], dict[str, float]]) -> dict[str, Any]:
    """Medians of what the children measured, their turns interleaved."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, setting in settings.items():
            seen[name].append(run(setting))
    return {
        name: {what: statistics.median(each[what] for each in found) for what in found[0]}
        for name, found in seen.items()
    }


ROWS = {
    "scipy": scipy_rows,
    "optax": optax_rows,
    "fixed": fixed_cost_rows,
    "compilations": compilation_rows,
    "dispatch": dispatch_rows,
    "threads": thread_rows,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", choices=ROWS, action="append", help="these rows only; all when left out")
    parser.add_argument("--repeats", type=int, default=25, help="rounds of the in-process rows (25)")
    chosen = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    print(header(), flush=True)
    rows = []
    for name in chosen.rows or ROWS:
        rows += ROWS[name](chosen.repeats)
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
