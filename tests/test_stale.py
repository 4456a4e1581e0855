"""No stale answers: minimize behaves as if the objective were called anew, whatever it reads from outside.

Each way in WAYS is a generator. It yields an objective whose minimum is at 1, changes something outside its arguments
in one particular way, and yields an objective whose minimum is at 2.
"""

from __future__ import annotations

import collections
import contextvars
import dataclasses
import functools
import gc
import math
import operator
import os
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from problems import BACKENDS
from scipy_jax_bridge._problem.purity import prove

Way = Iterator[Callable[..., Any] | tuple[Callable[..., Any], tuple[Any, ...]]]
WAYS: dict[str, Callable[[], Way]] = {}
THIS = sys.modules[__name__]

CENTER: Any = jnp.asarray(1.0)
NUMBERS: Any = np.array([1.0])
TABLE: dict[str, Any] = {"center": 1.0}


def way(function: Callable[[], Way]) -> Callable[[], Way]:
    """Enter a way into the table."""
    WAYS[function.__name__] = function
    return function


def bowl(x: Any, center: Any) -> Any:
    """The objective of every way."""
    return jnp.sum((x - jnp.asarray(center, float)) ** 2)


def set_global(value: Any, name: str = "CENTER") -> None:
    setattr(THIS, name, value)


def third(x: Any) -> Any:
    return bowl(x, CENTER)


def second(x: Any) -> Any:
    return third(x)


def first(x: Any) -> Any:
    return second(x)


def outermost(x: Any) -> Any:
    return first(x)


@way
def a_global_four_calls_down() -> Way:
    set_global(jnp.asarray(1.0))
    yield outermost
    set_global(jnp.asarray(2.0))
    yield outermost


@way
def a_global_number() -> Way:
    set_global(1.0)
    yield third
    set_global(2.0)
    yield third


@way
def a_global_array_in_place() -> Way:
    NUMBERS[0] = 1.0

    def fun(x: Any) -> Any:
        return bowl(x, NUMBERS[0])

    yield fun
    NUMBERS[0] = 2.0
    yield fun


@way
def a_global_dict() -> Way:
    TABLE["center"] = 1.0

    def fun(x: Any) -> Any:
        return bowl(x, TABLE["center"])

    yield fun
    TABLE["center"] = 2.0
    yield fun


@way
def a_global_read_by_a_method() -> Way:
    class Model:
        def center(self) -> Any:
            return CENTER

        def loss(self, x: Any) -> Any:
            return bowl(x, self.center())

    model = Model()
    set_global(jnp.asarray(1.0))
    yield model.loss
    set_global(jnp.asarray(2.0))
    yield model.loss


@way
def a_global_function() -> Way:
    set_global(lambda: 1.0, "helper")

    def fun(x: Any) -> Any:
        return bowl(x, helper())  # type: ignore[name-defined]

    yield fun
    set_global(lambda: 2.0, "helper")
    yield fun


@way
def a_tuple_of_arrays() -> Way:
    set_global((jnp.asarray(1.0),), "PAIR")

    def fun(x: Any) -> Any:
        return bowl(x, PAIR[0])  # type: ignore[name-defined]

    yield fun
    set_global((jnp.asarray(2.0),), "PAIR")
    yield fun


@way
def globals_called() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, globals()["CENTER"])

    set_global(1.0)
    yield fun
    set_global(2.0)
    yield fun


@way
def eval_called() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, eval("CENTER"))

    set_global(1.0)
    yield fun
    set_global(2.0)
    yield fun


@way
def modules_of_sys() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, getattr(sys.modules[__name__], "CENTER"))  # noqa: B009

    set_global(1.0)
    yield fun
    set_global(2.0)
    yield fun


@way
def an_import_inside() -> Way:
    module = types.ModuleType("stale_module_of_a_test")
    sys.modules[module.__name__] = module

    def fun(x: Any) -> Any:
        import stale_module_of_a_test  # type: ignore[import-not-found]

        return bowl(x, stale_module_of_a_test.center)

    module.center = 1.0  # type: ignore[attr-defined]
    yield fun
    module.center = 2.0  # type: ignore[attr-defined]
    yield fun


@way
def an_attribute_of_a_module() -> Way:
    module = types.ModuleType("settings")

    def fun(x: Any) -> Any:
        return bowl(x, module.center)

    module.center = 1.0  # type: ignore[attr-defined]
    yield fun
    module.center = 2.0  # type: ignore[attr-defined]
    yield fun


@way
def a_name_set_on_jax_numpy() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, jnp.center_of_a_test)  # type: ignore[attr-defined]

    for center in (1.0, 2.0):
        jnp.center_of_a_test = center  # type: ignore[attr-defined]
        yield fun


@way
def a_list_set_on_numpy() -> Way:
    np.center_of_a_test = [1.0]  # type: ignore[attr-defined]

    def fun(x: Any) -> Any:
        return bowl(x, np.center_of_a_test[0])  # type: ignore[attr-defined]

    yield fun
    np.center_of_a_test[0] = 2.0  # type: ignore[attr-defined]
    yield fun


@way
def a_constant_of_math_patched() -> Way:
    tau = math.tau

    def fun(x: Any) -> Any:
        return bowl(x, math.tau)

    try:
        for center in (1.0, 2.0):
            math.tau = center  # type: ignore[misc]
            yield fun
    finally:
        math.tau = tau  # type: ignore[misc]


@way
def numpy_passed_on() -> Way:
    def draw(module: Any) -> Any:
        return module.random.default_rng().bit_generator is None or NUMBERS[0]

    def fun(x: Any) -> Any:
        return bowl(x, draw(np))

    NUMBERS[0] = 1.0
    yield fun
    NUMBERS[0] = 2.0
    yield fun


@way
def a_random_number() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, 1.0 + np.random.randint(2))

    for wanted in (0, 1):
        seed = next(seed for seed in range(99) if np.random.RandomState(seed).randint(2) == wanted)
        np.random.seed(seed)
        yield fun


@way
def an_attribute_bound_to_a_local() -> Way:
    class Model:
        def loss(self, x: Any) -> Any:
            model = self
            return bowl(x, model.y)

    model = Model()
    for model.y in (1.0, 2.0):  # type: ignore[attr-defined]
        yield model.loss


@way
def an_attribute_in_place() -> Way:
    class Model:
        def __init__(self) -> None:
            self.y = np.array(1.0)

        def __call__(self, x: Any) -> Any:
            return bowl(x, self.y)

    model = Model()
    yield model
    model.y[...] = 2.0
    yield model


@way
def an_attribute_of_an_object_in_a_closure() -> Way:
    holder = types.SimpleNamespace(inner=types.SimpleNamespace(center=1.0))

    def fun(x: Any) -> Any:
        return bowl(x, holder.inner.center)

    yield fun
    holder.inner.center = 2.0
    yield fun


@way
def a_class_attribute() -> Way:
    class Model:
        center = 1.0

        def loss(self, x: Any) -> Any:
            return bowl(x, self.center)

    model = Model()
    yield model.loss
    Model.center = 2.0
    yield model.loss


@way
def a_class_attribute_read_by_a_function() -> Way:
    class Settings:
        center = 1.0

    def fun(x: Any) -> Any:
        return bowl(x, Settings.center)

    yield fun
    Settings.center = 2.0
    yield fun


@way
def slots() -> Way:
    class Model:
        __slots__ = ("center",)

        def __call__(self, x: Any) -> Any:
            return bowl(x, self.center)

    model = Model()
    for model.center in (1.0, 2.0):
        yield model


@way
def an_inherited_call() -> Way:
    class Base:
        def __call__(self, x: Any) -> Any:
            return bowl(x, self.center)  # type: ignore[attr-defined]

    class Model(Base):
        center = 1.0

    model = Model()
    yield model
    model.center = 2.0
    yield model


@way
def a_method_replaced() -> Way:
    class Model:
        def loss(self, x: Any) -> Any:
            return bowl(x, 1.0)

    model = Model()

    def fun(x: Any) -> Any:
        return model.loss(x)

    yield fun
    Model.loss = lambda self, x: bowl(x, 2.0)  # type: ignore[method-assign]
    yield fun


@way
def a_property() -> Way:
    state = [1.0]

    class Model:
        @property
        def center(self) -> float:
            return state[0]

        def loss(self, x: Any) -> Any:
            return bowl(x, self.center)

    model = Model()
    yield model.loss
    state[0] = 2.0
    yield model.loss


@way
def dynamic_attributes() -> Way:
    state = [1.0]

    class Model:
        def __getattr__(self, name: str) -> float:
            return state[0]

    model = Model()

    def fun(x: Any) -> Any:
        return bowl(x, model.anything)

    yield fun
    state[0] = 2.0
    yield fun


@way
def a_frozen_dataclass_forced() -> Way:
    @dataclasses.dataclass(frozen=True)
    class Model:
        center: float

    model = Model(1.0)

    def fun(x: Any) -> Any:
        return bowl(x, model.center)

    yield fun
    object.__setattr__(model, "center", 2.0)
    yield fun


@way
def a_list_in_a_namedtuple() -> Way:
    class Pair(NamedTuple):
        centers: list[float]

    pair = Pair([1.0])

    def fun(x: Any) -> Any:
        return bowl(x, pair.centers[0])

    yield fun
    pair.centers[0] = 2.0
    yield fun


@way
def a_subclass_of_float() -> Way:
    class Number(float):
        center = 1.0

    number = Number(0.0)

    def fun(x: Any) -> Any:
        return bowl(x, number.center)

    yield fun
    number.center = 2.0
    yield fun


@way
def an_array_in_a_closure_in_place() -> Way:
    center = np.array(1.0)

    def fun(x: Any) -> Any:
        return bowl(x, center)

    yield fun
    center[...] = 2.0
    yield fun


@way
def a_closure_assigned_again() -> Way:
    center = jnp.asarray(1.0)

    def fun(x: Any) -> Any:
        return bowl(x, center)

    yield fun
    center = jnp.asarray(2.0)
    yield fun


@way
def a_closure_of_a_closure() -> Way:
    center = 1.0

    def inner() -> float:
        return center

    def fun(x: Any) -> Any:
        return bowl(x, inner())

    yield fun
    center = 2.0
    yield fun


@way
def a_list_of_helpers() -> Way:
    helpers = [lambda: 1.0]

    def fun(x: Any) -> Any:
        return bowl(x, helpers[0]())

    yield fun
    helpers[0] = lambda: 2.0
    yield fun


@way
def a_partial_of_helpers() -> Way:
    helpers = [lambda: 1.0]
    fun = functools.partial(lambda helpers, x: bowl(x, helpers[0]()), helpers)
    yield fun
    helpers[0] = lambda: 2.0
    yield fun


@way
def a_list_in_a_reused_place_of_memory() -> Way:
    def make(center: float) -> Callable[..., Any]:
        centers = [center]
        return lambda x: bowl(x, centers[0])

    for center in (1.0, 2.0):
        fun = make(center)
        yield fun
        del fun
        gc.collect()


@way
def a_function_in_a_reused_place_of_memory() -> Way:
    for center in (1.0, 2.0):
        fun = eval(f"lambda x: bowl(x, {center})", globals())
        yield fun
        del fun
        gc.collect()


@way
def a_default_changed_in_place() -> Way:
    def fun(x: Any, centers: list[float] = [1.0]) -> Any:  # noqa: B006
        return bowl(x, centers[0])

    yield fun
    fun.__defaults__[0][0] = 2.0  # type: ignore[index]
    yield fun


@way
def a_default_replaced() -> Way:
    def fun(x: Any, center: float = 1.0) -> Any:
        return bowl(x, center)

    yield fun
    fun.__defaults__ = (2.0,)
    yield fun


@way
def a_keyword_default_replaced() -> Way:
    def fun(x: Any, *, center: float = 1.0) -> Any:
        return bowl(x, center)

    yield fun
    fun.__kwdefaults__["center"] = 2.0
    yield fun


@way
def the_code_replaced() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, 1.0)

    def other(x: Any) -> Any:
        return bowl(x, 2.0)

    yield fun
    fun.__code__ = other.__code__
    yield fun


@way
def an_attribute_of_the_function() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, fun.center)  # type: ignore[attr-defined]

    for fun.center in (1.0, 2.0):  # type: ignore[attr-defined]
        yield fun


@way
def a_function_that_wraps_a_public_one() -> Way:
    state = [1.0]

    @functools.wraps(jnp.sum)
    def total(x: Any) -> Any:
        return bowl(x, state[0])

    def fun(x: Any) -> Any:
        return total(x)

    yield fun
    state[0] = 2.0
    yield fun


@way
def an_environment_variable() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, float(os.environ["CENTER_OF_A_TEST"]))

    for center in ("1.0", "2.0"):
        os.environ["CENTER_OF_A_TEST"] = center
        yield fun


@way
def a_file() -> Way:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"center-{os.getpid()}-{id(WAYS)}"

    def fun(x: Any) -> Any:
        with open(path) as file:
            return bowl(x, float(file.read()))

    try:
        for center in ("1.0", "2.0"):
            path.write_text(center)
            yield fun
    finally:
        path.unlink()


@way
def a_file_read_by_numpy() -> Way:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"center-{os.getpid()}-{id(WAYS)}.npy"
    name = str(path)

    def fun(x: Any) -> Any:
        return bowl(x, np.load(name))

    try:
        for center in (1.0, 2.0):
            np.save(path, center)
            yield fun
    finally:
        path.unlink()


@way
def a_context_variable() -> Way:
    variable: contextvars.ContextVar[float] = contextvars.ContextVar("center")

    def fun(x: Any) -> Any:
        return bowl(x, variable.get())

    for center in (1.0, 2.0):
        variable.set(center)
        yield fun


@way
def a_thread_local() -> Way:
    local = threading.local()

    def fun(x: Any) -> Any:
        return bowl(x, local.center)

    for local.center in (1.0, 2.0):
        yield fun


@way
def a_weak_reference() -> Way:
    class Center:
        value = 1.0

    kept = [Center()]
    reference = weakref.ref(kept[0])

    def fun(x: Any) -> Any:
        alive = reference()
        return bowl(x, 2.0 if alive is None else alive.value)

    yield fun
    kept.clear()
    yield fun


@way
def a_cached_helper() -> Way:
    state = [1.0]

    @functools.lru_cache
    def center() -> float:
        return state[0]

    def fun(x: Any) -> Any:
        return bowl(x, center())

    yield fun
    state[0] = 2.0
    center.cache_clear()
    yield fun


@way
def an_iterator() -> Way:
    numbers = iter([1.0, 2.0])

    def next_center(seen: dict[str, float] = {}) -> float:  # noqa: B006
        if seen.get("answer", 0) != state[0]:
            seen["answer"] = next(numbers)
        return seen["answer"]

    state = [1.0]

    def fun(x: Any) -> Any:
        return bowl(x, next_center())

    yield fun
    state[0] = 2.0
    yield fun


@way
def a_deque() -> Way:
    centers = collections.deque([1.0])

    def fun(x: Any) -> Any:
        return bowl(x, centers[0])

    yield fun
    centers.appendleft(2.0)
    yield fun


@way
def an_attribute_by_operator() -> Way:
    holder = types.SimpleNamespace(center=1.0)
    read = operator.attrgetter("center")

    def fun(x: Any) -> Any:
        return bowl(x, read(holder))

    yield fun
    holder.center = 2.0
    yield fun


@way
def an_array_like_object() -> Way:
    class Center:
        value = 1.0

        def __jax_array__(self) -> Any:
            return jnp.asarray(self.value)

    center = Center()

    def fun(x: Any) -> Any:
        return jnp.sum((x - jnp.asarray(center)) ** 2)

    yield fun
    center.value = 2.0
    yield fun


@way
def a_function_among_the_args() -> Way:
    state = [1.0]

    def center() -> float:
        return state[0]

    def fun(x: Any, center: Any) -> Any:
        return bowl(x, center())

    yield fun, (center,)
    state[0] = 2.0
    yield fun, (center,)


@jax.tree_util.register_pytree_node_class
class Node:
    """A pytree whose method reads an attribute of its class."""

    center = 1.0

    def __init__(self, y: Any) -> None:
        self.y = y

    def loss(self, x: Any) -> Any:
        return bowl(x, self.center)

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        return (self.y,), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: Any) -> Node:
        return cls(*children)


def loss_of_node(x: Any, node: Any) -> Any:
    return node.loss(x)


@way
def a_class_among_the_args() -> Way:
    for Node.center in (1.0, 2.0):
        yield loss_of_node, (Node(jnp.zeros(3)),)


@way
def custom_jvp_that_reads_a_global() -> Way:
    @jax.custom_jvp
    def square(x: Any) -> Any:
        return bowl(x, CENTER)

    @square.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        return square(*primals), jnp.sum(2 * (primals[0] - jnp.asarray(CENTER, float)) * tangents[0])

    def fun(x: Any) -> Any:
        return square(x)

    set_global(jnp.asarray(1.0))
    yield fun
    set_global(jnp.asarray(2.0))
    yield fun


@way
def a_rule_of_custom_vjp_that_reads_a_global() -> Way:
    def make() -> Callable[..., Any]:
        @jax.custom_vjp
        def square(x: Any) -> Any:
            return bowl(x, CENTER)

        square.defvjp(lambda x: (bowl(x, CENTER), x), lambda x, g: (2 * g * (x - jnp.asarray(CENTER, float)),))
        return square

    fun = make()
    set_global(jnp.asarray(1.0))
    yield fun
    set_global(jnp.asarray(2.0))
    yield fun


@way
def a_scan_whose_body_is_made_inside() -> Way:
    def fun(x: Any) -> Any:
        def body(total: Any, each: Any) -> Any:
            return total + (each - jnp.asarray(CENTER, float)) ** 2, None

        return jax.lax.scan(body, jnp.zeros(()), x)[0]

    set_global(1.0)
    yield fun
    set_global(2.0)
    yield fun


@way
def a_checkpoint_made_inside() -> Way:
    def fun(x: Any) -> Any:
        return jax.checkpoint(lambda x: bowl(x, CENTER))(x)

    set_global(1.0)
    yield fun
    set_global(2.0)
    yield fun


@way
def a_condition_made_inside() -> Way:
    def fun(x: Any) -> Any:
        return jax.lax.cond(x[0] > -99, lambda x: bowl(x, CENTER), lambda x: bowl(x, 0.0), x)

    set_global(1.0)
    yield fun
    set_global(2.0)
    yield fun


@way
def vmap_of_a_helper() -> Way:
    def one(x: Any) -> Any:
        return (x - jnp.asarray(CENTER, float)) ** 2

    def fun(x: Any) -> Any:
        return jnp.sum(jax.vmap(one)(x))

    set_global(1.0)
    yield fun
    set_global(2.0)
    yield fun


@way
def a_jit_made_anew() -> Way:
    for center in (1.0, 2.0):
        set_global(center)
        yield jax.jit(lambda x: bowl(x, CENTER))


@way
def a_host_callback() -> Way:
    state = [1.0]

    def fun(x: Any) -> Any:
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return bowl(x, jax.pure_callback(lambda: np.asarray(state[0]), shape))

    yield fun
    state[0] = 2.0
    yield fun


@way
def host_callbacks_with_one_code() -> Way:
    def make(center: float) -> Callable[..., Any]:
        def fun(x: Any) -> Any:
            return bowl(x, jax.pure_callback(lambda: np.asarray(center), jax.ShapeDtypeStruct((), x.dtype)))

        return fun

    for center in (1.0, 2.0):
        yield make(center)


@way
def what_the_callback_assigns() -> Way:
    """The value is another one already when the first solve ends."""
    set_global(1.0)

    def fun(x: Any) -> Any:
        return bowl(x, CENTER)

    fun.callback = lambda progress: set_global(2.0)  # type: ignore[attr-defined]
    yield fun
    yield fun


@way
def what_another_thread_assigns() -> Way:
    set_global(1.0)

    def fun(x: Any) -> Any:
        found = bowl(x, CENTER)
        thread = threading.Thread(target=set_global, args=(2.0,))  # before the trace ends
        thread.start()
        thread.join()
        return found

    yield fun
    yield fun


@way
def a_function_that_wraps_a_builtin() -> Way:
    state = [1.0]

    @functools.wraps(sum)
    def total(x: Any) -> Any:
        return bowl(x, state[0])

    def fun(x: Any) -> Any:
        return total(x)

    yield fun
    state[0] = 2.0
    yield fun


@way
def a_file_read_by_another_function_of_numpy() -> Way:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"center-{os.getpid()}-{id(WAYS)}.txt"
    name = str(path)

    def fun(x: Any) -> Any:
        return bowl(x, np.fromregex(name, r"(.)", [("center", float)])["center"][0])

    try:
        for center in "12":
            path.write_text(center)
            yield fun
    finally:
        path.unlink()


@way
def a_setting_of_numpy() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, 2.0 if np.geterr()["under"] == "call" else 1.0)

    yield fun
    with np.errstate(under="call"):
        yield fun


@way
def an_attribute_by_format() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, float("{0.center_by_format}".format(np)))  # noqa: UP030, UP032

    for center in (1.0, 2.0):
        np.center_by_format = center  # type: ignore[attr-defined]
        yield fun


@way
def an_annotation() -> Way:
    class One:
        center = 1.0

    class Two:
        center = 2.0

    def annotated(x: Annotated) -> None:  # type: ignore[name-defined]
        ...

    def fun(x: Any) -> Any:
        return bowl(x, typing.get_type_hints(annotated)["x"].center)

    for each in (One, Two):
        set_global(each, "Annotated")
        yield fun


@way
def an_attribute_of_a_public_function() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, jnp.sum.center_of_a_test)  # type: ignore[attr-defined]

    for center in (1.0, 2.0):
        jnp.sum.center_of_a_test = center  # type: ignore[attr-defined]
        yield fun


@way
def a_list_on_a_public_class() -> Way:
    center = optax.GradientTransformation.center_of_a_test = [1.0]  # type: ignore[attr-defined]

    def fun(x: Any) -> Any:
        return bowl(x, optax.GradientTransformation.center_of_a_test[0])  # type: ignore[attr-defined]

    yield fun
    center[0] = 2.0
    yield fun


class Key:
    """A key of a dict, which has an attribute."""

    center = 1.0


@way
def a_key_of_a_dict_among_the_args() -> Way:
    key = Key()

    def fun(x: Any, table: dict[Key, Any]) -> Any:
        for each in table:
            return bowl(x, each.center)

    for key.center in (1.0, 2.0):
        yield fun, ({key: jnp.zeros(3)},)


@way
def the_offset_of_seeds() -> Way:
    def fun(x: Any) -> Any:
        return bowl(x, 1.0 + jax.random.bernoulli(jax.random.key(0)))

    try:
        for wanted in (0, 1):
            for offset in range(99):
                jax.config.update("jax_random_seed_offset", offset)
                if jax.random.bernoulli(jax.random.key(0)) == wanted:
                    break
            yield fun
    finally:
        jax.config.update("jax_random_seed_offset", 0)


class Center:
    """A function of the host, with an attribute."""

    def __init__(self, center: float) -> None:
        self.center = center

    def __call__(self) -> Any:
        return np.asarray(float(self.center))


@dataclasses.dataclass(eq=False)
class DataCenter:
    """The same as a dataclass."""

    center: float
    __call__ = Center.__call__


class ListCenter(list[float]):
    """The same as a list."""

    center = property(lambda self: self[0], lambda self, value: self.__setitem__(0, value))
    __hash__ = object.__hash__  # type: ignore[assignment]
    __call__ = Center.__call__


class IntCenter(int):
    """The same as a number."""

    __call__ = Center.__call__


def call_on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: bowl(x, jax.pure_callback(function, jax.ShapeDtypeStruct((), x.dtype)))


@pytest.mark.filterwarnings("ignore::scipy_jax_bridge.RecompilationWarning")
@pytest.mark.parametrize("kind", [Center, DataCenter, lambda center: ListCenter([center]), lambda _: IntCenter(0)])
def test_equal_functions_of_the_host_are_two(kind: Callable[[float], Any]) -> None:
    one, other = kind(1.0), kind(1.0)
    one.center = other.center = 1.0
    sjb.minimize(call_on_host(one), jnp.zeros(2))
    one.center = 3.0
    np.testing.assert_allclose(sjb.minimize(call_on_host(other), jnp.zeros(2)).params, 1, atol=1e-4)


@pytest.mark.filterwarnings("ignore::scipy_jax_bridge.RecompilationWarning")
def test_a_list_in_a_function_of_the_host() -> None:
    def read(centers: list[float]) -> Any:
        return np.asarray(centers[0])

    one, other = functools.partial(read, [1.0]), functools.partial(read, [1.0])
    sjb.minimize(call_on_host(one), jnp.zeros(2))
    one.args[0][0] = 3.0
    np.testing.assert_allclose(sjb.minimize(call_on_host(other), jnp.zeros(2)).params, 1, atol=1e-4)


def aligned(value: float) -> Any:
    """A NumPy array that the CPU device can take as it is."""
    memory = np.empty(64 * 8 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + 64 * 8].view(np.float64)
    array[:] = value
    return array


@pytest.mark.parametrize("backend", BACKENDS)
def test_data_changed_in_place_during_the_solve(backend: str) -> None:
    scale, y = jnp.arange(1.0, 65.0), aligned(1.0)

    def fun(x: Any, y: Any) -> Any:
        return jnp.sum(scale * (x - y) ** 2) + jnp.sum((x - y) ** 4)

    result = sjb.minimize(fun, jnp.zeros(64), (y,), backend=backend, callback=lambda progress: y.fill(5.0))
    np.testing.assert_allclose(result.params, 1, atol=1e-2)
    assert y[0] == 5.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_result_does_not_change_later(backend: str) -> None:
    params = {"x": jnp.zeros(64), "y": aligned(1.0)}
    result = sjb.minimize(
        lambda params: jnp.sum((params["x"] - params["y"]) ** 2), params, fixed={"x": False, "y": True}, backend=backend
    )
    params["y"].fill(5.0)
    np.testing.assert_array_equal(result.params["y"], 1)


# What a way changes is seen or not before a backend is chosen. On the device these would compile programs of their own.
OF_NUMBERS_INSIDE = {
    "a_scan_whose_body_is_made_inside",
    "a_checkpoint_made_inside",
    "a_condition_made_inside",
    "a_jit_made_anew",
    "the_offset_of_seeds",
}
# `compare` makes its solvers anew, whatever a way is.
COMPARED = (
    "a_global_four_calls_down",
    "a_global_number",
    "an_attribute_in_place",
    "a_closure_assigned_again",
    "a_function_in_a_reused_place_of_memory",
    "a_class_among_the_args",
    "a_rule_of_custom_vjp_that_reads_a_global",
    "a_jit_made_anew",
    "a_host_callback",
    "an_environment_variable",
)


@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, backend) for name in WAYS for backend in BACKENDS if backend == "scipy" or name not in OF_NUMBERS_INSIDE],
)
def test_no_answer_is_stale(name: str, backend: str) -> None:
    for expected, given in zip((1, 2), WAYS[name](), strict=True):
        fun, args = given if isinstance(given, tuple) else (given, ())
        callback = getattr(fun, "callback", None)
        result = sjb.minimize(fun, jnp.zeros(2), args, backend=backend, callback=callback)
        np.testing.assert_allclose(result.params, expected, atol=1e-4)
        del given, fun, result


@pytest.mark.parametrize("name", COMPARED)
def test_no_comparison_is_stale(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scipy_jax_bridge._compare.compare.LEAST", 0)
    for expected, given in zip((1, 2), WAYS[name](), strict=True):
        fun, args = given if isinstance(given, tuple) else (given, ())
        found = sjb.compare(fun, jnp.zeros(2), args, backends=("scipy",), repeats=1, shares=False)
        np.testing.assert_allclose(found.results["scipy"].params, expected, atol=1e-4)


def test_a_schedule_that_reads_a_global() -> None:
    def steps(rate: float) -> Any:
        set_global(rate)
        method = optax.sgd(lambda count: CENTER)
        return sjb.minimize(lambda x: jnp.sum(x**2), jnp.ones(2), backend="optax", method=method, options=ONCE).params

    np.testing.assert_allclose(steps(0.25), 0.5)
    np.testing.assert_allclose(steps(0.125), 0.75)


ONCE = {"maxiter": 1}


def pure(x: Any, y: Any) -> Any:
    return jnp.sum(jax.nn.softplus(x - y) ** 2) + jax.lax.fori_loop(0, 2, lambda i, s: s + math.pi, 0.0)


def test_what_is_proved_is_traced_once() -> None:
    """A function of the module that reads jax, math and plain values alone."""
    assert prove(pure) is not None
    before = sjb.minimize(pure, jnp.zeros(2), (jnp.ones(2),)).timing
    after = sjb.minimize(pure, jnp.zeros(2), (jnp.ones(2),)).timing
    assert before.compile_s > 0 and after.compile_s == 0.0


def test_what_is_not_proved() -> None:
    center = np.ones(2)
    assert prove(lambda x: jnp.sum(x - center)) is None
    set_global(np.ones(2))
    assert prove(third) is None
    set_global(1.0)
    assert prove(third) is not None
    assert prove(lambda x: print(x)) is None
    assert prove(lambda x: np.random.normal()) is None
    assert prove(lambda x: np.datetime64("now")) is None
    assert prove(types.SimpleNamespace().__init__) is None


def test_a_long_chain_of_functions_is_not_proved() -> None:
    def wrap(inner: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: inner(x)

    fun = functools.reduce(lambda inner, _: wrap(inner), range(400), lambda x: jnp.sum(x**2))
    assert prove(fun) is None
    np.testing.assert_allclose(sjb.minimize(fun, jnp.ones(2)).params, 0, atol=1e-4)


def test_a_minimizer_traces_once_as_jit_does() -> None:
    """Its documentation says so; `minimize`, or a new Minimizer, sees the new value."""
    set_global(1.0)
    solve = sjb.Minimizer(third)
    np.testing.assert_allclose(solve(jnp.zeros(2)).params, 1, atol=1e-4)
    set_global(2.0)
    np.testing.assert_allclose(solve(jnp.zeros(2)).params, 1, atol=1e-4)
    np.testing.assert_allclose(sjb.Minimizer(third)(jnp.zeros(2)).params, 2, atol=1e-4)


def body_that_reads_a_global(total: Any, each: Any) -> Any:
    return total + (each - jnp.asarray(CENTER, float)) ** 2, None


def test_the_one_exception_is_that_of_jax() -> None:
    """JAX keeps what it traced of a loop's body, and of a jitted function, by function object."""

    def fun(x: Any) -> Any:
        return jax.lax.scan(body_that_reads_a_global, jnp.zeros(()), x)[0]

    set_global(1.0)
    sjb.minimize(fun, jnp.zeros(2))
    set_global(2.0)
    by_jax = float(jax.jit(lambda x: fun(x))(jnp.zeros(2)))  # without this package
    found = sjb.minimize(fun, jnp.zeros(2)).trace.fun[0]
    assert by_jax == 2.0  # (0 - 1)^2 twice, not (0 - 2)^2
    assert float(found) == by_jax
