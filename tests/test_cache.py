"""Compilations are counted by JAX's own events: one for a structure, none after; and nothing of the user's is kept."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from helpers_calls import Calls, count_compiles
from problems import BACKENDS
from scipy_jax_bridge._problem import cache as _cache, problem as _problem
from scipy_jax_bridge._problem.purity import prove

anew = pytest.mark.usefixtures("no_programs")  # what this module compiled before does not count
PROGRAMS = {"scipy": 1, "optax": 1}


@pytest.fixture(autouse=True, scope="module")
def moved_once() -> None:
    """What moves arrays of these shapes to the device is compiled, once, too: no test counts it, whichever is first."""
    settings = [{"backend": "scipy"}, {"backend": "optax", "method": optax.sgd(0.1)}]
    for n, more in itertools.product((2, 3), settings):
        sjb.minimize(lambda x, y: jnp.sum(x * y), np.zeros(n), (np.ones(n),), options={"maxiter": 0}, **more)


def loss(params: Any, x: Any, y: Any) -> Any:
    return jnp.mean((params["slope"] * x + params["offset"] - y) ** 2)


def data(seed: int, n: int = 20) -> tuple[Any, Any]:
    x = np.random.default_rng(seed).normal(size=n)
    return x, 2 * x + seed


def begin(seed: int) -> dict[str, Any]:
    return {"slope": np.array(0.1 * seed), "offset": np.array(0.0)}


def options(seed: int) -> dict[str, Any]:
    return {
        "gtol": 1e-6 / (1 + seed),
        "ftol": 0.0,
        "maxiter": 100 + seed,
        "maxfun": 1000 + seed,
        "maxls": 15 + seed % 5,
    }


@pytest.mark.slow
@anew
@pytest.mark.parametrize("door", ["minimize", "Minimizer"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hundred_further_calls_compile_nothing(backend: str, door: str) -> None:
    fun = functools.partial(loss)
    calls = Calls(fun)
    solver = sjb.Minimizer(calls, backend=backend)

    def solve(seed: int) -> sjb.Result:
        if door == "Minimizer":
            return solver(begin(seed), data(seed))
        return sjb.minimize(calls, begin(seed), data(seed), backend=backend, options=options(seed))

    first = solve(0)
    traced = calls.traced
    assert first.timing.compiles == PROGRAMS[backend] and first.timing.compile_s > 0
    with count_compiles() as compiles:
        for seed in range(1, 101):
            result = solve(seed)
            assert result.timing.compiles == 0
            assert float(result.params["offset"]) == pytest.approx(seed, abs=1e-3)
    assert not compiles
    # minimize cannot see what an object such as `calls` reads, and traces again
    assert calls.traced == traced + (100 if door == "minimize" else 0) and calls.evaluated == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_minimize_and_minimizer_share_programs(backend: str) -> None:
    def fun(x: Any, c: Any) -> Any:
        return jnp.sum((x - c) ** 2)

    sjb.minimize(fun, np.zeros(2), (1.0,), backend=backend)
    assert sjb.Minimizer(fun, backend=backend)(np.zeros(2), (1.0,)).timing.compiles == 0


@anew
@pytest.mark.parametrize("backend", BACKENDS)
def test_new_shapes_compile_once(backend: str) -> None:
    def fun(x: Any, center: Any) -> Any:
        return jnp.sum((x - center) ** 2)

    seen = []
    for n in (2, 3, 2, 3, 3):
        with count_compiles() as compiles:
            result = sjb.minimize(fun, np.zeros(n), (np.ones(n),), backend=backend)
        assert len(compiles) == result.timing.compiles
        seen.append(result.timing.compiles)
    assert seen == [PROGRAMS[backend], PROGRAMS[backend], 0, 0, 0]


@anew
@pytest.mark.parametrize("backend", BACKENDS)
def test_compile_ahead_of_time(backend: str) -> None:
    solve = sjb.Minimizer(lambda x, c: jnp.sum((x - c) ** 2), backend=backend)
    assert solve.compile(np.zeros(2), (np.ones(2),)) > 0
    assert solve.compile(np.ones(2), (np.zeros(2),)) == 0.0
    with count_compiles() as compiles:
        result = solve(np.zeros(2), (np.ones(2),))
    assert result.timing.compiles == 0 and result.timing.compile_s == 0.0 and not compiles


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("before", "after"),
    [("a", "b"), (True, False)],
    ids=["string", "bool"],
)
def test_static_leaves_are_part_of_the_program(backend: str, before: Any, after: Any) -> None:
    def fun(params: Any, *args: Any) -> Any:
        same = params["setting"] == before
        return (params["x"] - (1.0 if same else 2.0)) ** 2

    for setting, minimum in ((before, 1.0), (after, 2.0), (before, 1.0)):
        result = sjb.minimize(fun, {"x": 0.0, "setting": setting}, backend=backend)
        assert float(result.params["x"]) == pytest.approx(minimum, abs=1e-5)
    assert result.timing.compiles == 0


@pytest.mark.slow
@anew
@pytest.mark.parametrize("backend", BACKENDS)
def test_args_that_are_not_arrays_are_static(backend: str) -> None:
    def fun(x: Any, mode: str, config: dict[str, Any]) -> Any:
        center = 1.0 if mode == "one" else 2.0
        return jnp.sum((x - center * config["scale"]) ** 2) if config["on"] else jnp.sum(x**2)

    def solve(mode: str, on: bool, scale: float) -> tuple[float, int]:
        result = sjb.minimize(fun, np.array(0.5), (mode, {"on": on, "scale": scale}), backend=backend)
        return round(float(result.params), 4), result.timing.compiles

    assert solve("one", True, 3.0) == (3.0, PROGRAMS[backend])
    assert solve("two", True, 3.0) == (6.0, PROGRAMS[backend])
    assert solve("two", True, 4.0) == (8.0, 0)  # a number is data
    assert solve("two", False, 4.0) == (0.0, PROGRAMS[backend])
    assert solve("one", True, 3.0) == (3.0, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("args", [3.0, np.full(2, 3.0), [3.0], {"c": 3.0}], ids=["number", "array", "list", "dict"])
def test_args_need_not_be_a_tuple(backend: str, args: Any) -> None:
    result = sjb.minimize(lambda x, c: jnp.sum((x - jax.tree.leaves(c)[0]) ** 2), np.zeros(2), args, backend=backend)
    np.testing.assert_allclose(result.params, 3, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_auxiliary_output_belongs_to_the_point(backend: str) -> None:
    def fun(x: Any, c: Any) -> Any:
        residual = x - c
        return jnp.sum(residual**2), {"residual": residual, "count": jnp.int32(residual.size)}

    solve = sjb.Minimizer(fun, backend=backend, has_aux=True)
    for c in (1.0, 2.0):
        result = solve(np.zeros(3), (c,))
        np.testing.assert_array_equal(result.aux["residual"], np.asarray(result.params) - c)
        assert int(result.aux["count"]) == 3 and result.aux["count"].dtype == np.int32
    assert result.timing.compiles == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rider", [False, True], ids=["args", "params"])
def test_numpy_data_go_to_the_device_once_a_call(backend: str, rider: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """jaxopt sends NumPy args again at every evaluation."""
    big = np.arange(1000)
    moved: list[np.ndarray] = []
    device_put = jax.device_put

    def spy(x: Any, *args: Any, **kwargs: Any) -> Any:
        moved.extend(leaf for leaf in jax.tree.leaves(x) if np.array_equal(leaf, big))  # a copy of it
        return device_put(x, *args, **kwargs)

    monkeypatch.setattr(_problem.jax, "device_put", spy)

    def fun(params: Any, *args: Any) -> Any:
        n = params["n"] if rider else args[0]
        x = params["x"]
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2) + 0 * jnp.sum(n)

    params = {"x": -np.ones(4), **({"n": big} if rider else {})}
    result = sjb.minimize(fun, params, () if rider else (big,), backend=backend)
    assert result.nfev > 10 and len(moved) == 1


def test_evaluations_send_the_vector_and_nothing_else() -> None:
    """The compiled program gets its data as arrays of the device; explicit transfers are allowed, implicit ones not."""

    def fun(x: Any, y: Any, s: Any) -> Any:
        return jnp.sum((x - y) ** 4) + s

    solve = sjb.Minimizer(fun, backend="optax")
    arguments = (jax.device_put(np.zeros(3)), (jax.device_put(np.ones(3)), jax.device_put(np.float64(0))))
    solve(*arguments)
    with jax.transfer_guard_device_to_device("disallow"):
        result = solve(*arguments)
    assert result.success


def array_alone() -> tuple[Callable[..., Any], Any]:
    array = jnp.arange(5.0)
    return lambda x: jnp.sum((x - array) ** 2), array


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_that_was_proved_is_not_kept_alive(backend: str) -> None:
    fun, array = array_alone()
    assert prove(fun) is not None
    sjb.minimize(fun, np.zeros(5), backend=backend)
    assert sjb.minimize(fun, np.zeros(5), backend=backend).timing.compile_s == 0.0
    alive = weakref.ref(fun), weakref.ref(array)
    del fun, array
    gc.collect()
    assert [each() for each in alive] == [None, None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_data_are_not_kept_alive(backend: str) -> None:
    def fun(x: Any, y: Any) -> Any:
        return jnp.sum((x - y) ** 2)

    class Array(np.ndarray):
        pass

    y = np.ones(2).view(Array)
    start = jnp.zeros(2)
    alive = weakref.ref(y), weakref.ref(start)
    sjb.minimize(fun, start, (y,), backend=backend)
    del y, start
    gc.collect()
    assert [each() for each in alive] == [None, None]


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_methods_of_one_object_are_two_functions(backend: str) -> None:
    class Two:
        def one(self, x: Any) -> Any:
            return (x - 1.0) ** 2

        def two(self, x: Any) -> Any:
            return (x - 2.0) ** 2

    pair = Two()
    for _ in range(2):
        first, second = (sjb.minimize(fun, 0.0, backend=backend) for fun in (pair.one, pair.two))
        assert float(first.params) == pytest.approx(1, abs=1e-5)
        assert float(second.params) == pytest.approx(2, abs=1e-5)
    assert first.timing.compiles == second.timing.compiles == 0


def test_a_function_without_weak_references_works() -> None:
    class Slim:
        __slots__ = ()

        def __call__(self, x: Any) -> Any:
            return (x - 1.0) ** 2

    assert float(sjb.minimize(Slim(), 0.0).params) == pytest.approx(1, abs=1e-5)


def test_equal_objects_are_not_the_same_function() -> None:
    """Known by identity: an object that says it equals another may still compute something else."""

    class Equal:
        def __init__(self, center: float) -> None:
            self.center = center

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        def __hash__(self) -> int:
            return 0

        def __call__(self, x: Any) -> Any:
            return (x - self.center) ** 2

    one, two = Equal(1.0), Equal(2.0)
    assert [round(float(sjb.minimize(fun, 0.0).params), 4) for fun in (one, two, one)] == [1, 2, 1]


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "_programs", _cache.BoundedCache(3))

    center = np.ones(())  # not proved, so that no trace is kept

    def fun(x: Any) -> Any:
        return jnp.sum((x - center) ** 2)

    for n in range(1, 7):
        assert sjb.minimize(fun, np.zeros(n)).timing.compiles == 1
        assert len(_cache._programs) <= 3
    assert sjb.minimize(fun, np.zeros(6)).timing.compiles == 0
    assert sjb.minimize(fun, np.zeros(1)).timing.compiles == 1  # it had to go


@anew
@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_one_compilation(backend: str) -> None:
    def fun(x: Any, c: Any) -> Any:
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (c - x[:-1]) ** 2)

    gate, results = threading.Barrier(8), {}

    def work(k: int) -> None:
        gate.wait()
        results[k] = sjb.minimize(fun, np.zeros(2), (1.0 + k,), backend=backend)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result.timing.compiles for result in results.values()) == PROGRAMS[backend]
    for k, result in results.items():
        np.testing.assert_allclose(result.params, [1 + k, (1 + k) ** 2], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::scipy_jax_bridge.RecompilationWarning")  # on a busy machine tracing takes long
@anew
@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_solve_different_problems(backend: str) -> None:
    """Through one Minimizer and through minimize; `benchmarks/stops.py` does so two hundred times each."""

    def fun(x: Any, center: Any) -> Any:
        return jnp.sum((x - center) ** 2) + 0.1 * jnp.sum(x[1:] * x[:-1]) ** 2

    minimizer = sjb.Minimizer(fun, backend=backend)
    doors = (minimizer, lambda x, args: sjb.minimize(fun, x, args, backend=backend))
    results: list[tuple[sjb.Result, Any]] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for number in range(20):
            center = np.full(2 + number % 2, rng.normal())
            results.append((doors[(seed + number) % 2](np.zeros(center.size), (center,)), center))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 160
    assert sum(result.timing.compiles for result, _ in results) == 2 * PROGRAMS[backend]
    gradient = jax.jit(jax.grad(fun))
    for result, center in results:
        assert result.success and float(jnp.max(jnp.abs(gradient(result.params, center)))) <= 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_precision_has_programs_of_its_own(backend: str, x32: None) -> None:
    def fun(x: Any) -> Any:
        return jnp.sum((x - 1.0) ** 2)

    first = sjb.minimize(fun, np.zeros(2, np.float32), backend=backend)
    second = sjb.minimize(fun, np.zeros(2, np.float32), backend=backend, precision="float64")
    assert first.fun.dtype == np.float32 and second.fun.dtype == np.float64
    assert sjb.minimize(fun, np.zeros(2, np.float32), backend=backend).timing.compiles == 0


@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_all_tracing_counts_as_compilation(backend: str) -> None:
    """By what the clock has at least read: it is the sleep that is long, and nothing may be faster."""
    traced = []

    def fun(x: Any) -> Any:
        traced.append(x)
        time.sleep(0.05)
        return jnp.sum(x**2)

    result = sjb.minimize(fun, jnp.ones(2), backend=backend)
    assert float(result.timing.compile_s) >= 0.05 * len(traced) > 0


CHILD = """
import jax, jax.numpy as jnp, numpy as np, optax
jax.config.update("jax_enable_x64", True)
import scipy_jax_bridge as sjb
data = np.arange(6.0).reshape(3, 2)
def fun(params, y):
    return jnp.sum((jax.nn.softplus(data @ params["w"]) - y) ** 2)
for more in ({"backend": "scipy"}, {"backend": "optax"}, {"backend": "optax", "method": optax.adam(0.1)}):
    result = sjb.minimize(fun, {"w": np.zeros(2)}, (np.ones(3),), options={"maxiter": 5}, **more)
    print(result.status.name, float(result.fun))
"""


@pytest.mark.slow
def test_a_second_process_finds_the_programs(tmp_path: Path) -> None:
    """With JAX's persistent cache: the programs are the same to the last name, so their keys are."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
    }
    said, programs = [], []
    for _ in range(2):
        child = [sys.executable, "-c", CHILD]
        said.append(subprocess.run(child, env={**os.environ, **settings}, capture_output=True, text=True, check=True))
        programs.append({each.name for each in tmp_path.iterdir() if each.name.endswith("-cache")})
    assert len(programs[0]) >= 4 and programs[1] == programs[0]
    assert said[0].stdout == said[1].stdout and said[0].stdout.count("\n") == 3
