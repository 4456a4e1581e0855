"""Split the time of a solve into objective, transfers and solver.

It is measured from outside and between the solves, so that nothing is added to a solve:

- objective: the time of one evaluation on the device, without its dispatch, times the number of evaluations. One
  program repeats the evaluation many times, and no solver is in it.
- transfers: what an evaluation takes beyond that when the host asks for it, as SciPy does. A loop on the device
  transfers only its reports.
- solver: the rest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from .._backend import Compiled, Program
from .._core.types import FlatVector, HostVector
from .._problem.objective import Data
from .._problem.problem import Problem
from .._result import Result
from .comparison import UNKNOWN, TimeBreakdown
from .measured import CompiledSolve

PART = 0.02
"""Fraction of the seconds of solving that may be spent on measuring; and the same again on compiling for it."""

LONG = 5e-3  # seconds of evaluations beside which one dispatch, at most 0.2 ms, is negligible
WAYS = 5  # transfers that are timed after one solve

T = TypeVar("T")
Repeat = Callable[[FlatVector, Float[Array, ""], Data, Int[Array, ""]], FlatVector]


class Evaluation:
    """An evaluation on the device, timed alone.

    Args:
        problem: what is evaluated.
        program: the program that SciPy calls, if a run has one; long evaluations are timed with it.
        has_grad: whether the gradient is evaluated with the value.
    """

    def __init__(self, problem: Problem, program: Program | None, has_grad: bool) -> None:
        self.problem, self.x = problem, _start(problem)
        self._on_device = jax.device_put(self.x)
        self._has_grad, self._count = has_grad, 1
        self._samples: list[float] = []
        self._run: Callable[[int], PyTree] | None = None  # makes so many evaluations; None before it is compiled
        self.is_long = False  # whether its dispatch is negligible beside it
        if program is not None:
            run = lambda _: program(self._on_device, self.problem.data)  # noqa: E731
            self.is_long = _seconds(run, 1) >= LONG
            self._run = run if self.is_long else None

    @property
    def seconds(self) -> float:
        """The median seconds of one evaluation; NaN before the first sample."""
        return statistics.median(self._samples) if self._samples else float("nan")

    @property
    def ready(self) -> bool:
        """Whether it can be timed without compiling anything."""
        return self._run is not None

    def compile(self) -> None:
        """Compile a program of many evaluations, and find how many take `LONG` seconds."""
        inputs = self._on_device, self.x.dtype.type(0), self.problem.data
        repeat = jax.jit(_repeat(self.problem, self._has_grad)).lower(*inputs, np.int32(1)).compile()
        run = self._run = lambda count: repeat(*inputs, np.int32(count))
        _seconds(run, 1)  # cold
        while _seconds(run, self._count) < LONG and self._count < 1_000_000:
            self._count *= 2

    def sample(self) -> None:
        """Time it once more."""
        assert self._run is not None, "the caller compiles it"
        self._samples.append(_seconds(self._run, self._count) / self._count)


class Probe:
    """The parts of one run's solves.

    Args:
        scope: the precision and device of the run.
        evaluation: what the run evaluates.
        compiled: its programs.
        expected_s: seconds that compiling the objective alone is expected to take.
    """

    def __init__(
        self,
        scope: Callable[[], AbstractContextManager[None]],
        evaluation: Evaluation,
        compiled: Compiled,
        expected_s: float,
    ) -> None:
        self._scope, self._evaluation, self._compiled, self._expected_s = scope, evaluation, compiled, expected_s
        self._ways: list[float] = []  # seconds of a transfer to the device and back
        self._left = 0.0  # seconds that may still be spent

    def sample(self, solve_s: float, compile_s: float) -> None:
        """Measure once, if a small part of the seconds of the solves allows it; after the first solve in any case.

        Args:
            solve_s: the seconds of the solve just made.
            compile_s: seconds that may be spent on compiling the objective alone, where that is needed.
        """
        evaluation = self._evaluation
        if not self._compiled.only_evaluates or (not evaluation.ready and self._expected_s > compile_s):
            return
        self._left += PART * solve_s
        if self._ways and self._left < 0:
            return
        with self._scope():
            if not evaluation.ready:
                evaluation.compile()
            began = time.perf_counter()
            evaluation.sample()
            self._ways += [self._time_way() for _ in range(WAYS)]  # the first is cold, which the median ignores
            self._left -= time.perf_counter() - began

    def shares(self, solve_s: float, result: Result) -> TimeBreakdown:
        """Return the parts of a solve that took `solve_s` seconds."""
        if not (self._compiled.only_evaluates and self._ways and solve_s > 0):
            return UNKNOWN
        nfev, way = int(result.nfev), statistics.median(self._ways)
        ways = 1 + self._compiled.reports_per_s * solve_s if self._compiled.evaluate is None else nfev
        objective, transfers = nfev * self._evaluation.seconds / solve_s, ways * way / solve_s
        excess = max(objective + transfers, 1.0)  # above 1 by noise alone
        objective, transfers = objective / excess, transfers / excess
        return TimeBreakdown(objective, transfers, max(1.0 - objective - transfers, 0.0))

    def _time_way(self) -> float:
        """Return the seconds of one transfer to the device and back."""
        x, data, program = self._evaluation.x, self._evaluation.problem.data, self._compiled.evaluate
        if program is None:
            return _time_copy(self._compiled.report_shape, x.dtype)
        if self._evaluation.is_long:  # the difference to the evaluation would be noise
            return _seconds(jax.device_put, x) + _time_copy(x.shape, x.dtype)
        whole = _seconds(lambda x: np.asarray(program(x, data)[0]), x)
        return max(whole - self._evaluation.seconds, 0.0)


def make_probes(solves: Mapping[str, CompiledSolve], compile_s: Mapping[str, float]) -> dict[str, Probe]:
    """Make a probe for each run; runs that evaluate the same share its timing.

    Args:
        solves: the compiled runs.
        compile_s: the seconds of their compilation.
    """
    known, known_s, probes = dict[tuple, Evaluation](), dict[tuple, float](), dict[str, Probe]()
    for name in sorted(solves, key=lambda name: solves[name].compiled.evaluate is None):  # runs on the host first
        problem, compiled, _, scope = solves[name]
        key = compiled.has_grad, problem.key.has_aux, problem.spec.dtype, problem.spec.params
        with scope():
            evaluation = known.get(key) or known.setdefault(
                key, Evaluation(problem, compiled.evaluate, compiled.has_grad)
            )
        known_s.setdefault(key, compile_s[name])  # that of the objective alone, if a run on the host compiled it
        probes[name] = Probe(scope, evaluation, compiled, known_s[key])
    return {name: probes[name] for name in solves}


def _repeat(problem: Problem, has_grad: bool) -> Repeat:
    """Return a function of many evaluations. Each needs the one before, so that XLA can skip none."""
    flat = problem.spec.flat

    def repeat(x: FlatVector, zero: Float[Array, ""], data: Data, count: Int[Array, ""]) -> FlatVector:
        def step(_: int | Int[Array, ""], carry: tuple[FlatVector, Array]) -> tuple[FlatVector, Array]:
            x, total = carry
            value, *grads = flat.value_and_grad(x, data)[:2] if has_grad else flat.value(x, data)[:1]
            grad = grads[0] if grads else jnp.ones((), x.dtype)
            change = jnp.where(jnp.isfinite(grad), grad, 0) + jnp.where(jnp.isfinite(value), value, 0)
            return x + zero * change, total + value

        return lax.fori_loop(0, count, step, (x, jnp.zeros((), x.dtype)))[0]

    return repeat


def _start(problem: Problem) -> HostVector:
    x = problem.spec.params.ravel_on_host(problem.start_leaves, np.float64)
    if problem.bounds is not None:
        x = np.clip(x, problem.bounds.lower, problem.bounds.upper)
    return x.astype(problem.spec.dtype)


def _time_copy(shape: tuple[int, ...], dtype: np.dtype) -> float:
    """Return the seconds in which an array comes to the host."""
    return _seconds(np.asarray, jax.block_until_ready(jax.device_put(np.ones(shape, dtype))))


def _seconds(call: Callable[[T], PyTree], given: T) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call(given))
    return time.perf_counter() - began
