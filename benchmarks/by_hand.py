"""A solve by one argument against the same done by hand: what convenience costs.

    python benchmarks/by_hand.py
    python benchmarks/by_hand.py --rows scipy --rows call --repeats 31

Double precision. Every row is a `Minimizer` (where said, `minimize` inside jit) over what one would write without this
package, in one run, compiled before, the medians of interleaved repeats. All that a result has is used, and answers
are compared before a time is printed. "of the least" is the ratio of the least times: look there first where the
machine has other work. The table is written to benchmarks/results/DEVICE/by_hand.txt if no row was chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import by_hand_chunks
import by_hand_large
import by_hand_loops
import by_hand_scipy
from results import folder, header
from timing import Row, measure_rows, table

ROWS: dict[str, tuple[Callable[[int], list[Row]], int]] = {  # with the repeats of each
    "scipy": (by_hand_scipy.small, 301),
    "leaves": (by_hand_scipy.leaves, 25),
    "large": (by_hand_scipy.large, 9),
    "call": (by_hand_loops.call, 301),
    "transformations": (by_hand_loops.transformations, 7),
    "optax.lbfgs": (by_hand_loops.optax_lbfgs, 25),
    "engine": (by_hand_loops.engine, 51),
    "vmap": (by_hand_loops.vmap, 7),
    "chunks": (by_hand_chunks.chunks, 5),
    "iteration": (by_hand_large.iteration, 3),
    "compile": (by_hand_large.compilation, 1),
}


if __name__ == "__main__":
    found, complete = measure_rows(str(__doc__), ROWS)
    if complete:
        (folder() / "by_hand.txt").write_text(f"{header()}\n\n{table(found)}\n")
