"""Times taken side by side: each round runs every contender once, so that all see the same machine.

The order turns from round to round, medians are compared, and the spread of the ratio over the rounds is
printed beside it. The clock stops when the answer is there (`jax.block_until_ready`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

Seconds = dict[str, list[float]]
HEAD = ("what", "against", "ours", "theirs", "ratio", "of the least", "quartiles", "target", "aim", "verdict")
PACKAGES = ("jax", "jaxlib", "scipy", "numpy", "optax", "jaxopt", "optimistix")


@dataclass(frozen=True)
class Row:
    """One line of a table: what was measured, against what, and what it must reach.

    Attributes:
        what: the measured thing.
        against: the peer.
        ours, theirs: medians, in seconds unless `unit` says otherwise.
        target: the largest ratio that counts as reached; None for a line that only informs.
        spread: quartiles of the ratio over the rounds, None where rounds do not pair.
        unit: "s" scales itself to us, ms or s; anything else is printed as it is.
        least: the ratio of the least times, which other work on the machine disturbs least.
        aim: the ratio to reach beyond the target.
    """

    what: str
    against: str
    ours: float
    theirs: float
    target: float | None
    spread: tuple[float, float] | None = None
    unit: str = "s"
    least: float | None = None
    aim: float | None = None

    @property
    def ratio(self) -> float:
        """Ours in multiples of theirs."""
        return self.ours / self.theirs if self.theirs else float("nan")

    @property
    def verdict(self) -> str:
        """Whether the target is reached; empty without one."""
        if self.target is None:
            return ""
        figure = self.ratio if self.unit == "s" else self.ours
        return "reached" if figure <= self.target else "NOT REACHED"


def compare(what: str, times: Seconds, ours: str, against: str, target: float | None, aim: float | None = None) -> Row:
    """The row for two contenders of `interleave`."""
    mine, peer = times[ours], times[against]
    ratios = [a / b for a, b in zip(mine, peer, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    middle, least = (statistics.median(mine), statistics.median(peer)), min(mine) / min(peer)
    return Row(what, against, *middle, target, (low, high), least=least, aim=aim)


def interleave(
    contenders: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    calls: int = 1,
    warm_up: int = 1,
    before: Callable[[], Any] | None = None,
) -> Seconds:
    """Runs all contenders in turn, `repeats` times.

    Args:
        contenders: name -> call; what it returns is waited for.
        repeats: rounds that are timed.
        calls: calls in a row under one clock, for calls of microseconds.
        warm_up: rounds that are not timed.
        before: run ahead of each timing, outside the clock.

    Returns:
        Seconds of one call, one entry a round, for each name.
    """
    names = list(contenders)
    times: Seconds = {name: [] for name in names}
    for index in range(warm_up + repeats):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            if before is not None:
                before()
            seconds = _seconds(contenders[name], calls)
            if index >= warm_up:
                times[name].append(seconds)
    return times


def _seconds(call: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / calls


class CompileCounter:
    """Counts what JAX compiles, from JAX's own events, while it is entered."""

    EVENT = "/jax/core/compile/backend_compile_duration"

    def __init__(self) -> None:
        self.count = 0
        self._active = False
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def __enter__(self) -> CompileCounter:
        self.count, self._active = 0, True
        return self

    def __exit__(self, *_: object) -> None:
        self._active = False

    def _hear(self, event: str, _seconds: float, **_: Any) -> None:
        self.count += self._active and event == self.EVENT


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process that keeps one core busy, as on any machine in use."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run_child(script: Path, *words: str, **environment: str | None) -> dict[str, Any]:
    """Runs `script words...` in a fresh interpreter; its last printed line is JSON.

    Args:
        script: the file to run.
        words: its arguments.
        environment: variables to set; None removes one.

    Returns:
        What the child printed.

    Raises:
        RuntimeError: the child failed; with the end of what it said.
    """
    settings = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    done = subprocess.run([sys.executable, str(script), *words], env=settings, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script.name} {' '.join(words)} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def header() -> str:
    """Versions, processor and threads, one line each."""
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    blas = os.environ.get("OPENBLAS_NUM_THREADS", "its default")
    lines = [
        f"Python {platform.python_version()}, {versions}",
        f"{_processor()}, {os.cpu_count()} cores, OpenBLAS threads: {blas}, JAX on {jax.default_backend()}",
        f"load average when it began: {os.getloadavg()[0]:.2f}",
    ]
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> str:
    """The rows, aligned."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    kept = [column for column, name in enumerate(HEAD) if name != "aim" or any(row.aim is not None for row in rows)]
    cells = [tuple(row[column] for column in kept) for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    timed = row.unit == "s"
    ours, theirs = (_readable(value) if timed else f"{value:g} {row.unit}" for value in (row.ours, row.theirs))
    spread = "" if row.spread is None else f"{row.spread[0]:.3g} to {row.spread[1]:.3g}"
    target, aim = ("" if figure is None else f"{figure:g}" for figure in (row.target, row.aim))
    ratio, least = (f"{each:.3g}" if timed and each is not None else "" for each in (row.ratio, row.least))
    return (row.what, row.against, ours, theirs, ratio, least, spread, target, aim, row.verdict)


def _readable(seconds: float) -> str:
    for scale, unit in ((1e-3, "us"), (1.0, "ms")):
        if seconds < scale:
            return f"{seconds / scale * 1e3:.3g} {unit}"
    return f"{seconds:.3g} s"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measure_rows(
    description: str, measures: Mapping[str, tuple[Callable[[int], list[Row]], int]]
) -> tuple[list[Row], bool]:
    """Measures the rows that the command line names, and prints each table as it is there, then one of all.

    Args:
        description: what the command says of itself.
        measures: by name, what measures some rows in so many rounds, and how many it takes by itself.

    Returns:
        The rows, and whether they are all there are.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", choices=measures, action="append", help="these rows only; all when left out")
    parser.add_argument("--repeats", type=int, help="rounds, instead of each row's own number")
    chosen = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(header(), flush=True)
    rows: list[Row] = []
    for name in chosen.rows or measures:
        measure, repeats = measures[name]
        found = measure(chosen.repeats or repeats)
        print(f"\n{table(found)}", flush=True)
        rows += found
    print(f"\n{table(rows)}")
    return rows, not chosen.rows
