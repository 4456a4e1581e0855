"""Draw docs/timing.png from the saved table of `benchmarks/original_report.py`: `python docs/draw_timing.py`."""

from __future__ import annotations

import re

from figures import COLORS, HERE, save
from matplotlib.axes import Axes

TABLE = HERE.parent / "benchmarks" / "results" / "cpu" / "original_report.md"
ROW = re.compile(r"^\| (.+?) \| (?:([\d.]+) ms)? ?\| .*? ?\| ([\d.]+) ms \|$", re.MULTILINE)


def draw(axes: list[Axes]) -> None:
    """A pair of bars for each row: then, if it was timed then, and now."""
    rows = ROW.findall(TABLE.read_text(encoding="utf-8"))[::-1]
    (ax,) = axes
    for at, (name, then, now) in enumerate(rows):
        trap = "first call" in name or "not waited" in name
        for shift, text, color in (
            (0.18, then, COLORS[7]),
            (-0.18, now, COLORS[1] if trap else COLORS[0]),
        ):
            if text:
                ax.barh(at + shift, float(text), height=0.34, color=color)
                ax.text(float(text) * 1.08, at + shift, f"{text} ms", va="center", fontsize=7)
    ax.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    ax.set_xscale("log")
    ax.set_xlim(0.02, 3000)
    ax.set_xlabel("milliseconds. Gray: then; blue: here; orange: here, mistimed as then")
    ax.grid(visible=False, axis="y")


if __name__ == "__main__":
    save("timing", draw, columns=1, height=3.8)
