"""Draw docs/stopping.png and stopping_dark.png, a search at the floor: `python docs/draw_stopping.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from figures import COLORS, save
from jax.flatten_util import ravel_pytree
from matplotlib.axes import Axes

HERE = Path(__file__).parent


def run_page() -> dict[str, Any]:
    """Run the first block of the page."""
    text = (HERE / "stopping.md").read_text(encoding="utf-8")
    found = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    space: dict[str, Any] = {}
    exec(compile(found[1], "docs/stopping.md", "exec"), space)
    return space


def main() -> None:
    """Draw both pictures."""
    page = run_page()
    end, unravel = ravel_pytree(page["by_scipy"].params)
    both = jax.jit(jax.value_and_grad(lambda v: page["loss"](unravel(v), page["x"], page["y"])))
    line = np.asarray(ravel_pytree(page["on_device"].params)[0] - end)
    steps = np.linspace(-1.0, 2.0, 61)
    values, slopes = zip(
        *[(value, grad @ line) for value, grad in (both(end + t * line) for t in steps)],
        strict=True,
    )
    values, slopes = np.array(values), np.array(slopes)
    middle = np.argmin(abs(slopes))
    by_slopes = np.concatenate(
        [[0.0], np.cumsum(np.diff(steps) * (slopes[1:] + slopes[:-1]) / 2)]
    )

    def draw(axes: list[Axes]) -> None:
        left, right = axes
        left.plot(steps, values - np.median(values), "o", ms=3, color=COLORS[1], label="values")
        left.plot(
            steps, by_slopes - by_slopes[middle], color=COLORS[0], label="what the slopes say"
        )
        left.set(
            xlabel="from SciPy's end (0) to the device's (1)", ylabel="change of the objective"
        )
        kinds = {
            "by_scipy": ("SciPy's L-BFGS-B", COLORS[1], 4.0),
            "on_device": ("the device loop", COLORS[0], 1.5),
        }
        for name, (label, color, width) in kinds.items():
            trace, end = page[name].trace, page[name]
            nfev, norms = [*trace.nfev, end.nfev], [*trace.grad_norm, end.grad_norm]
            right.semilogy(nfev, norms, ".-", color=color, lw=width, label=label)
        right.axhline(page["last_digits"]["gtol"], ls=":", color=COLORS[7])
        right.set(xlabel="evaluations", ylabel="largest component of the gradient")
        left.legend()
        right.legend()

    save("stopping", draw)


if __name__ == "__main__":
    main()
