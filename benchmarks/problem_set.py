"""One problem set, for the benchmarks and for the tests: models on data, workloads, and problems with known minima.

Each case gives a new function every time it is asked, so that nothing compiled before is found again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import problems
import workloads
from scipy_jax_bridge.models import load


@dataclass(frozen=True)
class Case:
    """A problem.

    Attributes:
        name: for tables.
        make: gives the objective, `fun(params, *args)`.
        params: the start.
        args: the data.
        bounds: None, or the pair of trees.
    """

    name: str
    make: Callable[[], Callable[..., jax.Array]]
    params: Any
    args: tuple[Any, ...] = ()
    bounds: tuple[Any, Any] | None = None


def _fresh(fun: Callable[..., jax.Array]) -> Callable[[], Callable[..., jax.Array]]:
    return lambda: lambda params, *args: fun(params, *args)


def from_model(name: str, title: str, **settings: Any) -> Case:
    """A built-in model."""
    model = load(name, **settings)
    return Case(title, _fresh(model.fun), model.params, model.args, model.bounds)


def from_workload(name: str, title: str) -> Case:
    """An objective whose compilation weighs."""
    make, params, args = workloads.WORKLOADS[name]()
    return Case(title, make, params, args)


def from_tests(name: str) -> Case:
    """A problem of the tests, with a known minimum."""
    problem = next(each for each in problems.PROBLEMS if each.name == name)
    bounds = (problem.lower, problem.upper) if problem.bounded else None
    return Case(f"{name} ({problem.start.size})", _fresh(problem.fun), problem.start, (), bounds)


def diagonal(n: int = 10_000) -> Case:
    """A separable convex function with a condition of 1000, so large that vectors weigh."""

    def fun(x: jax.Array, scale: jax.Array) -> jax.Array:
        return jnp.sum(scale * (x - 1.0) ** 2)

    return Case(f"diagonal quadratic ({n:,})", _fresh(fun), np.zeros(n), (np.geomspace(1.0, 1e3, n),))


CASES: dict[str, Callable[[], Case]] = {
    "rosenbrock": lambda: from_model("rosenbrock", "Rosenbrock (100)", n=100),
    "digits": lambda: from_model("digits", "digits, logistic (650)"),
    "co2": lambda: from_model("co2", "CO2 process, 66 months, bounds (11)", every=8),
    "gp": lambda: from_workload("Gaussian process, 3 parameters", "Gaussian process (3)"),
    "ode": lambda: from_workload("scan through an ODE, 4 parameters", "ODE through a scan (4)"),
    "diagonal": diagonal,
    "wood": lambda: from_tests("wood"),
    "log sum": lambda: from_tests("log sum"),
    "coupled": lambda: from_tests("coupled quadratic"),
    "hs110": lambda: from_tests("hs110"),
}
"""Builders by a short name; "digits" and "co2" need the extra `data`."""
