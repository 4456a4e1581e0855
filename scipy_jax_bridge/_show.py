"""How a comparison looks: a table in the terminal, HTML in a notebook, a picture. It knows nothing of solvers."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by color-blind eyes and in print: M. Okabe and K. Ito, Color Universal Design, 2008."""

DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """One run in a picture: its trace, and its seconds of compilation and of a solve."""

    name: str
    seconds: Float[np.ndarray, " rows"]
    evaluations: Float[np.ndarray, " rows"]
    values: Float[np.ndarray, " rows"]
    compile_s: float
    solve_s: float


def format_seconds(seconds: float) -> str:
    """Seconds in three digits and a unit.

    Example:
        >>> [format_seconds(value) for value in (93.0, 1.5, 0.0123, 4.2e-5)]
        ['93.0 s', '1.50 s', '12.3 ms', '42.0 µs']
    """
    if not math.isfinite(seconds):
        return f"{seconds} s"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * scale or unit == "µs":
            break
    value = seconds / scale
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f} {unit}"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("run", lambda row: row["run"]),
    ("method", lambda row: row["method"]),
    ("objective", lambda row: f"{row['fun']:.9g}"),
    ("gradient", lambda row: f"{row['grad_norm']:.1e}"),
    ("iterations", lambda row: f"{row['nit']}"),
    ("evaluations", lambda row: f"{row['nfev']}"),
    ("compile", lambda row: "in solve" if row["compile_s"] is None else format_seconds(row["compile_s"])),
    ("solve", lambda row: format_seconds(row["solve_s"])),
    ("fastest", lambda row: format_seconds(row["solve_s_min"])),
    ("slowest", lambda row: format_seconds(row["solve_s_max"])),
    ("status", lambda row: row["status"]),
)
WORDS = ("run", "method", "status")  # columns of words, aligned at the left


def write_table(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The rows as aligned text, the notes below; the method has a column where the runs differ in it."""
    names, lines = _fill_cells(rows)
    right = [position for position, name in enumerate(names) if name not in WORDS]
    return "\n".join([*align(names, lines, right), *([""] if notes else []), *notes])


def align(names: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Headings, a rule and lines in columns of equal width; those at the positions `right` end at the right."""
    widths = [max(map(len, cells)) for cells in zip(names, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "  ".join(
            cell.rjust(width) if position in right else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in (names, rule, *lines)
    ]


def write_html(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The same as HTML without colors of its own, so that it suits a light and a dark page."""
    names, lines = _fill_cells(rows)
    sides = ["left" if name in WORDS else "right" for name in names]

    def line(tag: str, cells: Sequence[str]) -> str:
        return (
            "<tr>"
            + "".join(
                f'<{tag} style="text-align:{side};white-space:nowrap">{html.escape(cell)}</{tag}>'
                for side, cell in zip(sides, cells, strict=True)
            )
            + "</tr>"
        )

    body = "".join(line("td", cells) for cells in lines)
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<div><table><thead>{line('th', names)}</thead><tbody>{body}</tbody></table>{below}</div>"


def draw(curves: Sequence[Curve], path: str | Path | None = None, title: str | None = None) -> Figure:
    """Objectives less the best found against seconds and evaluations, and bars of compilation beside a solve.

    Arguments:
        curves: the runs.
        path: where to write the picture, or None.
        title: a line above it.

    Returns:
        A figure that does not need pyplot, so nothing of the caller's plots changes.

    Errors:
        ModuleNotFoundError: Matplotlib is not installed.
    """
    figure = _new_figure((9.0, 4.4 + 0.35 * len(curves)))
    grid = figure.add_gridspec(2, 2, height_ratios=(3.2, 0.3 + 0.35 * len(curves)))
    times = figure.add_subplot(grid[0, 0])
    counts = figure.add_subplot(grid[0, 1], sharey=times)
    heights = _heights([curve.values for curve in curves])
    for position, (curve, height) in enumerate(zip(curves, heights, strict=True)):
        style = _style(position, len(curves))
        times.plot(curve.seconds, height, label=curve.name, **style)
        counts.plot(curve.evaluations, height, **style)
    _label_curves(times, counts, curves)
    _draw_bars(figure.add_subplot(grid[1, :]), curves)
    if title:
        figure.suptitle(title[:1].upper() + title[1:], fontsize="medium")
    if path is not None:
        figure.savefig(path, dpi=160)
    return figure


def _fill_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells."""
    alike = len({row["method"] for row in rows}) < 2
    columns = [column for column in COLUMNS if not (alike and column[0] == "method")]
    return [name for name, _ in columns], [[write(row) for _, write in columns] for row in rows]


def _new_figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plots need Matplotlib; install the extra: pip install 'scipy_jax_bridge[plot]'", name=error.name
        ) from error

    class Picture(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return Picture(figsize=size, layout="constrained")


def _heights(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Values less the least of all, for a log axis: what is not above it lies a little below the lowest that is."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    if not finite.size:
        return [np.full(each.shape, np.nan) for each in values]
    least, rounding = finite.min(), np.finfo(np.float64).eps * max(1.0, float(np.abs(finite).min()))
    above = finite[finite - least > rounding] - least
    floor = max(rounding, 0.3 * float(above.min(initial=np.inf))) if above.size else rounding
    return [np.where(np.isfinite(each), np.maximum(each - least, floor), np.nan) for each in values]


def _style(position: int, curves: int) -> dict[str, Any]:
    """Earlier curves are wider and solid, so that one is seen below another that covers it."""
    return {
        "color": COLORS[position % len(COLORS)],
        "linestyle": DASHES[position % len(DASHES)],
        "linewidth": 1.8 + 1.6 * (curves - 1 - position) / max(1, curves - 1),
        "marker": "osD^v*"[position % 6],
        "markersize": 7 - 2 * position / max(1, curves - 1),
        "markevery": [-1],
    }


def _label_curves(times: Axes, counts: Axes, curves: Sequence[Curve]) -> None:
    times.set_yscale("log")
    times.set_ylabel("objective less the best found")
    times.set_xlabel("seconds of solving")
    counts.set_xlabel("evaluations of the objective and its gradient")
    counts.tick_params(labelleft=False)
    for axes, columns in (
        (times, [curve.seconds for curve in curves]),
        (counts, [curve.evaluations for curve in curves]),
    ):
        if min(map(len, columns)) > 1 and max(map(np.max, columns)) > 20 * min(map(np.max, columns)):
            axes.set_xscale("log")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    times.legend(frameon=False)


def _draw_bars(axes: Axes, curves: Sequence[Curve]) -> None:
    """For each run a bar: hatched while it compiles, full while it solves."""
    longest = max(curve.compile_s + curve.solve_s for curve in curves)
    for position, curve in enumerate(curves):
        color = COLORS[position % len(COLORS)]
        axes.barh(position, curve.compile_s, color="none", edgecolor=color, hatch="////", linewidth=1)
        axes.barh(position, curve.solve_s, left=curve.compile_s, color=color, edgecolor=color, linewidth=1)
        text = f"compile {format_seconds(curve.compile_s)}, then solve {format_seconds(curve.solve_s)}"
        axes.text(curve.compile_s + curve.solve_s + 0.012 * longest, position, text, va="center", fontsize="small")
    axes.set_yticks(range(len(curves)), [curve.name for curve in curves])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * longest)
    axes.set_xlabel("seconds of a first call: compilation (hatched) and solving")
    axes.spines[["top", "right"]].set_visible(False)
