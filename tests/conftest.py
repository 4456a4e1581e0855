"""What holds for every test: float64, and programs that compile fast.

A test compiles hundreds of programs and runs each for milliseconds, so compiling is what a run costs. Most tests
therefore switch XLA's optimizations off and take the older, cheaper emitters of its CPU compiler. The modules marked
`rounding`, whose outcome depends on how a program rounds, keep the optimizations; `-m rounding` keeps the emitters too.
"""

import functools
import gc
import os
import subprocess
import sys
from collections.abc import Iterator

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # for the processes that tests start, too
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two wait for one another, by half of the CPU time of a fit

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_traceback_filtering", "off")  # where a test fails, show the frames of the package and of JAX
jax.config.update("jax_disable_most_optimizations", True)

CHEAP = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"  # no version promises them
PROBED = "SJB_TESTS_PROBED_XLA_FLAGS"


def pytest_configure(config: pytest.Config) -> None:
    """Set XLA's flags before it starts, in a process that this one can tell them to; once for all workers."""
    if os.environ.get(PROBED) or config.option.markexpr.startswith("rounding"):
        return
    flags = f"{os.environ.get('XLA_FLAGS', '')} {CHEAP}".strip()
    command = [sys.executable, "-c", "import jax; jax.jit(lambda: 0)()"]
    probe = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, check=False)
    if probe.returncode == 0:  # XLA ends a process that has a flag which it does not know
        os.environ["XLA_FLAGS"] = flags
    os.environ[PROBED] = "1"


def pytest_collection_finish() -> None:
    """Let garbage collection pass over what was imported, and run less often: JAX makes it a tenth of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _set_optimizations(on: bool) -> None:
    """Compile from now on with or without XLA's optimizations; forget what was compiled the other way."""
    from scipy_jax_bridge._problem import cache  # not before jaxtyping's plugin, which checks the package as it loads

    jax.config.update("jax_disable_most_optimizations", not on)
    jax.clear_caches()
    cache._programs = cache.BoundedCache(cache.OBJECTIVES)


@pytest.fixture(autouse=True, scope="module")
def optimizations(request: pytest.FixtureRequest) -> Iterator[None]:
    """XLA's optimizations are on for a module with `pytestmark = pytest.mark.rounding`."""
    if request.node.get_closest_marker("rounding") is None:
        yield
        return
    _set_optimizations(on=True)
    yield
    _set_optimizations(on=False)


@functools.cache
def _has_float16() -> bool:
    """Whether XLA can compile float16 here; for a processor without F16C it cannot."""
    try:
        jax.jit(lambda x: x.astype("float32"))(np.ones(3, np.float16))
    except jax.errors.JaxRuntimeError:
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip what fails by XLA's lack of float16."""
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if _has_float16():
            raise
        pytest.skip("XLA cannot compile float16 for this processor")


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that counts compilations: nothing that another test compiled serves it."""
    from scipy_jax_bridge._problem import cache

    monkeypatch.setattr(cache, "_programs", cache.BoundedCache(cache.OBJECTIVES))


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
