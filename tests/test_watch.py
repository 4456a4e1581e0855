"""Who may stop a solve from outside: the clock, the keyboard, the callback; and the progress bar."""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from helpers_calls import Calls
from problems import BACKENDS, rosenbrock
from scipy_jax_bridge import Status, _backend
from scipy_jax_bridge._core.monitor import SolveMonitor
from scipy_jax_bridge._scipy.evaluator import HostEvaluator
from scipy_jax_bridge._scipy.methods import METHODS

START = np.linspace(-1.0, 1.0, 8)


STOPS = Path(__file__).parents[1] / "benchmarks" / "stops_child.py"
CHILD = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a child in the background may ignore it
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import numpy as np
import scipy_jax_bridge as sjb

def fun(x):
    n = x.size
    scale = jnp.logspace(0, 8, n)
    work = jax.lax.fori_loop(0, 300, lambda _, a: jnp.tanh(a @ a) * 0.1, jnp.ones((60, 60)) * x[0])
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2) + 1e-14 * jnp.sum(work)

def tell(progress):
    if progress.nit and not told:
        told.append(print("GOING", flush=True))

start = np.tile([-1.2, 1.0], 1000)
for backend in sys.argv[1:]:
    told = []
    options = dict(maxiter=10**7, maxfun=10**7, ftol=0.0, gtol=0.0)
    result = sjb.minimize(fun, start, backend=backend, options=options, callback=tell)
    fell = float(result.fun) < float(result.trace.fun[0])
    best = float(result.fun) <= float(np.nanmin(result.trace.fun))
    print(result.status.name, result.success, fell, result.nit > 0, best, flush=True)
print("ALIVE", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a child on Windows")
def test_ctrl_c_hands_back_the_best_so_far() -> None:
    """The signal is sent when an iteration is done, however long that takes; one process solves by both backends."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command, env = [sys.executable, "-c", CHILD, *BACKENDS], {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, env=env, **pipes) as child:
        watchdog = threading.Timer(200, child.kill)
        watchdog.start()
        try:
            for _ in BACKENDS:
                assert child.stdout.readline() == "GOING\n"
                child.send_signal(signal.SIGINT)
                assert child.stdout.readline() == "INTERRUPTED False True True True\n"
            last, err = child.stdout.readline(), child.communicate(timeout=60)[1]  # a line may be read ahead already
        finally:
            watchdog.cancel()
            child.kill()
    assert (last, child.returncode) == ("ALIVE\n", 0), err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to a child on Windows")
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_at_any_time(backend: str) -> None:
    """While it compiles and while it solves; `benchmarks/stops.py` does so fifty times and takes the time."""
    waits = (0.02, 0.1, 0.3, 1.0, 2.5, 4.0)
    child = subprocess.Popen(
        [sys.executable, str(STOPS), backend, str(len(waits))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert child.stdout is not None
    endings = []
    try:
        for wait in waits:
            assert child.stdout.readline() == "GO\n"
            time.sleep(wait)
            child.send_signal(signal.SIGINT)
            endings.append(child.stdout.readline().split(" ", 1)[1].strip())
        last, err = child.stdout.readline(), child.communicate(timeout=60)[1]
    finally:
        child.kill()
    assert (last, child.returncode) == ("DONE\n", 0), err
    assert set(endings) <= {"result INTERRUPTED True", "exit KeyboardInterrupt True"}, endings
    assert "exit KeyboardInterrupt True" in endings


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupt_that_python_drops_comes_again(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception raised while a weak reference dies is ignored by Python."""

    class Owner:
        pass

    def drop(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # the handler runs in here

    def fun(x: Any) -> Any:
        owner = Owner()
        reference = weakref.ref(owner, drop)  # dies with its owner, at the latest when the function returns
        del owner
        assert reference() is None
        time.sleep(1.0)
        return jnp.sum(x**2)

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            sjb.minimize(fun, START, backend=backend)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_ctrl_c_is_a_keyboard_interrupt_with_the_best_point(backend: str) -> None:
    def twice(progress: sjb.Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            sjb.minimize(lambda x: rosenbrock(x), START, backend=backend, callback=twice)
    finally:
        signal.signal(signal.SIGINT, before)
    best = caught.value.best_result  # type: ignore[attr-defined]
    assert best.status == Status.INTERRUPTED and float(best.fun) <= float(rosenbrock(START))


def test_work_of_unknown_length_runs_beside() -> None:
    with SolveMonitor() as watch:
        threads = [watch.wait_interruptibly(threading.current_thread, expected_s) for expected_s in (None, 1.0, 1e-3)]
    assert [each is threading.main_thread() for each in threads] == [False, False, True]


@pytest.mark.usefixtures("no_programs")
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_evaluation_runs_beside(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows yet how long it takes. That a program is fast is known from call to call."""
    expected: list[float | None] = []
    compute = SolveMonitor.wait_interruptibly

    def noted(self: SolveMonitor, work: Any, expected_s: float | None) -> Any:
        expected.append(expected_s)
        return compute(self, work, expected_s)

    monkeypatch.setattr(SolveMonitor, "wait_interruptibly", noted)
    solve = sjb.Minimizer(lambda x: rosenbrock(x), backend=backend)
    solve(START)
    assert expected[0] is None and all(each is not None for each in expected[1:])
    expected.clear()
    solve(START)
    assert expected and None not in expected


SECOND = [method.name for method in METHODS.values() if method.derivatives in ("product", "hessian")]


@pytest.mark.parametrize("status", [Status.TIMEOUT, Status.INTERRUPTED])
@pytest.mark.parametrize("method", SECOND)
def test_second_derivatives_begin_nothing_after_a_stop(
    method: str, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Newton step takes many products, which looked at no clock and no keyboard."""
    asked: list[str] = []
    stop = SolveMonitor.stop_status
    own = {"product": HostEvaluator.product, "hessian": HostEvaluator.hessian}

    def second(self: HostEvaluator, *inputs: Any, name: str) -> Any:
        asked.append(name)
        return own[name](self, *inputs)

    for name in own:
        monkeypatch.setattr(HostEvaluator, name, functools.partialmethod(second, name=name))
    monkeypatch.setattr(SolveMonitor, "stop_status", lambda self: status if len(asked) >= 2 else stop(self))
    result = sjb.minimize(lambda x: jnp.sum(x**4 + x**2) + x[0] * x[1], START, method=method)
    assert result.status == status and len(asked) == 2
    assert float(result.fun) == float(np.min(result.trace.fun))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_keyboard_is_given_back(backend: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    sjb.minimize(rosenbrock, START, backend=backend)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_handler_of_the_callers_stays(backend: str) -> None:
    mine, seen = (lambda *_: None), []
    before = signal.signal(signal.SIGINT, mine)
    try:
        sjb.minimize(
            rosenbrock, START, backend=backend, callback=lambda _: seen.append(signal.getsignal(signal.SIGINT))
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen and all(each is mine for each in seen)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thread_leaves_the_keyboard_alone(backend: str) -> None:
    results: list[sjb.Result] = []
    thread = threading.Thread(target=lambda: results.append(sjb.minimize(rosenbrock, START, backend=backend)))
    thread.start()
    thread.join()
    assert results[0].success


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_callback_is_told(backend: str) -> None:
    told: list[sjb.Progress] = []
    params: list[Any] = []

    def callback(progress: sjb.Progress) -> None:
        told.append(progress)
        params.append(progress.params)

    start, fixed = {"x": START, "n": 3}, {"x": False, "n": True}
    result = sjb.minimize(lambda p: rosenbrock(p["x"]), start, backend=backend, callback=callback, fixed=fixed)
    assert told
    trace = result.trace
    for progress, at in zip(told, params, strict=True):
        row = progress.nit
        assert progress.fun == pytest.approx(float(np.asarray(trace.fun)[row]), rel=1e-12)
        assert progress.grad_norm == pytest.approx(float(np.asarray(trace.grad_norm)[row]), rel=1e-12)
        assert progress.nfev >= int(np.asarray(trace.nfev)[row]) and progress.seconds >= 0
        assert at["n"] == 3 and at["x"].shape == (8,)
    assert [each.nit for each in told] == sorted({each.nit for each in told})
    assert "params" not in repr(told[0]) and "fun=" in repr(told[0])


def test_scipy_calls_back_once_an_iteration_and_at_its_point() -> None:
    told: list[tuple[int, float, Any]] = []
    result = sjb.minimize(rosenbrock, START, callback=lambda p: told.append((p.nit, p.fun, p.params)))
    assert [nit for nit, _, _ in told] == list(range(1, result.nit + 1))
    for _, fun, x in told:
        assert fun == pytest.approx(float(rosenbrock(x)), rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_callback_costs_no_evaluations(backend: str) -> None:
    """GPJax, GPflow and BoTorch evaluate again for the record."""
    calls = Calls(rosenbrock)
    quiet = sjb.minimize(calls, START, backend=backend)
    traced = calls.traced
    loud = sjb.minimize(calls, START, backend=backend, callback=lambda progress: progress.params)
    assert (loud.nit, loud.nfev) == (quiet.nit, quiet.nfev)
    assert calls.traced == 2 * traced and calls.evaluated == 0 and loud.timing.compiles == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_end_is_told(backend: str) -> None:
    """Also when the whole solve is one chunk, as it is once the speed is known."""
    for _ in range(3):
        told: list[int] = []
        result = sjb.minimize(
            rosenbrock, START, backend=backend, callback=lambda progress, told=told: told.append(progress.nit)
        )
        assert told and told[-1] == result.nit


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_callback_returns_means_nothing(backend: str) -> None:
    assert sjb.minimize(rosenbrock, START, backend=backend, callback=lambda progress: True).success


@pytest.mark.parametrize("backend", BACKENDS)
def test_progress_bar(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    told: list[int] = []
    result = sjb.minimize(
        rosenbrock, START, backend=backend, progress=True, callback=lambda progress: told.append(progress.nit)
    )
    shown = capsys.readouterr().err
    assert result.success and told
    assert "iterations" in shown and "fun" in shown and "grad_norm" in shown and "evals/s" in shown


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_tqdm_is_a_clear_error(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    calls = Calls(rosenbrock)
    with pytest.raises(ImportError, match=r"scipy_jax_bridge\[progress\]"):
        sjb.minimize(calls, START, backend=backend, progress=True)
    assert calls.evaluated == 0


def test_no_progress_needs_no_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def guard(name: str, *args: Any, **kwargs: Any) -> Any:
        assert not name.startswith("tqdm")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", guard)
    assert sjb.minimize(rosenbrock, START).success


def test_ctrl_c_while_a_backend_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import often starts a garbage collection, and Python drops a KeyboardInterrupt that is raised in one."""

    def import_slowly(name: str, package: str) -> object:
        with contextlib.suppress(KeyboardInterrupt):  # as Python drops it
            signal.raise_signal(signal.SIGINT)
        return importlib.import_module(name, package)

    _backend.load.cache_clear()
    monkeypatch.setattr(_backend, "import_module", import_slowly)
    with pytest.raises(KeyboardInterrupt):
        sjb.minimize(lambda x: jnp.sum(x**2), START)
