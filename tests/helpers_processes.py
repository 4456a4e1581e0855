"""One process of a solve over several: `helpers_processes.py RANK COUNT PORT SCENARIO ...` runs the scenarios in turn.

Each prints a line of JSON: what the solve gave here. `test_processes.py` starts the processes and compares the lines.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import scipy_jax_bridge as sjb
from scipy_jax_bridge._optax import chunked

ROWS, SIZE = 48, 40
ENDLESS = {"gtol": 0, "ftol": 0, "maxiter": 10**6, "maxfun": 10**6}
KINDS = ("callback", "error", "interrupt", "timeout", "maxfun", "maxiter", "gtol")
RANK = COUNT = 0  # of this process, and how many there are


def place(array: np.ndarray, spec: PartitionSpec) -> jax.Array:
    """Give each process its part of the array."""
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    return jax.make_array_from_callback(array.shape, NamedSharding(mesh, spec), lambda part: array[part])


def valley(x: jax.Array, weights: jax.Array, wave: jax.Array) -> jax.Array:
    """A chain of Rosenbrock's valleys, whose weights no process holds whole: thousands of evaluations."""
    steps = jnp.sum(weights[:, None] * (x[None, 1:] - x[None, :-1] ** 2 + 0 * wave) ** 2)
    return steps / len(weights) + jnp.sum((1 - x) ** 2) / 100


def data() -> tuple[jax.Array, jax.Array]:
    rows = np.linspace(50.0, 150.0, ROWS)
    return place(rows, PartitionSpec("rows")), place(np.zeros((ROWS, 1)), PartitionSpec("rows"))


def solve(**settings: Any) -> list[Any]:
    """Return what a solve gave, or what it raised and carried."""
    params = settings.pop("params", -np.ones(SIZE))
    try:
        result = sjb.minimize(valley, params, data(), **settings)
    except (Exception, KeyboardInterrupt) as error:
        best = getattr(error, "best_result", None)
        return [type(error).__name__, str(error), None if best is None else [best.nfev, float(best.fun).hex()]]
    x = multihost_utils.process_allgather(result.params, tiled=True) if is_split(result.params) else result.params
    x = np.asarray(x)
    return [result.status.name, result.nit, result.nfev, float(result.fun).hex(), zlib.crc32(x.tobytes())]


def is_split(array: Any) -> bool:
    return isinstance(array, jax.Array) and not array.is_fully_replicated


def at_call(count: int, process: int, act: Callable[[], None]) -> sjb.EveryProcess:
    """Return a callback that acts at its call of this number, in one process."""
    calls = iter(range(1, 10**9))

    def callback(progress: sjb.Progress) -> None:
        assert progress.params.shape == (SIZE,)
        if next(calls) == count and process == RANK:
            act()

    return sjb.EveryProcess(callback)


def stop() -> None:
    raise StopIteration


def fail() -> None:
    raise ArithmeticError("of this process alone")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def stops(backend: str) -> Any:
    """A stop of each kind in the last process."""
    last, acts = COUNT - 1, (stop, fail, interrupt)
    yield from (solve(backend=backend, options=ENDLESS, callback=at_call(3, last, act)) for act in acts)
    yield solve(backend=backend, options=ENDLESS | ({"timeout": 0.1} if last == RANK else {}))


def differences(backend: str) -> Any:
    """What the processes must have in common, and do not."""
    yield solve(backend=backend, params=-np.ones(SIZE) - 1e-9 * (RANK == 1), options=ENDLESS)
    yield solve(backend=backend, options=ENDLESS | {"maxfun": 20 + RANK})


def whole(backend: str) -> Any:
    """To the end, also with params that lie in all processes, with reports in one, and a solve of one process alone."""
    calls: list[int] = []
    limit = {"maxfun": 50}
    yield solve(backend=backend, callback=lambda progress: calls.append(progress.nit), options=limit)
    yield solve(backend=backend, params=place(-np.ones(SIZE), PartitionSpec()), options=limit)
    yield solve(backend=backend, params=place(-np.ones(SIZE), PartitionSpec("rows")), options=limit)
    assert bool(calls) == (RANK == 0), "a plain callback is called in the first process"
    if RANK == 1:
        alone = sjb.minimize(lambda x: jnp.sum((x - 1) ** 2), jnp.zeros(3), backend=backend, callback=stop_at_once)
        assert alone.status == sjb.Status.CALLBACK
    if backend == "optax":
        first = sjb.minimize(valley, -np.ones(SIZE), data(), backend=backend, options={"maxfun": 30})
        kept = pickle.loads(pickle.dumps(first))
        again = sjb.minimize(valley, kept, data(), backend=backend, options=limit)
        yield [again.status.name, again.nit, again.nfev, float(again.fun).hex()]


def stop_at_once(progress: sjb.Progress) -> None:
    raise StopIteration


def preempted(backend: str) -> Any:
    """A SIGTERM in one process, which JAX's preemption service tells to all."""
    steps = iter(range(10**9))

    def callback(progress: sjb.Progress) -> None:
        step = next(steps)
        if step == 3 and RANK == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if multihost_utils.reached_preemption_sync_point(step):
            raise StopIteration

    yield solve(backend=backend, options=ENDLESS, callback=sjb.EveryProcess(callback))


def at_random(seed: str) -> Any:
    """A solve of 2 to 60 chunks that ends by a stop of a random kind in a random process, or by itself."""
    draw = random.Random(int(seed))
    kind, count, who = draw.choice(KINDS), draw.randint(2, 60), draw.randrange(COUNT)
    settings: dict[str, Any] = {"backend": draw.choice(["optax", "scipy"]), "options": dict(ENDLESS)}
    acts = {"callback": stop, "error": fail, "interrupt": interrupt}
    settings["callback"] = at_call(count, who, acts.get(kind, lambda: None))
    if kind == "timeout":
        settings["options"]["timeout"] = (0.02 + 0.01 * ((who + RANK) % COUNT)) * count
    if kind in ("maxfun", "maxiter"):
        settings["options"][kind] = 20 * count
    if kind == "gtol":
        settings["options"]["gtol"] = 10.0 ** -draw.randint(1, 6)
    found = solve(**settings)
    yield [
        kind,
        count,
        who,
        settings["backend"],
        *(found if kind != "error" or found[0] == "LINESEARCH" else found[2:]),
    ]


def dies(how: str) -> Any:
    """One process is killed or stopped in the midst of a solve; the first one has saved what it had."""
    path = Path(os.environ["SJB_SAVED"])

    def save(progress: sjb.Progress) -> None:
        if RANK == 0:
            new = path.with_suffix(".new")
            new.write_bytes(pickle.dumps((progress.nit, np.asarray(progress.params))))
            new.replace(path)
        if progress.seconds > 1 and RANK == 1:
            os.kill(os.getpid(), getattr(signal, how))

    began = time.time()
    try:
        yield solve(backend="optax", options=ENDLESS | {"timeout": 300}, callback=sjb.EveryProcess(save))
    finally:
        print(f"ended after {time.time() - began:.0f} s", file=sys.stderr, flush=True)


SCENARIOS = (stops, differences, whole, preempted, at_random, dies)


def main() -> None:
    global RANK, COUNT
    RANK, COUNT, port = map(int, sys.argv[1:4])
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    heartbeat = {"heartbeat_timeout_seconds": 60} if os.environ.get("SJB_HEARTBEAT") else {}
    jax.distributed.initialize(f"127.0.0.1:{port}", COUNT, RANK, **heartbeat)
    chunked.CHUNK_S = 0.02  # so that a solve has chunks enough for each stop
    known = {each.__name__: each for each in SCENARIOS}
    for argument in sys.argv[4:]:
        name, _, given = argument.partition(":")
        for found in known[name](given):
            print(json.dumps([argument, *found]), flush=True)


if __name__ == "__main__":
    main()
