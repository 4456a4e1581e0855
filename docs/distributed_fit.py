"""Logistic regression on rows that no process holds whole, over any number of processes.

    python distributed_fit.py --local 2                 two processes on this machine
    srun python distributed_fit.py                      Slurm: one process for each task
    python distributed_fit.py                           on every host of a TPU pod

It fits, stops at a SIGTERM in any process, and saves what it has. `--backend scipy` lets SciPy drive.
"""

import argparse
import itertools
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import scipy_jax_bridge as sjb

BLOCKS = 32  # files of the data, in a real program


def read_block(block: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Make one block of the data; a real program reads its file."""
    rng = np.random.default_rng(block)
    x = rng.standard_normal((rows, columns), np.float32)
    chance = 1 / (1 + np.exp(-x @ np.linspace(-1, 1, columns, dtype=np.float32)))
    return x, (rng.random(rows) < chance).astype(np.float32)


def read_rows(options: argparse.Namespace) -> tuple[jax.Array, jax.Array]:
    """Return the arrays of all rows. Each process reads its blocks and holds no others."""
    processes, process = jax.process_count(), jax.process_index()
    assert BLOCKS % processes == 0, (
        f"{BLOCKS} blocks cannot be dealt to {processes} processes alike"
    )
    mine = range(process * BLOCKS // processes, (process + 1) * BLOCKS // processes)
    blocks = [read_block(block, options.rows // BLOCKS, options.columns) for block in mine]
    split = NamedSharding(Mesh(np.array(jax.devices()), ("rows",)), PartitionSpec("rows"))
    x, y = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return jax.make_array_from_process_local_data(
        split, x
    ), jax.make_array_from_process_local_data(split, y)


def loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the mean negative log likelihood, with a ridge."""
    score = x @ params["weights"] + params["offset"]
    return jnp.mean(jnp.logaddexp(0, score) - y * score) + 1e-4 * jnp.sum(params["weights"] ** 2)


def make_callback(path: Path) -> sjb.EveryProcess:
    """Return a callback that saves the params, and ends the solve after a SIGTERM in any process."""
    calls = itertools.count()

    def callback(progress: sjb.Progress) -> None:
        if jax.process_index() == 0:
            new = path.with_suffix(".new")
            new.write_bytes(pickle.dumps(jax.tree.map(np.asarray, progress.params)))
            new.replace(path)  # at once: what lies there is always whole
        if multihost_utils.reached_preemption_sync_point(next(calls)):
            raise StopIteration

    return sjb.EveryProcess(callback)


def fit(options: argparse.Namespace) -> None:
    """Fit, and report in the first process."""
    data = read_rows(options)
    start = {"weights": np.zeros(options.columns, np.float32), "offset": np.float32(0)}
    callback = make_callback(Path(options.save)) if options.save else None
    settings = {"gtol": 1e-5, "ftol": 0, "timeout": options.timeout}
    began = time.perf_counter()
    result = sjb.minimize(
        loss, start, data, backend=options.backend, options=settings, callback=callback
    )
    if jax.process_index() == 0:
        print(result)
        pace = result.nfev / float(result.timing.solve_s)
        print(
            f"{jax.process_count()} processes, {pace:.1f} evaluations a second, {time.perf_counter() - began:.1f} s"
        )


def start_here(count: int, arguments: list[str], *, pin: bool) -> int:
    """Start this script in `count` processes on this machine, each on one core if `pin`. Return the worst status."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cores = sorted(os.sched_getaffinity(0)) if pin else []
    processes = []
    for number in range(count):
        at = ["--coordinator", address, "--number", str(number), "--count", str(count)]
        at += ["--core", str(cores[number % len(cores)])] if pin else []
        processes.append(subprocess.Popen([sys.executable, __file__, *at, *arguments]))
    return max(abs(each.wait()) for each in processes)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="optax", choices=["optax", "scipy"])
    parser.add_argument("--rows", type=int, default=320_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--timeout", type=float)
    parser.add_argument(
        "--save", default="", help="file for the params, written about ten times a second"
    )
    parser.add_argument(
        "--local", type=int, default=0, help="start so many processes on this machine"
    )
    parser.add_argument(
        "--pin", action="store_true", help="with --local: one core for each process"
    )
    for name, kind in {"coordinator": str, "number": int, "count": int, "core": int}.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options, given = parser.parse_args(), sys.argv[1:]
    if options.local:
        place = given.index("--local") if "--local" in given else None
        rest = given if place is None else given[:place] + given[place + 2 :]
        sys.exit(
            start_here(options.local, [each for each in rest if each != "--pin"], pin=options.pin)
        )
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    jax.config.update(
        "jax_cpu_collectives_implementation", "gloo"
    )  # between CPUs; others ignore it
    if options.coordinator:
        jax.distributed.initialize(options.coordinator, options.count, options.number)
    else:
        jax.distributed.initialize()  # Slurm, Open MPI, Kubernetes and TPU pods say where and who
    fit(options)


if __name__ == "__main__":
    main()
