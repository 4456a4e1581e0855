"""SciPy's own code runs with one BLAS thread, the objective with all; see `_scipy/blas.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import scipy_jax_bridge as sjb
from scipy_jax_bridge._scipy.blas import _openblas

library = _openblas()
pytestmark = pytest.mark.skipif(library is None, reason="SciPy has no OpenBLAS here")


@pytest.fixture
def threads() -> Iterator[Any]:
    """Tells how many threads OpenBLAS has: two, at first."""
    before = library._get_threads()
    library.set_threads(2)
    yield library._get_threads
    library.set_threads(before)


def test_scipy_has_one_thread_and_the_objective_all(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = [], []

    def fun(x: Any) -> Any:
        jax.debug.callback(lambda: inside.append(threads()))
        return jnp.sum((x - 1) ** 4)

    original = scipy.optimize.minimize

    def spy(fun: Any, *args: Any, **more: Any) -> Any:
        def watched(x: Any) -> Any:
            outside.append(threads())
            found = fun(x)
            outside.append(threads())
            return found

        return original(watched, *args, **more)

    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    result = sjb.minimize(fun, np.zeros(3))
    jax.effects_barrier()
    assert result.nfev == len(inside) > 3 and set(inside) == {2}
    assert len(outside) == 2 * result.nfev and set(outside) == {1}
    assert threads() == 2


def test_an_exception_gives_the_threads_back(threads: Any) -> None:
    def callback(progress: sjb.Progress) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        sjb.minimize(lambda x: jnp.sum((x - 1) ** 4), np.zeros(3), callback=callback)
    assert threads() == 2


def test_a_solve_inside_a_callback_leaves_one_thread_to_the_outer(threads: Any) -> None:
    seen = []

    def callback(progress: sjb.Progress) -> None:
        sjb.minimize(lambda x: jnp.sum(x**2), np.ones(2))
        seen.append(threads())

    sjb.minimize(lambda x: jnp.sum((x - 1) ** 4), np.zeros(3), callback=callback)
    assert set(seen) == {1} and threads() == 2
