"""One vocabulary of options with one meaning on both backends."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from ._errors import unknown_name
from ._types import Tracer

# name -> (what it must be, the test); the test never sees a tracer
RULES = {
    "gtol": ("a number that is at least 0", lambda value: _is_real(value) and value >= 0),
    "ftol": ("a number that is at least 0 (0 disables the test)", lambda value: _is_real(value) and value >= 0),
    "maxiter": ("a whole number that is at least 0", lambda value: _is_whole(value) and value >= 0),
    "maxfun": ("a whole number that is at least 1", lambda value: _is_whole(value) and value >= 1),
    "maxls": ("a whole number that is at least 1", lambda value: _is_whole(value) and value >= 1),
    "maxcor": ("a whole number that is at least 1", lambda value: _is_whole(value) and value >= 1),
    "timeout": ("None or a positive number of seconds", lambda value: value is None or (_is_real(value) and value > 0)),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """When a solve ends; the defaults are those of SciPy's L-BFGS-B.

    Arguments:
        gtol: stop when max abs of the projected gradient is at most this. Default 1e-5.
        ftol: stop when (f_k - f_{k+1}) / max(abs f_k, abs f_{k+1}, 1) is at most this; 0 disables.
            Default 2.220446049250313e-09, which is 1e7 times the rounding of float64.
        maxiter: iterations. Default 15000.
        maxfun: objective evaluations, never exceeded; only a line search inside an Optax transformation is
            finished first. Default 15000.
        maxls: line-search evaluations in one iteration. Default 20.
        maxcor: L-BFGS memory, pairs. Default 10.
        timeout: wall-clock seconds of solving, compilation not counted. Default None: no limit.
        native: options of a SciPy method under SciPy's own names, handed on as they are. In a plain
            mapping they stand beside the others: `options={"gtol": 1e-8, "initial_tr_radius": 0.5}`.

    Errors:
        ValueError: a value that makes no sense, with what it must be.

    Example:
        >>> import scipy_jax_bridge as sjb
        >>> sjb.Options(gtol=1e-8).maxiter
        15000
    """

    gtol: Any = 1e-5  # a number, or a traced one
    ftol: Any = 2.220446049250313e-09
    maxiter: Any = 15000
    maxfun: Any = 15000
    maxls: Any = 20
    maxcor: int = 10
    timeout: float | int | None = None
    native: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (meaning, holds) in RULES.items():
            value = getattr(self, name)
            if not isinstance(value, Tracer) and not holds(value):
                raise ValueError(f"option {name!r} must be {meaning}, not {value!r}.")
        object.__setattr__(self, "native", MappingProxyType(dict(_as_mapping(self.native))))


def read_options(options: Options | Mapping[str, Any] | None, native_names: frozenset[str], method: str) -> Options:
    """The options of a call, checked; names that only the method knows become its native options."""
    owner = f"method {method!r}"
    if options is None:
        options = Options()
    elif not isinstance(options, Options):
        if not isinstance(options, Mapping):
            raise TypeError(f"options must be an Options or a mapping of its fields, not {type(options).__name__}.")
        common = {each.name for each in fields(Options)}
        for name in options:
            if name not in common and name not in native_names:
                raise ValueError(unknown_name("option", name, common | native_names, owner))
        own = {name: value for name, value in options.items() if name not in common}
        given = {name: value for name, value in options.items() if name in common}
        if own:
            given["native"] = {**_as_mapping(given.get("native", {})), **own}
        options = Options(**given)
    for name in options.native:
        if name not in native_names:
            raise ValueError(unknown_name("native option", name, native_names, owner))
    return options


def _is_real(value: object) -> bool:
    if isinstance(value, bool) or getattr(value, "ndim", 0) != 0:
        return False
    return (isinstance(value, numbers.Real) or hasattr(value, "dtype")) and not math.isnan(float(value))  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return _is_real(value) and float(value).is_integer()  # type: ignore[arg-type]


def _as_mapping(native: Any) -> Mapping[str, Any]:
    if not isinstance(native, Mapping):
        raise TypeError(f"option 'native' must be a mapping of a method's own options, not {native!r}.")
    return native
