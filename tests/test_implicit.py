"""The derivative of a solution: against central differences, in every mode, on both backends."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from helpers_calls import count_compiles
from scipy_jax_bridge._autodiff.traced import TracedCall

backends = pytest.mark.parametrize("backend", ["scipy", "optax"])
START = {"b": np.array(0.1), "w": np.zeros(3)}
DATA = np.array([0.7, -0.4, 1.3])
TIGHT = {"gtol": 1e-11, "ftol": 0.0}
BOUNDS = {"free": None, "active": sjb.Bounds({"w": -0.25, "b": None}, {"w": 0.75, "b": None})}


def fit(params: Any, data: jax.Array) -> jax.Array:
    """Convex, coupled, and not quadratic; at DATA the box BOUNDS holds the second and the third weight."""
    d = params["w"] - data * (1 + 0.3 * params["b"])
    coupling = 0.5 * (params["b"] - jnp.sum(params["w"])) ** 2 + params["b"] ** 2
    return jnp.sum(d**2 + 0.2 * d**4 + 0.3 * params["w"] ** 2) + coupling + 0.1 * jnp.sum(jnp.cosh(d))


def solver(backend: str, bounds: Any) -> sjb.Minimizer:
    return sjb.Minimizer(fit, backend=backend, bounds=bounds, options=TIGHT)


SOLVERS = {(backend, name): solver(backend, box) for backend in ("scipy", "optax") for name, box in BOUNDS.items()}
cases = pytest.mark.parametrize(("backend", "box"), SOLVERS)


def summary(result: sjb.Result) -> jax.Array:
    """Of params and of fun."""
    return jnp.concatenate([result.params["w"], result.params["b"][None], result.fun[None]])


def differences(fun: Callable[[Any], Any], at: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """The Jacobian by central differences of fourth order."""
    columns = []
    for unit in np.eye(at.size).reshape(at.size, *at.shape) * step:
        near = np.asarray(fun(at + unit)) - np.asarray(fun(at - unit))
        far = np.asarray(fun(at + 2 * unit)) - np.asarray(fun(at - 2 * unit))
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, axis=-1)


def check(found: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.max(np.abs(expected)))


@pytest.mark.slow
@cases
@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd], ids=["reverse", "forward"])
def test_against_differences(backend: str, box: str, mode: Any) -> None:
    solve = SOLVERS[backend, box]
    result = solve(START, (DATA,))
    assert result.trace.grad_norm[-1] < 1e-6
    at_bound = np.isin(result.params["w"], [-0.25, 0.75])
    assert np.any(at_bound) == (box == "active") and not np.all(at_bound)
    derivative = mode(lambda data: summary(solve(START, (data,))))
    found = (jax.jit(derivative) if backend == "optax" else derivative)(jnp.asarray(DATA))
    expected = differences(lambda data: summary(SOLVERS["optax", box](START, (data,))), DATA)  # the finer solution
    check(found, expected)
    assert np.all(np.asarray(found)[:3][at_bound] == 0)


@cases
def test_grad_of_fun_is_the_partial_derivative(backend: str, box: str) -> None:
    """At a minimum the params do not matter to first order."""
    solve = SOLVERS[backend, box]
    found = jax.grad(lambda data: solve(START, (data,)).fun)(jnp.asarray(DATA))
    params = solve(START, (DATA,)).params
    check(found, np.asarray(jax.grad(fit, argnums=1)(params, jnp.asarray(DATA))))


@pytest.mark.slow
@pytest.mark.parametrize("box", BOUNDS)
def test_compiled_and_batched_gradients(box: str) -> None:
    solve = SOLVERS["optax", box]

    def loss(data: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(summary(solve(START, (data,)))))

    many = np.stack([DATA, DATA + 0.05, 0.9 * DATA])
    found = jax.jit(jax.vmap(jax.grad(loss)))(jnp.asarray(many))
    for gradient, data in zip(found, many, strict=True):
        check(gradient, differences(loss, data))


@backends
def test_values_are_those_of_a_plain_call(backend: str) -> None:
    solve = SOLVERS[backend, "free"]
    plain = solve(START, (DATA,))

    def loss(data: jax.Array) -> tuple[jax.Array, sjb.Result]:
        result = solve(START, (data,))
        return result.params["b"], result

    (value, result), _ = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(DATA))
    assert float(value) == float(plain.params["b"])
    assert (int(result.nit), int(result.nfev), int(result.code)) == (plain.nit, plain.nfev, plain.code)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "box"), [("scipy", "free"), ("optax", "active")])
def test_traced_values_in_the_closure(backend: str, box: str) -> None:
    def loss(data: jax.Array) -> jax.Array:
        def closed(params: Any) -> jax.Array:
            return fit(params, data)

        return jnp.sum(summary(sjb.minimize(closed, START, backend=backend, bounds=BOUNDS[box], options=TIGHT)))

    solve = SOLVERS["scipy", box]
    expected = jax.grad(lambda data: jnp.sum(summary(solve(START, (data,)))))(jnp.asarray(DATA))
    check(jax.grad(loss)(jnp.asarray(DATA)), np.asarray(expected))


@backends
def test_derivative_with_respect_to_an_active_bound(backend: str) -> None:
    def solution(upper: Any, backend: str = backend) -> jax.Array:
        bounds = sjb.Bounds(None, {"w": upper, "b": None})
        return summary(sjb.minimize(fit, START, (DATA,), backend=backend, bounds=bounds, options=TIGHT))

    upper = np.array([9.0, 9.0, 0.75])  # the last one holds
    found = jax.jacrev(solution)(jnp.asarray(upper))
    check(found, differences(lambda upper: solution(upper, "optax"), upper))  # the finer solution
    np.testing.assert_allclose(found[2], [0.0, 0.0, 1.0], atol=1e-9)
    assert np.all(np.asarray(found)[:, :2] == 0)


@backends
def test_the_start_does_not_matter(backend: str) -> None:
    solve = SOLVERS[backend, "free"]
    grads = jax.grad(lambda start: jnp.sum(summary(solve(start, (DATA,)))))(jax.tree.map(jnp.asarray, START))
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(grads))


@backends
def test_tree_of_data_with_integers_and_settings(backend: str) -> None:
    def fun(x: jax.Array, data: dict[str, Any]) -> jax.Array:
        power = {"square": 2}[data["kind"]]
        return jnp.sum((x - data["center"][data["order"]]) ** power) + 0.5 * jnp.sum(x**2)

    def loss(center: jax.Array) -> jax.Array:
        data = {"center": center, "order": np.array([2, 0, 1]), "kind": "square"}
        return jnp.sum(jnp.arange(3) * sjb.minimize(fun, jnp.zeros(3), (data,), backend=backend, options=TIGHT).params)

    check(jax.grad(loss)(jnp.asarray(DATA)), np.array([1.0, 2.0, 0.0]) * 2 / 3)


@backends
def test_derivative_of_aux(backend: str) -> None:
    def fun(x: jax.Array, center: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sum((x - center) ** 2), jnp.sum(x * center)

    def loss(center: jax.Array) -> jax.Array:
        return sjb.minimize(fun, jnp.zeros(3), (center,), backend=backend, has_aux=True, options=TIGHT).aux

    check(jax.grad(loss)(jnp.asarray(DATA)), 2 * DATA)


@pytest.mark.slow
@backends
@pytest.mark.parametrize("precision", ["x64", "x32"])
def test_eager_gradients_compile_once(backend: str, precision: str, request: pytest.FixtureRequest) -> None:
    """Whatever the number of iterations, which is the length of the trace."""

    if precision == "x32":
        request.getfixturevalue("x32")
    weights = np.array([1.0, 2.0, 3.0], np.float32)

    def fun(x: jax.Array, a: jax.Array, count: jax.Array) -> jax.Array:
        return jnp.sum((x - a) ** 2 * weights) + jnp.sum(x**4) / count

    def solve(a: jax.Array) -> tuple[jax.Array, sjb.Result]:
        result = sjb.minimize(fun, jnp.zeros(3), (a, 2), backend=backend, options={"gtol": 1e-3})
        return jnp.sum(result.params**2), result

    starts = [jnp.array([1.0, 2.0, 3.0]) * scale for scale in (1.0, 0.01, 7.0, 100.0)]
    gradient = jax.grad(solve, has_aux=True)
    gradient(starts[0])
    with count_compiles() as compiled:
        found = [gradient(start) for start in starts[1:]]
    assert compiled == []
    assert len({int(result.nit) for _, result in found}) > 1
    for derivative, result in found:
        x = np.asarray(result.params)
        np.testing.assert_allclose(derivative, 2 * x * 2 * weights / (2 * weights + 6 * x**2), rtol=1e-3)


@backends
def test_gradients_keep_no_function_alive(backend: str) -> None:
    def make() -> Any:
        center = jnp.ones(3)
        return lambda x, a: jnp.sum((x - a * center) ** 2)

    fun = make()
    jax.grad(lambda a: jnp.sum(sjb.minimize(fun, jnp.zeros(3), (a,), backend=backend).params))(2.0)
    known = weakref.ref(fun)
    del fun
    gc.collect()
    assert known() is None


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap], ids=["jit", "vmap"])
def test_scipy_under_a_trace_names_the_cure(transform: Any) -> None:
    solve = SOLVERS["scipy", "free"]
    with pytest.raises(TracedCall, match="backend='optax'"):
        transform(lambda data: solve(START, (data,)).fun)(jnp.asarray(DATA)[None] * jnp.ones((3, 1)))


def test_scipy_under_jit_names_the_cure_also_for_a_closure() -> None:
    @jax.jit
    def solve(data: jax.Array) -> jax.Array:
        return sjb.minimize(lambda params: fit(params, data), START).fun

    with pytest.raises(TracedCall, match="backend='optax'"):
        solve(jnp.asarray(DATA))


@backends
def test_rules_for_reverse_mode_alone(backend: str) -> None:
    """https://github.com/google/jaxopt: its solutions are differentiable there too."""

    @jax.custom_vjp
    def quartic(r: Any) -> Any:
        return jnp.sum(r**4) + jnp.sum(r**2)

    quartic.defvjp(lambda r: (quartic(r), r), lambda r, g: ((4 * r**3 + 2 * r) * g,))
    target = jnp.array([1.0, 2.0])

    def fit(fun: Any, y: Any, backend: Any) -> Any:
        loss = lambda x, y: fun(x - y) + jnp.sum((x - target) ** 2)  # noqa: E731
        return jnp.sum(jnp.sin(sjb.minimize(loss, jnp.zeros(2), (y,), backend=backend, options=TIGHT).params))

    y = jnp.array([0.3, -0.4])
    plain = jax.grad(lambda y: fit(lambda r: jnp.sum(r**4) + jnp.sum(r**2), y, "scipy"))(y)
    np.testing.assert_allclose(jax.grad(lambda y: fit(quartic, y, backend))(y), plain, rtol=1e-9)


@backends
def test_loops_of_unknown_length_inside_the_gradient(backend: str) -> None:
    @jax.custom_vjp
    def square(r: Any) -> Any:
        return jnp.sum(r**2)

    def backward(r: Any, g: Any) -> Any:  # r by a loop that knows no reverse
        doubled = jax.lax.while_loop(lambda pair: pair[0] < 2, lambda pair: (pair[0] + 1, pair[1] + r), (0, 0 * r))[1]
        return (doubled * g,)

    square.defvjp(lambda r: (jnp.sum(r**2), r), backward)

    def fit(y: Any) -> Any:
        loss = lambda x, y: square(x - y) + jnp.sum(x**2)  # noqa: E731
        return jnp.sum(sjb.minimize(loss, jnp.zeros(2), (y,), backend=backend, options=TIGHT).params)

    np.testing.assert_allclose(jax.jacfwd(fit)(jnp.ones(2)), 0.5, rtol=1e-9)
