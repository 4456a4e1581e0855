"""What the scripts beside the pages share: a picture is drawn twice, for a light and for a dark page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
LIGHT, DARK = ("white", "#1c2b3a", "#d5d9de"), ("#1e2129", "#d8dee6", "#3a404c")
COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b8860b",
    "#56b4e9",
    "#8c6bb1",
    "#7f7f7f",
)  # Okabe and Ito's
MARKERS = "osD^vPX*"


def save(
    name: str, draw: Callable[[list[Axes]], None], columns: int = 2, height: float = 3.6
) -> None:
    """Draw `columns` axes with `draw` and write docs/name.png and docs/name_dark.png."""
    for suffix, (ground, ink, grid) in {"": LIGHT, "_dark": DARK}.items():
        style = {
            **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), ground),
            **dict.fromkeys(
                ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"),
                ink,
            ),
            **{
                "grid.color": grid,
                "axes.grid": True,
                "axes.spines.top": False,
                "axes.spines.right": False,
            },
            **{"font.size": 9, "legend.frameon": False},
        }
        with mpl.rc_context(style):
            figure = Figure(figsize=(9, height), layout="constrained")
            draw(list(figure.subplots(1, columns, squeeze=False)[0]))
            figure.savefig(HERE / f"{name}{suffix}.png", dpi=150)
