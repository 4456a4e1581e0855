"""The rim of the device loop: JAX's debugging switches, counts beyond float32, long traces, what the cache keeps."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from problems import rosenbrock
from scipy_jax_bridge import Status
from scipy_jax_bridge._core.trace import drop_padding
from scipy_jax_bridge._problem import cache as _cache

START = np.tile([-1.2, 1.0], 3)
METHODS = {
    "free": {},
    "bounded": {"bounds": (None, 0.9)},
    "adam": {"method": optax.adam(0.02)},
    "lbfgs": {"method": optax.lbfgs()},
}
BIG = 10**400


def fun(x: jax.Array, shift: jax.Array) -> jax.Array:
    return rosenbrock(x - shift)


def solve(params: Any, shift: Any = 0.01, **more: Any) -> sjb.Result:
    return sjb.minimize(fun, params, shift, **{"backend": "optax", "options": {"maxiter": 30}, **more})


def same(one: sjb.Result, other: sjb.Result) -> None:
    assert (int(one.nit), int(one.nfev), one.status) == (int(other.nit), int(other.nfev), other.status)
    for column in ("fun", "grad_norm", "nfev"):
        rows = [getattr(drop_padding(each.trace), column) for each in (one, other)]
        np.testing.assert_allclose(*rows, rtol=1e-6)
    np.testing.assert_allclose(one.params, other.params, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_debug_nans_and_infs_find_nothing_of_ours(name: str) -> None:
    """Both at once; infinite bounds were called an operation's infinity then."""
    with jax.debug_nans(True), jax.debug_infs(True):
        one = solve(START, **METHODS[name])
    same(one, solve(START, **METHODS[name]))


@pytest.mark.slow
def test_debugging_switches_inside_a_program() -> None:
    """Both at once."""
    starts = jnp.stack([jnp.asarray(START), jnp.full(6, 0.5)])
    with jax.debug_nans(True), jax.debug_infs(True):
        batch = jax.jit(jax.vmap(solve))(starts)
        single = jax.jit(solve)(starts[1])
        value, grad = jax.value_and_grad(lambda shift: solve(starts[1], shift, options={}).params[0])(0.01)
    result = jax.tree.map(lambda leaf: leaf[1], batch)
    eager = solve(starts[1])
    for each in (result, single):
        same(each, eager)
        assert np.all(np.isnan(drop_padding(each.trace).seconds)) and "part of a compiled program" in str(each)
        assert np.count_nonzero(each.trace.nfev) == eager.nit + 1
    assert value == pytest.approx(1.01, rel=1e-3) and grad == pytest.approx(1.0, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_debug_infs_finds_nothing_of_ours_in_a_derivative(backend: str) -> None:
    """A bound that is none is infinity."""

    def solution(shift: jax.Array, upper: jax.Array) -> jax.Array:
        found = sjb.minimize(
            lambda x, shift: jnp.sum((x - shift) ** 2), start, shift, backend=backend, bounds=(None, upper)
        )
        return jnp.sum(found.params)

    start, shift, upper = jnp.zeros(3), jnp.ones(3), jnp.full(3, 0.5)
    with jax.debug_infs(True):
        by_shift, by_upper = jax.grad(solution, (0, 1))(shift, upper)
        free = jax.grad(lambda shift: solution(shift, np.full(3, np.inf)))(shift)
    np.testing.assert_allclose([by_shift, by_upper, free], [[0] * 3, [1] * 3, [1] * 3], atol=1e-6)


def test_debug_nans_still_finds_the_objectives_own() -> None:
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        sjb.minimize(lambda x: jnp.sum(jnp.log(x)), jnp.full(2, 0.5), backend="optax")


def test_rows_that_no_iteration_filled() -> None:
    trace = jax.jit(lambda start: solve(start))(START).trace  # traced without those switches
    assert np.all(np.isnan(trace.fun[31:])) and np.all(np.isnan(trace.grad_norm[31:])) and not trace.nfev[31:].any()
    assert np.all(np.isfinite(trace.fun[:31])) and trace.nfev.dtype == jnp.int32 and np.all(trace.nfev[:31] > 0)


def valley(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.logspace(0, 5, 40) * (x - jnp.sin(x[::-1])) ** 2) + 1e-3 * jnp.sum(x**4)


@pytest.mark.slow
def test_a_long_trace_inside_a_program_holds_iterates_alone() -> None:
    """Whatever the evaluation at which the solve ends, within a search or not."""

    def run(maxfun: Any) -> sjb.Result:
        options = {"maxfun": maxfun, "gtol": 0.0, "ftol": 0.0, "maxcor": 1}
        return sjb.minimize(valley, jnp.linspace(-3, 3, 40), backend="optax", options=options)

    inside = jax.jit(run)  # one program: its rounding is the same at each limit
    whole = inside(2400)
    assert whole.nit > 1100
    rows = whole.trace
    within = np.flatnonzero(np.diff(rows.nfev) > 1)[-1]
    for maxfun in (rows.nfev[within], rows.nfev[within] + 1, 2400):
        trace = inside(int(maxfun)).trace
        assert trace.fun.shape == (1024,) and np.all(np.diff(trace.nfev) > 0)
        late, early = trace.nfev >= rows.nfev[0], rows.nfev <= maxfun
        assert np.sum(early) > 500
        np.testing.assert_array_equal(trace.nfev[late], rows.nfev[early])
        np.testing.assert_array_equal(trace.fun[late], rows.fun[early])


@pytest.mark.parametrize("method", [None, optax.adam(0.02)], ids=["engine", "adam"])
def test_counts_beyond_what_float32_holds(method: Any) -> None:
    """As after 2**24 evaluations and iterations, where a float32 cannot count on."""
    start, many = np.float32(START), 2**24 + 5
    first = solve(start, method=method, options={"maxiter": 4})
    assert first.carry is not None
    counts = {int(first.nit): first.nit + many, int(first.nfev): first.nfev + many}
    leaves = [
        np.int32(counts.get(int(leaf), leaf)) if np.shape(leaf) == () and leaf.dtype == np.int32 else leaf
        for leaf in first.carry.leaves
    ]
    later = replace(
        first,
        carry=replace(first.carry, leaves=tuple(map(np.asarray, leaves))),
        nit=first.nit + many,
        nfev=first.nfev + many,
        trace=first.trace._replace(nfev=first.trace.nfev + many),
    )
    limits = {"gtol": 0.0, "ftol": 0.0, "maxiter": 2**25}
    result = solve(later, method=method, options={**limits, "maxfun": first.nfev + many + 9})
    assert (result.status, result.nfev) == (Status.MAXFUN, first.nfev + many + 9)
    plain = solve(first, method=method, options={**limits, "maxfun": first.nfev + 9})
    np.testing.assert_array_equal(result.trace.nfev, plain.trace.nfev + many)
    assert result.nit == plain.nit + many
    if method is None:  # Adam counts too, and has come closer to the end of its bias
        np.testing.assert_array_equal(result.params, plain.params)


@pytest.mark.slow
def test_limits_beyond_the_counters_are_no_limits() -> None:
    whole = solve(START, options={})
    inside = jax.jit(lambda maxfun, maxiter: solve(START, options={"maxfun": maxfun, "maxiter": maxiter}))
    results = [
        inside(jnp.asarray(10**12), jnp.float32(jnp.inf)),
        inside(jnp.float64(1e300), jnp.uint32(2**32 - 1)),
        solve(START, options={"maxfun": np.int64(2**40)}),
        solve(START, options={"maxfun": BIG}),
    ]
    for result in results:
        assert (int(result.nfev), int(result.code)) == (whole.nfev, whole.code)
    result = jax.jit(lambda most: solve(np.float32(START), options={"maxfun": most}))(7)
    assert (int(result.nfev), result.status) == (7, Status.MAXFUN)
    assert sjb.Options(maxfun=BIG).maxfun == 2**31 - 1


@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_numbers_that_are_too_large_name_their_place(backend: str) -> None:
    def refuses(match: str, args: Any = 0.0, **more: Any) -> None:
        with pytest.raises(ValueError, match=match):
            sjb.minimize(fun, START, args, **{"backend": backend, **more})

    for name in ("gtol", "ftol", "timeout"):
        refuses(f"option '{name}' must be .* not a number of about 401 digits", options={name: BIG})
    for pairs in (10**6, BIG):
        refuses("option 'maxcor' must be a whole number from 1 to 1000", options={"maxcor": pairs})
    refuses(r"args\[0\] is a number of about 401 digits, more than int64 holds. Write it as a float", BIG)
    refuses(r"bounds.upper of params is a number of about 401 digits.*Use None or an infinity", bounds=(0, BIG))
    result = sjb.minimize(fun, START, 0.0, backend=backend, bounds=(None, 2**70), options={"maxfun": 3})
    assert result.nfev == 3


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["scipy", "optax"])
@pytest.mark.parametrize("setting", [jax.debug_nans, jax.disable_jit])
def test_a_debugged_call_leaves_nothing_alive(backend: str, setting: Any) -> None:
    def call() -> list[weakref.ref[Any]]:
        scale, data = jnp.arange(1.0, 3.0), jnp.ones(2)

        def own(x: jax.Array, data: jax.Array) -> jax.Array:
            return jnp.sum(scale * (x - data) ** 2)

        with setting(True):
            first, second = (
                sjb.minimize(own, jnp.zeros(2), (each,), backend=backend, options={"maxfun": 3})
                for each in (data, 2 * data)
            )
        assert first.nfev == second.nfev == 3 and 0 < float(first.params[0]) < float(second.params[0])
        return [weakref.ref(each) for each in (own, scale, data)]

    left = call()
    gc.collect()
    assert all(reference() is None for reference in left)


def test_the_cache_forgets_what_was_not_asked_for_the_longest() -> None:
    cache: _cache.BoundedCache[int] = _cache.BoundedCache()
    made: list[int] = []

    def ask(key: int) -> None:
        assert cache.get(key, lambda: made.append(key) or key + 1) == key + 1

    for key in range(_cache.LIMIT):
        ask(key)
    ask(0)
    ask(_cache.LIMIT)
    made.clear()
    ask(0)
    assert not made and len(cache) == _cache.LIMIT
    ask(1)
    assert made == [1]
