"""Ctrl-C by real signals, wherever it strikes: evaluations that do not end, nested solves, comparisons, the exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import Status

pytestmark = [pytest.mark.signals, pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a process on Windows")]
BACKENDS = ("scipy", "optax")
FOREVER = {"maxiter": 10**8, "maxfun": 10**8, "ftol": 0.0, "gtol": 0.0}
START = np.array([-1.2, 1.0])
LONG_S = 60.0  # far beyond what a test waits for


def strike() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Gate:
    """Host code inside an objective: from the evaluation number `closed_from` on it lasts until the test ends.

    It presses Ctrl-C `presses` times when it is reached, from another thread.
    """

    def __init__(self, closed_from: int, presses: int) -> None:
        self.closed_from, self.presses = closed_from, presses
        self.count = 0
        self.opened = threading.Event()

    def __call__(self, x: Any) -> Any:
        self.count += 1
        if self.count == self.closed_from:
            threading.Thread(target=self._press, daemon=True).start()
        if self.count >= self.closed_from:
            self.opened.wait(LONG_S)
        return np.zeros((), x.dtype)

    def _press(self) -> None:
        for _ in range(self.presses):
            time.sleep(0.2)
            strike()

    def objective(self, x: Any) -> Any:
        @jax.custom_jvp
        def pause(x: Any) -> Any:
            return jax.pure_callback(self, jax.ShapeDtypeStruct((), x.dtype), x)

        pause.defjvps(lambda tangent, out, x: jnp.zeros_like(out))
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2 + pause(x)


@pytest.fixture(autouse=True)
def keyboard() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("closed_from", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_ctrl_c_does_not_wait_for_an_evaluation(backend: str, closed_from: int) -> None:
    gate = Gate(closed_from, presses=2)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            sjb.minimize(gate.objective, START, backend=backend, options=FOREVER)
        assert time.monotonic() - began < LONG_S / 2
        best = caught.value.best_result  # type: ignore[attr-defined]
        if closed_from > 1:
            x = np.asarray(best.params)
            assert float(best.fun) == pytest.approx(100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, rel=1e-12)
            assert best.status == Status.INTERRUPTED
    finally:
        gate.opened.set()


CHILD = """
import os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import jax
import jax.numpy as jnp
import numpy as np
jax.config.update("jax_cpu_enable_async_dispatch", sys.argv[2] == "asynchronous")
import scipy_jax_bridge as sjb

def long(x):
    work = jax.lax.fori_loop(0, 10**9, lambda _, a: jnp.cos(a), x[0])  # minutes
    return jnp.sum(x**2) + 1e-12 * work

def press():
    for _ in range(2):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

solve = sjb.Minimizer(long, backend=sys.argv[1], precision="float64")
solve.compile(np.ones(2))
threading.Thread(target=press, daemon=True).start()
try:
    solve(np.ones(2))
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "dispatch"), [("scipy", "asynchronous"), ("optax", "synchronous")])
def test_a_process_can_be_left_while_an_evaluation_goes_on(backend: str, dispatch: str) -> None:
    """The program call itself must not block the main thread; a third Ctrl-C ends a process that waits to exit."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, backend, dispatch],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"},
    )
    watchdog = threading.Timer(120, child.kill)
    watchdog.start()
    try:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.readline() == "KeyboardInterrupt\n"
        assert "Ctrl-C" in child.stderr.readline()
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        assert child.wait() == -signal.SIGINT
    finally:
        watchdog.cancel()
        child.kill()
        child.communicate()


def bowl(x: Any, center: Any) -> Any:
    return jnp.sum((x - center) ** 4) + jnp.sum((x - center) ** 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_in_a_solve_inside_a_callback_ends_both(backend: str) -> None:
    inner = sjb.Minimizer(bowl, backend=backend, options=FOREVER, callback=lambda _: strike())
    inner.compile(START, (1.0,))
    found: list[sjb.Result] = []

    def callback(_: sjb.Progress) -> None:
        found.append(inner(START, (1.0,)))

    outer = sjb.minimize(bowl, START, (2.0,), callback=callback, options=FOREVER)
    assert [each.status for each in found] == [Status.INTERRUPTED] and outer.status == Status.INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_a_solve_inside_a_callback_compiles_is_a_keyboard_interrupt() -> None:
    def inner(x: Any) -> Any:
        strike()
        return jnp.sum(x**2)

    with pytest.raises(KeyboardInterrupt) as caught:
        sjb.minimize(bowl, START, (2.0,), callback=lambda _: sjb.minimize(inner, START))
    assert float(caught.value.best_result.fun) < float(bowl(START, 2.0))  # type: ignore[attr-defined]


def test_a_solve_after_an_interrupted_one_is_not_interrupted() -> None:
    first = sjb.minimize(bowl, START, (2.0,), callback=lambda _: strike())
    assert first.status == Status.INTERRUPTED
    assert sjb.minimize(bowl, START, (2.0,)).success


def test_a_handler_that_the_user_sets_during_a_solve_stays() -> None:
    mine = lambda *_: None  # noqa: E731

    def callback(_: sjb.Progress) -> None:
        signal.signal(signal.SIGINT, mine)

    sjb.minimize(bowl, START, (2.0,), callback=callback)
    assert signal.getsignal(signal.SIGINT) is mine


def test_a_handler_that_outlives_its_solve_is_the_one_before() -> None:
    kept: list[Any] = []
    sjb.minimize(bowl, START, (2.0,), callback=lambda _: kept.append(signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, kept[0])  # as a context manager of the user's does that puts back what it found
    with pytest.raises(KeyboardInterrupt):
        strike()
        time.sleep(1)
    assert sjb.minimize(bowl, START, (2.0,)).success


def test_an_interrupt_that_gets_through_is_not_repeated() -> None:
    """Code that cleans up when a KeyboardInterrupt passes is not interrupted again."""
    cleaned: list[bool] = []

    def fun(x: Any) -> Any:
        try:
            strike()
            time.sleep(5)
        finally:
            time.sleep(0.3)  # longer than until the signal is repeated
            cleaned.append(True)
        return jnp.sum(x**2)

    with pytest.raises(KeyboardInterrupt):
        sjb.minimize(fun, START)
    time.sleep(0.2)
    assert cleaned == [True]


@pytest.mark.parametrize("when", ["trace", "solve"])
def test_ctrl_c_ends_a_comparison(when: str) -> None:
    count = 0

    def callback(_: sjb.Progress) -> None:
        nonlocal count
        count += 1
        if when == "solve" and count > 1:
            strike()

    def fun(x: Any) -> Any:
        if when == "trace":
            strike()
        return bowl(x, 3.0)

    runs = {"quiet": {"backend": "scipy"}, "loud": {"backend": "scipy", "callback": callback}}
    with pytest.raises(KeyboardInterrupt) as caught:
        sjb.compare(fun, START, runs=runs, repeats=2, shares=False)
    results = caught.value.results  # type: ignore[attr-defined]
    assert all(each.success for each in results.values())
    assert list(results) == (["quiet"] if when == "solve" else [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
