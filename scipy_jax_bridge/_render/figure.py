"""Draw solves from plain data: all panels in one figure, or each panel alone for a web page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .panels import DARK, LIGHT, Curve, Drifts, Panel, Theme, make_panels, paint_bars, paint_curves, paint_norms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND_LINE = 0.15  # inches of height for each run in a legend
LEGEND_NAME = 14  # characters of a name in a legend of several columns
ROWS = (("seconds", "evaluations"), ("call",), ("costs", "drift"))


def draw(
    curves: Sequence[Curve],
    drifts: Drifts,
    path: str | Path | None = None,
    title: str | None = None,
    *,
    dark: bool = False,
) -> Figure:
    """Draw all panels in one figure.

    Args:
        curves: the runs.
        drifts: for each run the change of each leaf from the start; may be empty.
        path: where to write the picture; None writes none.
        title: a line above it.
        dark: light on dark.

    Returns:
        A figure made without pyplot, so that the caller's plots do not change.

    Raises:
        ModuleNotFoundError: Matplotlib is not installed.
    """
    panels = {panel.name: panel for panel in make_panels(curves, drifts)}
    rows = [[name for name in row if name in panels] for row in ROWS]
    theme = DARK if dark else LIGHT
    heights = [max(panels[name].height for name in row) for row in rows if row]
    heights[0] += LEGEND_LINE * len(curves)
    figure, places = _lay_out(list(zip(filter(None, rows), heights, strict=True)))
    for name, axes in places.items():
        panels[name].paint(axes, theme)
        _dress(axes, theme)
    places["evaluations"].sharey(places["seconds"])
    places["evaluations"].set_ylabel("")
    places["evaluations"].tick_params(labelleft=False)
    if len(curves) > 1:
        _add_legend(places["seconds"], theme, columns=4)
    return _finish(figure, theme, path, title)


def draw_one(curve: Curve, path: str | Path | None = None, title: str | None = None, *, dark: bool = False) -> Figure:
    """Draw one solve: objective against seconds, gradient against evaluations, compilation beside the solve.

    If the seconds are not known, draw the objective against evaluations and no compilation.
    """
    theme = DARK if dark else LIGHT
    timed = bool(np.isfinite([*curve.seconds, curve.compile_s, curve.solve_s]).all())
    against = "seconds" if timed else "evaluations"
    figure, places = _lay_out([((against, "norms"), 3.3), *([(("call",), 1.3)] if timed else [])])
    paint_curves(places[against], [curve], against)
    paint_norms(places["norms"], curve)
    if timed:
        paint_bars(places["call"], [curve], theme)
    for axes in places.values():
        _dress(axes, theme)
    return _finish(figure, theme, path, title)


def render(panel: Panel, width: float, runs: int) -> str:
    """Return the panel as SVG whose colors are CSS variables: --paper, --ink, --line, --run0, --run1 and so on."""
    legend = panel.legend and runs > 1
    figure = _new_figure((width, panel.height + LEGEND_LINE * runs * legend))
    import matplotlib

    axes = figure.add_subplot()
    panel.paint(axes, LIGHT)
    _dress(axes, LIGHT)
    if legend:
        _add_legend(axes, LIGHT, columns=2)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": panel.name, "font.size": 11}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    names = {LIGHT.paper: "paper", LIGHT.ink: "ink", LIGHT.line: "line"}
    for color, name in {**names, **{color: f"run{index}" for index, color in enumerate(LIGHT.runs)}}.items():
        text = text.replace(color, f"var(--{name})")
    return text


def capitalize_title(title: str) -> str:
    """Begin a title with a capital letter; a single word is the name of a function, and stays as it is written."""
    return title if " " not in title else title[:1].upper() + title[1:]


def _new_figure(size: tuple[float, float]) -> Figure:
    try:
        from .picture import Picture
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plots need Matplotlib; install the extra: pip install 'scipy_jax_bridge[plot]'", name=error.name
        ) from error

    return Picture(figsize=size, layout="constrained")


def _lay_out(rows: Sequence[tuple[Sequence[str], float]]) -> tuple[Figure, dict[str, Axes]]:
    """Make a figure of rows of panels, each row with its own height and margins; return it and the axes by name."""
    figure = _new_figure((9.5, sum(height for _, height in rows) + 0.5))
    parts = figure.subfigures(len(rows), 1, height_ratios=[height for _, height in rows], squeeze=False)[:, 0]
    places = {}
    for part, (names, _) in zip(parts, rows, strict=True):
        part.set_facecolor("none")
        places.update(zip(names, part.subplots(1, len(names), squeeze=False)[0], strict=True))
    return figure, places


def _finish(figure: Figure, theme: Theme, path: str | Path | None, title: str | None) -> Figure:
    figure.set_facecolor(theme.paper)
    if title:
        figure.suptitle(capitalize_title(title), fontsize="medium", color=theme.ink)
    if path is not None:
        figure.savefig(path, dpi=160)
    return figure


def _dress(axes: Axes, theme: Theme) -> None:
    """Apply the theme's colors where the panel has not set its own."""
    axes.set_facecolor("none")
    axes.grid(color=theme.line, linewidth=0.7)
    if axes.patches:  # bars have text beside them
        axes.grid(visible=False)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(theme.ink)
    axes.tick_params(which="both", colors=theme.ink)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.ink)
    for index, line in enumerate(line for line in axes.get_lines() if not str(line.get_label()).startswith("_")):
        color = theme.runs[index % len(theme.runs)]
        line.set(color=color, markeredgecolor=color)
        if line.get_markerfacecolor() != "none":
            line.set_markerfacecolor(color)


def _add_legend(axes: Axes, theme: Theme, columns: int) -> None:
    """Add a legend above all axes, where it covers nothing. Long names stand in fewer columns."""
    handles, names = axes.get_legend_handles_labels()
    columns = max(1, min(columns, columns * LEGEND_NAME // max(map(len, names))))
    axes.figure.legend(
        handles, names, loc="outside upper center", ncols=columns, frameon=False, labelcolor=theme.ink, handlelength=3.2
    )
