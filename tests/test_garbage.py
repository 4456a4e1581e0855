"""A solve leaves nothing to the garbage collector: its arrays are free once the result is."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb

START = np.zeros(3)
RUNS: dict[str, dict[str, Any]] = {
    "scipy": {},
    "optax": {"backend": "optax"},
    "bounded": {"bounds": (-1.0, 5.0), "callback": lambda progress: None},
    "SLSQP": {"method": "SLSQP"},
    "adam": {"backend": "optax", "method": optax.adam(0.1), "options": {"maxiter": 5, "timeout": 60.0}},
}


def pull(x: jax.Array, target: Any) -> jax.Array:
    return jnp.sum((x - target) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_what_a_solve_used_goes_with_its_result(name: str) -> None:
    """Monitor, signal handler and recorder referred to one another: vectors stayed until a collection."""

    def solve() -> weakref.ref[Any]:
        target = jnp.ones(3)
        sjb.minimize(pull, START, (target,), **RUNS[name])
        return weakref.ref(target)

    solve()
    gc.collect()
    gc.disable()
    try:
        assert solve()() is None
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [each for each in gc.garbage if type(each).__module__.startswith("scipy_jax_bridge")] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
