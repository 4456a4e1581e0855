"""In which precision and on which device a call runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import jax
import numpy as np

from .types import Params

GUARDS = ("jax_transfer_guard_host_to_device", "jax_transfer_guard_device_to_host")


def has_float64() -> bool:
    """Whether JAX computes in double precision here and now."""
    return bool(getattr(jax.config, "jax_enable_x64"))  # noqa: B009


@contextmanager
def scope(precision: str | None, params: Params = None) -> Iterator[None]:
    """Double precision inside if asked for, and the device of the params as the default, for this thread alone.

    A call that is driven from the host moves data by intention: as explicit transfers do, it passes a caller's
    jax.transfer_guard("disallow").
    """
    with ExitStack() as stack:
        if "disallow" in [getattr(jax.config, name) for name in GUARDS]:
            stack.enter_context(jax.transfer_guard("allow"))
        device = _device_of(params)
        if device is not None:
            stack.enter_context(jax.default_device(device))
        if precision is not None and not has_float64():
            stack.enter_context(_enable_x64(True))
        yield


def carry_context() -> Callable[[], AbstractContextManager[None]]:
    """A context for another thread, which makes it compute in the precision and on the device of this one."""
    double, device = has_float64(), getattr(jax.config, "jax_default_device")  # noqa: B009

    @contextmanager
    def carried() -> Iterator[None]:
        with _enable_x64(double), jax.default_device(device):
            yield

    return carried


def is_debugging() -> bool:
    """Whether JAX runs the objective's own Python code at every evaluation, in the caller's thread and contexts."""
    return any(getattr(jax.config, name) for name in ("jax_disable_jit", "jax_debug_nans"))


def _enable_x64(value: bool) -> Any:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(value)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]  # its home before JAX 0.8

    return enable_x64(value)


def _device_of(params: Params) -> Any:
    """The one device on which the params were put on purpose; None if there is none, or more."""
    arrays = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    found = {device for leaf in arrays if getattr(leaf, "committed", False) for device in leaf.devices()}
    return next(iter(found)) if len(found) == 1 else None


def to_float64(tree: Any) -> Any:
    """The tree with its floating-point arrays in float64."""

    def to_float64(leaf: Any) -> Any:
        if isinstance(leaf, (jax.Array, np.ndarray, np.generic)) and jax.numpy.issubdtype(leaf.dtype, np.floating):
            return leaf.astype(np.float64)
        return leaf

    return jax.tree.map(to_float64, tree)
