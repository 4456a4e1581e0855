"""The compiled engine: one copy of the objective, one evaluation a step, always inside the box, in jit and in vmap."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import scipy_jax_bridge as sjb
import scipy_jax_bridge._optax.chunked as chunks
from problems import rosenbrock, shifted_quadratic
from scipy_jax_bridge import Status


def marked(x: jax.Array) -> jax.Array:
    """Has one acosh, whose derivative is no acosh: it counts the copies of the objective."""
    return jnp.sum(jnp.arccosh(2.0 + (x - 1.0) ** 2))


def primitives(jaxpr: Any) -> list[tuple[str, Any]]:
    """Every equation, those of inner programs included."""
    found = []
    for equation in jaxpr.eqns:
        found.append((equation.primitive.name, equation))
        for each in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda part: hasattr(part, "eqns")):
            inner = getattr(each, "jaxpr", each)
            if hasattr(inner, "eqns"):
                found += primitives(inner)
    return found


@pytest.mark.parametrize("bounds", [None, (0.0, None)], ids=["free", "bounded"])
def test_the_program_holds_the_objective_once(bounds: Any) -> None:
    solve = sjb.Minimizer(marked, backend="optax", bounds=bounds)
    found = primitives(jax.make_jaxpr(lambda x: solve(x).params)(jnp.zeros(3)).jaxpr)
    names = [name for name, _ in found]
    assert names.count("acosh") == 1
    loops = [equation for name, equation in found if name == "while"]
    bodies = [[name for name, _ in primitives(each.params["body_jaxpr"].jaxpr)] for each in loops]
    outer = max(bodies, key=len)
    assert "acosh" in outer
    if bounds is None:
        assert len(loops) == 1 and "while" not in outer  # the search is in the carry; nothing bounded is compiled
        assert not {"sort", "cholesky", "lu"} & set(names)


BOX = 5
TRIALS: list[np.ndarray] = []


def stiff_bowl(x: jax.Array, center: jax.Array, stiffness: jax.Array) -> jax.Array:
    d = x - center
    return jnp.sum(stiffness * d**2) + 0.1 * jnp.sum(d) ** 2 + 0.05 * jnp.sum(d**4)


def watched(x: jax.Array, center: jax.Array, stiffness: jax.Array) -> jax.Array:
    jax.debug.callback(lambda x: TRIALS.append(np.array(x)), x)
    return stiff_bowl(x, center, stiffness)


numbers = st.floats(-3.0, 3.0, allow_nan=False).map(lambda value: round(value, 3))
vectors = st.lists(numbers, min_size=BOX, max_size=BOX).map(np.array)
sides = st.lists(st.sampled_from(["both", "lower", "upper", "none", "fixed"]), min_size=BOX, max_size=BOX)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(start=vectors, center=vectors, one=vectors, other=vectors, kinds=sides, stiff=st.integers(0, 3))
def test_every_trial_is_inside_the_box(
    start: np.ndarray, center: np.ndarray, one: np.ndarray, other: np.ndarray, kinds: list[str], stiff: int
) -> None:
    kind = np.array(kinds)
    low, high = np.minimum(one, other), np.maximum(one, other)
    low = np.where((kind == "upper") | (kind == "none"), -np.inf, low)
    high = np.where((kind == "lower") | (kind == "none"), np.inf, high)
    high = np.where(kind == "fixed", low, high)
    stiffness = 10.0 ** np.linspace(0, stiff, BOX)
    TRIALS.clear()
    solve = sjb.Minimizer(watched, backend="optax", bounds=(low, high))
    result = solve(jnp.asarray(start), (jnp.asarray(center), jnp.asarray(stiffness)))
    jax.effects_barrier()
    assert len(TRIALS) == result.nfev
    trials = np.stack([*TRIALS, result.params])
    assert np.all(trials >= low) and np.all(trials <= high)
    held = kind == "fixed"
    assert np.all(trials[:, held] == low[held])
    np.testing.assert_array_equal(TRIALS[0], np.clip(start, low, high))
    assert result.success, result.message
    plain = sjb.minimize(stiff_bowl, start, (center, stiffness), bounds=(low, high))
    np.testing.assert_allclose(float(result.fun), float(plain.fun), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(result.params, plain.params, atol=1e-3)


def test_a_wrong_gradient_is_a_line_search_that_fails() -> None:
    @jax.custom_jvp
    def uphill(x: jax.Array) -> jax.Array:
        return jnp.sum(x**2)

    uphill.defjvp(lambda primals, tangents: (uphill(*primals), -2 * primals[0] @ tangents[0]))
    result = sjb.minimize(uphill, jnp.ones(3), backend="optax")
    assert result.status == Status.LINESEARCH and not result.success
    assert result.nfev < 200


def line(p: jax.Array, x: jax.Array, y: jax.Array, height: float) -> jax.Array:
    return jnp.mean((height * (p[0] + p[1] * x) - y) ** 2)


HEIGHTS = {"float32": (1e11, 1e17), "float64": (1e100, 1e150)}


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [None, (-5.0, 5.0), (-5.0, None)], ids=["free", "boxed", "lower"])
@pytest.mark.parametrize("name", HEIGHTS)
def test_a_gradient_whose_square_overflows(name: str, bounds: Any, request: pytest.FixtureRequest) -> None:
    if name == "float64" and bounds is not None:
        reason = "without XLA's optimizations a bounded solve may end early at gradients of 1e200"
        request.applymarker(pytest.mark.xfail(strict=False, reason=reason))
    x = jnp.linspace(0, 1, 20, dtype=name)
    solve = sjb.Minimizer(line, backend="optax", bounds=bounds)
    for height in HEIGHTS[name]:
        height = jnp.asarray(height, name)
        y = 1.5 * height * (1 + 0.1 * x)
        result = solve(jnp.zeros(2, name), (x, y, height))
        np.testing.assert_allclose(result.params, [1.5, 0.15], rtol=1e-3)
        assert float(result.fun) < 1e-8 * result.trace.fun[0]


@pytest.mark.slow
@pytest.mark.parametrize("bounds", [None, (1.0, None)], ids=["free", "lower"])
@pytest.mark.usefixtures("x32")
def test_a_unit_step_may_be_too_short_to_see(bounds: Any) -> None:
    """At 1e8 float32 has no neighbor within a unit; and no step of none is a convergence."""
    result = sjb.minimize(lambda x: jnp.sum(x**4), jnp.full(3, 1e8), backend="optax", bounds=bounds)
    assert result.success and float(result.fun) < 4


def falling(x: jax.Array, which: int) -> jax.Array:
    return -jnp.sum(jax.lax.switch(which, (jnp.exp, jnp.cosh), x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("which", [0, 1], ids=["exp", "cosh"])
def test_no_lower_bound_is_no_convergence(which: int, dtype: Any) -> None:
    result = sjb.minimize(falling, jnp.asarray([5.0, 1.0], dtype), (which,), backend="optax")
    assert result.status == Status.NONFINITE, result.message
    assert np.isfinite(result.fun) and float(result.fun) < result.trace.fun[0]


def noisy(x: jax.Array, phase: jax.Array) -> jax.Array:
    weights = jnp.array([1.0, 5.0, 30.0])
    return weights @ x**2 + 0.1 * jax.lax.stop_gradient(jnp.sin(1e7 * (jnp.arange(1.0, 4.0) @ x) + phase))


@pytest.mark.parametrize("maxfun", [15000, 60])
def test_rows_of_a_noisy_solve_are_the_same_in_chunks(maxfun: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches fail there, and the solve begins again from the best point; also where a limit cuts in between."""
    solve = sjb.Minimizer(noisy, backend="optax", options={"gtol": 0.0, "ftol": 0.0, "maxfun": maxfun})
    for phase in range(12):
        results = []
        for size in (1, 4000):
            monkeypatch.setattr(chunks.ChunkedRun, "next_chunk", lambda self, size=size: size)
            results.append(solve(jnp.array([1.0, -0.3, 0.2]), (jnp.asarray(float(phase)),)))
        pieces, whole = results
        assert (pieces.nit, pieces.nfev, pieces.status) == (whole.nit, whole.nfev, whole.status)
        for column in ("fun", "grad_norm", "nfev"):
            np.testing.assert_array_equal(getattr(pieces.trace, column), getattr(whole.trace, column))
        assert len(whole.trace.fun) == whole.nit + 1 and np.all(np.diff(whole.trace.nfev) > 0)


def shifted(x: jax.Array, center: jax.Array) -> jax.Array:
    d = x - center
    return rosenbrock(d) + 0.5 * jnp.sum(d**2)


SHIFTED = {
    "free": sjb.Minimizer(shifted, backend="optax"),
    "bounded": sjb.Minimizer(shifted, backend="optax", bounds=(-1.0, 1.2)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "axes"),
    [
        pytest.param("free", (None, 0), id="free-args"),  # after one evaluation the state is batched, too
        pytest.param("bounded", (0, None), id="bounded-params"),
    ],
)
def test_a_batch_is_the_loop_over_single_solves(name: str, axes: tuple[int | None, int | None]) -> None:
    rng = np.random.default_rng(0)
    starts, centers = rng.uniform(-1.0, 1.0, (4, 3)), rng.uniform(-0.5, 0.5, (4, 3))
    solve = SHIFTED[name]
    inputs = [each if axis == 0 else each[0] for each, axis in zip((starts, centers), axes, strict=True)]
    batch = jax.jit(jax.vmap(lambda x, center: solve(x, (center,)), in_axes=axes))(*map(jnp.asarray, inputs))
    for k in range(4):
        x, center = (each if axis is None else each[k] for each, axis in zip(inputs, axes, strict=True))
        single = solve(jnp.asarray(x), (jnp.asarray(center),))
        assert (batch.nit[k], batch.nfev[k], batch.code[k]) == (single.nit, single.nfev, single.code)
        np.testing.assert_allclose(batch.params[k], single.params, atol=1e-9)
        np.testing.assert_allclose(batch.fun[k], single.fun, rtol=1e-9)
        np.testing.assert_allclose(batch.trace.fun[k][: single.nit + 1], single.trace.fun, rtol=1e-7)
        assert np.all(np.isnan(batch.trace.fun[k][single.nit + 1 :]))
    assert np.all(batch.success) and np.all(batch.status == batch.code)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIFTED)
def test_jit_is_the_eager_solve(name: str) -> None:
    solve, start, center = SHIFTED[name], jnp.array([0.3, 0.7, -0.4]), jnp.array([0.2, -0.1, 0.4])
    inside, outside = jax.jit(solve)(start, (center,)), solve(start, (center,))
    assert (int(inside.nit), int(inside.nfev), inside.status) == (outside.nit, outside.nfev, outside.status)
    np.testing.assert_allclose(inside.params, outside.params, atol=1e-12)
    assert bool(inside.success) and inside.backend == "optax"
    assert isinstance(inside, sjb.Result)


METHODS = pytest.mark.parametrize(
    "method", [None, "bounds", optax.adam(0.1), optax.lbfgs()], ids=["free", "bounded", "adam", "lbfgs"]
)


def minimize_with(method: Any, fun: Any) -> sjb.Result:
    bounds, method = ((-1.0, 0.5), None) if method == "bounds" else (None, method)
    return sjb.minimize(fun, jnp.zeros(3), backend="optax", method=method, bounds=bounds)


CENTER = np.array([0.3, -0.2, 0.1], np.float32)


def bowl(x: jax.Array) -> jax.Array:
    return jnp.sum((x - CENTER) ** 2)


@pytest.mark.slow
@METHODS
@pytest.mark.usefixtures("x32")
def test_a_strict_jax_is_strict_about_the_objective_alone(method: Any) -> None:
    with jax.checking_leaks(), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        np.testing.assert_allclose(minimize_with(method, bowl).params, CENTER, atol=1e-2)
        if method is None:
            jax.jit(jax.vmap(sjb.Minimizer(bowl, backend="optax"))).lower(jnp.zeros((2, 3)))
    with jax.numpy_dtype_promotion("strict"), pytest.raises((TypeError, ValueError), match="promotion"):
        minimize_with(method, lambda x: jnp.sum(x * jnp.arange(3)))
    with jax.numpy_rank_promotion("raise"), pytest.raises((TypeError, ValueError), match="promotion"):
        minimize_with(method, lambda x: jnp.sum(jnp.ones((3, 3)) * x))


def random_aux(x: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    return jnp.sum((x - 1.0) ** 2), {"key": jax.random.split(jax.random.key(3), 2), "x": x}


@pytest.mark.slow
@pytest.mark.parametrize("method", [None, optax.adam(0.1)], ids=["engine", "adam"])
def test_random_keys_in_the_auxiliary_output(method: Any) -> None:
    solve = sjb.Minimizer(random_aux, backend="optax", method=method, has_aux=True)
    eager, traced = solve(jnp.zeros(2)), jax.jit(solve)(jnp.zeros(2))
    expected = jax.random.key_data(random_aux(jnp.zeros(2))[1]["key"])
    for result in (eager, traced):
        assert jnp.issubdtype(result.aux["key"].dtype, jax.dtypes.prng_key)
        np.testing.assert_array_equal(jax.random.key_data(result.aux["key"]), expected)
        np.testing.assert_array_equal(result.aux["x"], result.params)


def test_bounds_may_be_traced() -> None:
    solve = jax.jit(lambda upper: sjb.minimize(shifted_quadratic, START, backend="optax", bounds=(None, upper)).params)
    np.testing.assert_allclose(solve(0.5), [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(solve(-1.0), [-1.0, -1.0], atol=1e-6)


START = np.zeros(2)
