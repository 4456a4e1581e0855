"""What a backend is: facts about it with one of its methods, and the functions that solve. The list of backends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any, Generic, TypeVar

from jaxtyping import Array, PyTree

from ._core.agreement import agreement_over
from ._core.errors import unknown_name
from ._core.interrupts import defer_sigint
from ._core.monitor import SolveMonitor
from ._core.options import Options, changed
from ._core.outcome import FlatOutcome, Outcome
from ._problem.bounds import Bounds
from ._problem.objective import TracedMethod
from ._problem.problem import Problem
from ._result import Result

BACKENDS = {"scipy": "._scipy", "optax": "._optax"}  # name -> folder with a function `choose`, imported at first use

M = TypeVar("M")  # the type of a backend's methods
Own = TypeVar("Own")  # a backend's own named tuple of compiled programs
Program = Callable[..., tuple[Array, PyTree]]  # (*arrays, data) -> array, leaves of aux


@dataclass(frozen=True)
class Compiled(Generic[Own]):
    """The programs of a solve, and the facts by which `compare` splits its time.

    Args:
        programs: the backend's own named tuple of compiled programs.
        seconds: spent on compiling them in this call.
        compiles: how many were compiled in this call.
        evaluate: the program that the host calls for every evaluation; None if a loop on the device evaluates.
        has_grad: whether an evaluation computes the gradient.
        only_evaluates: whether `nfev` counts everything that is computed; false with Hessian products.
        reports_per_s: how often a loop returns to the host.
        report_shape: shape of the array that it returns.
    """

    programs: Own
    seconds: float
    compiles: int
    evaluate: Program | None = None
    has_grad: bool = True
    only_evaluates: bool = True
    reports_per_s: float = 0.0
    report_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Backend(Generic[M]):
    """One backend with one method.

    Args:
        name: a key of BACKENDS.
        method: the argument of its functions: a key of METHODS or an algorithm.
        method_name: name of the method in results and errors.
        option_names: names of the method's own options.
        has_grad: whether the method uses the gradient.
        bounded: whether the method takes bounds.
        bounds_hint: which method to take for bounds instead.
        solve_with: (problem, method, options, monitor, earlier result or None) -> outcome.
        compile_with: (problem, method, options) -> compiled programs.
        trace_with: (problem, options) -> flat outcome, inside jit and vmap; None if it runs on the host only.
        prepare_with: (problem) -> the moves of the method, traced; None if it needs no trace.
        own: the bounds and the options that the user gave with the method, or None.
    """

    name: str
    method: M
    method_name: str
    option_names: frozenset[str]
    has_grad: bool
    bounded: bool
    bounds_hint: str
    solve_with: Callable[[Problem, M, Options, SolveMonitor, Result | None], Outcome]
    compile_with: Callable[[Problem, M, Options], Compiled]
    trace_with: Callable[[Problem, Options], FlatOutcome] | None
    prepare_with: Callable[[Problem], TracedMethod] | None
    own: tuple[Bounds | None, dict[str, Any]] | None = None

    def solve(
        self, problem: Problem, options: Options, monitor: SolveMonitor, earlier: Result | None = None
    ) -> Outcome:
        """Minimize, or continue from an earlier result."""
        monitor.join(agreement_over([*problem.start_leaves, *problem.data]))
        return self.solve_with(problem, self.method, options, monitor, earlier)

    def compile(self, problem: Problem, options: Options) -> Compiled:
        """Compile what a solve runs; return it at once if it was compiled before."""
        return self.compile_with(problem, self.method, options)

    def prepare(self, problem: Problem) -> TracedMethod | None:
        """Trace the moves of the method."""
        return None if self.prepare_with is None else self.prepare_with(problem)

    def settle(
        self, bounds: Bounds | None, options: Options, given: Options | Mapping[str, Any] | None
    ) -> tuple[Bounds | None, Options]:
        """Return bounds and options with those that came with the method. `given` are the options as the user wrote.

        Raises:
            ValueError: one is given twice, or the method takes no bounds.
        """
        self.check_bounds(bounds)
        if self.own is None:
            return bounds, options
        own_bounds, own = self.own
        said = given if isinstance(given, Mapping) else changed(options, Options())
        twice = [f"option {name!r}" for name in own if name in said]
        twice += ["bounds"] if bounds is not None and own_bounds is not None else []
        if twice:
            raise ValueError(f"{twice[0]} is given twice, with the method and with the call. Give it once.")
        return own_bounds if bounds is None else bounds, replace(options, **own)

    def check_bounds(self, bounds: Bounds | None) -> None:
        """Raise ValueError if bounds are given and the method takes none."""
        if bounds is not None and not self.bounded:
            raise ValueError(f"method {self.method_name!r} takes no bounds. {self.bounds_hint}")


def choose_backend(name: str, method: Any) -> Backend:
    """Return the backend of this name with one of its methods.

    Raises:
        TypeError, ValueError: the backend or the method is unknown.
    """
    if not isinstance(name, str) or name not in BACKENDS:
        raise ValueError(unknown_name("backend", name, BACKENDS))
    return load(name).choose(method)


@functools.cache
def load(name: str) -> ModuleType:
    """Import a backend at its first use."""
    with defer_sigint():  # half an import cannot be repeated, and Python drops a KeyboardInterrupt in its collections
        return import_module(BACKENDS[name], __package__)
