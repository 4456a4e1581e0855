"""The precision and the device in which a call runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import jax
import numpy as np
from jaxtyping import PyTree

from .types import Params

GUARDS = ("jax_transfer_guard_host_to_device", "jax_transfer_guard_device_to_host")


def has_float64() -> bool:
    """Whether JAX computes in double precision here and now."""
    return bool(getattr(jax.config, "jax_enable_x64"))  # noqa: B009


@contextmanager
def solve_context(precision: str | None, params: Params = None) -> Iterator[None]:
    """Run a solve on the device of its params, in double precision if `precision` is set. Affects this thread only.

    The host drives the solve and moves data on purpose, so `jax.transfer_guard("disallow")` is lifted inside.
    """
    with ExitStack() as stack:
        if "disallow" in [getattr(jax.config, name) for name in GUARDS]:
            stack.enter_context(jax.transfer_guard("allow"))
        stack.enter_context(_default_device_of(params))
        if precision is not None and not has_float64():
            stack.enter_context(enable_x64(True))
        yield


def carry_context() -> Callable[[], AbstractContextManager[None]]:
    """Return a context that gives another thread the precision and the default device of this one."""
    double, device = has_float64(), getattr(jax.config, "jax_default_device")  # noqa: B009

    @contextmanager
    def carried() -> Iterator[None]:
        with enable_x64(double), jax.default_device(device):
            yield

    return carried


def is_debugging() -> bool:
    """Whether JAX runs the objective's Python code at every evaluation, in the caller's thread and contexts."""
    return any(getattr(jax.config, name) for name in ("jax_disable_jit", "jax_debug_nans"))


def enable_x64(value: bool) -> AbstractContextManager[None]:
    """Compute in double precision, or not, in this thread."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(value)
    from jax import experimental  # its place before JAX 0.8

    return experimental.enable_x64(value)  # type: ignore[attr-defined]


def _default_device_of(params: Params) -> AbstractContextManager[None]:
    """Make the one device to which the caller committed the params the default; keep the default otherwise."""
    arrays = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    found = {device for leaf in arrays if getattr(leaf, "committed", False) for device in leaf.devices()}
    return jax.default_device(next(iter(found))) if len(found) == 1 else nullcontext()


def to_arrays(tree: PyTree) -> PyTree:
    """Make arrays of the leaves. Bounds may be infinite: `jax_debug_infs` is for what is computed of them."""
    with jax.debug_infs(False):
        return jax.tree.map(jax.numpy.asarray, tree)


def to_float64(tree: PyTree) -> PyTree:
    """Convert the floating-point arrays of the tree to float64."""

    def is_floating(leaf: PyTree) -> bool:
        is_array = isinstance(leaf, (jax.Array, np.ndarray, np.generic))
        return is_array and bool(jax.numpy.issubdtype(leaf.dtype, np.floating))

    return jax.tree.map(lambda leaf: leaf.astype(np.float64) if is_floating(leaf) else leaf, tree)


def to_host(tree: PyTree) -> PyTree:
    """Copy the arrays of the tree to NumPy, but for random keys. A weakly typed number becomes a Python float."""

    def convert(leaf: PyTree) -> PyTree:
        if not isinstance(leaf, (jax.Array, np.ndarray)) or jax.numpy.issubdtype(leaf.dtype, jax.dtypes.extended):
            return leaf
        is_weak = getattr(leaf, "weak_type", False) and jax.numpy.issubdtype(leaf.dtype, np.floating)
        return float(leaf) if is_weak and leaf.ndim == 0 else np.array(leaf)

    return jax.tree.map(convert, tree)
