"""Where tables go: printed, and as Markdown under benchmarks/results/DEVICE/, so that a GPU's stand beside a CPU's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from timing import header as describe

FOLDER = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, the lines, and a sentence below."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str = ""

    def __str__(self) -> str:
        cells = [self.head, ["---"] * len(self.head), *self.lines]
        rows = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        return f"## {self.title}\n\n{rows}\n" + (f"\n{self.note}\n" if self.note else "")


def header() -> str:
    """Versions, processor, threads and device, one line each."""
    devices = jax.devices()
    return f"{describe()}\ndevice: {len(devices)} x {devices[0].device_kind}"


def folder() -> Path:
    """That of this device, made if it is not there."""
    kind = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    path = FOLDER / kind
    path.mkdir(parents=True, exist_ok=True)
    return path


def save(name: str, tables: Sequence[Table]) -> None:
    """Prints the tables, and writes them with the versions and the device."""
    text = "\n".join(map(str, tables))
    print(f"\n{text}", flush=True)
    lines = "\n".join(f"- {line}" for line in header().splitlines())
    (folder() / f"{name}.md").write_text(f"# {name.replace('_', ' ').capitalize()}\n\n{lines}\n\n{text}")
