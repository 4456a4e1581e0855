"""`fixed` and `bounds` as people write them: parts of a tree, dicts by path, masks of components."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import scipy_jax_bridge as sjb
from problems import BACKENDS
from scipy_jax_bridge import Bounds
from scipy_jax_bridge._compare import compare as _compare
from scipy_jax_bridge._problem.prefix import spread_prefix
from scipy_jax_bridge._scipy.methods import METHODS


class Kernel(NamedTuple):
    variance: Any
    length: Any


def tree() -> dict[str, Any]:
    return {"kernel": Kernel(1.5, np.zeros(2)), "layers": [{"w": np.zeros(3)}, {"w": np.ones(3)}], "noise": 0.5}


def pull(params: Any) -> Any:
    return sum(jnp.sum((leaf - 2.0) ** 2) for leaf in jax.tree.leaves(params))


V, L, W0, W1, N = range(5)  # the leaves of the tree, in their order


@pytest.mark.parametrize(
    ("part", "places"),
    [
        ({}, []),
        ({"noise": True}, [N]),
        ({"kernel": True}, [V, L]),
        ({"kernel.variance": True}, [V]),
        ({"kernel": {"variance": True}}, [V]),
        ({"kernel": Kernel(None, True)}, [L]),
        ({"layers.1.w": True, "noise": True}, [W1, N]),
        ({"layers.0": True}, [W0]),
        ({"layers": [None, {"w": True}]}, [W1]),
        ({"layers": {"1.w": True}}, [W1]),
    ],
    ids=repr,
)
def test_what_is_not_named_is_left_out(part: Any, places: list[int]) -> None:
    assert spread_prefix(part, tree(), "fixed") == [True if place in places else None for place in range(5)]


def test_a_dict_that_names_every_key_is_the_tree() -> None:
    params = {"a.b": 1.0, "a": {"b": 2.0}}
    assert spread_prefix({"a.b": True, "a": {"b": False}}, params, "fixed") == [False, True]
    assert spread_prefix({"a": {"b": True}}, params, "fixed") == [True, None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_are_held_and_bounded(backend: str) -> None:
    start = tree()
    given = {"kernel.length": (None, 1.0), "layers": {"0.w": (0, np.array([1.0, 3.0, 1.5]))}, "noise": Bounds(2.5)}
    result = sjb.minimize(pull, start, backend=backend, bounds=given, fixed={"layers.1": True})
    assert result.success
    np.testing.assert_allclose(result.params["kernel"].variance, 2, rtol=1e-6)
    np.testing.assert_allclose(result.params["kernel"].length, 1)
    np.testing.assert_allclose(result.params["layers"][0]["w"], [1, 2, 1.5], rtol=1e-6)
    np.testing.assert_array_equal(result.params["layers"][1]["w"], start["layers"][1]["w"])
    assert float(result.params["noise"]) == 2.5
    sides = Bounds({"kernel.length": None, "layers.0": 0, "noise": 2.5}, {"kernel": Kernel(None, 1.0), "layers.0.w": 3})
    again = sjb.minimize(pull, start, backend=backend, bounds=sides, fixed={"layers.1": True})
    np.testing.assert_allclose(again.params["kernel"].length, 1)


MASK = np.array([True, False, False, True])


def valley(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bounds", [None, (-2.0, 0.9)], ids=["free", "bounded"])
def test_a_mask_holds_components(backend: str, bounds: Any) -> None:
    start = np.array([-1.2, 1.0, -1.2, 0.7])
    result = sjb.minimize(valley, start, backend=backend, fixed=MASK, bounds=bounds)
    assert result.success and "2 held" in str(result)
    np.testing.assert_array_equal(np.asarray(result.params)[MASK], start[MASK])
    assert (np.asarray(result.params)[~MASK] != start[~MASK]).all()


def test_a_mask_is_scipys_path_by_equal_bounds_bit_for_bit() -> None:
    start = np.array([-1.2, 1.0, -1.2, 0.7])
    result = sjb.minimize(valley, start, fixed=MASK)
    value_and_grad = jax.jit(jax.value_and_grad(valley))
    found = scipy.optimize.minimize(
        lambda x: tuple(np.asarray(each, np.float64) for each in value_and_grad(x)),
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=scipy.optimize.Bounds(np.where(MASK, start, -np.inf), np.where(MASK, start, np.inf)),
    )
    np.testing.assert_array_equal(result.params, found.x)
    assert (result.nit, result.nfev) == (found.nit, found.nfev)


WITHOUT_BOUNDS = [method.name for method in METHODS.values() if not method.bounds]
DECAYED_SEARCH = optax.chain(optax.add_decayed_weights(1e-3), optax.scale(-1.0), optax.scale_by_zoom_linesearch(20))
TRANSFORMATIONS = {
    "sgd": optax.sgd(1e-3),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.02)),
    "decay": optax.adamw(0.02),
    "lbfgs": optax.lbfgs(),
    "decay, then a search": DECAYED_SEARCH,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [{"method": name} for name in WITHOUT_BOUNDS]
    + [{"backend": "optax", "method": each} for each in TRANSFORMATIONS.values()],
    ids=WITHOUT_BOUNDS + list(TRANSFORMATIONS),
)
def test_a_method_without_bounds_solves_the_problem_without_the_held_components(call: Any) -> None:
    start = np.array([-1.2, 0.3, 0.3, 0.7])

    def reduced(free: Any) -> Any:
        return valley(jnp.zeros(4).at[np.flatnonzero(MASK)].set(start[MASK]).at[np.flatnonzero(~MASK)].set(free))

    call = {**call, "options": {"maxiter": 200}}
    result, expected = sjb.minimize(valley, start, fixed=MASK, **call), sjb.minimize(reduced, start[~MASK], **call)
    np.testing.assert_array_equal(np.asarray(result.params)[MASK], start[MASK])
    np.testing.assert_allclose(np.asarray(result.params)[~MASK], expected.params, rtol=1e-5)
    np.testing.assert_allclose(result.jac, jax.grad(valley)(result.params), rtol=1e-9, atol=1e-9)
    assert (result.status, result.nit) == (expected.status, expected.nit)
    assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-3, abs=1e-9)
    other = sjb.minimize(valley, start, fixed=~MASK, **call)
    assert other.timing.compiles == 0
    np.testing.assert_array_equal(np.asarray(other.params)[~MASK], start[~MASK])


def test_a_start_hessian_of_bfgs_loses_the_rows_of_held_components() -> None:
    start, inverse = np.array([-1.2, 0.3, 0.3, 0.7]), np.diag([1.0, 1e-3, 2e-3, 1.0])
    given = {"method": "BFGS", "fixed": MASK, "options": {"hess_inv0": inverse}}
    assert sjb.minimize(valley, start, **given).nfev != sjb.minimize(valley, start, method="BFGS", fixed=MASK).nfev


def test_traced_masks_hold_with_a_transformation() -> None:
    start = np.array([-1.2, 0.3, 0.3, 0.7])
    solve = sjb.Minimizer(valley, backend="optax", method=optax.sgd(1e-3), fixed=MASK, options={"maxiter": 30})
    alone = solve(start)
    np.testing.assert_array_equal(jax.jit(lambda start: solve(start).params)(start), alone.params)
    options = {"maxiter": 30}

    def batched(mask: Any) -> Any:
        return sjb.minimize(valley, start, backend="optax", method=optax.sgd(1e-3), fixed=mask, options=options).params

    both = jax.vmap(batched)(np.stack([MASK, ~MASK]))
    np.testing.assert_allclose(both[0], alone.params, rtol=1e-12)
    np.testing.assert_array_equal(np.asarray(both[1])[~MASK], start[~MASK])


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_component_compiles_nothing(backend: str) -> None:
    start = {"w": np.full(4, -1.0), "b": 0.0}

    def fun(p: Any) -> Any:
        return valley(p["w"]) + p["b"] ** 2

    first = sjb.minimize(fun, start, backend=backend, fixed={"w": MASK})
    again = sjb.minimize(fun, start, backend=backend, fixed={"w": ~MASK})
    assert (first.success, again.success, again.timing.compiles) == (True, True, 0)
    whole = sjb.minimize(fun, start, backend=backend, fixed={"w": np.ones(4, bool)})
    assert whole.timing.compiles == 0 and whole.success
    np.testing.assert_array_equal(whole.params["w"], start["w"])


@pytest.mark.slow
def test_masks_and_sides_may_be_traced() -> None:
    start = jnp.array([-1.2, 1.0, -1.2, 0.7])
    traces = []

    @jax.jit
    def solve(start: Any, mask: Any, upper: Any) -> Any:
        traces.append(1)
        return sjb.minimize(valley, {"x": start}["x"], backend="optax", fixed=mask, bounds=(None, upper))

    for mask in (MASK, ~MASK):
        result = solve(start, mask, 2.0)
        expected = sjb.minimize(valley, start, fixed=mask, bounds=(None, 2.0))
        np.testing.assert_array_equal(np.asarray(result.params)[mask], np.asarray(start)[mask])
        np.testing.assert_allclose(result.params, expected.params, atol=1e-4)
    assert len(traces) == 1
    batch = jax.vmap(lambda mask: sjb.minimize(valley, start, backend="optax", fixed=mask))(np.stack([MASK, ~MASK]))
    assert bool(batch.success.all())
    moved = jax.jacobian(lambda start: sjb.minimize(pull, start, backend="optax", fixed=MASK).params)(start)
    np.testing.assert_allclose(moved, np.diag(MASK.astype(float)), atol=1e-8)


def test_a_solver_with_a_mask_is_used_again_and_pickled() -> None:
    import pickle

    solve = pickle.loads(pickle.dumps(sjb.Minimizer(valley, fixed=MASK)))
    for start in (np.zeros(4), np.full(4, 0.5)):
        np.testing.assert_array_equal(np.asarray(solve(start).params)[MASK], start[MASK])


def test_a_comparison_writes_bounds_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compare, "LEAST", 0.0)  # a turn is one solve however short
    given = {"a": (0.0, 1.0), "b": (None, 1.0)}
    comparison = sjb.compare(
        pull, {"a": 0.5, "b": 0.5, "c": 0.5}, repeats=1, shares=False, bounds=given, fixed={"c": True}
    )
    setting = comparison.setting.runs["optax"]
    assert "lower['a']: 0.0" in setting["lower bounds"] and "upper['b']: 1.0" in setting["upper bounds"]
