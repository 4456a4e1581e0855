"""A process that solves and is interrupted: `stops.py` starts it, says when, and sends the signal.

Each round it says "GO", solves, and says how that ended and when; the clock is the machine's, so the parent can
subtract. An objective is new in every round, so a signal may come while it compiles.
"""

from __future__ import annotations

import signal
import sys
import time
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import scipy_jax_bridge as sjb

signal.signal(signal.SIGINT, signal.default_int_handler)
jax.config.update("jax_enable_x64", True)
FOREVER = {"maxiter": 10**8, "maxfun": 10**8, "gtol": 0.0, "ftol": 0.0}


START = np.tile([-1.2, 1.0], 1000)


def endless(scale: float) -> Callable[[jax.Array], jax.Array]:
    """A valley of two thousand parameters, about a millisecond an evaluation: not at its end for many seconds."""

    def fun(x: jax.Array) -> jax.Array:
        work = jax.lax.fori_loop(0, 100, lambda _, a: jnp.tanh(a @ a) * 0.1, jnp.ones((60, 60)) * x[0])
        valley = jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        return scale * valley + 1e-14 * jnp.sum(work)

    return fun


def solve(backend: str, scale: float) -> str:
    """One solve until it is interrupted, and whether what came back is what was promised."""
    result = sjb.minimize(endless(scale), START, backend=backend, options=FOREVER)
    honest = result.status == sjb.Status.INTERRUPTED and not result.success
    best = float(result.fun) <= float(np.min(result.trace.fun))
    return f"result {result.status.name} {honest and best and result.nit >= 0}"


def main() -> None:
    """The rounds."""
    warnings.simplefilter("ignore", sjb.RecompilationWarning)
    backend, rounds = sys.argv[1], int(sys.argv[2])
    for number in range(rounds):
        print("GO", flush=True)
        try:
            ending = solve(backend, 1.0 + number / 1000)
        except KeyboardInterrupt as error:
            ending = f"exit KeyboardInterrupt {getattr(error, 'best_result', None) is None}"
        print(time.monotonic(), ending, flush=True)
    print("DONE", flush=True)


if __name__ == "__main__":
    main()
