"""Real models on real data, each a pure objective with its start, its data and its bounds.

A model imports no solver. The data sets come with scikit-learn and statsmodels, which are imported when
a model is built: `pip install 'scipy_jax_bridge[data]'`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from scipy_jax_bridge.models import co2, digits, rosenbrock
from scipy_jax_bridge.models._model import Model as Model

MODELS: dict[str, Callable[..., Model]] = {
    "digits": digits.build,
    "co2": co2.build,
    "rosenbrock": rosenbrock.build,
}
"""Every model's builder by name."""


def load(name: str, **settings: Any) -> Model:
    """Build a model by name.

    Args:
        name: a key of `MODELS`.
        **settings: keyword arguments of that model's builder, such as `n` of "rosenbrock".

    Returns:
        The model, its data read from a library on this machine: nothing is downloaded.

    Raises:
        ValueError: there is no such model; the message suggests the nearest name.
        ModuleNotFoundError: the library that ships the data is not installed.

    Examples:
        >>> load("rosenbrock", n=4).params
        array([-1.2,  1. , -1.2,  1. ])
    """
    if name not in MODELS:
        nearest = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"no model is named {name!r}; did you mean {nearest!r}? The models are {', '.join(sorted(MODELS))}."
        )
    return MODELS[name](**settings)
