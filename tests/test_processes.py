"""Solves over several processes: whatever ends one in one process ends it alike in all, and none waits forever."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

HELPER = Path(__file__).with_name("helpers_processes.py")
LONG = pytest.mark.skipif("SJB_LONG_TESTS" not in os.environ, reason="takes minutes; .ci/full runs it")
HEARTBEAT_S = 60


def start(count: int, *scenarios: str, **variables: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    package = HELPER.parent.parent
    env = {**os.environ, "PYTHONPATH": str(package), **variables}
    return [
        subprocess.Popen(
            [sys.executable, str(HELPER), str(rank), str(count), str(port), *scenarios],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(count)
    ]


def run(count: int, *scenarios: str, seconds: float = 200.0) -> list[list[list[Any]]]:
    """Return what the processes printed: for each solve, what it gave in each process."""
    processes, until = start(count, *scenarios), time.monotonic() + seconds
    try:
        outputs = [each.communicate(timeout=max(until - time.monotonic(), 1.0)) for each in processes]
    finally:
        for each in processes:
            each.kill()  # SIGTERM is a notice to JAX, and ends nothing
    assert [each.returncode for each in processes] == [0] * count, "\n".join(text for _, text in outputs)
    lines = [[json.loads(line) for line in out.splitlines() if line.startswith('["')] for out, _ in outputs]
    return [list(found) for found in zip(*lines, strict=True)]


def named(solves: list[list[list[Any]]], scenario: str) -> list[list[list[Any]]]:
    """Return the solves of a scenario, without its name."""
    return [[found[1:] for found in solve] for solve in solves if solve[0][0] == scenario]


def check_stops(solves: list[list[list[Any]]], last: int) -> None:
    """One stop of each kind in the last process: all end at the same evaluation, with the same numbers."""
    stopped, failed, interrupted, late = solves
    for solve, status in ((stopped, "CALLBACK"), (interrupted, "INTERRUPTED"), (late, "TIMEOUT")):
        assert solve == [solve[0]] * (last + 1)
        assert solve[0][0] == status
    assert failed[last][:2] == ["ArithmeticError", "of this process alone"]
    for found in failed[:last]:
        assert found[:2] == [
            "RuntimeError",
            f"process {last} ended this solve with an exception; see its output.",
        ]
        assert found[2] == failed[last][2] is not None


@pytest.mark.slow
def test_two_processes_end_alike() -> None:
    names = ("whole", "stops", "differences", "preempted")
    solves = run(2, *(f"{name}:{backend}" for backend in ("optax", "scipy") for name in names))
    for backend in ("optax", "scipy"):
        check_stops(named(solves, f"stops:{backend}"), 1)
        for solve in named(solves, f"whole:{backend}"):
            assert solve[0] == solve[1]
            assert solve[0][0] == "MAXFUN"
        points, limits = named(solves, f"differences:{backend}")
        for solve, where in ((points, 0), (limits, 0 if backend == "optax" else 20)):
            assert solve[0] == solve[1]
            assert solve[0][0] == "RuntimeError"
            assert f"disagree at evaluation {where}:" in solve[0][1]
        (told,) = named(solves, f"preempted:{backend}")
        assert told[0] == told[1]
        assert told[0][0] == "CALLBACK"
        alone, placed, split, *again = named(solves, f"whole:{backend}")
        assert alone == placed, "params in all processes give the same numbers as params in each"
        assert split[0][2] == alone[0][2]
        if again:
            assert again[0][0][1:4] == alone[0][1:4], "a stopped solve goes on bit for bit"


@LONG
def test_four_processes_end_alike() -> None:
    solves = run(4, "stops:optax", "stops:scipy")
    for backend in ("optax", "scipy"):
        check_stops(named(solves, f"stops:{backend}"), 3)


@LONG
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("count", "seeds"), [(2, range(150)), (4, range(150, 200))])
def test_stops_at_random(count: int, seeds: range) -> None:
    solves = run(count, *(f"at_random:{seed}" for seed in seeds), seconds=2900)
    assert len(solves) == len(seeds)
    for solve in solves:
        ends = [found[5:] for found in solve]
        if solve[0][1] == "error" and any(found[0] == "ArithmeticError" for found in ends):
            ends = [found[2:] for found in ends]
        assert all(end == ends[0] for end in ends), solve


@LONG
@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_process_that_dies_ends_the_others(how: str, tmp_path: Path) -> None:
    """Within the limit of JAX's heartbeat and with its message; what a callback saved is whole."""
    saved = tmp_path / "saved"
    alive, dead = start(2, f"dies:{how}", SJB_SAVED=str(saved), SJB_HEARTBEAT="1")
    try:
        began = time.monotonic()
        _, said = alive.communicate(timeout=3 * HEARTBEAT_S)
        assert time.monotonic() - began < 2 * HEARTBEAT_S  # with the start and the solve before
    finally:
        alive.kill()
        dead.send_signal(signal.SIGKILL)
        dead.communicate()
    assert alive.returncode != 0
    assert any(word in said for word in ("heartbeat", "Gloo", "closed by peer", "distributed service")), said
    nit, params = pickle.loads(saved.read_bytes())
    assert nit > 0
    assert params.shape == (40,)
