"""Panels of a figure: curves, bars, costs and changes of leaves, in colors for light and for dark pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from jaxtyping import Float

from .table import format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MARKERS = "osD^v*"
SHOWN = 10  # leaves in the panel of changes
NAME = 24  # characters of a label
TICKS = 5  # at most so many intervals, so that labels never overlap
BAR = 0.4  # width of a bar; its seconds stand above it
SPREAD = 20  # ratio of largest to smallest beyond which an axis is logarithmic
Drifts = Mapping[str, Mapping[str, float]]


class Style(TypedDict):
    """Keyword arguments of `Axes.plot`."""

    linestyle: str | tuple[int, tuple[float, ...]]
    linewidth: float
    marker: str
    markersize: float


@dataclass(frozen=True)
class Theme:
    """Colors of a page.

    Each of `runs` has a contrast of at least 3 with the paper. Color-blind readers can distinguish them: the hues
    follow M. Okabe and K. Ito, Color Universal Design, 2008. Dashes and markers differ as well.
    """

    paper: str
    ink: str
    line: str
    runs: tuple[str, ...]


LIGHT = Theme("#ffffff", "#1b1f24", "#d7dbe0", ("#0072b2", "#d55e00", "#00805e", "#a8477c", "#9a6b00", "#4b5563"))
DARK = Theme("#15181d", "#e8eaed", "#3a414b", ("#56b4e9", "#ff8a4c", "#2fcb9b", "#e79cc6", "#f0c419", "#b6becb"))


@dataclass(frozen=True)
class Curve:
    """One run in a figure: its trace, and the seconds of its compilation and of a solve."""

    name: str
    seconds: Float[np.ndarray, " rows"]
    evaluations: Float[np.ndarray, " rows"]
    values: Float[np.ndarray, " rows"]
    norms: Float[np.ndarray, " rows"]
    compile_s: float
    solve_s: float


@dataclass(frozen=True)
class Panel:
    """One panel, which can also be a figure of its own.

    Attributes:
        name: one word.
        caption: what it shows; also the text for screen readers.
        paint: draws it on the axes in the theme.
        height: in inches, as a figure of its own.
        legend: whether a legend names the runs by color.
    """

    name: str
    caption: str
    paint: Callable[[Axes, Theme], None]
    height: float = 3.4
    legend: bool = True


def make_panels(curves: Sequence[Curve], drifts: Drifts) -> list[Panel]:
    """Return the panels for which these runs have data."""
    bars = 0.8 + 0.55 * len(curves)
    leaves = _leaves(drifts)
    panels = [
        Panel("seconds", "Objective against seconds of solving", lambda axes, _: paint_curves(axes, curves, "seconds")),
        Panel(
            "evaluations",
            "Objective against evaluations",
            lambda axes, _: paint_curves(axes, curves, "evaluations"),
        ),
        Panel("call", "A first call: compilation, then a solve", lambda a, t: paint_bars(a, curves, t), bars, False),
    ]
    if leaves:
        panels.append(
            Panel(
                "drift",
                "How far each leaf of params moved",
                lambda axes, theme: _paint_drifts(axes, drifts, leaves, theme),
                1.1 + 0.28 * len(leaves),
            )
        )
    if len(curves) > 1:
        panels.append(
            Panel("costs", "Seconds of many solves, compilation included", lambda a, _: _paint_costs(a, curves))
        )
    return panels


def _heights(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Subtract the least of all values, for a log axis; raise zeros to a little below the next larger height."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    if not finite.size:
        return [np.full(each.shape, np.nan) for each in values]
    least, rounding = finite.min(), np.finfo(np.float64).eps * max(1.0, float(np.abs(finite).min()))
    above = finite[finite - least > rounding] - least
    floor = max(rounding, 0.3 * float(above.min(initial=np.inf))) if above.size else rounding
    return [np.where(np.isfinite(each), np.maximum(each - least, floor), np.nan) for each in values]


def _style(position: int, curves: int) -> Style:
    """Return the style of a curve. Earlier ones are wider, so that one stays visible below another that covers it."""
    return {
        "linestyle": DASHES[position % len(DASHES)],
        "linewidth": 1.8 + 1.6 * (curves - 1 - position) / max(1, curves - 1),
        "marker": MARKERS[position % len(MARKERS)],
        "markersize": 8 - 2.5 * position / max(1, curves - 1),
    }


def paint_curves(axes: Axes, curves: Sequence[Curve], against: str) -> None:
    """Draw each objective minus the best of all, against "seconds" or "evaluations"."""
    columns = [np.asarray(getattr(curve, against)) for curve in curves]
    label = "evaluations of the objective and its gradient"
    if against == "seconds":
        scale, unit = _unit(max((float(np.max(each)) for each in columns if each.size), default=1.0))
        columns, label = [each / scale for each in columns], f"{unit} of solving"
    heights = _heights([curve.values for curve in curves])
    for position, (curve, column, height) in enumerate(zip(curves, columns, heights, strict=True)):
        axes.plot(column, height, label=as_written(curve.name), markevery=[-1], **_style(position, len(curves)))
    axes.set_yscale("log")
    axes.set_ylabel("objective less the best found")
    axes.set_xlabel(label)
    ends = [float(np.max(column)) for column in columns if len(column) > 1]
    if len(ends) == len(columns) and max(ends) > SPREAD * max(min(ends), 1e-12):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=TICKS, integer=against == "evaluations")


def paint_norms(axes: Axes, curve: Curve) -> None:
    """Draw the largest component of the projected gradient."""
    norms = np.where(np.isfinite(curve.norms) & (curve.norms > 0), curve.norms, np.nan)
    axes.plot(curve.evaluations, norms, label=as_written(curve.name), markevery=[-1], **_style(0, 1))
    if np.isfinite(norms).any():
        axes.set_yscale("log")
    axes.set_ylabel("largest gradient component")
    axes.set_xlabel("evaluations of the objective and its gradient")
    axes.locator_params(axis="x", nbins=TICKS, integer=True)


def paint_bars(axes: Axes, curves: Sequence[Curve], theme: Theme) -> None:
    """Draw a bar for each run: hatched for its compilation, filled for its solve."""
    longest = max(curve.compile_s + curve.solve_s for curve in curves) or 1.0
    scale, unit = _unit(longest)
    longest /= scale
    for position, curve in enumerate(curves):
        color = theme.runs[position % len(theme.runs)]
        first, second = curve.compile_s / scale, curve.solve_s / scale
        axes.barh(position, first, BAR, color="none", edgecolor=color, hatch="////", linewidth=1)
        axes.barh(position, second, BAR, left=first, color=color, edgecolor=color, linewidth=1)
        compiled = f"compile {format_seconds(curve.compile_s)}" if curve.compile_s else "compiled before"
        text, above = f"{compiled}, solve {format_seconds(curve.solve_s)}", (0.0, position - 0.55 * BAR)
        written = axes.annotate(text, above, xytext=(4, 0), textcoords="offset points", va="bottom", fontsize="small")
        written.set_color(theme.ink)
    axes.set_yticks(range(len(curves)), [as_written(_shorten(curve.name)) for curve in curves])
    axes.set_ylim(len(curves) - 0.5, -0.75)
    axes.set_xlim(0, 1.05 * longest)
    axes.set_xlabel(f"{unit} to compile (hatched) and to solve", loc="right")
    axes.locator_params(axis="x", nbins=TICKS)


def _unit(longest: float) -> tuple[float, str]:
    """Return the unit in which an axis of so many seconds has short labels: its length in seconds, and its name."""
    for scale, unit in ((1.0, "seconds"), (1e-3, "milliseconds")):
        if longest >= scale:
            return scale, unit
    return 1e-6, "microseconds"


def _paint_costs(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw the total seconds of many solves; where two lines cross is the break-even."""
    slopes = [max(curve.solve_s, 1e-12) for curve in curves]
    most = 10.0 * max(curve.compile_s / slope for curve, slope in zip(curves, slopes, strict=True))
    solves = np.geomspace(1, min(max(most, 100.0), 1e6), 60)
    for position, curve in enumerate(curves):
        total = curve.compile_s + solves * curve.solve_s
        axes.plot(solves, total, label=as_written(curve.name), markevery=[0, -1], **_style(position, len(curves)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("number of solves")
    axes.set_ylabel("seconds in all, compilation included")


def _paint_drifts(axes: Axes, drifts: Drifts, leaves: Sequence[str], theme: Theme) -> None:
    places = np.arange(len(leaves))
    for position, (name, drift) in enumerate(drifts.items()):
        sizes = np.array([drift[leaf] if drift[leaf] > 0 else np.nan for leaf in leaves])
        marker = {"marker": MARKERS[position % len(MARKERS)], "markersize": 10 - 3 * position / max(1, len(drifts) - 1)}
        face = "none" if position == 0 and len(drifts) > 1 else theme.runs[position % len(theme.runs)]
        label = as_written(name)
        axes.plot(sizes, places, linestyle="none", label=label, markerfacecolor=face, markeredgewidth=1.8, **marker)
    moved = [drift[leaf] for drift in drifts.values() for leaf in leaves if drift[leaf] > 0]
    if max(moved) > SPREAD * min(moved):
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.15 * max(moved))
    axes.set_yticks(places, [as_written(_shorten(leaf)) for leaf in leaves])
    axes.set_ylim(len(leaves) - 0.5, -0.5)
    others = len(next(iter(drifts.values()))) - len(leaves)
    more = f"; {others} more moved less" if others else ""
    axes.set_xlabel(f"largest change from the start{more}", loc="right")


def _leaves(drifts: Drifts) -> list[str]:
    """Return the leaves that moved most, in the order of the tree."""
    finite = {name: drift for name, drift in drifts.items() if all(np.isfinite(list(drift.values())))}
    if len(finite) < len(drifts) or not drifts:
        return []
    first = next(iter(drifts.values()))
    size = {leaf: max(drift[leaf] for drift in drifts.values()) for leaf in first}
    largest = sorted((leaf for leaf in size if size[leaf] > 0), key=lambda leaf: -size[leaf])[:SHOWN]
    return [leaf for leaf in first if leaf in largest]


def _shorten(path: str) -> str:
    return path if len(path) <= NAME else f"…{path[1 - NAME :]}"


def as_written(text: str) -> str:
    """Escape dollars, between which Matplotlib would read a formula."""
    return text.replace("$", r"\$")
