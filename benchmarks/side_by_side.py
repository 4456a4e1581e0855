"""This package and its peers on one problem set, from the same start, to the same gradient, in double precision.

    python benchmarks/side_by_side.py
    python benchmarks/side_by_side.py --cases rosenbrock,digits --repeats 9

Every solver stops where the largest entry of its gradient is at most 1e-5 (GPJax-style fits: SciPy's gtol of the same).
First call: tracing, compiling and solving, from a function that is new to JAX. Solve: the median of interleaved calls
after that, each waited for. No time is printed of a solver that does not end at the least objective that any found.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree

import scipy_jax_bridge as sjb
from problem_set import CASES, Case
from results import Table, folder, header, save
from rivals import GTOL, MAXITER, by_hand, documented_loop, jaxopt_lbfgs, optimistix_lbfgs
from timing import interleave

NAMES = "rosenbrock,digits,gp,ode,diagonal,log sum"
BOXED = "co2,coupled,hs110"
SAME = 1e-6  # relative, or absolute below 1: farther from the least objective is another answer
OPTIONS = {"gtol": GTOL, "ftol": 0.0, "maxiter": MAXITER}
Call = Callable[[], Any]
Maker = Callable[[Case], Call]


def ours(backend: str) -> Maker:
    """This package."""

    def make(case: Case) -> Call:
        solve = sjb.Minimizer(case.make(), backend=backend, bounds=case.bounds, options=OPTIONS)
        return lambda: solve(case.params, case.args).params

    return make


def hand(case: Case) -> Call:
    """SciPy with a packed compiled callable, written by hand."""
    x0, unravel = ravel_pytree(case.params)
    fun, args = case.make(), jax.device_put(case.args)
    if case.bounds is None:
        run = by_hand(lambda x, *args: fun(unravel(x), *args), np.asarray(x0), args, **OPTIONS)
        return lambda: unravel(jnp.asarray(run().x))
    evaluate = jax.jit(jax.value_and_grad(lambda x, *args: fun(unravel(x), *args)))
    box = scipy.optimize.Bounds(*(np.asarray(ravel_pytree(side)[0]) for side in _full(case)))

    def solve() -> Any:
        found = scipy.optimize.minimize(
            lambda x: tuple(map(np.asarray, evaluate(x, *args))),
            np.asarray(x0),
            jac=True,
            method="L-BFGS-B",
            bounds=box,
            options=OPTIONS,
        )
        return unravel(jnp.asarray(found.x))

    return solve


def naive_loop(case: Case) -> Call:
    """Optax's documented loop as it stands: called without jax.jit."""
    fun = case.make()
    return lambda: documented_loop(fun)(jax.tree.map(jnp.asarray, case.params), *case.args)


def jitted(rival: Callable[..., Any]) -> Maker:
    """A rival whose whole solve is one compiled program."""

    def make(case: Case) -> Call:
        run, params, args = jax.jit(rival(case.make())), jax.device_put(case.params), jax.device_put(case.args)
        return lambda: run(params, *args)

    return make


def jaxopt_scipy(case: Case) -> Call:
    """`jaxopt.ScipyMinimize`, or with bounds `jaxopt.ScipyBoundedMinimize`."""
    import jaxopt

    params, args = jax.tree.map(jnp.asarray, case.params), jax.device_put(case.args)
    settings = {"fun": case.make(), "method": "L-BFGS-B", "maxiter": MAXITER, "options": {"gtol": GTOL, "ftol": 0.0}}
    if case.bounds is None:
        solver = jaxopt.ScipyMinimize(**settings)
        return lambda: solver.run(params, *args).params
    bounded = jaxopt.ScipyBoundedMinimize(**settings)
    return lambda: bounded.run(params, _full(case), *args).params


def jaxopt_lbfgsb(case: Case) -> Call:
    """`jaxopt.LBFGSB`; its error is the largest entry of the projected gradient."""
    import jaxopt

    solver = jaxopt.LBFGSB(case.make(), tol=GTOL, maxiter=MAXITER)
    params, box = jax.tree.map(jnp.asarray, case.params), jax.tree.map(jnp.asarray, _full(case))
    run = jax.jit(lambda params, *args: solver.run(params, box, *args).params)
    args = jax.device_put(case.args)
    return lambda: run(params, *args)


def fit_like_gpjax(case: Case) -> Call:
    """What GPJax's `fit_scipy` does, in our words: a new jitted loss in every call with the data baked in, SciPy's
    default method, and a callback that evaluates the loss again for the history."""
    fun = case.make()

    def fit() -> Any:
        x0, unravel = ravel_pytree(case.params)

        @jax.jit
        def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.value_and_grad(lambda x: fun(unravel(x), *case.args))(x)

        history = []
        found = scipy.optimize.minimize(
            lambda x: tuple(map(np.asarray, loss(x))),
            np.asarray(x0),
            jac=True,
            callback=lambda x: history.append(float(loss(x)[0])),
            options={"gtol": GTOL, "maxiter": MAXITER},
        )
        return unravel(jnp.asarray(found.x))

    return fit


SOLVERS: dict[str, Maker] = {
    'this package, "scipy"': ours("scipy"),
    'this package, "optax"': ours("optax"),
    "SciPy by hand": hand,
    "Optax loop, naive": naive_loop,
    "Optax loop, compiled": jitted(documented_loop),
    "jaxopt.ScipyMinimize": jaxopt_scipy,
    "jaxopt.LBFGS": jitted(jaxopt_lbfgs),
    "jaxopt.LBFGSB": jaxopt_lbfgsb,
    "optimistix.LBFGS": jitted(optimistix_lbfgs),
    "GPJax-style fit": fit_like_gpjax,
}
WITH_BOUNDS = (*list(SOLVERS)[:2], "SciPy by hand", "jaxopt.ScipyMinimize", "jaxopt.LBFGSB")
LARGEST = {"GPJax-style fit": 2000}  # numbers beyond which a solver is left out: its matrix is dense


def _full(case: Case) -> tuple[Any, Any]:
    """Bounds as two trees like params."""
    sides = case.bounds or (None, None)
    return tuple(
        jax.tree.map(lambda leaf, end=end: np.full(np.shape(leaf), end), case.params)
        if side is None or (np.ndim(side) == 0 and not isinstance(side, (dict, list)))
        else jax.tree.map(lambda leaf, part: np.broadcast_to(part, np.shape(leaf)).astype(float), case.params, side)
        for side, end in zip(sides, (-np.inf, np.inf), strict=True)
    )  # type: ignore[return-value]


def compare_all(case: Case, repeats: int) -> tuple[Table, dict[str, float]]:
    """The table of one problem, and the median seconds by solver."""
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(case.params))
    names = [name for name in SOLVERS if case.bounds is None or name in WITH_BOUNDS]
    names = [name for name in names if size <= LARGEST.get(name, size)]
    calls, first, ends = {}, {}, {}
    for name in names:
        began = time.perf_counter()
        try:
            calls[name] = SOLVERS[name](case)
            ends[name] = jax.block_until_ready(calls[name]())
        except ModuleNotFoundError as error:
            print(f"without {name}: {error}")
            calls.pop(name, None)
            continue
        first[name] = time.perf_counter() - began
    value = jax.jit(case.make())
    values = {name: float(value(end, *case.args)) for name, end in ends.items()}
    least = min(each for each in values.values() if np.isfinite(each))
    agree = {name for name, each in values.items() if abs(each - least) <= SAME * max(1.0, abs(least))}
    slow = {name for name in agree if (first[name] > 2.0 and "naive" in name) or "GPJax" in name}
    times = interleave({name: calls[name] for name in agree - slow}, repeats, warm_up=0)
    if slow & agree:
        times |= interleave({name: calls[name] for name in slow & agree}, min(repeats, 3), warm_up=0)
    middle = {name: statistics.median(each) for name, each in times.items()}
    base = min(middle[name] for name in middle if name.startswith("this package"))
    lines = []
    for name in calls:
        if name in middle:
            cells = (_format(first[name]), _format(middle[name]), f"{middle[name] / base:.2f}")
        else:
            cells = ("another answer", "", "")
        lines.append((name, f"{values[name]:.8g}", *cells))
    head = ("solver", "objective", "first call", "solve", "times our faster")
    return Table(case.name, head, lines), middle


def draw(seconds: dict[str, dict[str, float]]) -> None:
    """A row a problem, a mark a solver, on a logarithmic axis; for light and for dark pages."""
    from matplotlib.figure import Figure

    from scipy_jax_bridge._render.panels import DARK, LIGHT

    for theme, ending in ((LIGHT, ""), (DARK, "_dark")):
        figure = Figure(figsize=(9.5, 1.6 + 0.42 * len(seconds)), layout="constrained", facecolor=theme.paper)
        axes = figure.add_subplot(facecolor=theme.paper)
        for index, name in enumerate(SOLVERS):
            known = [(place, each[name]) for place, each in enumerate(seconds.values()) if name in each]
            own = name.startswith("this package")
            color = theme.runs[index] if own else theme.runs[2 + (index - 2) % 4]
            style = {"s": 46, "color": color, "zorder": 2}
            if own:  # a ring, so that others are seen inside it
                style = {"s": 170, "facecolors": "none", "edgecolors": color, "linewidths": 2.4, "zorder": 3}
            marker = "osD^v<>PX*"[index]
            axes.scatter([x for _, x in known], [y for y, _ in known], marker=marker, label=name, **style)
        axes.set_xscale("log")
        axes.set_yticks(range(len(seconds)), list(seconds))
        axes.invert_yaxis()
        axes.set_xlabel("seconds of a solve, compiled before where the solver can be", color=theme.ink)
        axes.tick_params(which="both", colors=theme.ink)
        axes.grid(color=theme.line, linewidth=0.7)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_color(theme.line)
        figure.legend(loc="outside right upper", frameon=False, labelcolor=theme.ink, fontsize="small")
        figure.savefig(folder() / f"side_by_side{ending}.png", dpi=150)


def _format(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def main() -> None:
    """Measures, prints the tables and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=f"{NAMES},{BOXED}", help="names, with commas between")
    parser.add_argument("--repeats", type=int, default=9)
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(header(), flush=True)
    tables, seconds = [], {}
    for name in chosen.cases.split(","):
        case = CASES[name]()
        table, seconds[case.name] = compare_all(case, chosen.repeats)
        print(f"\n{table}", flush=True)
        tables.append(table)
    draw(seconds)
    save("side_by_side", tables)


if __name__ == "__main__":
    main()
