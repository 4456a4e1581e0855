"""Bounds: every way to say them means the same box, and no result leaves it, not even by rounding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

import scipy_jax_bridge as sjb
from problems import BACKENDS
from scipy_jax_bridge._problem.bounds import flatten_bounds, read_bounds
from scipy_jax_bridge._problem.params import partition_params
from scipy_jax_bridge._scipy.methods import METHODS

INF = np.inf


def quadratic(x: Any) -> Any:
    return jnp.sum((x - 3.0) ** 2)


def distance(x: Any, target: Any) -> Any:
    return jnp.sum((x - target) ** 2)


def start() -> dict[str, Any]:
    return {"b": 2.0, "n": 3, "w": np.zeros((2, 3))}


def flat(bounds: Any, params: Any) -> Any:
    read = read_bounds(bounds)
    assert read is not None
    return flatten_bounds(read, params, partition_params(params, None)[0])


COLUMN, ROW = np.array([[1.0], [2.0]]), np.array([1.0, 2.0, 3.0])
LOWERS = {
    "scalar": (1, [1] * 7),
    "numpy-scalar": (np.float32(1), [1] * 7),
    "dict": ({"b": 5.0, "n": None, "w": 1.0}, [5, *[1] * 6]),
    "part-none": ({"b": None, "n": None, "w": 1.0}, [-INF, *[1] * 6]),
    "row": ({"b": None, "n": None, "w": ROW}, [-INF, 1, 2, 3, 1, 2, 3]),
    "column": ({"b": None, "n": None, "w": COLUMN}, [-INF, 1, 1, 1, 2, 2, 2]),
    "full": ({"b": 0.5, "n": None, "w": np.arange(6.0).reshape(2, 3)}, [0.5, 0, 1, 2, 3, 4, 5]),
    "jax-array": ({"b": None, "n": None, "w": jnp.asarray(ROW)}, [-INF, 1, 2, 3, 1, 2, 3]),
    "float32-array": ({"b": None, "n": None, "w": ROW.astype(np.float32)}, [-INF, 1, 2, 3, 1, 2, 3]),
    "integers": ({"b": 1, "n": None, "w": np.array([1, 2, 3])}, [1, 1, 2, 3, 1, 2, 3]),
    "infinite": ({"b": -INF, "n": None, "w": ROW}, [-INF, 1, 2, 3, 1, 2, 3]),
}


@pytest.mark.parametrize("name", LOWERS)
@pytest.mark.parametrize("pair", [sjb.Bounds, lambda *sides: sides], ids=["Bounds", "tuple"])
def test_a_side_spreads_over_the_vector(name: str, pair: Any) -> None:
    side, wanted = LOWERS[name]
    low = flat(pair(side, None), start())
    np.testing.assert_array_equal(low.lower, wanted)
    assert np.isposinf(low.upper).all() and low.lower.dtype == np.float64
    side = {**side, "b": INF} if name == "infinite" else side
    high = flat(pair(None, side), start())
    np.testing.assert_array_equal(high.upper, np.where(np.isneginf(wanted), INF, wanted))
    assert np.isneginf(high.lower).all()


@pytest.mark.parametrize("bounds", [None, (None, None), sjb.Bounds()])
def test_nothing_is_no_bounds(bounds: Any) -> None:
    assert read_bounds(bounds) is None


@settings(max_examples=60, deadline=None)
@given(
    lower=st.floats(-1e30, 1e30),
    width=st.floats(0, 1e30),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_rounded_bounds_lie_in_the_box(lower: float, width: float, dtype: Any) -> None:
    upper = lower + width
    assume(max(abs(lower), abs(upper)) < float(jnp.finfo(dtype).max))
    box = flat((lower, upper), {"x": np.zeros(1, dtype)})
    low, high = box.lower[0], box.upper[0]
    assert low <= high
    assert np.isinf(low) or float(dtype(low)) == low
    assert np.isinf(high) or float(dtype(high)) == high
    if low < high:
        assert lower <= low and high <= upper


def slope(x: Any, direction: Any) -> Any:
    return jnp.sum(direction * x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("lower", "upper"), [(0.1, 0.3), (-0.3, -0.1), (1 / 3, 2 / 3), (1e-3, 1.1e-3)])
def test_results_stay_inside_compared_in_double(backend: str, dtype: Any, lower: float, upper: float) -> None:
    """0.1 rounds up in float32 and 0.3 too: a clip in float32 alone leaves the box."""
    seen: list[np.ndarray] = []
    middle = np.full(3, (lower + upper) / 2, dtype)
    # In float16 a distance would not show so small a step.
    fun, data = (slope, [1, -1, 0]) if dtype is np.float16 else (distance, [-5, 5, middle[2]])
    result = sjb.minimize(
        fun,
        middle,
        (np.array(data, dtype),),
        bounds=(lower, upper),
        backend=backend,
        callback=lambda progress: seen.append(np.asarray(progress.params, np.float64)),
    )
    x = np.asarray(result.params, np.float64)
    assert result.params.dtype == dtype
    for each in (x, *seen):
        assert (each >= lower).all() and (each <= upper).all()
    rounding = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(x[:2], [lower, upper], rtol=2 * rounding)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bounds_beyond_the_type(backend: str) -> None:
    """They bind nothing, and no overflow is warned of."""
    start, target = np.zeros(3, np.float32), np.full(3, 3, np.float32)
    result = sjb.minimize(distance, start, (target,), bounds=(-1e300, 1e39), backend=backend)
    np.testing.assert_allclose(result.params, 3, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_evaluation_is_inside(backend: str) -> None:
    """An objective that is NaN outside its bounds is never asked there."""

    def fun(x: Any) -> Any:
        return jnp.sum(x - jnp.log(x)) + jnp.sum(jnp.sqrt(2 - x))

    result = sjb.minimize(fun, np.full(4, 1.9), bounds=(0.1, 1.95), backend=backend)
    assert np.isfinite(result.trace.fun).all() and result.status.name in ("GTOL", "FTOL")


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_bounds_hold_a_component(backend: str) -> None:
    held = np.array([-INF, 0.7, -INF])
    result = sjb.minimize(
        lambda x: jnp.sum((x - 3.0) ** 2) + x[0] * x[1],
        np.zeros(3),
        bounds=(held, np.where(np.isinf(held), INF, held)),
        backend=backend,
    )
    assert result.success and float(result.params[1]) == 0.7
    np.testing.assert_allclose(result.params, [3 - 0.35, 0.7, 3], atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_equal_bounds_are_converged_at_once(backend: str) -> None:
    result = sjb.minimize(distance, np.zeros(3), (np.full(3, 3.0),), bounds=(1.0, 1.0), backend=backend)
    assert result.success and result.nit == 0 and result.status.name == "GTOL"
    np.testing.assert_array_equal(result.params, 1.0)
    assert float(result.fun) == 12.0


BOUNDED = [method.name for method in METHODS.values() if method.bounds]


@pytest.mark.parametrize("held", [[1], [0, 2], [2, 3]], ids=str)
@pytest.mark.parametrize("method", BOUNDED)
def test_every_method_holds_a_component(method: str, held: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    """SciPy's TNC crashed and printed the callback, its COBYLA called back with a part of the vector."""
    seen: list[np.ndarray] = []
    lower, upper = np.full(4, -INF), np.array([INF, INF, INF, 9.0])
    lower[held] = upper[held] = 0.7
    result = sjb.minimize(
        lambda x: jnp.sum((x - 3.0) ** 2) + x[0] * x[1] + 0.5 * x[2] * x[3],
        np.zeros(4),
        method=method,
        bounds=(lower, upper),
        callback=lambda progress: seen.append(np.asarray(progress.params)),
    )
    free = np.setdiff1d(np.arange(4), held)
    hessian = 2 * np.eye(4) + np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0.5], [0, 0, 0.5, 0]])
    right = 6.0 - hessian[np.ix_(free, held)] @ np.full(len(held), 0.7)
    assert result.success, result.message
    assert seen and all(np.all(x[held] == 0.7) for x in (*seen, np.asarray(result.params)))
    np.testing.assert_allclose(result.params[free], np.linalg.solve(hessian[np.ix_(free, free)], right), atol=5e-3)
    if result.jac is not None:  # of the whole vector
        np.testing.assert_allclose(result.jac, hessian @ result.params - 6.0, atol=1e-10)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("method", BOUNDED)
def test_where_all_is_held_one_evaluation_is_all(method: str, n: int) -> None:
    result = sjb.minimize(quadratic, np.zeros(n), method=method, bounds=(1.0, 1.0))
    assert (result.status.name, result.nit, result.nfev) == ("GTOL", 0, 1)
    np.testing.assert_array_equal(result.params, 1.0)
    assert float(result.fun) == 4.0 * n
    with pytest.raises(ValueError, match="no way down from this start"):
        sjb.minimize(lambda x: jnp.sum(jnp.log(x - 2.0)), np.zeros(n), method=method, bounds=(1.0, 1.0))


@pytest.mark.parametrize(
    ("method", "native"),
    [
        ("TNC", {"scale": [1.0, 2.0, 3.0], "offset": np.array([0.1, 0.2, 0.3]), "eta": 0.3}),
        ("Nelder-Mead", {"initial_simplex": np.vstack([np.zeros(3), np.eye(3)]) + 0.1}),
        ("Powell", {"direc": np.eye(3)[::-1].copy() + 0.1}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_options_by_component_lose_the_held_ones(method: str, native: dict[str, Any]) -> None:
    held = np.array([-INF, 0.7, -INF])
    box = (held, np.where(np.isinf(held), INF, held))
    result = sjb.minimize(quadratic, np.zeros(3), method=method, bounds=box, options=native)
    assert result.success, result.message
    np.testing.assert_allclose(result.params, [3.0, 0.7, 3.0], atol=1e-3)


@pytest.mark.filterwarnings("ignore::scipy_jax_bridge.HeldLeafWarning")  # integers that ride along
@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_bounded_part_is_bounded(backend: str) -> None:
    result = sjb.minimize(
        lambda p: jnp.sum((p["w"] - 5.0) ** 2) + (p["b"] - 5.0) ** 2 + p["part"]["s"] ** 2,
        {"w": np.zeros(2), "b": 0.0, "part": {"s": 2.0, "n": 7}},
        bounds=sjb.Bounds({"w": None, "b": None, "part": 1.0}, {"w": np.array([1.0, 9.0]), "b": None, "part": None}),
        backend=backend,
    )
    np.testing.assert_allclose(result.params["w"], [1, 5], atol=1e-5)
    np.testing.assert_allclose(result.params["b"], 5, atol=1e-5)
    assert float(result.params["part"]["s"]) == 1.0 and result.params["part"]["n"] == 7


@pytest.mark.parametrize("backend", BACKENDS)
def test_bounds_of_fixed_leaves_are_left_out(backend: str) -> None:
    result = sjb.minimize(
        lambda p: (p["a"] - 5.0) ** 2 + p["b"] ** 2,
        {"a": 0.0, "b": 9.0},
        bounds=(0.0, 1.0),
        fixed={"a": False, "b": True},
        backend=backend,
    )
    assert float(result.params["a"]) == 1.0 and float(result.params["b"]) == 9.0


def test_backends_agree_at_a_corner() -> None:
    def fun(x: Any) -> Any:
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    results = [sjb.minimize(fun, np.full(6, -1.0), bounds=(-2.0, 0.5), backend=backend) for backend in BACKENDS]
    assert all(result.success for result in results)
    np.testing.assert_allclose(results[0].params, results[1].params, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, None), (None, 1.0)], ids=str)
def test_grad_norm_is_that_of_the_projected_gradient(backend: str, bounds: Any) -> None:
    target = np.array([-4.0, 0.5, 4.0])
    result = sjb.minimize(distance, np.full(3, 0.9), (target,), bounds=bounds, backend=backend)
    lower, upper = (side if side is not None else default for side, default in zip(bounds, (-INF, INF), strict=True))
    x, grad = np.asarray(result.params), np.asarray(result.jac)
    np.testing.assert_allclose(grad, 2 * (x - target), atol=1e-12)
    projected = np.abs(np.clip(x - grad, lower, upper) - x).max()
    assert float(np.asarray(result.trace.grad_norm)[-1]) == pytest.approx(projected, abs=1e-12)
    assert result.status.name != "GTOL" or projected <= 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_new_bounds_compile_nothing(backend: str) -> None:
    target = (np.full(3, 3.0),)
    sjb.minimize(distance, np.zeros(3), target, bounds=(0.0, 1.0), backend=backend)
    bounds = None, np.array([1.0, 2.0, INF])
    result = sjb.minimize(distance, np.zeros(3), target, bounds=bounds, backend=backend)
    assert result.timing.compiles == 0
    np.testing.assert_allclose(result.params, [1, 2, 3], atol=1e-5)


@pytest.mark.slow
def test_traced_bounds() -> None:
    def least(upper: Any) -> Any:
        return sjb.minimize(quadratic, jnp.zeros(2), bounds=(0.0, upper), backend="optax").fun

    np.testing.assert_allclose(jax.jit(jax.vmap(least))(jnp.array([1.0, 2.0])), [8.0, 2.0], rtol=1e-6)
