"""What a backend is: facts about it with one of its methods, and the functions that solve."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ._core.monitor import SolveMonitor
from ._core.options import Options
from ._problem.bounds import Bounds
from ._problem.problem import Problem
from ._result import Outcome, Result


class Compiled(NamedTuple):
    """The programs of a solve, and what `compare` needs to know to attribute its time.

    Args:
        programs: the backend's own named tuple of compiled programs.
        seconds: spent on compiling them in this call.
        compiles: how many were compiled in this call.
        evaluate: the program that the host calls for every evaluation; None if the evaluation is part of a loop.
        has_grad: whether an evaluation computes the gradient.
        only_evaluates: whether `nfev` counts everything that is computed; false with Hessian products.
        reports_per_s: how often a loop returns to the host.
        report_shape: the array that it brings.
    """

    programs: Any
    seconds: float
    compiles: int
    evaluate: Any = None
    has_grad: bool = True
    only_evaluates: bool = True
    reports_per_s: float = 0.0
    report_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Backend:
    """One backend with one method.

    Args:
        name: as the user says it.
        method: what its functions take: a key of METHODS, or a transformation or None.
        method_name: what a Result and an error say.
        option_names: names of the method's own options.
        bounded: whether the method takes bounds.
        bounds_hint: what to take instead for bounds.
        solve_with: (problem, method, options, watch, earlier result or None) -> outcome.
        compile_with: (problem, method, options) -> compiled programs.
        trace_with: (problem, method, options) -> outcome, inside jit and vmap; None if it runs on the host alone.
        program_key: equal for methods that compute the same.
    """

    name: str
    method: Any
    method_name: str
    option_names: frozenset[str]
    bounded: bool
    bounds_hint: str
    solve_with: Callable[[Problem, Any, Options, SolveMonitor, Result | None], Outcome]
    compile_with: Callable[[Problem, Any, Options], Compiled]
    trace_with: Callable[[Problem, Any, Options], Outcome] | None
    program_key: Hashable

    def solve(
        self, problem: Problem, options: Options, monitor: SolveMonitor, earlier: Result | None = None
    ) -> Outcome:
        """Minimize, or go on from an earlier result."""
        return self.solve_with(problem, self.method, options, monitor, earlier)

    def compile(self, problem: Problem, options: Options) -> Compiled:
        """Compile what a solve runs, or find it compiled."""
        return self.compile_with(problem, self.method, options)

    def trace(self, problem: Problem, options: Options) -> Outcome:
        """Minimize inside a trace."""
        assert self.trace_with is not None, "asked before: trace_with"
        return self.trace_with(problem, self.method, options)

    def check_bounds(self, bounds: Bounds | None) -> None:
        """Raise ValueError if bounds are given and the method takes none."""
        if bounds is not None and not self.bounded:
            raise ValueError(f"method {self.method_name!r} takes no bounds. {self.bounds_hint}")
