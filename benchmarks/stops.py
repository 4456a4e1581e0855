"""Nothing is lost: what an interrupt, a time limit, the chunks of the device loop and fresh closures cost.

    python benchmarks/stops.py
    python benchmarks/stops.py --rows interrupts --interrupts 50

Interrupts are real signals to a real process at random times, while it compiles and while it solves. The other
rows run here, in double precision.
"""

from __future__ import annotations

import argparse
import functools
import gc
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import scipy_jax_bridge as sjb
import scipy_jax_bridge._optax.chunked as chunks
import scipy_jax_bridge._optax.solve as device
from timing import header, interleave

CHILD = Path(__file__).with_name("stops_child.py")
FOREVER = {"maxiter": 10**8, "maxfun": 10**8, "gtol": 0.0, "ftol": 0.0}
PROMISED_S = 0.5  # from the signal to a result, or one evaluation


def interrupts(count: int) -> None:
    """Signals at random times: what came back, and how soon."""
    for backend in ("scipy", "optax"):
        child = subprocess.Popen([sys.executable, str(CHILD), backend, str(count)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        waits: list[float] = []
        endings: dict[str, int] = {}
        for number in range(count):
            line = child.stdout.readline()
            assert line == "GO\n", line
            time.sleep(random.Random(number).uniform(0.02, 4.0))
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            seconds, _, ending = child.stdout.readline().strip().partition(" ")
            waits.append(float(seconds) - sent)
            endings[ending] = endings.get(ending, 0) + 1
        assert child.stdout.readline() == "DONE\n" and child.wait() == 0
        late = sum(each > PROMISED_S for each in waits)
        print(
            f"{backend}: {count} interrupts, {endings}; from signal to answer median {np.median(waits):.3f} s, "
            f"largest {max(waits):.3f} s, later than {PROMISED_S} s: {late}"
        )


def timeouts() -> None:
    """By how much a time limit is overshot, for evaluations from microseconds to half a second."""
    # What ends late: L-BFGS-B would find the end of any objective that is cheap enough.
    endless = {"scipy": ("Nelder-Mead", {"xatol": 0.0, "fatol": 0.0}), "optax": (optax.adam(1e-6), {})}
    for backend, (method, more) in endless.items():
        for work in (0, 30, 3000, 60000):

            def fun(x: jax.Array, work: int = work) -> jax.Array:
                body = jax.lax.fori_loop(0, work, lambda _, a: jnp.tanh(a @ a) * 0.1, jnp.ones((30, 30)) * x[0])
                return jnp.sum((x[1:] - 2 * x[:-1] ** 2 + 1) ** 2 + (x[:-1] - 1) ** 2) + 1e-12 * jnp.sum(body)

            solve = sjb.Minimizer(fun, backend=backend, method=method, options={**FOREVER, **more, "timeout": 0.7})
            start = np.linspace(-1.0, 1.0, 30)
            solve.compile(start)
            results = [solve(start) for _ in range(5)]
            assert all(each.status == sjb.Status.TIMEOUT for each in results)
            over = max(float(each.timing.solve_s) for each in results) - 0.7
            each = np.median([float(each.timing.solve_s) / int(each.nfev) for each in results])
            print(f"{backend}: an evaluation of {each:.1e} s, timeout overshot by at most {over:.3f} s")


def chunk_cost(repeats: int) -> None:
    """A solve of a second and more as it is, against the same in one chunk with room for all rows; bits compared."""
    for n, method in ((20, optax.adam(1e-6)), (1000, optax.adam(1e-6)), (1000, None)):
        start, evaluations = np.linspace(-2, 2, n), _evaluations_in_a_second(n, method)
        solve, whole = (_long_solver(n, method, evaluations) for _ in range(2))
        contenders = {
            "chunks": functools.partial(_with_rooms, {}, solve, start),
            "one": functools.partial(
                _with_rooms, {"ROWS": evaluations + 2, "CHUNK_S": 1e9, "FIRST_S": 1e9}, whole, start
            ),
        }
        found = [call() for call in contenders.values() for _ in range(2)][1::2]  # the speed is known
        same = np.array_equal(found[0].params, found[1].params)
        rounds = interleave(contenders, repeats)
        over = np.median(np.array(rounds["chunks"]) / np.array(rounds["one"])) - 1
        name, seconds = "L-BFGS" if method is None else "Adam", np.median(rounds["chunks"])
        print(f"{name}, n = {n}: {evaluations} evaluations, {seconds:.2f} s, same bits: {same}, overhead {over:+.1%}")


def _long_solver(n: int, method: Any, evaluations: int) -> sjb.Minimizer:
    scale = jnp.logspace(0, 12, n)

    def fun(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(scale * (x - 1) ** 2)

    options = {"maxiter": 10**8, "maxfun": evaluations, "gtol": 0.0, "ftol": 0.0}
    return sjb.Minimizer(fun, backend="optax", method=method, options=options)


def _evaluations_in_a_second(n: int, method: Any) -> int:
    evaluations = 1000
    while True:
        solve = _long_solver(n, method, evaluations)
        solve.compile(np.linspace(-2, 2, n))
        result = solve(np.linspace(-2, 2, n))
        if float(result.timing.solve_s) >= 1.0 or result.status != sjb.Status.MAXFUN:
            return int(result.nfev)
        evaluations *= 2


def _with_rooms(settings: dict[str, Any], solve: sjb.Minimizer, start: np.ndarray) -> sjb.Result:
    """A solve with other rows of trace and other seconds of a chunk."""
    kept = [(room, name, getattr(room, name)) for room in (chunks, device) for name in settings if hasattr(room, name)]
    try:
        for room, name, _ in kept:
            setattr(room, name, settings[name])
        return solve(start)
    finally:
        for room, name, value in kept:
            setattr(room, name, value)


def memory(solves: int) -> None:
    """Resident memory while fresh closures over fresh data are solved."""
    resident = []
    for number in range(solves):
        center = np.full(1000, float(number))
        sjb.minimize(lambda x, c=center: jnp.sum((x - c) ** 2), np.zeros(1000))
        if number % max(solves // 10, 1) == 0:
            gc.collect()
            resident.append(_resident_mib())
    gc.collect()
    resident.append(_resident_mib())
    print(f"{solves} fresh closures, resident MiB: {[round(each) for each in resident]}")


def _resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def threads(solves: int) -> None:
    """Eight threads, through one Minimizer and through minimize: every answer right, one compilation a structure."""
    for backend in ("scipy", "optax"):
        for door in ("Minimizer", "minimize"):
            _run_threads(backend, door, solves)


def _run_threads(backend: str, door: str, solves: int) -> None:
    def fun(x: jax.Array, center: jax.Array) -> jax.Array:
        return jnp.sum((x - center) ** 2) + 0.1 * jnp.sum(x[1:] * x[:-1]) ** 2

    minimizer = sjb.Minimizer(fun, backend=backend)
    compiles: list[int] = []
    wrong: list[sjb.Result] = []

    def solve(x: np.ndarray, args: tuple[np.ndarray]) -> sjb.Result:
        return minimizer(x, args) if door == "Minimizer" else sjb.minimize(fun, x, args, backend=backend)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(solves):
            n = 2 + int(rng.integers(3))
            center = np.full(n, rng.normal())
            result = solve(np.zeros(n), (center,))
            compiles.append(int(result.timing.compiles))
            gradient = jax.grad(fun)(result.params, center)
            if not result.success or float(jnp.max(jnp.abs(gradient))) > 1e-4:
                wrong.append(result)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    began = time.perf_counter()
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    print(
        f"{backend}, {door}: 8 threads of {solves} solves in {time.perf_counter() - began:.1f} s, "
        f"wrong {len(wrong)}, programs compiled {sum(compiles)} for 3 structures"
    )


def main() -> None:
    """Run the rows that were asked for."""
    rows = {
        "interrupts": lambda given: interrupts(given.interrupts),
        "timeouts": lambda given: timeouts(),
        "chunks": lambda given: chunk_cost(given.repeats),
        "threads": lambda given: threads(given.solves),
        "memory": lambda given: memory(given.closures),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", action="append", choices=rows, help="which; all if left out")
    parser.add_argument("--interrupts", type=int, default=50, help="signals for each backend")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats of the chunk row")
    parser.add_argument("--solves", type=int, default=200, help="in each thread")
    parser.add_argument("--closures", type=int, default=3000, help="fresh closures")
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore", sjb.RecompilationWarning)  # new objectives on purpose
    print(header())
    for name in given.rows or rows:
        print(f"\n{name}")
        rows[name](given)


if __name__ == "__main__":
    main()
