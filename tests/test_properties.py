"""Whatever the tree, the types, the bounds and the start: what comes back is what was promised, on both backends.

EXAMPLES=2000 in the environment runs the long version.
"""

from __future__ import annotations

import copy
import functools
import os
import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import scipy_jax_bridge as sjb

EXAMPLES = int(os.environ.get("EXAMPLES", "60"))
# The same examples in every run of CI, where a failure has to be repeatable; others in every run elsewhere.
settings.register_profile("ci", derandomize=True, database=None)
settings.register_profile("local", print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
SHAPES = 4 + EXAMPLES // 100  # trees, each compiled once for each backend, with bounds and without


@functools.partial(jax.tree_util.register_dataclass, data_fields=["weights", "offset"], meta_fields=["name"])
@dataclass
class Layer:
    weights: Any
    offset: Any
    name: str


class Pair(NamedTuple):
    first: Any
    second: Any


def leaf(rng: random.Random, budget: int) -> Any:
    """A leaf of at most so many parameters, or one that is none."""
    kind = rng.choice(["array", "array", "array", "numpy", "float", "int", "text", "none", "integers", "scalar"])
    shape = rng.choice([(1,), (2,), (3,), (2, 2), (4,), (2, 1, 2), (0,)])
    dtype = rng.choice([np.float64, np.float64, np.float32])
    if int(np.prod(shape)) > budget:
        kind = "int"
    return {
        "array": lambda: jnp.zeros(shape, dtype),
        "numpy": lambda: np.zeros(shape, dtype),
        "float": lambda: 0.0,
        "int": lambda: rng.randint(-3, 3),
        "text": lambda: rng.choice(["relu", "tanh"]),
        "none": lambda: None,
        "integers": lambda: np.arange(3),
        "scalar": lambda: np.float64(0.0),
    }[kind]()


def tree(rng: random.Random, depth: int) -> Any:
    if depth == 0:
        return leaf(rng, 8)
    children = [tree(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    kind = rng.choice(["dict", "list", "tuple", "layer", "pair"])
    if kind == "dict":
        return {f"k{place}": child for place, child in enumerate(children)}
    if kind == "layer":
        return Layer(children[0], children[-1], rng.choice(["a", "b"]))
    if kind == "pair":
        return Pair(children[0], children[-1])
    return children if kind == "list" else tuple(children)


def is_free(value: Any) -> bool:
    return isinstance(value, float) or (hasattr(value, "dtype") and np.issubdtype(value.dtype, np.floating))


@functools.cache
def shape(number: int) -> tuple[dict[str, Any], dict[str, bool] | None]:
    """A tree with at least one parameter and at most fifty, and a mask of its parts."""
    rng = random.Random(number)
    while True:
        params = {"main": tree(rng, rng.randint(0, 2)), "more": tree(rng, 1), "last": jnp.zeros(rng.randint(1, 5))}
        sizes = [np.size(value) for value in jax.tree.leaves(params) if is_free(value)]
        if 1 <= sum(sizes) <= 50:
            return params, rng.choice([None, {"main": False, "more": rng.random() < 0.5, "last": False}])


def objective(params: Any, centers: list[Any], scales: list[Any]) -> jax.Array:
    """Convex: a quadratic of each component, and one of all together."""
    leaves = [jnp.asarray(value) for value in jax.tree.leaves(params) if is_free(value)]
    parts = [jnp.sum(s * (x - c) ** 2) for x, c, s in zip(leaves, centers, scales, strict=True)]
    together = sum(jnp.sum(x) for x in leaves)
    return 0.5 * sum(parts) + 0.05 * together**2


class Case(NamedTuple):
    params: Any
    args: tuple[list[Any], list[Any]]
    bounds: Any
    fixed: Any


def fill(params: Any, draw: np.random.Generator, spread: float) -> Any:
    """Another start with the same types."""

    def one(value: Any) -> Any:
        if not is_free(value):
            return value
        new = np.asarray(draw.normal(scale=spread, size=np.shape(value)))
        if isinstance(value, float) and not hasattr(value, "dtype"):
            return float(new)
        return jnp.asarray(new, value.dtype) if isinstance(value, jax.Array) else new.astype(value.dtype)[()]

    return jax.tree.map(one, params)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    params, fixed = shape(draw(st.integers(0, SHAPES - 1)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    params = fill(params, rng, draw(st.sampled_from([0.0, 0.1, 3.0])))
    free = [value for value in jax.tree.leaves(params) if is_free(value)]
    centers = [rng.normal(size=np.shape(value)) for value in free]
    scales = [10 ** rng.uniform(0, draw(st.sampled_from([0, 1, 2])), size=np.shape(value)) for value in free]
    kind = draw(st.sampled_from(["none", "none", "low", "both", "prefix", "arrays", "equal", "infinite"]))
    low = draw(st.sampled_from([-2.0, -0.5, 0.0]))
    high = low + draw(st.sampled_from([0.1, 1.0, 4.0]))
    arrays = fill({"last": params["last"]}, rng, 1.0)["last"]
    bounds = {
        "none": None,
        "low": (low, None),
        "both": sjb.Bounds(low, high),
        "prefix": ({"main": low, "more": None, "last": None}, {"main": None, "more": high, "last": high}),
        "arrays": (
            {"main": None, "more": None, "last": arrays - 0.5},
            {"main": None, "more": None, "last": arrays + 0.5},
        ),
        "equal": ({"main": None, "more": low, "last": arrays}, {"main": None, "more": high, "last": arrays}),
        "infinite": (-np.inf, {"main": np.inf, "more": high, "last": np.inf}),
    }[kind]
    return Case(params, (centers, scales), bounds, fixed)


def inside(values: Any, bounds: Any) -> bool:
    """Whether every free leaf lies in the box, whose sides are spread by hand here."""
    if bounds is None:
        return True
    sides = (bounds.lower, bounds.upper) if isinstance(bounds, sjb.Bounds) else bounds
    for side, sign in zip(sides, (1, -1), strict=True):
        for name, part in values.items():
            limit = side[name] if isinstance(side, dict) else side
            for value in jax.tree.leaves(part) if limit is not None else []:
                if is_free(value) and not np.all(sign * np.asarray(value, np.float64) >= sign * np.asarray(limit)):
                    return False
    return True


def is_single(params: Any) -> bool:
    return any(getattr(value, "dtype", None) == np.float32 for value in jax.tree.leaves(params))


@pytest.mark.slow
# An example is two solves, and the first of a tree compiles them: any of them may be slow.
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_what_comes_back(case: Case) -> None:
    given_params, given_args = copy.deepcopy((case.params, case.args))
    results = {}
    for backend in ("scipy", "optax"):
        result = results[backend] = sjb.minimize(
            objective, case.params, case.args, backend=backend, bounds=case.bounds, fixed=case.fixed
        )
        leaves, before = jax.tree.leaves(result.params), jax.tree.leaves(case.params)
        assert jax.tree.structure(result.params) == jax.tree.structure(case.params)
        for value, start in zip(leaves, before, strict=True):
            if is_free(start):
                assert value.dtype == (start.dtype if hasattr(start, "dtype") else np.float64)
                assert value.shape == np.shape(start)
            else:
                assert value is start or np.array_equal(value, start)
        for name, held in (case.fixed or {}).items():
            if held:
                jax.tree.map(np.testing.assert_array_equal, result.params[name], case.params[name])
        moving = {name: part for name, part in result.params.items() if not (case.fixed or {}).get(name)}
        assert inside(moving, case.bounds)
        size = 1 + abs(float(result.fun))
        rounding = 1e-4 if is_single(case.params) else 1e-12
        assert abs(float(result.fun) - float(objective(result.params, *case.args))) <= rounding * size
        assert result.success or (is_single(case.params) and result.status == sjb.Status.NOISE_FLOOR), result.message
        assert result.nfev >= result.nit and len(result.trace.fun) == result.nit + 1
    same = jax.tree.map(np.array_equal, (case.params, case.args), (given_params, given_args))
    assert all(jax.tree.leaves(same)), "the user's own was changed"
    first, second = (float(each.fun) for each in results.values())
    assert abs(first - second) <= (1e-3 if is_single(case.params) else 1e-6) * (1 + abs(first))
