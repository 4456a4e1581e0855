"""Where the seconds of a solve go: into the objective, into transfers, into the solver.

Measured from outside and between the solves, so that nothing is added to a solve. An evaluation is timed on the
device without its dispatch: many in one program, one after another, and no solver around them. That times the number
of evaluations is the objective's part. What an evaluation takes beyond it when the host asks for it, as SciPy does, is
the way to the device and back; a loop on the device goes that way only for its reports. The rest is the solver.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .._backend import Compiled
from .._minimize import CompiledSolve
from .._problem.problem import Problem
from .._result import Result
from .comparison import UNKNOWN, Shares

PART = 0.02
"""Of the seconds of solving, how many may go into measuring their shares; as many again into compiling for it."""

LEAST = 2e-3  # seconds that measuring may take in any case
LONG = 5e-3  # seconds of evaluations beside which one dispatch, at most 0.2 ms, does not count
MOST = 50  # samples after one solve; more tell no more


class Evaluation:
    """An evaluation on the device, timed alone.

    Arguments:
        problem: what is evaluated.
        program: the program that SciPy calls, if a run has one; long evaluations are timed with it.
        has_grad: whether the gradient is evaluated with the value.
    """

    def __init__(self, problem: Problem, program: Any, has_grad: bool) -> None:
        self.problem, self.x = problem, _start(problem)
        self._on_device = jax.device_put(self.x)
        self._program, self._has_grad = program, has_grad
        self._repeat: Callable[..., Any] | None = None
        self._count = 1  # evaluations in one run of it
        self.compile_s = 0.0
        self._samples: list[float] = []
        if program is not None:
            self._time_program()

    @property
    def seconds(self) -> float:
        """Of one evaluation, the median seen; NaN before the first sample."""
        return statistics.median(self._samples) if self._samples else float("nan")

    @property
    def long(self) -> bool:
        """Whether its dispatch does not count beside it."""
        return self._program is not None and self._alone >= LONG

    @property
    def ready(self) -> bool:
        """Whether it can be timed without compiling anything."""
        return self.long or self._repeat is not None

    def sample(self) -> None:
        """Time it once more."""
        if self.long:
            self._samples.append(self._time_program())
            return
        if self._repeat is None:
            self._compile()
        self._samples.append(self._time_repeats(self._count) / self._count)

    def _compile(self) -> None:
        """The program of many evaluations, and how many take `LONG` seconds."""
        began = time.perf_counter()
        inputs = self.x, self.x.dtype.type(0), self.problem.data, np.int32(1)
        self._repeat = jax.jit(_repeat(self.problem, self._has_grad)).lower(*inputs).compile()
        self._time_repeats(1)
        seconds = self._time_repeats(1)
        while seconds < LONG and self._count < 1_000_000:
            self._count = math.ceil(self._count * min(100.0, 1.2 * LONG / seconds))
            seconds = self._time_repeats(self._count)
        self.compile_s = time.perf_counter() - began

    def _time_program(self) -> float:
        self._alone = _seconds(lambda: jax.block_until_ready(self._program(self._on_device, self.problem.data)))
        return self._alone

    def _time_repeats(self, count: int) -> float:
        inputs = self._on_device, self.x.dtype.type(0), self.problem.data, np.int32(count)
        return _seconds(lambda: jax.block_until_ready(self._repeat(*inputs)))  # type: ignore[misc]


class Probe:
    """One run's evaluation and its way to the device and back.

    Arguments:
        scope: of the run: its precision and device.
        evaluation: what the run evaluates.
        compiled: what the run runs.
        expected_s: seconds in which the objective alone may be expected to compile.
    """

    def __init__(self, scope: Callable[[], Any], evaluation: Evaluation, compiled: Compiled, expected_s: float) -> None:
        self._scope = scope
        self._evaluation, self._compiled, self._program = evaluation, compiled, compiled.evaluate
        self.expected_s = expected_s
        self._ways: list[float] = []  # seconds of a way to the device and back
        self._costs: list[float] = []  # seconds of a sample
        self._left = 0.0

    def sample(self, solve_s: float, compile_s: float) -> None:
        """Measure for a small part of the seconds that a solve just took; at least once in all.

        Arguments:
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

    def shares(self, solve_s: float, result: Result) -> Shares:
        """Of a solve of so many seconds."""
        if not (self._compiled.only_evaluates and self._ways and solve_s > 0):
            return UNKNOWN
        nfev, way = int(result.nfev), statistics.median(self._ways)
        ways = nfev if self._program is not None else 1 + self._compiled.reports_per_s * solve_s
        objective, transfers = nfev * self._evaluation.seconds / solve_s, ways * way / solve_s
        excess = max(objective + transfers, 1.0)  # by noise alone
        objective, transfers = objective / excess, transfers / excess
        return Shares(objective, transfers, max(1.0 - objective - transfers, 0.0))

    def _time_ways(self) -> None:
        """A few times the way to the device and back; the first is a cold one, and medians do not see it."""
        x, data = self._evaluation.x, self._evaluation.problem.data
        if self._program is None:
            self._ways += [_time_copy(self._compiled.report_shape, x.dtype) for _ in range(3)]
        elif self._evaluation.long:  # the difference would be noise
            here = [_seconds(lambda: jax.block_until_ready(jax.device_put(x))) for _ in range(3)]
            self._ways += [there + _time_copy(x.shape, x.dtype) for there in here]
        else:
            count = int(np.clip(LONG / 2 / max(self._evaluation.seconds, 1e-9), 3, 15))
            whole = [_seconds(lambda: np.asarray(self._program(x, data)[0])) for _ in range(count)]
            self._ways += [max(seconds - self._evaluation.seconds, 0.0) for seconds in whole]


def make_probes(insides: Mapping[str, CompiledSolve], compile_s: Mapping[str, float]) -> dict[str, Probe]:
    """A probe for each run; runs that evaluate the same share its timing.

    Arguments:
        insides: what the runs run, compiled.
        compile_s: the seconds that took.
    """
    known, known_s, probes = dict[Any, Evaluation](), dict[Any, float](), dict[str, Probe]()
    for name in sorted(insides, key=lambda name: insides[name].compiled.evaluate is None):  # those on the host first
        problem, compiled, _, scope = insides[name]
        key = compiled.has_grad, problem.has_aux, problem.spec.dtype, problem.spec.params
        with scope():
            evaluation = known.get(key) or known.setdefault(
                key, Evaluation(problem, compiled.evaluate, compiled.has_grad)
            )
        known_s.setdefault(key, compile_s[name])  # of the objective by itself, if a run on the host has compiled it
        probes[name] = Probe(scope, evaluation, compiled, known_s[key])
    return {name: probes[name] for name in insides}


def _repeat(problem: Problem, has_grad: bool) -> Callable[..., Any]:
    """Evaluations one after another in one program; each needs the one before, so that none is left out."""

    def repeat(x: Any, zero: Any, data: Any, count: Any) -> Any:
        def step(_: Any, carry: Any) -> Any:
            x, total = carry
            value, grad = problem.value(x, data)[0], 1.0
            if has_grad:
                value, grad, _ = problem.value_and_grad(x, data)
            change = jnp.where(jnp.isfinite(grad), grad, 0) + jnp.where(jnp.isfinite(value), value, 0)
            return x + zero * change, total + value

        return lax.fori_loop(0, count, step, (x, jnp.zeros((), x.dtype)))[0]

    return repeat


def _start(problem: Problem) -> np.ndarray:
    x = problem.spec.params.ravel_on_host(problem.start_leaves, np.float64)
    if problem.bounds is not None:
        x = np.clip(x, problem.bounds.lower, problem.bounds.upper)
    return x.astype(problem.spec.dtype)


def _time_copy(shape: tuple[int, ...], dtype: Any) -> float:
    """Seconds in which an array comes to the host."""
    array = jax.block_until_ready(jax.device_put(np.ones(shape, dtype)))
    return _seconds(lambda: np.asarray(array))


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
