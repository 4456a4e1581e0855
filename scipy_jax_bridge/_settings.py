"""The keyword arguments of `minimize` and `Minimizer`, for type checkers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, Required, TypedDict, TypeVar, TypeVarTuple

from jax import Array

from ._core.monitor import Callback
from ._core.options import Options, OptionsDict
from ._core.types import Number
from ._problem.bounds import Bounds

A = TypeVar("A")
Q = TypeVar("Q")
Ts = TypeVarTuple("Ts")
Qs = TypeVarTuple("Qs")
Numbers = Mapping[str, Number]
Arrays = dict[str, Array]
NoArgs = tuple[()]
ScipyMethod = Literal[
    "L-BFGS-B",
    "BFGS",
    "CG",
    "TNC",
    "SLSQP",
    "Newton-CG",
    "trust-ncg",
    "trust-krylov",
    "trust-constr",
    "dogleg",
    "trust-exact",
    "Nelder-Mead",
    "Powell",
    "COBYLA",
    "COBYQA",
    "l-bfgs-b",
    "bfgs",
    "cg",
    "tnc",
    "slsqp",
    "newton-cg",
    "nelder-mead",
    "powell",
    "cobyla",
    "cobyqa",
]


class Transformation(Protocol):
    """What a type checker needs to know of an `optax.GradientTransformation`."""

    @property
    def init(self) -> Callable[..., Any]:
        """Return the function that makes the state."""
        ...

    @property
    def update(self) -> Callable[..., Any]:
        """Return the function that makes the updates."""
        ...


class Settings(TypedDict, total=False):
    """What both backends take, with and without auxiliary output."""

    bounds: Bounds | tuple[Any, Any] | Mapping[str, Any] | None
    fixed: Any
    options: Options | OptionsDict | None
    callback: Callback | None
    progress: bool
    precision: Literal["float64"] | None


class Scipy(Settings, total=False):
    """The keyword arguments with SciPy, the default."""

    backend: Literal["scipy"]
    method: ScipyMethod | None
    has_aux: Literal[False]


class ScipyAux(Settings, total=False):
    """The same for an objective with auxiliary output."""

    backend: Literal["scipy"]
    method: ScipyMethod | None
    has_aux: Required[Literal[True]]


class Optax(Settings, total=False):
    """The keyword arguments with the loop on the device."""

    backend: Required[Literal["optax"]]
    method: Transformation | None
    has_aux: Literal[False]


class OptaxAux(Settings, total=False):
    """The same for an objective with auxiliary output."""

    backend: Required[Literal["optax"]]
    method: Transformation | None
    has_aux: Required[Literal[True]]
