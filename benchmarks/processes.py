"""Two processes against one, a core each, on data of which each holds its share: seconds an evaluation.

    python benchmarks/processes.py
    python benchmarks/processes.py --rounds 3 --rows 640000

Logistic regression in single precision on the CPU, over gloo. Each process repeats the solve, compiled before, and in
turn as many evaluations of value and gradient by hand: what those lose to one process, the machine and the runtime
take. The answers of all are compared before a time is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import scipy_jax_bridge as sjb
from timing import Row, compare, header, table

COLUMNS, REPEATS, FASTER = 100, 5, 1.6
CONTENDERS = ("a solve", "by hand")
OPTIONS = {"gtol": 1e-5, "ftol": 0.0}


def loss(weights: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean negative log likelihood, with a ridge."""
    score = x @ weights
    return jnp.mean(jnp.logaddexp(0, score) - y * score) + 1e-4 * jnp.sum(weights**2)


def read_rows(rows: int) -> tuple[jax.Array, jax.Array]:
    """Make this process's share of the data."""
    split = NamedSharding(Mesh(np.array(jax.devices()), ("rows",)), PartitionSpec("rows"))
    count, halves = jax.process_count(), range(2)
    mine = halves if count == 1 else halves[jax.process_index() :: 2]
    parts = []
    for half in mine:
        rng = np.random.default_rng(half)
        x = rng.standard_normal((rows // 2, COLUMNS), np.float32)
        chance = 1 / (1 + np.exp(-x @ np.linspace(-1, 1, COLUMNS, dtype=np.float32)))
        parts.append((x, (rng.random(rows // 2) < chance).astype(np.float32)))
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    place = jax.make_array_from_process_local_data
    return place(split, x), place(split, y)


def measure(rows: int) -> dict[str, Any]:
    """Return seconds an evaluation, ours and by hand, and the value at the end."""
    data, start = read_rows(rows), np.zeros(COLUMNS, np.float32)
    solve = sjb.Minimizer(loss, backend="optax", options=OPTIONS)
    evaluate = jax.jit(jax.value_and_grad(loss))
    result = solve(start, data)

    def by_hand() -> None:
        for _ in range(result.nfev):
            jax.block_until_ready(evaluate(start, *data))

    by_hand()
    contenders: dict[str, Callable[[], Any]] = dict(zip(CONTENDERS, (lambda: solve(start, data), by_hand), strict=True))
    found: dict[str, Any] = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, call in contenders.items():
            began = time.perf_counter()
            call()
            found[name].append((time.perf_counter() - began) / result.nfev)
    return {**found, "fun": float(result.fun)}


def run(count: int, rows: int) -> dict[str, Any]:
    """Measure in `count` processes, a core each; return what the first found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = [sys.executable, __file__, "--rows", str(rows), "--address", address, "--count", str(count)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([*words, "--number", str(number)], stdout=subprocess.PIPE, env=environment)
        for number in range(count)
    ]
    texts = [child.communicate()[0] for child in children]
    assert not any(child.returncode for child in children), "a process failed; see its output"
    found: dict[str, Any] = json.loads(texts[0].splitlines()[-1])
    return found


def compare_counts(rounds: int, rows: int) -> list[Row]:
    """Run one process and two in turn, and compare."""
    times: dict[str, list[float]] = {}
    values = set()
    for _ in range(rounds):
        for count, where in ((1, "in one process"), (2, "in two")):
            found = run(count, rows)
            values.add(round(found["fun"], 5))
            for name in CONTENDERS:
                times.setdefault(f"{name}, {where}", []).append(statistics.median(found[name]))
    assert len(values) == 1, values
    pairs = [(f"{name}, in two", f"{name}, in one process", 1 / FASTER) for name in CONTENDERS]
    pairs.append(("a solve, in two", "by hand, in two", None))
    return [compare(f"an evaluation: {ours}", times, ours, theirs, target) for ours, theirs, target in pairs]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_280_000)
    for name, kind in {"address": str, "count": int, "number": int}.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.address is None:
        print(header(), table(compare_counts(given.rounds, given.rows)), sep="\n\n")
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[given.number % len(cores)]})
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(given.address, given.count, given.number)
    print(json.dumps(measure(given.rows)))


if __name__ == "__main__":
    main()
