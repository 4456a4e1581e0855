"""The Optax backend: one compiled loop on the device."""

from __future__ import annotations

from functools import partial
from typing import Any

import optax

from .._backend import Backend
from .algorithm import algorithm_of
from .inside import trace_optax
from .lbfgsb.transformation import make_lbfgsb as make_lbfgsb
from .solve import compile_optax, solve_optax


def choose(method: Any) -> Backend:
    """Return the backend with this Optax transformation; None is `lbfgsb()`.

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
        if hasattr(method, "gradient_transformation"):  # optax.MultiSteps
            cure = "Take its .gradient_transformation()."
        raise TypeError(f"method must be an optax.GradientTransformation or None, not {type(method).__name__}. {cure}")
    algorithm = algorithm_of(method)
    return Backend(
        name="optax",
        method=algorithm,
        method_name=algorithm.name,
        option_names=frozenset(),
        has_grad=True,
        bounded=algorithm.takes_bounds,
        bounds_hint="Leave out method= for the all-device L-BFGS-B, or take backend='scipy'.",
        solve_with=solve_optax,
        compile_with=compile_optax,
        trace_with=partial(trace_optax, algorithm.device_solver),
        prepare_with=algorithm.trace,
        own=None if algorithm.own is None else (algorithm.own.bounds, algorithm.own.said),
    )
