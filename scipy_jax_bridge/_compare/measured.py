"""What a comparison needs of a solver beside its results: its compiled programs, and the same solver cut short."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from jaxtyping import PyTree

from .._backend import Compiled
from .._core.context import solve_context
from .._core.options import Options
from .._core.types import Params
from .._minimize import Minimizer
from .._problem.problem import Problem


class CompiledSolve(NamedTuple):
    """What a solve would run, for measurements.

    Args:
        problem, options: what to solve.
        compiled: the programs.
        solve_context: makes the context in which they run: precision and device.
    """

    problem: Problem
    compiled: Compiled
    options: Options
    solve_context: Callable[[], AbstractContextManager[None]]


def compile_solve(solve: Minimizer, params: Params, args: PyTree) -> CompiledSolve:
    """Compile what the solver would run for these arguments."""
    with solve_context(solve._precision, params):
        problem = solve._preparation.prepare(params, args)
        compiled = solve._backend.compile(problem, solve._options)
    return CompiledSolve(problem, compiled, solve._options, partial(solve_context, solve._precision, params))


def limit_iterations(solve: Minimizer, maxiter: int) -> Minimizer:
    """Return the solver with another maxiter, without callback and progress. It uses the same programs."""
    limited = object.__new__(type(solve))  # not copy.copy, which makes a new solver by its arguments
    limited.__dict__ |= solve.__dict__
    limited._options = replace(solve._options, maxiter=maxiter)
    limited._callback, limited._progress = None, False
    return limited
