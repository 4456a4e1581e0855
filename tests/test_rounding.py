"""The floor of the precision: how fine an objective is, the stairs of a coarse one, and what the result says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from problems import BACKENDS, rosenbrock
from scipy_jax_bridge import Status
from scipy_jax_bridge._problem.precision import find_narrowest_dtype, find_unread

DATA = jnp.linspace(0.0, 1.0, 3, dtype=jnp.float32)
START = np.linspace(-1.0, 1.0, 6)
TIGHT = {"gtol": 1e-9, "ftol": 0.0}


def in_a_loop(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y.astype(jnp.float32)).astype(y.dtype), x).sum()


def under_a_condition(x: jax.Array) -> jax.Array:
    return jax.lax.cond(x[0] > 0, lambda x: x.astype(jnp.float16).sum().astype(x.dtype), lambda x: x.sum(), x)


def side(x: jax.Array) -> jax.Array:
    """In float32, and no part of the value."""
    return jnp.sum(x.astype(jnp.float32) ** 2)


def beside_a_while(x: jax.Array) -> jax.Array:
    """The norm ends the loop and does not enter the value."""

    def step(carry: Any) -> Any:
        k, y, _ = carry
        return k + 1, jnp.sin(y), side(y)

    start = (0, x, jnp.float32(1))
    return jnp.sum(jax.lax.while_loop(lambda carry: (carry[0] < 9) & (carry[2] > 1e-3), step, start)[1])


def through_a_while(x: jax.Array) -> jax.Array:
    """The norm enters the value a round later."""

    def step(carry: Any) -> Any:
        k, y, norm = carry
        return k + 1, jnp.sin(y) + norm, side(y)

    return jnp.sum(jax.lax.while_loop(lambda carry: carry[0] < 9, step, (0, x, jnp.float32(1)))[1])


def beside_a_scan(x: jax.Array) -> jax.Array:
    y, norms = jax.lax.scan(lambda y, a: (a * jnp.sin(y), side(y)), x, jnp.arange(4.0))
    return jnp.sum(y) + 0 * norms.size


def through_a_scan(x: jax.Array) -> jax.Array:
    return jnp.sum(jax.lax.scan(lambda y, a: (a * jnp.sin(y), side(y)), x, jnp.arange(4.0))[1].astype(jnp.float64))


def counted_in_single(x: jax.Array) -> jax.Array:
    """float32 data that a loop makes by itself are exact numbers, as those that come from outside."""
    return jnp.sum(jax.lax.fori_loop(0, 3, lambda _, c: (c[0] * c[1], jnp.sin(c[1])), (x, jnp.float32(2)))[0])


def chosen_in_single(x: jax.Array) -> jax.Array:
    return jax.lax.cond(side(x) > 1, lambda x: jnp.sum(x), lambda x: jnp.sum(x**2), x)


def beside_a_call(x: jax.Array) -> jax.Array:
    return jax.jit(lambda x: (jnp.sum(x**2), side(x)))(x)[0]


def in_nested_loops(x: jax.Array) -> jax.Array:
    def outer(y: jax.Array, a: jax.Array) -> Any:
        inner = jax.lax.fori_loop(0, 2, lambda _, c: (jnp.sin(c[0]), side(c[0])), (y * a, jnp.float32(0)))
        return inner[0], inner[1]

    return jnp.sum(jax.lax.scan(outer, x, jnp.arange(3.0))[0])


COARSE: dict[str, tuple[Callable[[jax.Array], Any], Any]] = {
    "fine": (lambda x: jnp.sum(x**2), jnp.float64),
    "cast": (lambda x: jnp.sum(x.astype(jnp.float32) ** 2).astype(jnp.float64), jnp.float32),
    "jitted": (jax.jit(lambda x: jnp.sum(x.astype(jnp.float32)).astype(jnp.float64)), jnp.float32),
    "loop": (in_a_loop, jnp.float32),
    "condition": (under_a_condition, jnp.float16),
    "data": (lambda x: jnp.sum((x - DATA) ** 2), jnp.float64),
    "prepared data": (lambda x: jnp.sum((x - jnp.sin(DATA)) ** 2), jnp.float64),
    "beside a while loop": (beside_a_while, jnp.float64),
    "through a while loop": (through_a_while, jnp.float32),
    "beside a scan": (beside_a_scan, jnp.float64),
    "through a scan": (through_a_scan, jnp.float32),
    "counted in single": (counted_in_single, jnp.float64),
    "chosen in single": (chosen_in_single, jnp.float64),
    "beside a call": (beside_a_call, jnp.float64),
    "in nested loops": (in_nested_loops, jnp.float64),
    "a checkpoint": (jax.checkpoint(lambda x: jnp.sum(x) + side(x)), jnp.float32),
    "beside a checkpoint": (lambda x: jax.checkpoint(lambda x: (jnp.sum(x), side(x)))(x)[0], jnp.float64),
    "unused": (lambda x: (x.astype(jnp.float32), jnp.sum(x))[1], jnp.float64),
}


@pytest.mark.parametrize("name", COARSE)
def test_the_coarsest_type_on_the_way(name: str) -> None:
    fun, dtype = COARSE[name]
    found = find_narrowest_dtype(jax.make_jaxpr(fun)(jnp.ones(3)), 1)
    assert found is not None and found.dtype == dtype


def reads_in_a_condition(x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.cond(y[0] > 0, lambda: jnp.sum(x), lambda: jnp.sum(x**2))


def reads_in_the_end_of_a_loop(x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda c: c[0] < y[0], lambda c: (c[0] + 1, 2 * c[1]), (0.0, jnp.sum(x)))[1]


def reads_at_the_start_of_a_loop(x: jax.Array, y: jax.Array) -> jax.Array:
    """The loop may have no round, and then returns y."""
    return jnp.sum(jax.lax.while_loop(lambda c: jnp.sum(c) < 1, lambda _: x, y))


def reads_a_round_later(x: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 3, lambda _, c: (c[1], c[1] * jnp.sum(y)), (jnp.sum(x), 1.0))[0]


def carries_beside(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum(jax.lax.fori_loop(0, 3, lambda _, c: (2 * c[0], c[1] * jnp.sum(y)), (x, 1.0))[0])


def reads_a_mutable_array(x: jax.Array, y: jax.Array) -> jax.Array:
    array = jax.new_ref(x)
    array[...] = y
    return jnp.sum(x) + jnp.sum(array[...])


@pytest.mark.parametrize(
    ("fun", "unread"),
    [
        (reads_in_a_condition, ()),
        (reads_in_the_end_of_a_loop, ()),
        (reads_at_the_start_of_a_loop, ()),
        (reads_a_round_later, ()),
        (carries_beside, (1,)),
        pytest.param(
            reads_a_mutable_array, (), marks=pytest.mark.skipif(not hasattr(jax, "new_ref"), reason="JAX has none yet")
        ),
    ],
)
def test_a_leaf_is_called_unread_only_if_it_is(fun: Callable[..., Any], unread: tuple[int, ...]) -> None:
    assert find_unread(jax.make_jaxpr(fun)(jnp.ones(3), jnp.ones(3)), 2) == unread


def test_auxiliary_output_may_be_coarse() -> None:
    def fun(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.sum(x**2), x.astype(jnp.float16)

    found = find_narrowest_dtype(jax.make_jaxpr(fun)(jnp.ones(3)), 1)
    assert found is not None and found.dtype == jnp.float64


def stairs(x: jax.Array) -> jax.Array:
    return rosenbrock(1.1 * x.astype(jnp.float32) + 0.03)  # no float32 is the minimum


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outer", [lambda value: value, lambda value: value.astype(jnp.float64)])
def test_no_chase_on_the_stairs(backend: str, outer: Callable[[Any], Any]) -> None:
    """float32 inside, float64 outside: no search goes on to maxls where nothing can change any more."""
    result = sjb.minimize(lambda x: outer(stairs(x)), jnp.asarray(START), backend=backend, options=TIGHT)
    assert result.status == Status.NOISE_FLOOR and not result.success
    assert float(result.fun) < 1e-9
    trials = np.diff(np.append(result.trace.nfev, result.nfev))
    assert trials.max() < 20, trials
    assert result.nfev - result.trace.nfev[-1] <= 2 * 6  # the searches that found nothing
    assert "computes in float32 (first in the operation 'convert_element_type')" in result.message
    assert "remove the cast" in result.message


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_precision_ends_with_a_reason(backend: str) -> None:
    start = jnp.asarray(START, jnp.float32)
    result = sjb.minimize(rosenbrock, start, backend=backend, options={"gtol": 1e-12, "ftol": 0.0})
    assert result.status in (Status.NOISE_FLOOR, Status.LINESEARCH, Status.GTOL)
    assert result.nfev < 200
    if not result.success:
        assert "float64 has 15" in result.message and "the gradient norm could go from" in result.message


def test_what_more_precision_buys_is_what_was_promised() -> None:
    """The estimate in the message against the solve in double precision, to two orders of magnitude."""
    start = jnp.asarray(START, jnp.float32)
    options = {"gtol": 1e-15, "ftol": 0.0}
    single = sjb.minimize(rosenbrock, start, options=options)
    double = sjb.minimize(rosenbrock, start, options=options, precision="float64")
    promised = float(single.message.split("to about ")[1].split(" ")[0].rstrip("."))
    assert float(double.trace.grad_norm.min()) < 100 * promised


@pytest.mark.parametrize("backend", BACKENDS)
def test_success_is_by_the_tests_that_were_set(backend: str) -> None:
    """The rule: the floor is no success, however small the gradient; a gtol that fits the precision is the cure."""
    result = sjb.minimize(stairs, jnp.asarray(START), backend=backend, options=TIGHT)
    reached = float(result.trace.grad_norm[-1])
    again = sjb.minimize(stairs, jnp.asarray(START), backend=backend, options={"gtol": 10 * reached, "ftol": 0.0})
    assert not result.success and again.status == Status.GTOL


@pytest.mark.usefixtures("x32", "no_programs")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cast_inside_is_noticed_when_double_precision_is_asked_for(backend: str) -> None:
    start = jnp.asarray(START, jnp.float32)
    with pytest.warns(UserWarning, match="'float64' was asked for. The objective itself computes in float32"):
        result = sjb.minimize(lambda x: stairs(x), start, backend=backend, precision="float64")
    assert result.params.dtype == np.float64
    fine = sjb.minimize(rosenbrock, start, backend=backend, precision="float64")  # warnings are errors here
    assert fine.success
