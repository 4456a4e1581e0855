"""An objective is the one it was before only if what it reads from outside is the same: no stale answers."""

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
from scipy_jax_bridge._problem.fingerprint import structure_of

backends = pytest.mark.parametrize("backend", ["scipy", "optax"])
CENTER = np.ones(2)
SCALE = 1.0
COUNT = 0


class Estimator:
    """As in scikit-learn: the data become attributes, the loss is a method."""

    def __init__(self) -> None:
        self.traced, self.center, self.power = 0, np.zeros(2), 2

    def loss(self, x: Any) -> Any:
        self.traced += 1
        return jnp.sum(jnp.abs(x - self.center) ** self.power) + 0 * self.power

    def fit(self, center: Any, backend: str) -> Any:
        self.center = center
        return sjb.minimize(self.loss, jnp.zeros(2), backend=backend).params

    __call__ = loss


@backends
@pytest.mark.parametrize("door", ["method", "object", "partial"])
def test_a_changed_attribute_is_seen(backend: str, door: str) -> None:
    model = Estimator()
    fun: Callable[..., Any] = {"method": model.loss, "object": model, "partial": functools.partial(model.loss)}[door]
    solve = sjb.Minimizer(fun, backend=backend)
    for center in (np.ones(2), 3 * np.ones(2), np.array([1.0, -2.0])):
        model.center = center
        np.testing.assert_allclose(sjb.minimize(fun, jnp.zeros(2), backend=backend).params, center, atol=1e-4)
        np.testing.assert_allclose(solve(jnp.zeros(2)).params, center, atol=1e-4)
    with count_compiles() as compiled:  # what the function itself writes is no change: it counts its traces
        assert solve(jnp.zeros(2)).timing.compiles == 0
    assert compiled == [] and model.traced > 3
    model.power = 4
    assert solve(jnp.zeros(2)).timing.compiles > 0


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


@backends
def test_what_changes_while_it_is_traced_is_no_change(backend: str) -> None:
    class Model:
        def __init__(self) -> None:
            self.seen: Any = None
            self.traces = 0

        def loss(self, x: Any) -> Any:
            self.remember(x)
            return jnp.sum((x - 1) ** 2)

        def remember(self, x: Any) -> None:
            self.seen, self.traces = x, self.traces + 1

    model = Model()
    solve = sjb.Minimizer(model.loss, backend=backend)
    assert solve(jnp.zeros(2)).timing.compiles > 0
    traces = model.traces
    for _ in range(3):
        assert solve(jnp.full(2, 3.0)).timing.compiles == 0
    assert model.traces == traces


def helper(x: Any) -> Any:
    return jnp.sum((x - CENTER) ** 2)


def reads_globals(x: Any) -> Any:
    global COUNT
    COUNT += 1
    return SCALE * helper(x)


@backends
def test_a_changed_global_is_seen(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook, where the data are assigned again and the function is not. Also through another function."""
    solve = sjb.Minimizer(reads_globals, backend=backend)
    assert solve(jnp.zeros(2)).timing.compiles > 0
    assert solve(jnp.zeros(2)).timing.compiles == 0  # though it counts its traces
    monkeypatch.setitem(globals(), "CENTER", np.array([2.0, 3.0]))
    np.testing.assert_allclose(solve(jnp.zeros(2)).params, [2.0, 3.0], atol=1e-5)
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    np.testing.assert_allclose(solve(jnp.ones(2)).trace.fun[0], 5.0 * 5.0)


@backends
def test_a_changed_closure_is_seen(backend: str) -> None:
    center = np.ones(2)
    log: list[Any] = []

    def fun(x: Any) -> Any:
        jax.debug.callback(log.append, x[0])  # a list that grows is no other list
        return jnp.sum((x - center) ** 2)

    solve = sjb.Minimizer(fun, backend=backend)
    solve(jnp.zeros(2))
    assert solve(jnp.zeros(2)).timing.compiles == 0 and log
    center = np.array([2.0, 3.0])
    np.testing.assert_allclose(solve(jnp.zeros(2)).params, center, atol=1e-5)


def test_a_method_whose_function_is_gone() -> None:
    """Its place in memory is taken again by another function."""
    owner = types.SimpleNamespace()
    for center in range(4):
        fun = eval(f"lambda self, x: (x - {center}.0) ** 2")
        found = sjb.minimize(types.MethodType(fun, owner), 0.5).params
        del fun
        gc.collect()
        assert abs(float(found) - center) < 1e-4


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


@pytest.mark.parametrize("name", HIDDEN)
def test_traced_values_are_found_wherever_they_hide(name: str) -> None:
    def fit(y: Any, backend: str) -> Any:
        return sjb.minimize(HIDDEN[name](y), jnp.zeros(2), backend=backend).params

    ys = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    np.testing.assert_allclose(jax.vmap(lambda y: fit(y, "optax"))(ys), ys, atol=1e-4)
    np.testing.assert_allclose(jax.grad(lambda y: jnp.sum(fit(y, "scipy")))(ys[0]), [1.0, 1.0], rtol=1e-4)


@pytest.mark.parametrize("name", ["gtol", "ftol", "maxiter", "maxfun", "maxls"])
def test_options_may_be_traced_alone(name: str) -> None:
    def fun(x: Any) -> Any:
        return jnp.sum(x**4)

    def solve(value: Any) -> Any:
        return sjb.minimize(fun, jnp.ones(2), backend="optax", options={name: value}).nit

    values = jnp.array([2, 5]) if name.startswith("max") else jnp.array([1e-2, 1e-6])
    expected = [int(solve(float(value) if value < 1 else int(value))) for value in values]
    assert jax.vmap(solve)(values).tolist() == expected


def test_a_batch_outside_jit_compiles_once() -> None:
    def fun(x: Any, y: Any) -> Any:
        return jnp.sum((x - y) ** 2)

    def fit(y: Any) -> Any:
        return sjb.minimize(fun, jnp.zeros(2), (y,), backend="optax").params

    ys = np.full((3, 2), 2.0)
    jax.vmap(fit)(ys / 2)
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


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.adam(0.1),
        lambda: optax.sgd(0.1, momentum=0.5),
        lambda: optax.lbfgs(),
        lambda: optax.adam(jnp.array(0.1)),
        lambda: optax.inject_hyperparams(optax.sgd)(np.array(0.1)),
        lambda: optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100)),
        lambda: optax.chain(optax.adam(0.1), optax.keep_params_nonnegative()),
    ],
)
def test_structures_of_transformations(make: Callable[[], Any]) -> None:
    one, same = structure_of(make()), structure_of(make())
    assert one == same and hash(one) == hash(same)
    assert one != structure_of(optax.adam(0.123))


def test_structures_tell_arrays_and_functions_apart() -> None:
    def scheduled(values: Any) -> Any:
        return optax.sgd(lambda count: values[count])

    values = np.full(9, 0.1)
    assert structure_of(scheduled(values)) == structure_of(scheduled(values))
    assert structure_of(scheduled(values)) == structure_of(scheduled(np.full(9, 0.1)))
    assert structure_of(scheduled(values)) != structure_of(scheduled(np.full(9, 0.2)))
    large = np.zeros(10**4)  # too large to be read at every call
    assert structure_of(scheduled(large)) == structure_of(scheduled(large)) != structure_of(scheduled(large.copy()))
    assert structure_of(optax.adam(0.1)) != structure_of(optax.adamw(0.1))
    assert structure_of(optax.adam(1.0)) != structure_of(optax.adam(True))


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
