"""The pure functions of the device L-BFGS-B one by one: line search, decisions, memory, Cauchy point, subspace step.

Private modules are imported here on purpose: a defect in a formula shows in the formula's own test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

import reference_lbfgsb as reference
from scipy_jax_bridge import Status
from scipy_jax_bridge._core.status import RUNNING
from scipy_jax_bridge._core.stopping import MAX_UNCHANGED_TRIALS, contradiction, measured_noise
from scipy_jax_bridge._optax.lbfgsb import (
    bounded as _bounded,
    cauchy as _cauchy,
    compact as _compact,
    linesearch as ls,
    memory as _memory,
    unbounded as _free,
)
from scipy_jax_bridge._optax.lbfgsb.control import accept_start, process_trial
from scipy_jax_bridge._optax.lbfgsb.linesearch import Search, Trial, start_search
from scipy_jax_bridge._optax.lbfgsb.noise import see
from scipy_jax_bridge._optax.lbfgsb.records import SolveScalars, TrialEvaluation, TrialOutcome
from scipy_jax_bridge._optax.limits import Box, Tolerances

Vector = NDArray[np.float64]
Line = Callable[[float], tuple[float, float]]  # t -> phi(t), phi'(t)
EPS = float(np.finfo(np.float64).eps)
INF = np.inf


# The line search, on the test functions of section 5 of Moré and Thuente (1994).


def function_1(t: float) -> tuple[float, float]:
    return -t / (t * t + 2), (t * t - 2) / (t * t + 2) ** 2


def function_2(t: float) -> tuple[float, float]:
    u = t + 0.004
    return u**5 - 2 * u**4, 5 * u**4 - 8 * u**3


def function_3(t: float) -> tuple[float, float]:
    value, slope = abs(t - 1), float(np.sign(t - 1))
    if abs(t - 1) < 0.01:
        value, slope = (t - 1) ** 2 / 0.02 + 0.005, (t - 1) / 0.01
    wave = 39 * np.pi / 2
    return value + 0.99 / wave * np.sin(wave * t), slope + 0.99 * np.cos(wave * t)


def yanai(first: float, second: float) -> Line:
    def phi(t: float) -> tuple[float, float]:
        p, q = np.hypot(1 - t, second), np.hypot(t, first)
        a, b = (np.hypot(1, beta) - beta for beta in (first, second))
        return a * p + b * q, a * (t - 1) / p + b * t / q

    return phi


FUNCTIONS: tuple[Line, ...] = (
    function_1,
    function_2,
    function_3,
    yanai(0.001, 0.001),
    yanai(0.01, 0.001),
    yanai(0.001, 0.01),
)
STARTS = (1e-3, 1e-1, 1e1, 1e3)
# Function, mu, eta; then evaluations and final step from each of STARTS: tables I to VI of the paper.
TABLES = [
    (1, 0.001, 0.1, ((6, 1.4), (3, 1.4), (1, 10.0), (4, 37.0))),
    (2, 0.1, 0.1, ((12, 1.6), (8, 1.6), (8, 1.6), (11, 1.6))),
    (3, 0.1, 0.1, ((12, 1.0), (12, 1.0), (10, 1.0), (13, 1.0))),
    (4, 0.001, 0.001, ((4, 0.08), (1, 0.1), (3, 0.35), (4, 0.83))),
    (5, 0.001, 0.001, ((6, 0.075), (3, 0.078), (7, 0.073), (8, 0.076))),
    (6, 0.001, 0.001, ((13, 0.93), (11, 0.93), (8, 0.92), (11, 0.92))),
]
CONSTANTS = [(1e-3, 0.9, 0.1), (0.1, 0.1, 1e-10), (1e-3, 0.1, 1e-10), (1e-3, 1e-3, 1e-10)]  # the first are L-BFGS-B's


begin = jax.jit(start_search)


@jax.jit
def try_with(
    constants: tuple[float, float, float], search: Search, slope: Any, cap: Any, trial: Trial
) -> tuple[ls.Verdict, Search]:
    """What a trial means and the search after it, with other constants: the module is read while this is traced."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("SUFFICIENT_DECREASE", "CURVATURE", "INTERVAL"), constants, strict=True):
            patch.setattr(ls, name, value)
        opened = ls.open_search(search, slope, cap)
        return ls.judge(opened, slope, trial), ls.next_trial(opened, slope, trial)


def run_search(
    constants: tuple[float, float, float], phi: Line, step: float, cap: float
) -> Iterator[tuple[float, ls.Verdict, Search]]:
    """Each trial step, what it means, and the search after it."""
    value, slope = map(np.float64, phi(0.0))
    search, evaluations = begin(value, np.float64(step)), 0
    while evaluations < 40:
        t = float(search.step)
        verdict, following = try_with(constants, search, slope, cap, Trial(t, *map(float, phi(t))))
        evaluations += 1
        following = following._replace(evaluations=np.float64(evaluations))
        yield t, verdict, following
        if verdict.accepted or verdict.stuck:
            return
        search = following
    raise AssertionError("the search does not end")


@pytest.mark.parametrize(("number", "mu", "eta", "table"), TABLES)
def test_line_search_takes_the_evaluations_of_the_paper(number: int, mu: float, eta: float, table: Any) -> None:
    for start, (evaluations, final) in zip(STARTS, table, strict=True):
        trials = list(run_search((mu, eta, 1e-10), FUNCTIONS[number - 1], start, 1e10))
        step, verdict, _ = trials[-1]
        assert len(trials) == evaluations, start
        assert bool(verdict.accepted) and step == pytest.approx(final, rel=0.07)  # two digits


@pytest.mark.parametrize("constants", CONSTANTS, ids=["-".join(map(str, each)) for each in CONSTANTS])
@pytest.mark.parametrize("number", range(1, 7))
def test_line_search_is_that_of_minpack(number: int, constants: Any) -> None:
    """Every trial step, bracket, width and end, from steps short and long, within a short limit and a long one."""
    dcsrch = pytest.importorskip("scipy.optimize._dcsrch").DCSRCH
    for start in (*STARTS, 1e-2, 1.0, 1e2):
        for cap in (1e10, max(start, 1.0)):
            phi, task = FUNCTIONS[number - 1], b"START"
            theirs = dcsrch(None, None, *constants, 0, cap)
            step, *_, task = theirs._iterate(start, *phi(0.0), task)
            for ours, verdict, after in run_search(constants, phi, start, cap):
                assert ours == pytest.approx(step, rel=1e-7), (start, cap)
                step, *_, task = theirs._iterate(step, *phi(step), task)
                assert bool(verdict.accepted) == (task[:4] == b"CONV"), (start, cap, task)
                assert bool(verdict.accepted | verdict.stuck) == (task[:2] != b"FG"), (start, cap, task)
                if task[:2] == b"FG":
                    ends = (after.step_best, after.step_other, after.width, after.width_before)
                    np.testing.assert_allclose(ends, (theirs.stx, theirs.sty, theirs.width, theirs.width1), rtol=1e-7)
                    assert bool(after.bracketed) == theirs.brackt and bool(after.second_stage) == (theirs.stage == 2)
                    assert float(after.step) == pytest.approx(step, rel=1e-7)


def test_the_constants_are_those_of_lbfgsb() -> None:
    """The tests above take them as arguments."""
    assert CONSTANTS[0] == (ls.SUFFICIENT_DECREASE, ls.CURVATURE, ls.INTERVAL)


def seen(trial: tuple[float, float], slope: float, *, ftol: float = 0.0, shown: float = 0.0) -> Any:
    """What is seen of the first trial of a search from phi(0) = 1."""
    search = begin(np.float64(1), np.float64(1))
    limit = LIMITS._replace(ftol=ftol)
    return see(search, tuple(map(np.float64, trial)), np.float64(slope), np.bool_(True), np.float64(shown), limit)


def test_noise_hides_the_change_of_a_value() -> None:
    """Where it does, the slopes tell the value; with an ftol, or beyond the noise, the value is itself."""
    by_slopes = 1 - 4.5e-16
    assert float(seen((1 + 4 * EPS, 1e-16), -1e-15).value) == pytest.approx(by_slopes, abs=EPS)
    for value, told in [(1 + 4 * EPS, {"ftol": 1e-9}), (1 + 40 * EPS, {}), (0.5, {})]:
        assert float(seen((value, 1e-17), -1e-16, **told).value) == value
    assert float(seen((1 + 40 * EPS, 1e-14), -1e-13, shown=1e-13).value) == pytest.approx(1 - 4.5e-14, abs=2e-16)
    assert float(seen((1 + 4 * EPS, -1e-3), -1e-3).value) > 1  # such a slope would be seen


def test_a_gradient_that_contradicts_the_values() -> None:
    """The value rises above rounding although the slope at both ends falls; not so where the slope rises too."""
    for value, slope, expected in [(2.0, -1.0, True), (2.0, 1.0, True), (1 + EPS, -1.0, False), (0.5, -1.0, False)]:
        assert bool(seen((value, slope), -1.0).contradicted) is expected
    assert not bool(seen((1 + 1e-9, -1e-9), -1e-9, shown=1e-9).contradicted)  # noise is known to be as large
    assert bool(seen((1 + 1e-7, -1e-8), -1e-8, shown=1e-9).contradicted)


@pytest.mark.parametrize("kind", [np, jnp])
def test_only_noise_is_taken_for_noise(kind: Any) -> None:
    """What slopes leave unexplained shrinks with the step: linearly if they are wrong, cubically if they are right."""

    def found(phi: Callable[[float], float], slope: Callable[[float], float], short: float, long: float) -> float:
        trials = [(phi(t) - phi(0), t * slope(0), t * slope(t)) for t in (short, long)]
        return float(measured_noise(*trials, 1e-8, kind))

    rng = np.random.default_rng(0)
    rough = [
        found(lambda t: -1e-14 * t + 1e-10 * rng.standard_normal(), lambda t: -1e-14, 0.1, 1.0) for _ in range(200)
    ]
    assert np.mean(np.array(rough) > 0) > 0.5 and max(rough) < 2e-9
    for t in (0.5, 0.1, 1e-2, 1e-4):
        for long in (1e-3, 1e-4, 1e-5):
            assert not found(lambda t: t, lambda t: -1.0, t * long, long)  # a flipped sign
            assert not found(lambda t: t - t * t, lambda t: -0.1, t * long, long)  # a missing term
            assert not found(lambda t: -1e-6 * t + t**3, lambda t: -1e-6 + 3 * t**2, t * long, long)
            assert not found(lambda t: t**0.5, lambda t: -1.0, t * long, long)
    assert not found(lambda t: float(t > 0), lambda t: -1e-14, 0.1, 1.0)  # a jump


def test_the_noise_up_to_which_nothing_contradicts() -> None:
    """Slopes that fall at both ends, or turn, promise a decrease; the value may not rise beyond its last slope."""
    assert contradiction(1.0, -1.0, -1.0, np) == 1 / 100
    assert contradiction(1e-3, -1.0, -1.0, np) == 1e-3
    assert contradiction(0.0, -1.0, 1.0, np) == pytest.approx(1 / 400)
    assert contradiction(3.0, -1e-3, 1.0, np) == pytest.approx(2 / 100)
    assert contradiction(-1.0, -1.0, -1.0, np) <= 0


# The decisions. Every number is a plain float, and each rule is compiled once.

# What is left of maxiter and maxfun before the trial.
LIMITS = Tolerances(gtol=1e-5, ftol=1e-9, maxiter=96, maxfun=91, maxls=20, maxcor=3, rounding=EPS)
BEFORE = SolveScalars(
    status=float(RUNNING),
    grad_norm=1.0,
    least_value=10.0,
    best_value=10.0,
    best_grad_norm=1.0,
    noise=0.0,
    slot=1.0,
    evals_since_progress=0.0,
    grad_max=1.0,
    grad_scale=1.0,
    is_start=False,
    memory_empty=False,
)
# phi(t) = 10 - t + t^2 / 2, whose minimum is at the full step.
GOOD = TrialEvaluation(value=9.5, slope=0.0, slope_start=-1.0, grad_norm=0.5, grad_max=0.5, step_max=10.0)
HIGH = TrialEvaluation(value=30.0, slope=20.0, slope_start=-1.0, grad_norm=9.0, grad_max=9.0, step_max=10.0)
FLAT = GOOD._replace(value=10 - 1e-12, slope_start=-1e-10)


def as_arrays(record: Any) -> Any:
    """Numbers as the engine hands them over: floats of one type, flags as booleans."""
    return type(record)(*(np.asarray(x, bool if isinstance(x, bool) else np.float64) for x in record))


@pytest.fixture(scope="module")
def rules() -> dict[str, Callable[..., tuple[Search, SolveScalars, TrialOutcome]]]:
    def call(rule: Any) -> Callable[..., tuple[Search, SolveScalars, TrialOutcome]]:
        compiled = jax.jit(rule)
        return lambda search, progress, fact, limit=LIMITS: compiled(
            (search, as_arrays(progress)), as_arrays(fact), as_arrays(limit)
        )

    return {"start": call(accept_start), "trial": call(process_trial)}


def searching(**changes: Any) -> Search:
    """A search from phi(0) = 10 with the full step ahead."""
    kinds = {name: bool if isinstance(value, bool) else np.float64 for name, value in changes.items()}
    return begin(np.float64(10), np.float64(1))._replace(
        **{name: np.asarray(value, kinds[name]) for name, value in changes.items()}
    )


def flags(decision: TrialOutcome) -> set[str]:
    return {name for name, flag in decision._asdict().items() if bool(flag)}


START = SolveScalars(*[0.0] * 12)._replace(
    status=float(RUNNING), least_value=INF, best_value=INF, is_start=True, memory_empty=True
)
FIRST = TrialEvaluation(value=2.0, slope=16.0, slope_start=0.0, grad_norm=4.0, grad_max=4.0, step_max=1e10)
STARTED = [
    (FIRST, {}, RUNNING),
    (FIRST._replace(grad_norm=1e-5), {}, Status.GTOL),
    (FIRST._replace(grad_norm=1e-5), {"maxfun": 1}, Status.GTOL),
    (FIRST, {"maxfun": 1}, Status.MAXFUN),
    (FIRST, {"maxiter": 0}, Status.MAXITER),
    (FIRST, {"maxiter": 0, "maxfun": 1}, Status.MAXITER),
    (FIRST._replace(value=INF), {}, Status.NONFINITE),
    (FIRST._replace(value=np.nan, grad_norm=0.0), {}, Status.NONFINITE),
    (FIRST._replace(grad_max=np.nan), {"maxfun": 1}, Status.NONFINITE),
]


@pytest.mark.parametrize(("fact", "limit", "status"), STARTED, ids=range(len(STARTED)))
def test_what_a_start_means(rules: Any, fact: TrialEvaluation, limit: Any, status: Any) -> None:
    search, progress, decision = rules["start"](searching(), START, fact, LIMITS._replace(**limit))
    finite = status != Status.NONFINITE
    assert int(progress.status) == int(status)
    assert flags(decision) == ({"accepted", "improves_best"} if finite else {"accepted"})
    assert not bool(progress.is_start)
    assert float(progress.best_value) == (fact.value if finite else INF)
    assert float(search.step) == pytest.approx(1 / 4) and float(search.value_start) == pytest.approx(
        fact.value, nan_ok=True
    )


def test_a_huge_gradient_is_scaled(rules: Any) -> None:
    """So that no square overflows; the first step has unit length still."""
    size = 1e200
    fact = FIRST._replace(slope=INF, grad_norm=size, grad_max=size)
    search, progress, _ = rules["start"](searching(), START, fact)
    scale = float(progress.grad_scale)
    assert 0 < scale < 1 and (scale * size) ** 2 < INF
    assert float(search.step) * size * scale == pytest.approx(1)


NO_PAIRS = BEFORE._replace(memory_empty=True)
FAILED = {"search_failed"}
BETTER = {"accepted", "improves_best", "store_pair"}
LAST = {"evaluations": 19.0}  # one more trial is the last of this search
# Search, progress before, trial, limits, status, what follows, which of the numbers change to what.
TRIALS: dict[str, tuple[Any, SolveScalars, TrialEvaluation, Any, int, set[str], dict[str, float]]] = {
    "accepted": ({}, BEFORE, GOOD, {}, RUNNING, BETTER, {"slot": 2}),
    "slot wraps": ({}, BEFORE._replace(slot=2.0), GOOD, {}, RUNNING, BETTER, {"slot": 0}),
    "accepted, not the best": (
        {}, BEFORE._replace(least_value=3.0, best_value=3.0), GOOD, {}, RUNNING, {"accepted", "store_pair"},
        {"evals_since_progress": 0},
    ),
    "gtol": ({}, BEFORE, GOOD._replace(grad_norm=1e-5), {}, Status.GTOL, BETTER, {}),
    "just above gtol": ({}, BEFORE, GOOD._replace(grad_norm=1.1e-5), {}, RUNNING, BETTER, {}),
    "ftol": ({}, BEFORE, FLAT, {}, Status.FTOL, BETTER, {}),
    "ftol of 0": ({}, BEFORE, FLAT, {"ftol": 0.0}, RUNNING, BETTER, {}),
    "gtol before ftol": ({}, BEFORE, FLAT._replace(grad_norm=0.0), {}, Status.GTOL, BETTER, {}),
    "ftol before maxiter": ({}, BEFORE, FLAT, {"maxiter": 1}, Status.FTOL, BETTER, {}),
    "ftol not after a cut": ({"step_was_reduced": True}, BEFORE, FLAT, {}, RUNNING, BETTER, {}),
    "maxiter": ({}, BEFORE, GOOD, {"maxiter": 1}, Status.MAXITER, BETTER, {}),
    "maxfun": ({}, BEFORE, GOOD, {"maxfun": 1}, Status.MAXFUN, BETTER, {}),
    "maxiter before maxfun": (
        {}, BEFORE, GOOD, {"maxiter": 1, "maxfun": 1}, Status.MAXITER, BETTER, {},
    ),
    "maxfun in a search": ({}, BEFORE, HIGH, {"maxfun": 1}, Status.MAXFUN, set(), {}),
    "too high": ({}, BEFORE, HIGH, {}, RUNNING, set(), {"evals_since_progress": 1, "slot": 1, "grad_norm": 1}),
    "no curvature": (
        {"step_max": 1.0, "evaluations": 1.0}, BEFORE, GOOD._replace(value=9.0, slope=-1.0, step_max=1.0), {},
        RUNNING, {"accepted", "improves_best"}, {"slot": 1},
    ),
    "not finite": ({}, BEFORE, HIGH._replace(value=np.nan), {}, RUNNING, set(), {"evals_since_progress": 1}),
    "gradient not finite": ({}, BEFORE, GOOD._replace(grad_max=INF), {}, RUNNING, set(), {"best_value": 10}),
    "slope overflows": ({}, BEFORE, GOOD._replace(slope=-INF), {}, RUNNING, set(), {"best_value": 10}),
    "maxls, pairs left": (LAST, BEFORE, HIGH, {}, RUNNING, FAILED, {}),
    "maxls, no pairs": (LAST, NO_PAIRS, HIGH, {}, Status.LINESEARCH, FAILED, {}),
    "maxls, lower point seen": (
        LAST, NO_PAIRS._replace(least_value=9.0, best_value=9.0), HIGH, {}, RUNNING, {"search_failed", "restarts"},
        {"is_start": 1},
    ),
    "maxls, trial not finite": (LAST, NO_PAIRS, HIGH._replace(value=INF), {}, Status.NONFINITE, set(), {}),
    "maxls, an earlier one was not": (
        {**LAST, "nonfinite_trial": True}, NO_PAIRS, HIGH, {}, Status.NONFINITE, set(), {},
    ),
    "maxls, decrease hidden": (
        LAST, NO_PAIRS, HIGH._replace(value=10 + 1e-13, slope=1e-15, slope_start=-1e-16), {"ftol": 0.0},
        Status.NOISE_FLOOR, FAILED, {},
    ),
    "maxls, contradicted": (
        {**LAST, "contradiction": 1.0}, NO_PAIRS, HIGH._replace(value=10 + 1e-13, slope=1e-15, slope_start=-1e-16),
        {"ftol": 0.0}, Status.LINESEARCH, FAILED, {},
    ),
    "uphill, pairs left": (
        {}, BEFORE, GOOD._replace(slope_start=1.0), {}, RUNNING, {"search_failed", "improves_best"}, {},
    ),
    "no descent, no pairs": ({}, NO_PAIRS, HIGH._replace(slope_start=0.0), {}, Status.NOISE_FLOOR, FAILED, {}),
    "slope not finite": ({}, NO_PAIRS, HIGH._replace(slope_start=np.nan), {}, Status.NONFINITE, set(), {}),
    "idle": (
        {}, BEFORE._replace(evals_since_progress=39.0), HIGH, {}, Status.LINESEARCH, set(),
        {"evals_since_progress": 40},
    ),
    "not yet idle": (
        {}, BEFORE._replace(evals_since_progress=38.0), HIGH, {}, RUNNING, set(), {"evals_since_progress": 39},
    ),
    "stairs": (
        {"evaluations": MAX_UNCHANGED_TRIALS - 1.0}, BEFORE, HIGH._replace(value=10.0), {"rounding": 1e-7}, RUNNING,
        FAILED, {},
    ),
    "no stairs in full precision": (
        {"evaluations": MAX_UNCHANGED_TRIALS - 1.0}, BEFORE, HIGH._replace(value=10.0), {}, RUNNING, set(), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRIALS)
def test_what_a_trial_means(rules: Any, name: str) -> None:
    search, before, fact, limit, status, expected, changed = TRIALS[name]
    following, progress, decision = rules["trial"](searching(**search), before, fact, LIMITS._replace(**limit))
    assert int(progress.status) == int(status)
    assert flags(decision) == expected
    assert {field: float(getattr(progress, field)) for field in changed} == changed
    assert bool(progress.memory_empty) == (
        "maxls" in name or "uphill" in name or "no descent" in name or status == Status.NONFINITE or name == "stairs"
    )
    moves, fails = "accepted" in expected, "search_failed" in expected
    value = fact.value if moves else 10.0
    assert float(following.value_start) == value
    assert float(progress.grad_max) == (fact.grad_max if moves else before.grad_max)
    if moves or fails:
        assert float(following.step) == 1 and float(following.value_best) == value
        own = {"step": 0, "value_start": 0, "value_best": 0, "value_other": 0, "contradiction": 0}
        assert not any(map(float, following._replace(**own)))
        if progress.evals_since_progress == 0:
            assert float(following.contradiction) == 0  # what contradicted the gradient counts until then
    else:
        assert float(following.evaluations) == search.get("evaluations", 0.0) + 1


@pytest.mark.parametrize(
    "fact", [HIGH._replace(value=np.nan), GOOD._replace(grad_max=INF), GOOD._replace(slope=np.nan)]
)
def test_a_lost_trial_is_retreated_from(rules: Any, fact: TrialEvaluation) -> None:
    """A tenth of the way, and never again beyond it."""
    following, _, _ = rules["trial"](searching(), BEFORE, fact)
    assert float(following.step) == pytest.approx(0.1) and float(following.step_max) == 1
    assert bool(following.step_was_reduced) and bool(following.nonfinite_trial) == (
        not np.isfinite(fact.value) or not np.isfinite(fact.grad_max)
    )
    assert not bool(following.bracketed) and float(following.step_best) == 0


# The memory and the step, against dense matrices and the plain reference.

SIZE, SLOTS = 7, 4


def pairs_of(seed: int, count: int) -> list[tuple[Vector, Vector]]:
    """Steps and changes of the gradient of a random convex quadratic."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(SIZE, SIZE))
    A = root @ root.T / SIZE + np.eye(SIZE)
    return [(s, A @ s) for s in rng.normal(size=(count, SIZE))]


def compile_parts() -> dict[str, Callable[..., Any]]:
    """Every function of memory and step, compiled once for one size."""
    return {
        "write bounded": jax.jit(_compact.update_memory),
        "write free": jax.jit(_free.update_memory),
        "step free": jax.jit(lambda memory, x, grad: _free.full_step(memory, x, grad)),
        "step bounded": jax.jit(lambda memory, x, grad, box: _bounded.full_step(memory, x, grad, box)),
        "cauchy": jax.jit(
            lambda memory, x, grad, box: _cauchy.find_cauchy_point(
                memory, _compact.middle_matrix(memory), x, grad, *box
            )
        ),
        "model": jax.jit(
            lambda memory, free: (
                _compact.middle_matrix(memory),
                jax.vmap(lambda v: _compact.times_w(memory, v), out_axes=1)(jnp.eye(SIZE)),
                jax.vmap(lambda w: _compact.w_times(memory, w), out_axes=1)(jnp.eye(2 * SLOTS)),
                _bounded._subspace_matrix(memory, free),
            )
        ),
    }


parts = pytest.fixture(scope="module")(compile_parts)
as_long = pytest.fixture(scope="module", name="as_long")(compile_parts)


@pytest.fixture
def long_parts(as_long: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same functions, compiled as for vectors too long to sort, or to multiply, at once."""
    monkeypatch.setattr(_cauchy, "FEW", 3)
    monkeypatch.setattr(_bounded, "LONG", 4)
    monkeypatch.setattr(_bounded, "PART", 5)
    return as_long


def remember(
    parts: Any, kind: str, pairs: list[tuple[Vector, Vector]], *, keep: Any = lambda i: True, drop: int = -1
) -> tuple[Any, list[Vector], list[Vector]]:
    """A memory that these pairs were written to in turn, and the pairs that it ought to hold, oldest first."""
    direction: Any = {"bounded": _compact, "free": _free}[kind]
    memory, kept, slot = direction.empty_memory(jnp, SIZE, SLOTS, jnp.dtype(float)), [], 0
    for i, (s, y) in enumerate(pairs):
        here = i != drop and bool(keep(i))
        new = _memory.NewPair(s, y, np.float64(s @ y), np.int32(slot), np.bool_(here), np.bool_(i == drop))
        memory = parts[f"write {kind}"](memory, new)
        kept = [] if i == drop else [*kept, (s, y)][-SLOTS:] if here else kept
        slot = (slot + here) % SLOTS
    return memory, [s for s, _ in kept], [y for _, y in kept]


def scale_of(S: list[Vector], Y: list[Vector]) -> float:
    return float(Y[-1] @ Y[-1] / (S[-1] @ Y[-1])) if S else 1.0


HISTORIES = {
    "empty": {"count": 0},
    "one pair": {"count": 1},
    "full": {"count": 4},
    "gone round": {"count": 7},
    "some left out": {"count": 9, "keep": lambda i: i % 3 != 1},
    "the last left out": {"count": 5, "keep": lambda i: i < 4},
    "dropped": {"count": 6, "drop": 5},
    "dropped before": {"count": 8, "drop": 5},
}


# After a restart the slots that were dropped are no longer empty: their old rows and products enter the model.
bounded_histories = pytest.mark.parametrize("name", HISTORIES)


def history(parts: Any, kind: str, name: str) -> tuple[Any, list[Vector], list[Vector]]:
    given = dict(HISTORIES[name])
    return remember(parts, kind, pairs_of(0, given.pop("count")), **given)


@pytest.mark.parametrize("name", HISTORIES)
def test_memory_without_bounds_is_the_inverse_bfgs_matrix(parts: Any, name: str) -> None:
    memory, S, Y = history(parts, "free", name)
    H = np.linalg.inv(reference.hessian(SIZE, S, Y, scale_of(S, Y)))
    rng = np.random.default_rng(1)
    for _ in range(3):
        x, grad = rng.normal(size=(2, SIZE))
        np.testing.assert_allclose(parts["step free"](memory, x, grad), x - H @ grad, rtol=1e-8, atol=1e-9)


@bounded_histories
def test_memory_with_bounds_is_the_bfgs_matrix(parts: Any, name: str) -> None:
    """B = theta I - W M W'; and the matrix of the subspace step is M^-1 - W'ZZ'W / theta."""
    memory, S, Y = history(parts, "bounded", name)
    theta = scale_of(S, Y)
    free = np.arange(SIZE) % 3 != 0
    middle, rows, columns, inner = map(np.asarray, parts["model"](memory, free))
    assert float(memory.theta) == pytest.approx(theta, rel=1e-12)
    np.testing.assert_allclose(
        theta * np.eye(SIZE) - columns @ middle @ rows, reference.hessian(SIZE, S, Y, theta), rtol=1e-8, atol=1e-8
    )
    used = np.tile(np.diagonal(memory.sy) > 0, 2)
    assert used.sum() == 2 * len(S)
    np.testing.assert_array_equal(rows[used].T, columns[:, used])
    if S:
        dense = np.linalg.inv(middle[np.ix_(used, used)])
        dense -= (rows[:, free] @ rows[:, free].T / theta)[np.ix_(used, used)]
        np.testing.assert_allclose(inner[np.ix_(used, used)], dense, rtol=1e-7, atol=1e-7)
    np.testing.assert_array_equal(inner[~used][:, ~used], np.diag(np.repeat([1.0, -1.0], (~used).sum() // 2)))


def random_box(rng: np.random.Generator) -> tuple[Vector, Vector, Vector]:
    """A point in a box with infinite, near and equal sides; some of the point's variables are at a bound."""
    x = rng.normal(size=SIZE)
    lower, upper = x - rng.exponential(0.5, SIZE), x + rng.exponential(0.5, SIZE)
    kind = rng.integers(0, 8, SIZE)
    lower, upper = np.where(kind == 0, x, lower), np.where(kind == 1, x, upper)
    lower, upper = np.where(kind == 2, -INF, lower), np.where(kind == 3, INF, upper)
    lower, upper = np.where(kind == 4, x, lower), np.where(kind == 4, x, upper)
    return x, np.where(kind == 5, -INF, lower), np.where(kind == 5, INF, upper)


@pytest.mark.parametrize("length", ["parts", "long_parts"], ids=["short", "long"])
@bounded_histories
def test_cauchy_point_and_bounded_step(name: str, length: str, request: pytest.FixtureRequest) -> None:
    """The same point, the same free variables and the same full step as the plain reference in random boxes."""
    parts = request.getfixturevalue(length)
    memory, S, Y = history(parts, "bounded", name)
    theta = scale_of(S, Y)
    B = reference.hessian(SIZE, S, Y, theta)
    used = np.tile(np.diagonal(memory.sy) > 0, 2)
    rng, moved = np.random.default_rng(len(name)), 0
    for _ in range(40):
        x, lower, upper = random_box(rng)
        grad = np.where(rng.random(SIZE) < 0.1, 0.0, rng.normal(size=SIZE))
        expected, free = reference.generalized_cauchy_point(x, grad, lower, upper, B, theta)
        found = parts["cauchy"](memory, x, grad, Box(lower, upper))
        np.testing.assert_allclose(found.x, expected, rtol=1e-8, atol=1e-9)
        inside = (lower < upper) & (grad != 0)  # a variable without gradient is free or not, and stays anyway
        np.testing.assert_array_equal(np.asarray(found.free)[inside], free[inside])
        rows = np.asarray(parts["model"](memory, free)[1])
        np.testing.assert_allclose(found.offset[used], rows[used] @ (expected - x), rtol=1e-7, atol=1e-8)
        target = reference.target(x, grad, lower, upper, S, Y, theta)
        np.testing.assert_allclose(
            parts["step bounded"](memory, x, grad, Box(lower, upper)), target, rtol=1e-7, atol=1e-8
        )
        moved += not np.allclose(target, expected)
    assert not S or moved > 20, "the subspace step hardly ever left the Cauchy point"


def test_a_projected_step_that_leads_uphill_is_shortened_instead(parts: Any) -> None:
    """[MN]: rare, so that the model and the boxes are those of a search for such steps."""
    rng = np.random.default_rng(25)
    scales = 10 ** rng.uniform(-2, 2, SIZE)
    turned = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    A = turned @ np.diag(scales) @ turned.T
    memory, S, Y = remember(parts, "bounded", [(s, A @ s) for s in rng.normal(size=(4, SIZE))])
    theta = scale_of(S, Y)
    B = reference.hessian(SIZE, S, Y, theta)
    rng, x, uphill = np.random.default_rng(25), np.zeros(SIZE), 0
    for _ in range(30):
        lower, upper, grad = -rng.exponential(1, SIZE), rng.exponential(1, SIZE), rng.normal(size=SIZE)
        cauchy, free = reference.generalized_cauchy_point(x, grad, lower, upper, B, theta)
        step = np.zeros(SIZE)
        step[free] = -np.linalg.solve(B[np.ix_(free, free)], (grad + B @ (cauchy - x))[free])
        uphill += np.clip(cauchy + step, lower, upper) @ grad > 1e-6
        target = reference.target(x, grad, lower, upper, S, Y, theta)
        assert target @ grad < 0
        np.testing.assert_allclose(parts["step bounded"](memory, x, grad, Box(lower, upper)), target, atol=1e-7)
    assert uphill >= 3


@pytest.mark.parametrize("size", [0, 1, 5, _memory.SHORT, _memory.SHORT + 1])
def test_products_of_short_and_long_vectors(size: int) -> None:
    along, left, right, most = np.random.default_rng(size).normal(size=(4, size))
    products = jax.jit(_memory.sum_products)(along, left, right, *([most, right] if size else []))
    expected = [along @ left, along @ right, *(np.max(np.abs(each)) for each in ([most, right] if size else []))]
    np.testing.assert_allclose(products, expected, rtol=1e-11, atol=1e-11)


def test_put_writes_row_then_column() -> None:
    matrix, row, column = np.arange(9.0).reshape(3, 3), np.array([10.0, 20.0, 30.0]), np.array([-1.0, -2.0, -3.0])
    expected = np.array([[0, -1, 2], [10, -2, 30], [6, -3, 8]])
    put = jax.jit(_memory.put)
    np.testing.assert_array_equal(put(matrix, np.arange(3) == 1, row, column), expected)
    np.testing.assert_array_equal(put(matrix, np.zeros(3, bool), row, column), matrix)
