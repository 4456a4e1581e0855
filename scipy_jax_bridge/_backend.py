"""The backends as data: what each is called, takes and does, checked once at the door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optax

from ._core.errors import unknown_name
from ._core.monitor import Watch
from ._core.options import Options
from ._optax.solve import compile_optax, solve_optax, trace_optax
from ._problem.bounds import Bounds
from ._problem.problem import Problem
from ._result import Outcome, Result
from ._scipy.methods import METHODS
from ._scipy.programs import compile_scipy
from ._scipy.solve import solve_scipy

BACKENDS = ("scipy", "optax")


@dataclass(frozen=True)
class Backend:
    """One backend with one method.

    Arguments:
        name: as the user says it.
        method: what its functions take: a key of METHODS, or a transformation or None.
        method_name: what a Result and an error say.
        native: names of the method's own options.
        bounded: whether the method takes bounds.
        cure: what to take instead for bounds.
        traceable: whether it runs inside jit and vmap.
    """

    name: str
    method: Any
    method_name: str
    native: frozenset[str]
    bounded: bool
    cure: str
    traceable: bool
    _solve: Callable[..., Outcome]
    _compile: Callable[..., tuple[dict[str, Any], float, int]]

    def solve(self, problem: Problem, options: Options, watch: Watch, earlier: Result | None = None) -> Outcome:
        """Minimize, or go on from an earlier result."""
        return self._solve(problem, self.method, options, watch, earlier)

    def compile(self, problem: Problem, options: Options) -> tuple[dict[str, Any], float, int]:
        """The programs, the seconds spent on them now, and how many were compiled."""
        return self._compile(problem, self.method, options)

    def trace(self, problem: Problem, options: Options) -> Outcome:
        """Minimize inside a trace."""
        return trace_optax(problem, self.method, options)

    def check_bounds(self, bounds: Bounds | None) -> None:
        """An error where the method knows no bounds."""
        if bounds is not None and not self.bounded:
            raise ValueError(f"method {self.method_name!r} takes no bounds. {self.cure}")


def choose_backend(backend: str, method: Any) -> Backend:
    """The backend of this name, with this method.

    Errors:
        ValueError: an unknown backend or method, with the nearest name.
        TypeError: a method of the other backend's kind.
    """
    if backend == "scipy":
        return _choose_scipy(method)
    if backend == "optax":
        return _choose_optax(method)
    raise ValueError(unknown_name("backend", backend, BACKENDS))


def _choose_scipy(method: Any) -> Backend:
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
        native=facts.native,
        bounded=facts.bounds,
        cure=f"Methods that do: {', '.join(each.name for each in METHODS.values() if each.bounds)}.",
        traceable=False,
        _solve=solve_scipy,
        _compile=compile_scipy,
    )


def _choose_optax(method: Any) -> Backend:
    if isinstance(method, str):
        raise TypeError(
            f"backend='optax' takes an optax.GradientTransformation or None, not the name {method!r}. "
            "SciPy's methods need backend='scipy'; for Optax pass for example method=optax.adam(1e-2)."
        )
    if method is not None and not isinstance(method, optax.GradientTransformation):
        cure = "Call it first, as in optax.adam(1e-2)." if callable(method) else "Take for example optax.adam(1e-2)."
        raise TypeError(f"method must be an optax.GradientTransformation or None, not {type(method).__name__}. {cure}")
    return Backend(
        name="optax",
        method=method,
        method_name="L-BFGS-B" if method is None else "GradientTransformation",
        native=frozenset(),
        bounded=method is None,
        cure="Leave out method= for the all-device L-BFGS-B, or take backend='scipy'.",
        traceable=True,
        _solve=solve_optax,
        _compile=compile_optax,
    )
