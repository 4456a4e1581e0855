"""Comment on a fitted model below the comparison: what the fit means, and whether other libraries agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._compare.compare import Comparison
from .._core.options import Options
from .._render.table import Row, align
from .._result import Result
from ..models import Model, optax_loop

PATIENCE = 20.0
"""Seconds after which the loop is not repeated again; compiled at every solve, it is slow."""

UNITS = {"scale": "ppm", "white": "ppm", "length": "years", "decay": "years"}
"""Units of the hyperparameters of "co2"; the season's length has none, it is relative to the period."""


def comment_on(model: Model, comparison: Comparison) -> list[str]:
    """Return lines on what the fit means, to be printed below the table; none for a model that is not built in."""
    return COMMENTS[model.name](model, comparison) if model.name in COMMENTS else []


def more_rows(model: Model, options: Options, repeats: int) -> list[Row]:
    """Solve by other means, and return their rows for the table.

    Args:
        model: the model; only "rosenbrock" has such rows.
        options: the options of the comparison.
        repeats: how often to solve.
    """
    return time_loops(model, options, repeats) if model.name == "rosenbrock" else []


def comment_on_digits(model: Model, comparison: Comparison) -> list[str]:
    """Compare the minimum with the one that scikit-learn finds, and give the training accuracy."""
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression(C=1.0, solver="newton-cg", tol=1e-10, max_iter=10_000).fit(*model.args)
    theirs = float(model.fun({"weights": fit.coef_.T, "bias": fit.intercept_}, *model.args))
    lines = [f"{'':14}  {'objective':>12}  {'above scikit-learn':>18}  {'training accuracy':>17}"]
    lines += [f"{'scikit-learn':14}  {theirs:12.9f}  {'':18}  {fit.score(*model.args):17.4%}"]
    for name, result in comparison.results.items():
        accuracy = _read_metrics(model, result)["training_accuracy"]
        lines += [f"{name:14}  {float(result.fun):12.9f}  {float(result.fun) - theirs:18.1e}  {accuracy:17.4%}"]
    worst = max(abs(float(result.fun) - theirs) for result in comparison.results.values())
    verdict = "agrees" if worst <= 1e-6 else "does NOT agree"
    lines += ["", f"The minimum {verdict} with scikit-learn's own LogisticRegression(C=1.0) to 1e-6."]
    return lines


def comment_on_co2(model: Model, comparison: Comparison) -> list[str]:
    """List the fitted hyperparameters, and which of them lie on a bound."""
    name = comparison.best
    fitted = comparison.results[name].params
    metrics = _read_metrics(model, comparison.results[name])
    lower, upper = (dict(_by_path(side)) for side in model.bounds or ({}, {}))
    lines = []
    for path, value in _by_path(fitted):
        ends = lower[path], upper[path]
        side = [word for word, end in zip(("lower", "upper"), ends, strict=True) if np.isclose(value, end, rtol=1e-9)]
        unit = "periods" if path == "season length" else UNITS.get(path.split()[-1], "")
        cells = [path, f"{np.exp(value):.4g}", unit, f"{np.exp(ends[0]):.3g} to {np.exp(ends[1]):.3g}"]
        lines.append([*cells, f"at its {side[0]} bound" if side else ""])
    table = align(["hyperparameter", name, "unit", "bounds", ""], lines, right=(1,))
    likelihood = f"log marginal likelihood {metrics['log_marginal_likelihood']:.4f}"
    return [*table, "", f"{likelihood}; white noise {metrics['white_noise_ppm']:.3f} ppm."]


def comment_on_rosenbrock(model: Model, comparison: Comparison) -> list[str]:
    """Explain the rows of Optax's loop."""
    return [
        "Optax loop: the while_loop that Optax documents for its L-BFGS, stopped by the",
        "  same gtol; it has no ftol.",
        "Naive: called without jax.jit around it, it compiles at every solve",
        '  ("in solve"), which is most of its time.',
    ]


def time_loops(model: Model, options: Options, repeats: int) -> list[Row]:
    """Time Optax's documented loop, both called as documented and compiled ahead."""
    start = jnp.asarray(model.params)
    began = time.perf_counter()
    compiled = jax.jit(documented_loop(model, options)).lower(start).compile()
    compile_s = time.perf_counter() - began
    return [
        _time_loop("Optax loop, naive", lambda: documented_loop(model, options)(start), None, options, repeats),
        _time_loop("Optax loop, compiled", lambda: compiled(start), compile_s, options, repeats),
    ]


def documented_loop(model: Model, options: Options) -> Callable[[Array], tuple[Array, ...]]:
    """Return Optax's documented loop, from a start to objective, gradient norm, iterations and evaluations."""
    solve = optax_loop.documented_loop(model.fun, float(options.gtol), int(options.maxiter))
    return lambda start: solve(start)[1:]


COMMENTS: dict[str, Callable[[Model, Comparison], list[str]]] = {
    "digits": comment_on_digits,
    "co2": comment_on_co2,
    "rosenbrock": comment_on_rosenbrock,
}
"""By the name of the model."""


def _time_loop(
    name: str, solve: Callable[[], tuple[Array, ...]], compile_s: float | None, options: Options, repeats: int
) -> Row:
    """Return a row like those of a comparison; a slow loop is repeated less often."""
    seconds: list[float] = []
    found: tuple[Array, ...] = ()
    while len(seconds) < repeats and sum(seconds) < PATIENCE:
        began = time.perf_counter()
        found = jax.block_until_ready(solve())
        seconds.append(time.perf_counter() - began)
    value, grad_norm, nit, nfev = (np.asarray(number).item() for number in found)
    return {
        "run": name,
        "backend": "optax",
        "method": "optax.lbfgs",
        "fun": value,
        "grad_norm": grad_norm,
        "nit": nit,
        "nfev": nfev,
        "compile_s": compile_s,
        "solve_s": statistics.median(seconds),
        "solve_s_min": min(seconds),
        "solve_s_max": max(seconds),
        "status": "GTOL" if grad_norm <= options.gtol else "MAXITER",
    }


def _read_metrics(model: Model, result: Result) -> Mapping[str, float]:
    return {} if model.metrics is None else model.metrics(result.params, model.args)


def _by_path(tree: PyTree) -> list[tuple[str, float]]:
    """Return each number with the keys of its path as words."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(" ".join(str(key.key) for key in path), float(leaf)) for path, leaf in leaves]
