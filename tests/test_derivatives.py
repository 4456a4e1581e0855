"""Derivatives of a solve are right or say so: singular and indefinite Hessians, early ends, settings of JAX."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import scipy_jax_bridge as sjb
from scipy_jax_bridge._autodiff.linear import DENSE, solve_symmetric
from scipy_jax_bridge._autodiff.traced import TracedCall

backends = pytest.mark.parametrize("backend", ["scipy", "optax"])
modes = pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd], ids=["reverse", "forward"])
TIGHT = {"gtol": 1e-10, "ftol": 0.0}
RANDOM = np.random.default_rng(0)
WIDE = RANDOM.normal(size=(3, 6))
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
FEATURES = RANDOM.normal(size=(8, 2))


def least_squares(x: jax.Array, matrix: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum((matrix @ x - y) ** 2)


def flat(x: jax.Array, a: jax.Array) -> jax.Array:
    """Minimal on the line x[0] + x[1] = a."""
    return (x[0] + x[1] - a) ** 2


def saddle(x: jax.Array, a: jax.Array) -> jax.Array:
    return (x[0] - a) ** 2 - x[1] ** 2 + x[1] ** 4


def softmax(params: Any, features: jax.Array) -> jax.Array:
    """The intercepts are free up to a common constant, and so are not the weights."""
    scores = jax.nn.log_softmax(features @ params["w"] + params["b"])
    return -jnp.mean(scores[jnp.arange(8), LABELS]) + 0.1 * jnp.sum(params["w"] ** 2)


def quadratic(x: jax.Array, a: jax.Array) -> jax.Array:
    return jnp.sum((x - a) ** 2 * jnp.arange(1, 4, dtype=x.dtype))


def rosen(x: jax.Array, a: jax.Array) -> jax.Array:
    return (a - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def solve_with(fun: Any, start: Any, backend: str, **others: Any) -> Any:
    return lambda *args: sjb.minimize(fun, start, args, backend=backend, **{"options": TIGHT, **others}).params


@pytest.mark.slow
@backends
@modes
def test_flat_direction(backend: str, mode: Any) -> None:
    solve = solve_with(flat, jnp.zeros(2), backend)
    np.testing.assert_allclose(mode(solve)(3.0), [0.5, 0.5], rtol=1e-12)
    if backend == "optax" and mode is jax.jacrev:
        np.testing.assert_allclose(jax.jit(jax.vmap(mode(solve)))(jnp.array([3.0, -1.0])), 0.5, rtol=1e-12)


@pytest.mark.slow
@backends
@modes
def test_overparametrised_least_squares(backend: str, mode: Any) -> None:
    solve = solve_with(least_squares, jnp.zeros(6), backend)
    found = mode(solve, 1)(jnp.asarray(WIDE), jnp.arange(3.0))
    np.testing.assert_allclose(found, np.linalg.pinv(WIDE), rtol=0, atol=1e-10)


@modes
@pytest.mark.parametrize("rank", [3, 40])
def test_overparametrised_least_squares_too_large_to_be_written_out(mode: Any, rank: int) -> None:
    wide = np.random.default_rng(1).normal(size=(40, 2 * DENSE))
    wide[rank:] = 0.0  # one program serves both ranks
    found = compiled_derivative(mode)(jnp.asarray(wide), jnp.arange(40.0))
    np.testing.assert_allclose(found, np.linalg.pinv(wide), rtol=0, atol=1e-10)


@functools.cache
def compiled_derivative(mode: Any) -> Any:
    return jax.jit(mode(solve_with(least_squares, jnp.zeros(2 * DENSE), "optax"), 1))


@pytest.mark.slow
@backends
def test_softmax_with_a_free_intercept(backend: str) -> None:
    start = {"b": jnp.zeros(3), "w": jnp.zeros((2, 3))}
    solve = solve_with(softmax, start, backend)
    reverse, forward = (mode(solve)(jnp.asarray(FEATURES)) for mode in (jax.jacrev, jax.jacfwd))
    params = solve(jnp.asarray(FEATURES))
    flat_params, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda x, features: softmax(unravel(x), features))
    hessian, mixed = jax.jit(jax.jacfwd(gradient, (0, 1)))(flat_params, jnp.asarray(FEATURES))
    expected = -np.linalg.pinv(hessian, rcond=1e-10, hermitian=True) @ np.asarray(mixed).reshape(9, -1)
    assert np.linalg.matrix_rank(hessian, tol=1e-10) == 8
    for found in (reverse, forward):
        rows = np.concatenate([np.asarray(found[name]).reshape(-1, 16) for name in ("b", "w")])
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-9)


def pulled(x: jax.Array, matrix: jax.Array, y: jax.Array) -> jax.Array:
    """Pulls the first component upward, to its bound, beside a singular Hessian."""
    return least_squares(x, matrix, y) - 5.0 * x[0]


@pytest.mark.slow
@modes
@pytest.mark.parametrize(("backend", "size"), [("scipy", 6), ("optax", 2 * DENSE)])
def test_active_bounds_and_a_singular_hessian(backend: str, mode: Any, size: int) -> None:
    """The first component is held and moves with its bound; the others take what is left, by the shortest way."""
    matrix = np.random.default_rng(2).normal(size=(3, size))
    inverse = np.linalg.pinv(matrix[:, 1:])

    def solve(y: jax.Array, top: jax.Array) -> jax.Array:
        bounds = (None, jnp.full(size, jnp.inf).at[0].set(top))
        args = (jnp.asarray(matrix), y)
        return sjb.minimize(pulled, jnp.zeros(size), args, backend=backend, bounds=bounds, options=TIGHT).params

    by_y, by_top = mode(solve, (0, 1))(jnp.ones(3), jnp.asarray(0.25))
    np.testing.assert_allclose(by_y, np.concatenate([np.zeros((1, 3)), inverse]), rtol=0, atol=1e-9)
    np.testing.assert_allclose(by_top, np.concatenate([[1.0], -inverse @ matrix[:, 0]]), rtol=0, atol=1e-9)


@jax.jit
def solve_linear(matrix: Any, b: Any) -> Any:
    return solve_symmetric(lambda v: matrix @ v, b, 2e-16)


@pytest.mark.parametrize("size", [20, 200])
@pytest.mark.parametrize("rank", ["full", "deficient"])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_the_linear_solve_is_the_pseudo_inverse(size: int, rank: str, scale: float) -> None:
    random = np.random.default_rng(3)
    vectors = np.linalg.qr(random.normal(size=(size, size)))[0]
    values = np.where((rank == "deficient") & (np.arange(size) < 7), 0, np.logspace(-3, 0, size))
    matrix = (vectors * values) @ vectors.T
    inverse = np.divide(1, values, out=np.zeros(size), where=values > 0)
    b = scale * random.normal(size=size)
    y, residual = solve_linear(matrix, b)
    np.testing.assert_allclose(y / scale, (vectors * inverse) @ (vectors.T @ (b / scale)), rtol=0, atol=1e-7)
    assert residual < 1e-10


@pytest.mark.parametrize("size", [20, 200])
def test_the_linear_solve_sees_negative_curvature_and_nothing_at_all(size: int) -> None:
    values = np.linspace(1, 2, size)
    b = np.ones(size)
    assert solve_linear(np.diag(np.where(np.arange(size) == 3, -0.1, values)), b).residual == np.inf
    residual = solve_linear(np.diag(np.full(size, np.nan)), b).residual
    assert np.isnan(residual) or residual > 1e-2
    for flat_values, right in ((0 * values, b), (values, 0 * b)):
        y, residual = solve_linear(np.diag(flat_values), right)
        assert np.all(np.asarray(y) == 0) and residual == 0


@backends
@modes
def test_a_saddle_is_nan_and_an_eager_call_warns_at_the_callers_line(backend: str, mode: Any) -> None:
    solve = solve_with(saddle, jnp.zeros(2), backend)
    with pytest.warns(sjb.DerivativeWarning, match="negative eigenvalue") as told:
        found = mode(solve)(1.0)
    assert np.all(np.isnan(found))
    assert {each.filename for each in told} == {__file__}
    value = lambda a: sjb.minimize(saddle, jnp.zeros(2), (a,), backend=backend).fun  # noqa: E731
    np.testing.assert_allclose(jax.grad(value)(1.0), 0, atol=1e-9)  # it needs no linear solve


def test_a_saddle_is_nan_inside_jit_too() -> None:
    found = jax.jit(jax.jacrev(solve_with(saddle, jnp.zeros(2), "optax")))(1.0)
    assert np.all(np.isnan(found))


@backends
def test_an_early_end_warns(backend: str) -> None:
    solve = solve_with(rosen, jnp.zeros(2), backend, options={"maxiter": 1})
    with pytest.warns(sjb.DerivativeWarning, match="MAXITER") as told:
        found = jax.grad(lambda a: jnp.sum(solve(a)))(1.0)
    assert np.isfinite(found) and told[0].filename == __file__
    if backend == "optax":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(jax.jit(jax.grad(lambda a: jnp.sum(solve(a))))(1.0), found, rtol=1e-9)


@backends
def test_an_ill_conditioned_system_tells_its_residual(backend: str) -> None:
    """Too many eigenvalues too far apart for the conjugate gradients."""
    scales = jnp.logspace(-6, 4, 2 * DENSE)
    fun = lambda x, a: jnp.sum(scales * (x - a) ** 2)  # noqa: E731
    solve = solve_with(fun, jnp.zeros(2 * DENSE), backend, options={"gtol": 1e-5})
    weights = jnp.asarray(1 / scales)
    with pytest.warns(sjb.DerivativeWarning, match="relative residual of"):
        jax.grad(lambda a: jnp.sum(weights * solve(a)))(jnp.zeros(2 * DENSE))


UPPER = (None, 0.5)
STRICT = [  # every way, on the loop that computes most; every type of leaves by the ways that differ most
    pytest.param(backend, way, kind, bounds, id=f"{kind}-{'bounded' if bounds else 'free'}-{backend}-{way}")
    for backend, kind, bounds, ways in (
        ("scipy", "float32", UPPER, "eager grad jacfwd"),
        ("scipy", "float32", None, "eager grad"),
        ("scipy", "x32", UPPER, "eager grad"),
        ("scipy", "float64", None, "eager grad"),
        ("optax", "float32", UPPER, "eager grad jacfwd jit batch"),
        ("optax", "float32", None, "eager vmap"),
        ("optax", "x32", UPPER, "eager jit"),
        ("optax", "float64", None, "eager batch"),
    )
    for way in ways.split()
]


def follow(way: str, solve: Any, a: jax.Array) -> Any:
    """Solve in this way. A batch is traced alone: what is looked for happens in the trace."""
    loss = lambda a: jnp.sum(solve(a))  # noqa: E731
    match way:
        case "eager":
            return solve(a)
        case "grad":
            return jax.grad(loss)(a)
        case "jacfwd":
            return jax.jacfwd(solve)(a)
        case "jit":
            return jax.jit(solve)(a)
        case "vmap":
            return jax.eval_shape(jax.vmap(solve), jnp.stack([a, a]))
    return jax.eval_shape(jax.vmap(jax.grad(loss)), jnp.stack([a, a]))


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "way", "kind", "bounds"), STRICT)
def test_strict_promotion(backend: str, way: str, kind: str, bounds: Any, request: pytest.FixtureRequest) -> None:
    if kind == "x32":
        request.getfixturevalue("x32")
    a = jnp.array([0.2, 0.9, -0.7], "float64" if kind == "float64" else "float32")
    solve = solve_with(quadratic, jnp.zeros_like(a), backend, bounds=bounds, options={})
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = follow(way, solve, a)
    assert found.dtype == a.dtype
    if way in ("vmap", "batch"):
        assert found.shape == (2, 3)
        return
    free = np.array([1.0, bounds is None, 1.0])
    expected = {"grad": free, "jacfwd": np.diag(free)}.get(way, np.minimum(a, 0.5 if bounds else 1))
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "closed"),
    [("vmap", False), ("grad", True), ("batch", True)],
)
def test_nothing_traced_is_kept(way: str, closed: bool) -> None:
    def solve(a: jax.Array) -> jax.Array:
        bounds, options = (None, a + 0.5), {"gtol": 1e-6 * (1 + a[0] ** 2)}
        fun, args = (lambda x: quadratic(x, a), ()) if closed else (quadratic, (a,))
        return sjb.minimize(fun, jnp.zeros(3), args, backend="optax", bounds=bounds, options=options).params

    with jax.checking_leaks():
        follow(way, solve, jnp.array([0.2, 0.9, -0.7]))


@backends
def test_exceptions_of_an_eager_gradient_carry_the_best_result(backend: str) -> None:
    def callback(progress: sjb.Progress) -> None:
        raise KeyError("mine")

    def loss(a: jax.Array) -> jax.Array:
        return jnp.sum(sjb.minimize(rosen, jnp.zeros(2), (a,), backend=backend, callback=callback).params)

    with pytest.raises(KeyError) as caught:
        jax.grad(loss)(1.0)
    best = caught.value.best_result  # type: ignore[attr-defined]
    assert best.status == sjb.Status.ERROR and np.all(np.isfinite(best.params))
    with pytest.raises(TypeError) as refused:
        jax.grad(lambda a: sjb.minimize(lambda x: x, jnp.zeros(2) + a).fun)(1.0)
    assert refused.value.best_result is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("bounds", [None, (None, 0.5)], ids=["free", "bounded"])
def test_methods_that_hand_back_no_gradient(bounds: Any) -> None:
    def fun(x: jax.Array, a: jax.Array) -> tuple[jax.Array, jax.Array]:
        return quadratic(x, a), 2 * x + a

    def solve(a: jax.Array) -> sjb.Result:
        return sjb.minimize(fun, jnp.zeros(3), (a,), method="Nelder-Mead", bounds=bounds, has_aux=True)

    a = jnp.array([0.2, 0.9, -0.7])
    free = np.diag([1.0, bounds is None, 1.0])
    np.testing.assert_allclose(jax.jacrev(lambda a: solve(a).params)(a), free, atol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(lambda a: solve(a).aux)(a), 2 * free + np.eye(3), atol=1e-6)


def random_bowl(x: jax.Array, a: jax.Array, key: jax.Array) -> jax.Array:
    """Around a random point, by a key that has no derivative."""
    return quadratic(x, a + jax.random.normal(key, (3,)))


@pytest.mark.slow
@pytest.mark.parametrize(("place", "backend"), [("args", "scipy"), ("closure", "optax")])
def test_random_keys(place: str, backend: str) -> None:
    key, a = jax.random.key(0), jnp.zeros(3)

    def solve(a: jax.Array) -> jax.Array:
        fun, args = (random_bowl, (a, key)) if place == "args" else (lambda x, a: random_bowl(x, a, key), (a,))
        return sjb.minimize(fun, jnp.zeros(3), args, backend=backend).params

    for mode in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(mode(solve)(a), np.eye(3), atol=1e-6)


def test_random_keys_where_second_derivatives_are_used() -> None:
    key = jax.random.key(0)
    found = sjb.minimize(random_bowl, jnp.zeros(3), (jnp.zeros(3), key), method="trust-exact").params
    np.testing.assert_allclose(found, jax.random.normal(key, (3,)), atol=1e-5)


def test_exceptions_inside_jit_carry_none() -> None:
    with pytest.raises(TracedCall) as caught:
        jax.jit(lambda a: sjb.minimize(rosen, jnp.zeros(2), (a,)).fun)(1.0)
    assert caught.value.best_result is None  # type: ignore[attr-defined]


def test_an_eager_gradient_tells_message_and_timing() -> None:
    def loss(a: jax.Array) -> tuple[jax.Array, sjb.Result]:
        result = sjb.minimize(rosen, jnp.zeros(2), (a,), method="Powell")
        return jnp.sum(result.params), result

    plain = sjb.minimize(rosen, jnp.zeros(2), (1.0,), method="Powell")
    _, result = jax.grad(loss, has_aux=True)(1.0)
    assert result.detail == plain.detail and result.message == plain.message
    assert result.timing.solve_s > 0


def test_traced_bounds_that_leave_nothing_are_no_success() -> None:
    @jax.jit
    def solve(lower: jax.Array, upper: jax.Array) -> sjb.Result:
        return sjb.minimize(quadratic, jnp.zeros(3), (jnp.ones(3),), backend="optax", bounds=(lower, upper))

    crossed = solve(jnp.array([0.0, 1.0, 2.0]), jnp.ones(3))
    assert crossed.status == sjb.Status.NONFINITE and np.isnan(crossed.params[2])
    assert solve(jnp.zeros(3), jnp.ones(3)).success


@backends
def test_a_transfer_guard_of_the_callers_does_not_forbid_the_library_its_own(backend: str) -> None:
    start, a = jnp.zeros(3), jnp.ones(3)
    with jax.transfer_guard("disallow"):
        assert sjb.minimize(quadratic, start, (a,), backend=backend).success
