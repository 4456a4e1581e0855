"""The guard against silent recompilation: it names argument and cause once, and is silent in correct use."""

from __future__ import annotations

import functools
import gc
import re
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import RecompilationWarning
from scipy_jax_bridge._compare import compare as _compare
from scipy_jax_bridge._problem import recompilation

pytestmark = pytest.mark.usefixtures("no_programs")
CALLS = 12


def collect(call: Callable[[int], Any]) -> list[str]:
    """The guard's warnings in that many calls."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(CALLS):
            call(number)
    return [str(each.message) for each in caught if issubclass(each.category, RecompilationWarning)]


def named(*words: str) -> Callable[[list[str]], None]:
    def check(messages: list[str]) -> None:
        assert len(messages) == 1, messages
        for word in words:
            assert word in messages[0], messages[0]

    return check


def test_a_new_lambda_each_call() -> None:
    """https://github.com/google-deepmind/optax/issues/1298, https://github.com/google/jaxopt/issues/221."""
    check = named("The argument: fun.", "a Python number in it", "test_guard.py", "Pass it through args")
    check(collect(lambda number: sjb.minimize(lambda x: jnp.sum((x - number) ** 2), np.zeros(2))))


def test_a_new_partial_each_call() -> None:
    def fun(x: Any, center: float) -> Any:
        return jnp.sum((x - center) ** 2)

    check = named("The argument: fun.", "fun (line")
    check(collect(lambda number: sjb.minimize(functools.partial(fun, center=float(number)), np.zeros(2))))


def test_a_new_minimizer_each_call() -> None:
    check = named("The argument: fun.", "then", "keep one Minimizer")
    check(collect(lambda number: sjb.Minimizer(lambda x: sum([jnp.sum(x)] * number, jnp.sum(x))).compile(np.zeros(2))))


def test_a_new_shape_each_call() -> None:
    def fun(x: Any, data: dict[str, Any]) -> Any:
        return jnp.sum((x - jnp.mean(data["y"])) ** 2)

    check = named("args[0]['y']", "shape went from", "mask what was added")
    check(collect(lambda number: sjb.minimize(fun, np.zeros(2), ({"y": np.ones(3 + number)},))))


def test_a_new_shape_of_params_each_call() -> None:
    def fun(params: dict[str, Any]) -> Any:
        return jnp.sum(params["w"] ** 2)

    check = named("params['w']", "shape went from (9,) to (10,)")
    check(collect(lambda number: sjb.minimize(fun, {"w": np.zeros(2 + number)})))


def test_a_new_static_leaf_each_call() -> None:
    def fun(params: dict[str, Any]) -> Any:
        return jnp.sum(params["w"] ** 2) * (1 + params["degree"])

    check = named("params['degree']", "static value went from 7 to 8", "an array or a number if it is data")
    check(collect(lambda number: sjb.minimize(fun, {"w": np.zeros(2), "degree": number})))


def test_a_new_function_among_the_args_each_call() -> None:
    """The functions compute something else; where they compute the same, nothing compiles."""

    def fun(x: Any, kernel: Any) -> Any:
        return jnp.sum(kernel(x))

    check = named("args[0]", "static value went from <function", "pass the same object")
    messages = collect(lambda number: sjb.minimize(fun, np.ones(2), (lambda x: x**2 + number,)))
    check(messages)
    places = re.findall("at (0x[0-9a-f]+)", messages[0])
    assert len(places) == len(set(places)), "two functions that look like one"
    assert collect(lambda number: sjb.minimize(fun, np.ones(2), (lambda x: x**4,))) == []


@pytest.mark.slow
def test_a_new_tree_each_call() -> None:
    def fun(params: dict[str, Any]) -> Any:
        return sum(jnp.sum(leaf**2) for leaf in params.values())

    check = named("The argument: params.", "its tree went from", "same keys")
    check(collect(lambda number: sjb.minimize(fun, {f"w{each}": np.zeros(2) for each in range(1 + number)})))
    assert collect(lambda number: sjb.minimize(fun, {f"v{number}": np.zeros(3)})) == []


def test_a_host_callback_made_anew_each_call() -> None:
    def call(number: int) -> Any:
        def fun(x: Any) -> Any:
            shape = jax.ShapeDtypeStruct((), x.dtype)
            return jnp.sum(x**2) + jax.pure_callback(lambda: np.float64(number), shape)

        return sjb.minimize(fun, np.ones(2))

    named("The argument: fun.", "another function on the host", "once, outside the objective")(collect(call))


def test_tracing_that_takes_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompilation, "LONG_TRACE_S", 0.0)
    monkeypatch.setattr(recompilation, "ALL_TRACES_S", 0.0)
    data = np.ones(2)

    def fun(x: Any) -> Any:
        time.sleep(0.05)
        return jnp.sum((x - data) ** 2)

    named("was traced 8 times", "keep one Minimizer")(collect(lambda number: sjb.minimize(fun, np.zeros(2))))
    solve = sjb.Minimizer(lambda x: fun(x))
    assert collect(lambda number: solve(np.zeros(2))) == []


def test_types_that_take_turns_compile_each_once() -> None:
    """float32, float64, a plain number: three programs, and no more."""

    def fun(x: Any, shift: Any) -> Any:
        return jnp.sum((x - shift) ** 2)

    kinds = (1.0, np.float32(1.0), np.float64(1.0), jnp.asarray(1.0))
    assert collect(lambda number: sjb.minimize(fun, np.zeros(2), (kinds[number % 4],))) == []


def test_it_warns_once() -> None:
    def call(number: int) -> None:
        sjb.minimize(lambda x: jnp.sum((x - number) ** 2), np.zeros(2))

    def twice(number: int) -> None:
        call(number), call(number + 100)

    assert len(collect(twice)) == 1


def test_silent_with_one_function_and_new_data() -> None:
    def fun(x: Any, center: Any) -> Any:
        return jnp.sum((x - center) ** 2)

    for backend in ("scipy", "optax"):
        assert collect(lambda number, b=backend: sjb.minimize(fun, np.zeros(2), (number + 0.5,), backend=b)) == []


def test_silent_while_a_few_shapes_are_used_many_times() -> None:
    def fun(x: Any) -> Any:
        return jnp.sum((x - 1.0) ** 2)

    assert (
        collect(lambda number: [sjb.minimize(fun, np.zeros(number)) for number in range(1, 1 + min(number, 6))]) == []
    )


def test_silent_with_every_method() -> None:
    methods = iter(["L-BFGS-B", "BFGS", "CG", "Newton-CG", "TNC", "SLSQP", "trust-ncg", "trust-exact", "Powell"])

    def fit(method: str) -> None:
        sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), np.zeros(2), method=method)

    assert collect(lambda number: [fit(each) for each in [next(methods, None)] if each]) == []


def test_silent_with_many_different_models() -> None:
    """One factory, each model of its own size and solved once."""

    def objective(n: int) -> Callable[[Any], Any]:
        return lambda x: jnp.sum((x - n) ** 2)

    assert collect(lambda number: sjb.minimize(objective(number), np.zeros(2 + number))) == []


def test_silent_inside_jit() -> None:
    """Retracing is jit's business, and jax.vmap's."""

    def fit(center: Any) -> Any:
        return sjb.minimize(lambda x: jnp.sum((x - center) ** 2), jnp.zeros(2), backend="optax").params

    assert collect(lambda number: jax.eval_shape(fit, jnp.ones(2) * number)) == []


def test_silent_in_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compare, "LEAST", 0.0)  # a turn is one solve however short

    def fun(x: Any) -> Any:
        return jnp.sum((x - 1.0) ** 2)

    assert collect(lambda number: sjb.compare(fun, np.zeros(2), repeats=1, backends=("scipy",))) == []


def test_it_keeps_nothing_alive() -> None:
    class Setting:
        pass

    def fun(params: dict[str, Any]) -> Any:
        return jnp.sum(params["w"] ** 2)

    setting = Setting()
    sjb.minimize(lambda p: fun(p), {"w": np.zeros(2), "setting": setting})
    gone = weakref.ref(setting)
    del setting
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "call", [jax.jit(lambda x: jnp.sum(x**2)), functools.partial(lambda a, x: a + jnp.sum(x), 1.0)]
)
def test_any_callable_will_do(call: Callable[..., Any]) -> None:
    assert collect(lambda number: sjb.minimize(call, np.zeros(2), options={"maxiter": 1})) == []


def test_a_method_whose_object_changes() -> None:
    class Model:
        def __init__(self) -> None:
            self.center = np.zeros(2)

        def loss(self, x: Any) -> Any:
            return jnp.sum((x - self.center) ** 2)

    model = Model()

    def call(number: int) -> Any:
        model.center = np.full(2, float(number))
        return sjb.minimize(model.loss, np.zeros(2))

    assert collect(call) == []  # an array is an input of the program


def test_a_method_whose_object_has_another_number() -> None:
    class Model:
        center = 0.0

        def loss(self, x: Any) -> Any:
            return jnp.sum((x - self.center) ** 2)

    model = Model()

    def call_with_number(number: int) -> Any:
        model.center = float(number)
        return sjb.minimize(model.loss, np.zeros(2))

    named("The argument: fun.", "a Python number in it", "make it an array")(collect(call_with_number))


@pytest.mark.parametrize("door", ["minimize", "Minimizer"])
def test_warnings_point_to_the_line_of_the_call(door: str, x32: None) -> None:
    def coarse(x: Any) -> Any:
        return jnp.sum((x.astype(jnp.float32) - 1) ** 2)

    with pytest.warns(UserWarning, match="precision='float64'") as caught:
        if door == "minimize":
            sjb.minimize(coarse, np.zeros(2), precision="float64")
        else:
            sjb.Minimizer(coarse, precision="float64")(np.zeros(2))
    package = Path(sjb.__file__).parent
    assert [package in Path(each.filename).parents for each in caught] == [False]
