"""Splitting trees: what is optimized, what rides along, and the way to the flat vector and back."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import scipy_jax_bridge as sjb
from problems import BACKENDS
from scipy_jax_bridge._problem.params import partition_args, partition_params
from scipy_jax_bridge._problem.prefix import leaf_paths, spread_prefix


def activation(x: Any) -> Any:
    return x


class Pair(NamedTuple):
    a: Any
    b: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    weight: Any
    count: Any
    name: str = dataclasses.field(default="model", metadata={"static": True})


def fixed_id(value: Any) -> str:
    """A parameter's id without an address, so that every worker of pytest-xdist collects the same tests."""
    return re.sub(r" at 0x\w+", "", str(value))


def kinds(tree: Any, held: Any = None) -> list[str]:
    return [leaf.kind for leaf in partition_params(tree, held)[0].leaves]


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (np.ones(2), "free"),
        (np.ones(2, np.float16), "free"),
        (np.float32(1), "free"),
        (np.ones(()), "free"),
        (1.5, "free"),
        (jnp.ones(2, jnp.bfloat16), "free"),
        (np.arange(2), "data"),
        (jnp.arange(2), "data"),
        (np.array([True]), "data"),
        (np.int64(3), "data"),
        (3, "static"),
        (True, "static"),
        ("name", "static"),
        (activation, "static"),
        (object(), "static"),
        ({1, 2}, "static"),
    ],
    ids=fixed_id,
)
def test_kind_of_a_leaf(leaf: Any, kind: str) -> None:
    assert kinds(leaf) == [kind]


def test_none_is_no_leaf() -> None:
    assert kinds({"a": None, "b": 1.0}) == ["free"]


def test_held_leaves_become_data() -> None:
    structure, free, data = partition_params({"a": np.ones(2), "b": 2.0, "n": 1}, [True, False, False])
    assert [leaf.kind for leaf in structure.leaves] == ["data", "free", "static"]
    assert structure.size == 1 and len(free) == 1 and len(data) == 1


def test_numbers_among_args_are_inputs() -> None:
    structure, data = partition_args((1, 2.5, True, "tag", np.ones(2), activation))
    assert [leaf.kind for leaf in structure.leaves] == ["data", "data", "static", "static", "data", "static"]
    assert len(data) == 3


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 2), ("a", "b"), (activation, print)])
def test_structures_differ_in_static_values(one: Any, other: Any) -> None:
    assert partition_params({"s": one, "x": 1.0}, None)[0] != partition_params({"s": other, "x": 1.0}, None)[0]


@pytest.mark.parametrize("static", [3, "a", activation, {1, 2}], ids=fixed_id)
def test_equal_structures_are_one_key(static: Any) -> None:
    first, second = (partition_params({"s": static, "x": value}, None)[0] for value in (np.ones(2), np.zeros(2)))
    assert first == second and hash(first) == hash(second)


@pytest.mark.parametrize("other", [np.ones(3), np.ones((2, 1)), np.ones(2, np.float32), np.ones(2, int)], ids=repr)
def test_structures_differ_in_shape_and_type(other: Any) -> None:
    assert partition_params({"x": np.ones(2)}, None)[0] != partition_params({"x": other}, None)[0]


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
arrays = st.tuples(shapes, st.sampled_from([np.float16, np.float32, np.float64]), st.integers(0, 99)).map(
    lambda each: np.random.default_rng(each[2]).normal(size=each[0]).astype(each[1])
)
riders = st.one_of(st.integers(), st.booleans(), st.text(max_size=3), st.none(), st.just(activation))
trees = st.recursive(
    arrays | riders,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Model, inner, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(tree=trees)
def test_there_and_back_is_the_same_tree(tree: Any) -> None:
    structure, free, data = partition_params(tree, None)
    x = np.concatenate([np.zeros(0), *(np.ravel(leaf).astype(np.float64) for leaf in free)])
    assert structure.size == x.size
    again = structure.combine(structure.unravel(x), data)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(again), strict=True):
        if isinstance(before, np.ndarray):
            assert after.dtype == before.dtype
            np.testing.assert_array_equal(after, before)
        else:
            assert after is before or after == before


@settings(max_examples=40, deadline=None)
@given(tree=trees)
def test_paths_name_every_leaf(tree: Any) -> None:
    paths = leaf_paths(tree)
    assert len(paths) == len(set(paths)) == len(jax.tree.leaves(tree))
    assert all(path.startswith("params") for path in paths)


@settings(max_examples=40, deadline=None)
@given(tree=trees, value=st.floats() | st.none())
def test_one_value_is_a_prefix_of_every_tree(tree: Any, value: float | None) -> None:
    values = spread_prefix(value, tree, "bounds")
    assert len(values) == len(jax.tree.leaves(tree)) and all(each is value for each in values)


@settings(max_examples=40, deadline=None)
@given(tree=trees)
def test_a_tree_is_a_prefix_of_itself(tree: Any) -> None:
    leaves = jax.tree.leaves(tree)
    spread = spread_prefix(tree, tree, "bounds")
    assert len(spread) == len(leaves) and all(a is b for a, b in zip(spread, leaves, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ravel_on_the_device_agrees_with_unravel(dtype: Any) -> None:
    tree = {"b": np.arange(6.0).reshape(2, 3), "a": np.float32(7), "e": np.ones((0, 2)), "c": [np.ones(2, np.float16)]}
    structure, free, _ = partition_params(tree, None)
    x = structure.ravel([jnp.asarray(leaf) for leaf in free], dtype)
    assert x.dtype == dtype and x.shape == (structure.size,) == (9,)
    for before, after in zip(free, structure.unravel(x), strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)


def test_params_or_none_has_none_for_what_was_not_optimized() -> None:
    structure, free, _ = partition_params({"a": 1.0, "n": np.arange(2), "s": "x", "f": np.ones(2)}, [False] * 4)
    assert set(jax.tree.leaves(structure.params_or_none(["A", "F"]))) == {"A", "F"} and len(free) == 2


# through the front door


def trees_to_solve() -> dict[str, tuple[Any, Any]]:
    """For each kind of tree its start, and how to read the weight (whose minimum is 3) from it."""
    return {
        "array": (np.zeros(2), lambda p: p),
        "number": (0.0, lambda p: p),
        "numpy-scalar": (np.float64(0), lambda p: p),
        "dict": (
            {"w": np.zeros(2), "n": 2, "s": "relu", "f": activation, "none": None, "flag": True},
            lambda p: p["w"],
        ),
        "list": ([np.zeros((1, 2)), "a"], lambda p: p[0]),
        "tuple": ((np.zeros(2), np.arange(3)), lambda p: p[0]),
        "namedtuple": (Pair(np.zeros(2), "b"), lambda p: p.a),
        "dataclass": (Model(np.zeros(2), np.int32(3)), lambda p: p.weight),
        "nested": ({"layers": [{"w": np.zeros(2)}, {"w": 4}]}, lambda p: p["layers"][0]["w"]),
        "float16": ({"w": np.zeros(2, np.float16)}, lambda p: p["w"]),
        "bfloat16": ({"w": jnp.zeros(2, jnp.bfloat16)}, lambda p: p["w"]),
    }


def same_rider(before: Any, after: Any) -> bool:
    if isinstance(before, (np.ndarray, np.generic, jax.Array)):
        return after.dtype == before.dtype and np.array_equal(before, after)
    return after is before


DEVICE_TREES = ("number", "dict", "dataclass", "bfloat16")  # how a tree is split does not depend on the backend


@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, "scipy") for name in trees_to_solve()] + [(name, "optax") for name in DEVICE_TREES],
)
@pytest.mark.filterwarnings("ignore::scipy_jax_bridge.HeldLeafWarning")  # integers that ride along
def test_every_tree_comes_back_as_it_was(name: str, backend: str) -> None:
    start, read = trees_to_solve()[name]
    result = sjb.minimize(lambda p: jnp.sum((read(p) - 3.0) ** 2), start, backend=backend)
    assert jax.tree.structure(result.params) == jax.tree.structure(start)
    assert type(result.params) is type(start) or name in ("array", "number", "numpy-scalar")
    np.testing.assert_allclose(np.asarray(read(result.params), np.float64), 3, atol=1e-2)
    structure = partition_params(start, None)[0]
    for leaf, before, after in zip(
        structure.leaves, jax.tree.leaves(start), jax.tree.leaves(result.params), strict=True
    ):
        if leaf.kind == "free":
            assert after.dtype == np.asarray(before).dtype and after.shape == np.shape(before)
        else:
            assert same_rider(before, after)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equinox_module(backend: str) -> None:
    """A module with a static field, a function as a leaf and a part that is None."""
    equinox = pytest.importorskip("equinox")
    start = equinox.nn.MLP(2, "scalar", 3, 1, activation=jnp.tanh, use_bias=False, key=jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(20, 2))

    def fun(model: Any, x: Any) -> Any:
        return jnp.mean((jax.vmap(model)(x) - jnp.tanh(x[:, 0])) ** 2)

    result = sjb.minimize(fun, start, (x,), backend=backend, options={"maxiter": 30})
    assert isinstance(result.params, equinox.nn.MLP) and result.params.activation is start.activation
    assert float(result.fun) < 0.1 * float(result.trace.fun[0])
    assert float(fun(result.params, x)) == pytest.approx(float(result.fun))


@pytest.mark.parametrize("backend", BACKENDS)
def test_tree_and_flat_vector_take_the_same_path(backend: str) -> None:
    def flat(x: Any) -> Any:
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    def deep(p: Any) -> Any:
        return flat(jnp.concatenate([p["a"], p["b"].ravel(), p["c"][None]]))

    x = np.linspace(-1, 1, 7)
    tree = sjb.minimize(deep, {"a": x[:2], "b": x[2:6].reshape(2, 2), "c": x[6]}, backend=backend)
    vector = sjb.minimize(flat, x, backend=backend)
    assert (tree.nit, tree.nfev) == (vector.nit, vector.nfev)
    np.testing.assert_allclose(tree.trace.fun, vector.trace.fun, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mixed_float_types_keep_their_own(backend: str) -> None:
    start = {"h": np.zeros(2, np.float16), "s": np.zeros(2, np.float32), "d": np.zeros(2)}
    result = sjb.minimize(
        lambda p: sum(jnp.sum((leaf.astype(float) - 1.5) ** 2) for leaf in p.values()), start, backend=backend
    )
    assert {name: leaf.dtype for name, leaf in result.params.items()} == {k: v.dtype for k, v in start.items()}
    assert {name: leaf.dtype for name, leaf in result.jac.items()} == {k: v.dtype for k, v in start.items()}
    for leaf in result.params.values():
        np.testing.assert_allclose(np.asarray(leaf, float), 1.5, atol=2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_keys_ride_along(backend: str) -> None:
    key = jax.random.key(3)

    def fun(p: Any, noise: Any) -> Any:
        return jnp.sum((p["w"] - jax.random.normal(p["key"], (2,)) - jax.random.normal(noise, (2,))) ** 2)

    result = sjb.minimize(fun, {"w": np.zeros(2), "key": key}, (jax.random.key(4),), backend=backend)
    wanted = jax.random.normal(key, (2,)) + jax.random.normal(jax.random.key(4), (2,))
    np.testing.assert_allclose(result.params["w"], wanted, atol=1e-5)
    assert result.params["key"].dtype == key.dtype


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_arrays_in_the_order_of_bytes_of_another_machine(dtype: str, backend: str) -> None:
    """As FITS files hold them; JAX takes none."""
    start, y = np.zeros(2, dtype), np.array([1.0, 2.0], dtype)
    result = sjb.minimize(
        lambda x, y: jnp.sum((x - y) ** 2), start, (y,), backend=backend, bounds=(np.zeros(2, dtype), 9)
    )
    assert result.params.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_allclose(result.params, y, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_double_result_is_a_start_in_single_precision(backend: str, x32: None) -> None:
    """JAX warned of the type of its own arrays, which `precision` had made."""

    def fun(x: Any, y: Any) -> Any:
        return jnp.sum((x - y) ** 2)

    double = sjb.minimize(fun, np.zeros(2), (1.0,), backend=backend, precision="float64")
    again = sjb.minimize(fun, double, (double.params,), backend=backend)
    assert double.params.dtype == np.float64 and again.params.dtype == again.fun.dtype == np.float32
    np.testing.assert_allclose(again.params, 1, atol=1e-3)


# fixed


def pull(p: Any) -> Any:
    return jnp.sum((p["a"] - p["b"]["c"]) ** 2) + p["b"]["d"] ** 2


def apart(p: Any) -> Any:
    return (p["a"] - 1.0) ** 2 + (p["b"] + 1.0) ** 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "fixed",
    [{"a": True, "b": False}, {"a": True, "b": {"c": False, "d": False}}, {"a": True, "b": None}],
    ids=["prefix", "full", "none"],
)
def test_fixed_leaves_stay_and_leave_the_vector(backend: str, fixed: Any) -> None:
    start = {"a": np.array([5.0, 6.0]), "b": {"c": np.zeros(2), "d": 1.0}}
    result = sjb.minimize(pull, start, fixed=fixed, backend=backend)
    np.testing.assert_array_equal(result.params["a"], start["a"])
    np.testing.assert_allclose(result.params["b"]["c"], start["a"], atol=1e-5)
    assert result.jac["a"] is None and result.jac["b"]["c"].shape == (2,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_new_values_of_a_fixed_leaf_compile_nothing(backend: str) -> None:
    solve = sjb.Minimizer(lambda p: jnp.sum((p["a"] - p["b"]) ** 2), fixed={"a": True, "b": False}, backend=backend)
    solve({"a": np.ones(2), "b": np.zeros(2)})
    result = solve({"a": np.full(2, 7.0), "b": np.zeros(2)})
    assert result.timing.compiles == 0
    np.testing.assert_allclose(result.params["b"], 7, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fixed", [None, False, {"a": False, "b": False}, {"a": None, "b": None}], ids=repr)
def test_fixing_nothing_is_no_mask(backend: str, fixed: Any) -> None:
    result = sjb.minimize(apart, {"a": 0.0, "b": 0.0}, fixed=fixed, backend=backend)
    np.testing.assert_allclose([result.params["a"], result.params["b"]], [1, -1], atol=1e-5)


@pytest.mark.parametrize("empty", [None, {}, ()], ids=repr)
def test_a_value_over_an_empty_part(empty: Any) -> None:
    """A prefix may say something of a part that happens to hold nothing, such as a bias that is None."""
    params = {"w": 1.0, "bias": empty}
    assert spread_prefix({"w": 0.0, "bias": 0.0}, params, "bounds") == [0.0]


def test_python_numbers_stay_on_the_host_until_they_are_needed() -> None:
    structure, free, _ = partition_params({"a": 1.5, "b": np.float32(2)}, None)
    assert type(free[0]) is float and structure.leaves[0].dtype == jnp.asarray(1.5).dtype
    held = partition_params({"a": 1.5}, [True])
    assert isinstance(held[2][0], jax.Array) and held[0].leaves[0].weak_type and held[0].leaves[0].sharding is None


@pytest.mark.usefixtures("x32")
def test_python_numbers_in_single_precision_are_rounded_as_by_jax() -> None:
    for value in (0.1, 1e300, -1e-50, float("nan")):
        structure, free, _ = partition_params(value, None)
        assert structure.leaves[0].dtype == np.float32
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(free[0], np.asarray(jnp.asarray(value), np.float64))


def spread_slowly(prefix: Any, tree: Any) -> list[Any]:
    """For each leaf the prefix's leaf above it, by trying every pair."""
    above = jax.tree_util.tree_leaves_with_path(prefix, is_leaf=lambda node: node is None)
    below = jax.tree_util.tree_leaves_with_path(tree)
    return [next(value for up, value in above if path[: len(up)] == up) for path, _ in below]


@pytest.mark.parametrize(
    "prefix",
    [0.5, None, {"a": 1, "b": 2}, {"a": [1, None], "b": 2}, {"a": [1, {"x": 3, "y": None}], "b": (4, 5, 6)}],
    ids=repr,
)
def test_a_prefix_spreads_as_by_its_definition(prefix: Any) -> None:
    tree = {"a": [0, {"x": 0, "y": [0, 0, {}]}], "b": (0, [0, 0], 0)}
    assert spread_prefix(prefix, tree, "fixed") == spread_slowly(prefix, tree)


def test_a_prefix_compares_no_pairs_of_leaves() -> None:
    """Every key is hashed once a level and compared at most a few times, however many leaves there are."""

    class Key(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Key.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    tree = {Key(f"k{index:03d}"): 0.0 for index in range(200)}
    Key.compared = 0
    assert spread_prefix({Key(each): index for index, each in enumerate(tree)}, tree, "fixed") == list(range(200))
    assert Key.compared < 20 * len(tree)
