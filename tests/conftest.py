"""What holds for every test: float64, and programs that XLA compiles without its optimizations.

A test compiles hundreds of programs and runs each for milliseconds, so compiling is what a run costs. The modules
marked `rounding`, whose outcome depends on how a program rounds, keep XLA's optimizations.
"""

import os
from collections.abc import Iterator

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for the processes that tests start, too

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)


def _set_optimizations(on: bool) -> None:
    """Compile from now on with or without XLA's optimizations; forget what was compiled the other way."""
    from scipy_jax_bridge._problem import (
        cache as _cache,  # not before jaxtyping's plugin, which checks the package as it is imported
    )

    jax.config.update("jax_disable_most_optimizations", not on)
    jax.clear_caches()
    _cache._caches.clear()


@pytest.fixture(autouse=True, scope="module")
def optimizations(request: pytest.FixtureRequest) -> Iterator[None]:
    """XLA's optimizations are on for a module with `pytestmark = pytest.mark.rounding`."""
    if request.node.get_closest_marker("rounding") is None:
        yield
        return
    _set_optimizations(on=True)
    yield
    _set_optimizations(on=False)


@pytest.fixture
def x32() -> Iterator[None]:
    """A test in JAX's default precision, without jax_enable_x64."""
    if hasattr(jax, "enable_x64"):
        with jax.enable_x64(False):
            yield
        return
    from jax.experimental import disable_x64  # its home before JAX 0.8

    with disable_x64():
        yield
