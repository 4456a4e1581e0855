"""Dolan-Moré performance profiles.

A solver's curve at factor t is the share of problems it solves at a cost of at most t times that of
the cheapest solver of each problem (Dolan and Moré, Mathematical Programming 91, 2002).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Costs = Mapping[str, Sequence[float]]  # solver -> cost on each problem, infinite where unsolved


def performance_profile(costs: Costs, factors: np.ndarray) -> dict[str, np.ndarray]:
    """Returns, for each solver, the share of problems within each factor of the cheapest solver.

    Args:
        costs: positive costs; every solver covers the same problems in the same order.
        factors: where to evaluate the curves, 1 and above.
    """
    table = np.array([list(row) for row in costs.values()], dtype=float)
    best = table.min(axis=0)
    ratios = np.where(np.isfinite(table), table / np.where(np.isfinite(best), best, 1.0), np.inf)
    shares = (ratios[:, :, None] <= factors).mean(axis=1)
    return dict(zip(costs, shares, strict=True))


def draw(path: Path, panels: Mapping[str, Costs], widest: float = 64.0) -> None:
    """Draws one profile for each titled panel into an image file.

    Args:
        path: where to write; the suffix decides the format.
        panels: title -> costs.
        widest: the largest factor shown.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "the profile needs Matplotlib: pip install 'scipy_jax_bridge[bench]'"
        raise ImportError(message) from error
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    names = dict.fromkeys(name for costs in panels.values() for name in costs)
    colors = {name: f"C{index}" for index, name in enumerate(names)}
    for index, (title, costs) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        _panel(axes, title, costs, colors, widest)
    figure.savefig(path, dpi=150)


def _panel(axes: Any, title: str, costs: Costs, colors: dict[str, str], widest: float) -> None:
    """One profile; a solver keeps its color from panel to panel."""
    factors = np.geomspace(1.0, widest, 600)
    for name, share in performance_profile(costs, factors).items():
        axes.step(factors, share, where="post", label=name, color=colors[name])
    ticks = [2**k for k in range(int(np.log2(widest)) + 1)]
    axes.set(title=title, xscale="log", xlim=(1, widest), ylim=(0, 1.02))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="factor of the cheapest solver", ylabel="share of problems solved")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
