"""The record of a model, and the import of the library that ships its data."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from jaxtyping import Array


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """An optimization problem with its data, ready for `fun(params, *args)`.

    Arrays are NumPy arrays in double precision. JAX converts them to its default precision, so the
    caller decides which one: with `jax_enable_x64` off the problem is solved in single precision.

    Attributes:
        name: the key in `scipy_jax_bridge.models.MODELS`.
        title: one line for people, the name of a table or of a plot.
        fun: the objective, `fun(params, *args)` is a real scalar.
        params: the start, a pytree of floating-point arrays.
        args: the data, never closed over by `fun`.
        bounds: None, or the pair (lower, upper) of prefix pytrees of `params`.
        note: where the problem comes from and what to know before solving it.
        metrics: None, or `metrics(params, args)`, numbers that say how good a fit is in terms of
            the problem, by name.
    """

    name: str
    title: str
    fun: Callable[..., Array]
    params: Any
    args: tuple[Any, ...] = ()
    bounds: tuple[Any, Any] | None = None
    note: str = ""
    metrics: Callable[..., Mapping[str, float]] | None = None


def import_data_library(module: str, distribution: str) -> ModuleType:
    """Import a library that ships a data set, or say how to install it.

    Args:
        module: what to import, such as "sklearn.datasets".
        distribution: the name that the library is installed by, such as "scikit-learn".

    Returns:
        The imported module.

    Raises:
        ModuleNotFoundError: the library is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the data of this model come with {distribution}, and {error.name!r} could not be "
            "imported; install the extra: pip install 'scipy_jax_bridge[data]'",
            name=error.name,
        ) from error
