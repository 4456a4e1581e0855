"""What holds for every test: float64, and programs that XLA compiles without its optimizations.

A test compiles hundreds of programs and runs each for milliseconds, so compiling is what a run costs. The modules
marked `rounding`, whose outcome depends on how a program rounds, keep XLA's optimizations.
"""

import os
from collections.abc import Iterator

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for the processes that tests start, too

from typing import Any

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

# Options of XLA's CPU compiler that halve the time in which a loop compiles; no version promises them.
FAST: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
try:
    jax.jit(lambda x: x + 1).lower(1.0).compile(FAST)
except Exception:  # another version's or another device's compiler
    FAST.clear()
COMPILE = jax.stages.Lowered.compile


def _compile_fast(lowered: jax.stages.Lowered, compiler_options: dict[str, Any] | None = None) -> jax.stages.Compiled:
    return COMPILE(lowered, {**FAST, **(compiler_options or {})} if FAST else compiler_options)


jax.stages.Lowered.compile = _compile_fast  # type: ignore[method-assign]


def _set_optimizations(on: bool) -> None:
    """Compile from now on with or without XLA's optimizations; forget what was compiled the other way."""
    from scipy_jax_bridge._problem import (
        cache as _cache,  # not before jaxtyping's plugin, which checks the package as it is imported
    )

    jax.config.update("jax_disable_most_optimizations", not on)
    jax.stages.Lowered.compile = COMPILE if on else _compile_fast  # type: ignore[method-assign]
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
