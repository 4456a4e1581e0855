"""Traced values are found wherever they hide, and transformations share programs; `test_stale` has what changes."""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from helpers_calls import count_compiles

backends = pytest.mark.parametrize("backend", ["scipy", "optax"])


class Estimator:
    """As in scikit-learn: the data become attributes, the loss is a method."""

    def __init__(self) -> None:
        self.traced, self.center, self.power = 0, np.zeros(2), 2

    def loss(self, x: Any) -> Any:
        self.traced += 1
        return jnp.sum((x - self.center) ** self.power)

    def fit(self, center: Any, backend: str) -> Any:
        self.center = center
        return sjb.minimize(self.loss, jnp.zeros(2), backend=backend).params

    __call__ = loss


@pytest.mark.slow
@backends
def test_a_fit_whose_data_are_attributes_is_differentiable(backend: str) -> None:
    """https://github.com/google/jaxopt/issues/221: not the derivative of the fit before."""
    model = Estimator()
    model.fit(np.ones(2), backend)
    np.testing.assert_allclose(
        jax.grad(lambda y: jnp.sum(model.fit(y, backend)))(jnp.array([3.0, 2.0])), [1, 1], rtol=1e-5
    )
    if backend == "optax":
        found = jax.vmap(lambda y: model.fit(y, backend))(jnp.array([[3.0, 2.0], [0.5, 4.0]]))
        np.testing.assert_allclose(found, [[3.0, 2.0], [0.5, 4.0]], atol=1e-4)


# Traced values, wherever they hide


@functools.partial(jax.tree_util.register_dataclass, data_fields=["y"], meta_fields=[])
class Module:
    def __init__(self, y: Any) -> None:
        self.y = y

    def __call__(self, x: Any) -> Any:
        return jnp.sum((x - self.y) ** 2)

    def method(self, x: Any) -> Any:
        return self(x)


def with_default(y: Any) -> Any:
    def fun(x: Any, y: Any = y) -> Any:
        return jnp.sum((x - y) ** 2)

    return fun


def with_keyword(y: Any) -> Any:
    def fun(x: Any, *, y: Any = y) -> Any:
        return jnp.sum((x - y) ** 2)

    return fun


def closes_over_object(y: Any) -> Any:
    holder = types.SimpleNamespace(inner=Module(y))
    return lambda x: holder.inner(x)


HIDDEN: dict[str, Callable[[Any], Any]] = {
    "object": Module,
    "method": lambda y: Module(y).method,
    "closure over an object": closes_over_object,
    "jitted": lambda y: jax.jit(lambda x: jnp.sum((x - y) ** 2)),
    "default": with_default,
    "keyword default": with_keyword,
    "partial": lambda y: functools.partial(lambda y, x: jnp.sum((x - y) ** 2), y),
    "integer too": lambda y: lambda x: jnp.sum((x - y) ** 2) * (1 + (y > -9).astype(int)[0]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HIDDEN)
def test_traced_values_are_found_wherever_they_hide(name: str) -> None:
    def fit(y: Any, backend: str) -> Any:
        return sjb.minimize(HIDDEN[name](y), jnp.zeros(2), backend=backend).params

    ys = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    np.testing.assert_allclose(jax.vmap(lambda y: fit(y, "optax"))(ys), ys, atol=1e-4)
    np.testing.assert_allclose(jax.grad(lambda y: jnp.sum(fit(y, "scipy")))(ys[0]), [1.0, 1.0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gtol", "ftol", "maxiter", "maxfun", "maxls"])
def test_options_may_be_traced_alone(name: str) -> None:
    def fun(x: Any) -> Any:
        return jnp.sum(x**4)

    def solve(value: Any) -> Any:
        return sjb.minimize(fun, jnp.ones(2), backend="optax", options={name: value}).nit

    values = jnp.array([2, 5]) if name.startswith("max") else jnp.array([1e-2, 1e-6])
    expected = [int(solve(float(value) if value < 1 else int(value))) for value in values]
    if name == "ftol":  # traced by `jit` inside, too
        assert jax.jit(jax.vmap(solve))(values).tolist() == expected
        return
    program = jax.jit(solve)
    assert [int(program(value)) for value in values] == expected


def test_a_batch_outside_jit_compiles_once() -> None:
    def fun(x: Any, y: Any) -> Any:
        return jnp.sum((x - y) ** 2)

    def fit(y: Any) -> Any:
        return sjb.minimize(fun, y / 2, (y,), backend="optax").params

    ys = np.full((3, 2), 2.0)
    jax.vmap(fit)(ys / 4)
    with count_compiles() as compiled:
        np.testing.assert_allclose(jax.vmap(fit)(ys), ys, rtol=1e-4)
    assert compiled == []


# Transformations


def bowl(x: Any) -> Any:
    return jnp.sum((x - 1) ** 2)


def test_a_transformation_made_anew_shares_its_program() -> None:
    def make(rate: float) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, 100)))

    first = sjb.minimize(bowl, jnp.zeros(3), backend="optax", method=make(0.1), options={"maxiter": 7})
    with count_compiles() as compiled:
        second = sjb.minimize(bowl, jnp.zeros(3), backend="optax", method=make(0.1), options={"maxiter": 7})
    assert compiled == [] and second.timing.compiles == 0
    np.testing.assert_array_equal(first.params, second.params)
    other = sjb.minimize(bowl, jnp.zeros(3), backend="optax", method=make(0.2), options={"maxiter": 7})
    assert other.timing.compiles > 0 and not np.array_equal(first.params, other.params)


def scheduled(rates: Any) -> Any:
    return optax.sgd(lambda count: jnp.asarray(rates)[count])


TRANSFORMATIONS: list[Callable[[float], Any]] = [
    lambda rate: optax.adam(jnp.array(rate)),
    lambda rate: optax.inject_hyperparams(optax.sgd)(jnp.array(rate)),
    lambda rate: scheduled(np.full(9, rate)),
    lambda rate: optax.chain(optax.adam(jnp.array(rate)), optax.keep_params_nonnegative()),
]


@pytest.mark.parametrize("make", TRANSFORMATIONS)
def test_array_hyperparameters_are_inputs(make: Callable[[float], Any]) -> None:
    def solve(rate: float) -> Any:
        return sjb.minimize(bowl, jnp.zeros(3), backend="optax", method=make(rate), options={"maxiter": 3}).params

    first = solve(0.1)
    with count_compiles() as compiled:
        second, third = solve(0.2), solve(0.1)
    assert compiled == [] and not np.array_equal(first, second)
    np.testing.assert_array_equal(first, third)


def test_a_batch_over_the_rate() -> None:
    def solve(rate: Any) -> Any:
        return sjb.minimize(bowl, jnp.zeros(3), backend="optax", method=optax.sgd(rate), options={"maxiter": 3}).params

    rates = jnp.array([0.1, 0.2])
    expected = np.stack([solve(each) for each in rates])
    with jax.checking_leaks():
        np.testing.assert_allclose(jax.jit(jax.vmap(solve))(rates), expected, rtol=1e-12)


def test_transformations_are_not_kept_alive() -> None:
    alive = []
    for _ in range(3):
        values = np.full(9, 0.1)
        method = optax.sgd(lambda count, values=values: values[0])
        alive.append(weakref.ref(values))
        sjb.minimize(bowl, jnp.zeros(3), backend="optax", method=method, options={"maxiter": 3})
        del values, method
    gc.collect()
    assert [reference() is None for reference in alive] == [True] * 3


# Nothing of the user's is kept alive


class Holder:
    """Something that can be referred to weakly, with an array that would be large."""

    def __init__(self) -> None:
        self.array = jnp.arange(5.0)

    def __call__(self, x: Any) -> Any:
        return jnp.sum((x - self.array) ** 2)

    def method(self, x: Any) -> Any:
        return self(x)


def closure() -> tuple[Callable[..., Any], Holder]:
    holder = Holder()

    def fun(x: Any) -> Any:
        return jnp.sum((x - holder.array) ** 2)

    return fun, holder


def small_lambda() -> tuple[Callable[..., Any], Holder]:
    holder = Holder()
    return lambda x: jnp.sum((x - holder.array) ** 2), holder


def partial() -> tuple[Callable[..., Any], Holder]:
    holder = Holder()
    return functools.partial(lambda holder, x: holder(x), holder), holder


def bound_method() -> tuple[Callable[..., Any], Holder]:
    holder = Holder()
    return holder.method, holder


def callable_object() -> tuple[Callable[..., Any], Holder]:
    holder = Holder()
    return holder, holder


def jitted() -> tuple[Callable[..., Any], Holder]:
    fun, holder = closure()
    return jax.jit(fun), holder


@pytest.mark.slow
@backends
def test_nothing_of_the_users_is_kept_alive(backend: str) -> None:
    def solve(make: Callable[[], Any]) -> tuple[sjb.Result, Any, Any]:
        fun, holder = make()
        alive = weakref.ref(holder), weakref.ref(holder.array)
        result = sjb.minimize(fun, np.zeros(5), backend=backend)
        solver = sjb.Minimizer(fun, backend=backend)
        assert solver(np.zeros(5)).timing.compiles == 0
        jax.grad(lambda x: sjb.minimize(fun, x, backend=backend).fun)(jnp.zeros(5))
        return result, *alive

    found = {make: solve(make) for make in (closure, small_lambda, partial, bound_method, callable_object, jitted)}
    gc.collect()
    for make, (result, holder, array) in found.items():
        assert holder() is None and array() is None, make
        assert result.success  # and the result lives on


# What cannot be had inside a trace is said


@pytest.mark.parametrize(
    "name, more",
    [("callback", {"callback": print}), ("progress", {"progress": True}), ("timeout", {"options": {"timeout": 1.0}})],
)
def test_nobody_reports_from_inside_jit(name: str, more: dict[str, Any]) -> None:
    def fit(y: Any) -> Any:
        return sjb.minimize(lambda x: jnp.sum((x - y) ** 2), jnp.zeros(2), backend="optax", **more).params

    with pytest.raises(RuntimeError, match=f"{name} cannot be served inside jax.jit"):
        jax.jit(fit)(jnp.ones(2))


@backends
def test_an_eager_gradient_serves_the_callback(backend: str) -> None:
    seen: list[sjb.Progress] = []

    def fit(y: Any) -> Any:
        return jnp.sum(
            sjb.minimize(lambda x: jnp.sum((x - y) ** 4), jnp.zeros(2), backend=backend, callback=seen.append).params
        )

    jax.grad(fit)(jnp.ones(2))
    assert seen and seen[-1].nit > 0


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, lambda f: lambda y: jax.vmap(f)(jnp.stack([y, y]))])
def test_precision_inside_a_trace(transform: Any, x32: None) -> None:
    def fit(y: Any) -> Any:
        return jnp.sum(sjb.minimize(bowl_at, jnp.zeros(2), (y,), backend="optax", precision="float64").params)

    with pytest.raises(RuntimeError, match="precision='float64' cannot be changed inside"):
        transform(fit)(jnp.ones(2))


def bowl_at(x: Any, y: Any) -> Any:
    return jnp.sum((x - y) ** 2)


def test_precision_inside_a_trace_that_is_double() -> None:
    def fit(y: Any) -> Any:
        return sjb.minimize(bowl_at, jnp.zeros(2, jnp.float32), (y,), backend="optax", precision="float64").params

    assert jax.jit(fit)(jnp.ones(2)).dtype == jnp.float64


@backends
def test_errors_before_the_solve_have_no_best_result(backend: str) -> None:
    def fun(x: Any) -> Any:
        raise ZeroDivisionError

    for call in (fun, lambda x: jnp.log(x).sum()):
        with pytest.raises((ZeroDivisionError, ValueError)) as caught:
            sjb.minimize(call, -jnp.ones(2), backend=backend)
        assert caught.value.best_result is None  # type: ignore[union-attr]
