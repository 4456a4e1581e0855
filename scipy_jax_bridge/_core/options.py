"""Options with one name and one meaning on both backends."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from .errors import shorten, unknown_name
from .types import Number, Tracer
from .words import explain_option

Real = float | np.number  # what SciPy takes as a number
Native = Mapping[str, Any]  # options of a SciPy method, which SciPy checks
MAXCOR_MAX = 1000  # a step costs maxcor squared


class Rule(NamedTuple):
    """What the value of an option must be, in words and as a test. The test is never called with a tracer."""

    meaning: str
    is_valid: Callable[[Any], bool]


RULES = {
    "gtol": Rule("a number that is at least 0", lambda value: _is_real(value) and value >= 0),
    "ftol": Rule("a number that is at least 0 (0 disables the test)", lambda value: _is_real(value) and value >= 0),
    "maxiter": Rule("a whole number that is at least 0", lambda value: _is_integer(value) and value >= 0),
    "maxfun": Rule("a whole number that is at least 1", lambda value: _is_integer(value) and value >= 1),
    "maxls": Rule("a whole number that is at least 1", lambda value: _is_integer(value) and value >= 1),
    "maxcor": Rule(
        f"a whole number from 1 to {MAXCOR_MAX}; 10 to 50 pairs are usual",
        lambda value: _is_integer(value) and 1 <= value <= MAXCOR_MAX,
    ),
    "timeout": Rule(
        "None or a positive number of seconds", lambda value: value is None or (_is_real(value) and value > 0)
    ),
}
COUNT_MAX = 2**31 - 1  # iterations and evaluations are counted in int32
INTEGER_OPTIONS = ("maxiter", "maxfun", "maxls", "maxcor")
STATIC_OPTIONS = ("maxcor", "timeout")  # cannot be traced: maxcor sets array shapes, timeout is read on the host


class OptionsDict(TypedDict, total=False):
    """The fields of `Options` and SciPy's own options in one mapping: `options={"gtol": 1e-8, "xtol": 1e-6}`.

    A type checker finds a wrong name in a literal mapping; annotate a variable with this type:
    `options: sjb.OptionsDict = {"gtol": 1e-8}`.
    """

    gtol: Number
    ftol: Number
    maxiter: Number
    maxfun: Number
    maxls: Number
    maxcor: int
    timeout: float | None
    native: Native
    accuracy: Real
    adaptive: bool
    barrier_tol: Real
    c1: Real
    c2: Real
    catol: Real
    direc: ArrayLike | None
    disp: bool | int
    eta: Real
    f_target: Real
    factorization_method: str | None
    fatol: Real
    feasibility_tol: Real
    final_tr_radius: Real
    hess_inv0: ArrayLike | None
    inexact: bool
    initial_barrier_parameter: Real
    initial_barrier_tolerance: Real
    initial_constr_penalty: Real
    initial_simplex: ArrayLike | None
    initial_tr_radius: Real
    initial_trust_radius: Real
    max_trust_radius: Real
    minfev: Real
    norm: Real
    offset: ArrayLike | None
    rescale: Real
    rhobeg: Real
    scale: ArrayLike | None
    sparse_jacobian: bool | None
    stepmx: Real
    tol: Real
    xatol: Real
    xrtol: Real
    xtol: Real


class FrozenOptions(Mapping[str, Any]):
    """An immutable mapping. Unlike a MappingProxyType, it can be pickled, copied and hashed."""

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return hash(frozenset(self._entries.items()))

    def __repr__(self) -> str:
        return repr(self._entries)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Stopping criteria and limits of a solve. The defaults are those of SciPy's L-BFGS-B.

    Args:
        gtol: stop when max abs of the projected gradient is at most this. Default 1e-5.
        ftol: stop when (f_k - f_{k+1}) / max(abs f_k, abs f_{k+1}, 1) is at most this; 0 disables the test.
            Default 2.220446049250313e-09, which is 1e7 times the rounding of float64.
        maxiter: maximum number of iterations; larger values count as 2147483647. Default 15000.
        maxfun: maximum number of objective evaluations; larger values count as 2147483647. It is never exceeded,
            except to finish a line search inside an Optax transformation. Default 15000.
        maxls: maximum number of line-search evaluations in one iteration. Default 20.
        maxcor: number of pairs in the L-BFGS memory. Default 10.
        timeout: wall-clock limit of the solve in seconds, without compilation. Default None: no limit.
        native: options of a SciPy method under SciPy's own names, passed on unchanged. A plain mapping of options
            can hold them beside the others: `options={"gtol": 1e-8, "initial_tr_radius": 0.5}`.

    Raises:
        TypeError: maxcor or timeout is traced, or `native` is not a mapping.
        ValueError: a value is invalid; the message says what it must be.

    Examples:
        >>> import scipy_jax_bridge as sjb
        >>> sjb.Options(gtol=1e-8).maxiter
        15000
    """

    gtol: Number = 1e-5  # it may be traced, as the next four
    ftol: Number = 2.220446049250313e-09
    maxiter: Number = 15000
    maxfun: Number = 15000
    maxls: Number = 20
    maxcor: int = 10
    timeout: float | int | None = None
    native: Native = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            value = getattr(self, name)
            if isinstance(value, Tracer):
                _check_traceable(name)
                continue
            if not rule.is_valid(value):
                raise ValueError(f"option {name!r} must be {rule.meaning}, not {shorten(value)}.")
            if name in INTEGER_OPTIONS:  # SciPy and array shapes need a Python int, not 7.0 or NumPy's
                object.__setattr__(self, name, min(int(value), COUNT_MAX))
        object.__setattr__(self, "native", FrozenOptions(_as_mapping(self.native)))

    def __getstate__(self) -> dict[str, Any]:
        """Return plain fields, so that a pickle names no private module."""
        return vars(self) | {"native": dict(self.native)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, native=FrozenOptions(state["native"]))


def read_options(options: Options | Mapping[str, Any] | None, native_names: frozenset[str], method: str) -> Options:
    """Check the options of a call. Names that only the method knows become native options."""
    owner = f"method {method!r}"
    if options is None:
        options = Options()
    elif not isinstance(options, Options):
        if not isinstance(options, Mapping):
            raise TypeError(f"options must be an Options or a mapping of its fields, not {type(options).__name__}.")
        common = {each.name for each in fields(Options)}
        for name in options:
            if name not in common and name not in native_names:
                raise ValueError(explain_option(name, common | native_names, owner))
        own = {name: value for name, value in options.items() if name not in common}
        given = {name: value for name, value in options.items() if name in common}
        if own:
            given["native"] = {**_as_mapping(given.get("native", {})), **own}
        options = Options(**given)
    for name, value in options.native.items():
        if name not in native_names:
            raise ValueError(unknown_name("native option", name, native_names, owner))
        if isinstance(value, int) and abs(value) > sys.float_info.max:  # SciPy would fail in its arithmetic
            raise ValueError(f"native option {name!r} must be a number that float64 can hold, not {shorten(value)}.")
    return options


def changed(options: Options, usual: Options) -> dict[str, Any]:
    """Return the options that differ from the usual ones; traced ones do."""
    pairs = {each.name: (getattr(options, each.name), getattr(usual, each.name)) for each in fields(Options)}
    return {name: value for name, (value, other) in pairs.items() if isinstance(value, Tracer) or value != other}


def _check_traceable(name: str) -> None:
    if name in STATIC_OPTIONS:
        raise TypeError(
            f"option {name!r} must be known when the program is compiled, and it is traced by JAX. Make it a plain "
            "number: close over it, or list it in static_argnames of jax.jit."
        )


def _is_real(value: object) -> bool:
    if isinstance(value, bool) or getattr(value, "ndim", 0) != 0:
        return False
    try:
        return (isinstance(value, numbers.Real) or hasattr(value, "dtype")) and not math.isnan(float(value))  # type: ignore[arg-type]
    except OverflowError:  # 10**400
        return False


def _is_integer(value: object) -> bool:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return True
    return _is_real(value) and float(value).is_integer()  # type: ignore[arg-type]


def _as_mapping(native: Any) -> Native:
    if not isinstance(native, Mapping):
        raise TypeError(f"option 'native' must be a mapping of a method's own options, not {native!r}.")
    return native
