"""The Optax backend: one compiled loop on the device."""

from __future__ import annotations

from typing import Any

import optax

from .._backend import Backend
from .algorithm import algorithm_of
from .names import name_of_transformation
from .solve import compile_optax, solve_optax, trace_optax


def choose(method: Any) -> Backend:
    """Return the backend with this Optax transformation, or for None with the all-device L-BFGS-B.

    Raises:
        TypeError: the method is neither.
    """
    if isinstance(method, str):
        raise TypeError(
            f"backend='optax' takes an optax.GradientTransformation or None, not the name {method!r}. "
            "SciPy's methods need backend='scipy'; for Optax pass for example method=optax.adam(1e-2)."
        )
    if not isinstance(method, optax.GradientTransformation | None):
        cure = "Call it first, as in optax.adam(1e-2)." if callable(method) else "Take for example optax.adam(1e-2)."
        raise TypeError(f"method must be an optax.GradientTransformation or None, not {type(method).__name__}. {cure}")
    algorithm = algorithm_of(method)
    return Backend(
        name="optax",
        method=method,
        method_name="L-BFGS-B" if method is None else name_of_transformation(method),
        option_names=frozenset(),
        has_grad=True,
        bounded=algorithm.takes_bounds,
        bounds_hint="Leave out method= for the all-device L-BFGS-B, or take backend='scipy'.",
        solve_with=solve_optax,
        compile_with=compile_optax,
        trace_with=trace_optax,
        prepare_with=algorithm.trace,
    )
