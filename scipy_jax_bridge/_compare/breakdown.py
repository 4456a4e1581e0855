"""Split the time of a solve into objective, transfers and solver.

It is measured from outside and between the solves, so that nothing is added to a solve:

- objective: the time of one evaluation on the device, without its dispatch, times the number of evaluations. One
  program repeats the evaluation many times, and no solver is in it.
- transfers: what an evaluation takes beyond that when the host asks for it, as SciPy does. A loop on the device
  transfers only its reports.
- solver: the rest.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from .._backend import Compiled
from .._core.types import FlatVector, HostVector
from .._minimize import CompiledSolve
from .._problem.objective import Data
from .._problem.problem import Problem
from .._result import Result
from .comparison import UNKNOWN, TimeBreakdown

PART = 0.02
"""Fraction of the seconds of solving that may be spent on measuring; and the same again on compiling for it."""

LEAST = 2e-3  # seconds that measuring may take in any case
LONG = 5e-3  # seconds of evaluations beside which one dispatch, at most 0.2 ms, is negligible
MOST = 50  # samples after one solve; more would not improve the median

Program = Callable[..., tuple[Array, PyTree]]
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
        self._program, self._has_grad = program, has_grad
        self._repeat: Callable[..., FlatVector] | None = None
        self._count = 1  # evaluations in one run of it
        self.compile_s = 0.0
        self._samples: list[float] = []
        self._program_s = 0.0 if program is None else self._time_program(program)

    @property
    def seconds(self) -> float:
        """The median seconds of one evaluation; NaN before the first sample."""
        return statistics.median(self._samples) if self._samples else float("nan")

    @property
    def is_long(self) -> bool:
        """Whether its dispatch is negligible beside it."""
        return self._program is not None and self._program_s >= LONG

    @property
    def ready(self) -> bool:
        """Whether it can be timed without compiling anything."""
        return self.is_long or self._repeat is not None

    def sample(self) -> None:
        """Time it once more."""
        if self._program is not None and self.is_long:
            self._program_s = self._time_program(self._program)
            self._samples.append(self._program_s)
            return
        repeat = self._repeat or self._compile()
        self._samples.append(self._time_repeats(repeat, self._count) / self._count)

    def _compile(self) -> Callable[..., FlatVector]:
        """Compile the program of many evaluations, and find how many take `LONG` seconds."""
        began = time.perf_counter()
        inputs = self.x, self.x.dtype.type(0), self.problem.data, np.int32(1)
        repeat = self._repeat = jax.jit(_repeat(self.problem, self._has_grad)).lower(*inputs).compile()
        self._time_repeats(repeat, 1)
        seconds = self._time_repeats(repeat, 1)
        while seconds < LONG and self._count < 1_000_000:
            self._count = math.ceil(self._count * min(100.0, 1.2 * LONG / seconds))
            seconds = self._time_repeats(repeat, self._count)
        self.compile_s = time.perf_counter() - began
        return repeat

    def _time_program(self, program: Program) -> float:
        return _seconds(lambda: jax.block_until_ready(program(self._on_device, self.problem.data)))

    def _time_repeats(self, repeat: Callable[..., FlatVector], count: int) -> float:
        inputs = self._on_device, self.x.dtype.type(0), self.problem.data, np.int32(count)
        return _seconds(lambda: jax.block_until_ready(repeat(*inputs)))


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
        self._scope, self._evaluation, self._compiled, self.expected_s = scope, evaluation, compiled, expected_s
        self._program: Program | None = compiled.evaluate
        self._ways: list[float] = []  # seconds of a transfer to the device and back
        self._costs: list[float] = []  # seconds of a sample
        self._left = 0.0  # seconds that may still be spent

    def sample(self, solve_s: float, compile_s: float) -> None:
        """Measure for a small part of the seconds that a solve just took; at least once in all.

        Args:
            solve_s: those seconds.
            compile_s: seconds that may be spent on compiling the objective alone, where that is needed.
        """
        expected = self.expected_s if not self._evaluation.ready else 0.0
        if not self._compiled.only_evaluates or expected > compile_s:
            return
        self._left += PART * solve_s + LEAST
        for _ in range(MOST):
            if self._costs and self._left < statistics.median(self._costs):
                break
            began, compile_s = time.perf_counter(), self._evaluation.compile_s
            with self._scope():
                self._evaluation.sample()
                self._time_ways()
            compile_s = self._evaluation.compile_s - compile_s
            self._costs.append(time.perf_counter() - began - compile_s)
            self._left -= self._costs[-1]

    def shares(self, solve_s: float, result: Result) -> TimeBreakdown:
        """Return the parts of a solve that took `solve_s` seconds."""
        if not (self._compiled.only_evaluates and self._ways and solve_s > 0):
            return UNKNOWN
        nfev, way = int(result.nfev), statistics.median(self._ways)
        ways = nfev if self._program is not None else 1 + self._compiled.reports_per_s * solve_s
        objective, transfers = nfev * self._evaluation.seconds / solve_s, ways * way / solve_s
        excess = max(objective + transfers, 1.0)  # above 1 by noise alone
        objective, transfers = objective / excess, transfers / excess
        return TimeBreakdown(objective, transfers, max(1.0 - objective - transfers, 0.0))

    def _time_ways(self) -> None:
        """Time a few transfers to the device and back; the first is cold, which the median ignores."""
        x, data, program = self._evaluation.x, self._evaluation.problem.data, self._program
        if program is None:
            self._ways += [_time_copy(self._compiled.report_shape, x.dtype) for _ in range(3)]
        elif self._evaluation.is_long:  # the difference to the evaluation would be noise
            there = [_seconds(lambda: jax.block_until_ready(jax.device_put(x))) for _ in range(3)]
            self._ways += [seconds + _time_copy(x.shape, x.dtype) for seconds in there]
        else:
            count = int(np.clip(LONG / 2 / max(self._evaluation.seconds, 1e-9), 3, 15))
            whole = [_time_call(program, x, data) for _ in range(count)]
            self._ways += [max(seconds - self._evaluation.seconds, 0.0) for seconds in whole]


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
            if has_grad:
                value, grad, _ = flat.value_and_grad(x, data)
            else:
                value, grad = flat.value(x, data)[0], 1.0
            change = jnp.where(jnp.isfinite(grad), grad, 0) + jnp.where(jnp.isfinite(value), value, 0)
            return x + zero * change, total + value

        return lax.fori_loop(0, count, step, (x, jnp.zeros((), x.dtype)))[0]

    return repeat


def _start(problem: Problem) -> HostVector:
    x = problem.spec.params.ravel_on_host(problem.start_leaves, np.float64)
    if problem.bounds is not None:
        x = np.clip(x, problem.bounds.lower, problem.bounds.upper)
    return x.astype(problem.spec.dtype)


def _time_call(program: Program, x: HostVector, data: Data) -> float:
    """Return the seconds of an evaluation that the host asks for."""
    return _seconds(lambda: np.asarray(program(x, data)[0]))


def _time_copy(shape: tuple[int, ...], dtype: np.dtype) -> float:
    """Return the seconds in which an array comes to the host."""
    array = jax.block_until_ready(jax.device_put(np.ones(shape, dtype)))
    return _seconds(lambda: np.asarray(array))


def _seconds(call: Callable[[], PyTree]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
