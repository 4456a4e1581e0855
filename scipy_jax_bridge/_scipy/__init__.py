"""The SciPy backend: SciPy iterates on the host, and one compiled program evaluates."""

from __future__ import annotations

from typing import Any

from .._backend import Backend
from .._core.errors import unknown_name
from .methods import METHODS
from .programs import compile_scipy
from .solve import solve_scipy


def choose(method: Any) -> Backend:
    """Return the backend for a method of `scipy.optimize.minimize`; None is L-BFGS-B.

    Raises:
        TypeError: the method is not a name.
        ValueError: the name is unknown; the error suggests the nearest one.
    """
    if not isinstance(method, (str, type(None))):
        raise TypeError(
            f"backend='scipy' takes the name of a method, not {type(method).__name__}. "
            "An Optax transformation needs backend='optax'."
        )
    key = "l-bfgs-b" if method is None else method.lower()
    if key not in METHODS:
        raise ValueError(unknown_name("method", method, [each.name for each in METHODS.values()]))
    facts = METHODS[key]
    return Backend(
        name="scipy",
        method=key,
        method_name=facts.name,
        option_names=facts.native if facts.native_stopping else facts.native | {"disp"},  # gone from L-BFGS-B
        has_grad=facts.derivatives != "none",
        bounded=facts.bounds,
        bounds_hint=f"Methods that do: {', '.join(each.name for each in METHODS.values() if each.bounds)}.",
        solve_with=solve_scipy,
        compile_with=compile_scipy,
        trace_with=None,
        prepare_with=None,
    )
