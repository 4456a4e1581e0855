from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_enable_x64", True)


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
