"""The SciPy backend: the path of a hand-written call, every method, and what SciPy is handed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import scipy_jax_bridge as sjb
from problems import PROBLEMS, Problem, rosenbrock
from scipy_jax_bridge import Status
from scipy_jax_bridge._scipy.methods import METHODS, Method
from scipy_jax_bridge._scipy.recorder import SolveRecorder

CENTER = jnp.array([1.0, -0.5, 2.0])
START = jnp.array([0.2, 0.1, 0.5])


def convex(x: jax.Array) -> jax.Array:
    """Coupled, with a positive definite Hessian everywhere and its minimum 0 at CENTER."""
    d = x - CENTER
    return jnp.sum(d**2) + 0.25 * jnp.sum(d**4) + 0.5 * (d[0] + d[1]) ** 2


slope = jax.jit(jax.grad(convex))
curvature = jax.jit(jax.hessian(convex))


def methods(condition: Callable[[Method], bool] = lambda method: True) -> Any:
    """Every method of the table with this capability."""
    chosen = [method for method in METHODS.values() if condition(method)]
    return pytest.mark.parametrize("method", chosen, ids=lambda method: method.name)


def has_gradient(method: Method) -> bool:
    return method.derivatives != "none"


def by_hand(fun: Callable[[Any], Any], start: np.ndarray) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """The packed callable that an expert writes, one array in, one array out, in the bits of the adapter.

    Two programs of one function may fuse, and so round, in different ways.
    """
    ours = sjb.adapt(fun, start).value_and_grad

    @jax.jit
    def packed(x: jax.Array) -> jax.Array:
        value, grad = jax.value_and_grad(fun)(x)
        return jnp.concatenate([value[None], grad])

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = ours(x)
        np.testing.assert_allclose(np.append(value, grad), packed(x), rtol=1e-11, atol=1e-11)
        return value, grad

    return evaluate


def same_as_by_hand(problem: Problem, **options: Any) -> None:
    bounds = scipy.optimize.Bounds(problem.lower, problem.upper) if problem.bounded else None
    theirs = scipy.optimize.minimize(
        by_hand(problem.fun, problem.start), problem.start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    box = (problem.lower, problem.upper) if problem.bounded else None
    ours = sjb.minimize(problem.fun, jnp.asarray(problem.start), bounds=box, options=options)
    np.testing.assert_array_equal(ours.params, theirs.x)
    np.testing.assert_array_equal(ours.jac, theirs.jac)
    assert (float(ours.fun), ours.nit, ours.nfev) == (theirs.fun, theirs.nit, theirs.nfev)
    assert ours.success == theirs.success


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_same_path_as_by_hand(problem: Problem) -> None:
    same_as_by_hand(problem)


@pytest.mark.parametrize(
    "options", [{"maxcor": 3}, {"gtol": 1e-9, "ftol": 1e-15}, {"maxls": 3}], ids=lambda options: "-".join(options)
)
def test_same_path_as_by_hand_with_options(options: dict[str, Any]) -> None:
    same_as_by_hand(Problem("", rosenbrock, np.tile([-1.2, 1.0], 5), 0.0, None, None, None, ""), **options)


@pytest.mark.parametrize("n", [100, 1000])
def test_same_path_as_by_hand_on_a_larger_problem(n: int) -> None:
    start = np.tile([-1.2, 1.0], n // 2)
    same_as_by_hand(Problem("", rosenbrock, start, 0.0, None, None, None, ""), maxiter=100)
    same_as_by_hand(Problem("", rosenbrock, start, 0.0, None, np.full(n, -1.5), np.full(n, 0.8), ""), maxiter=100)


@methods()
def test_every_method_minimizes(method: Method) -> None:
    solve = sjb.Minimizer(convex, method=method.name, options={"gtol": 1e-6})
    result = solve(START)
    assert result.success, result.message
    assert result.method == method.name
    np.testing.assert_allclose(result.params, CENTER, atol=1e-2 if method.derivatives == "none" else 1e-3)
    np.testing.assert_allclose(float(result.fun), float(convex(result.params)), rtol=1e-12, atol=1e-15)
    assert solve(START).timing.compiles == 0


@methods(has_gradient)
def test_gtol_has_one_meaning(method: Method) -> None:
    """Whatever the method's own test is: GTOL means that the largest component is at most gtol."""
    result = sjb.minimize(convex, START, method=method.name, options={"gtol": 1e-3, "ftol": 0.0})
    assert result.status == Status.GTOL
    norms = np.asarray(result.trace.grad_norm)
    assert norms[-1] <= 1e-3 and np.all(norms[:-1] > 1e-3)
    assert float(jnp.max(jnp.abs(slope(result.params)))) <= 1e-3 * (1 + 1e-12)
    np.testing.assert_allclose(result.jac, slope(result.params), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{}, {"ftol": 0.0}, {"gtol": 1e-9, "ftol": 0.0}, {"gtol": 0.0, "ftol": 1e-6}], ids=str
)
@pytest.mark.parametrize(
    ("method", "box"),
    [
        (method, box)
        for method in METHODS.values()
        for box in (None, (None, 0.5), (-1.5, 0.8))
        if has_gradient(method) and (method.bounds or box is None)
    ],
    ids=lambda each: each.name if isinstance(each, Method) else str(each),
)
def test_success_is_a_test_that_was_set(method: Method, box: Any, options: dict[str, Any]) -> None:
    """trust-constr's own test is of its barrier, Newton-CG's and TNC's of the step: both ended far from the minimum."""
    result = sjb.minimize(rosenbrock, np.tile([-1.2, 0.4], 3), method=method.name, bounds=box, options=options)
    values, norms = np.asarray(result.trace.fun), np.asarray(result.trace.grad_norm)
    gtol, ftol = options.get("gtol", 1e-5), options.get("ftol", sjb.Options().ftol)
    if result.status == Status.GTOL:
        assert norms[-1] <= gtol
    elif result.status == Status.FTOL:
        assert values[-2] - values[-1] <= ftol * max(abs(values[-2]), abs(values[-1]), 1.0) and ftol > 0
    else:
        assert not result.success and (gtol < 1e-5 or method.name == "dogleg"), result.message


def test_the_interior_point_goes_on_to_the_bound() -> None:
    result = sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), jnp.zeros(3), method="trust-constr", bounds=(None, 0.5))
    assert result.status == Status.GTOL
    np.testing.assert_allclose(result.params, 0.5, atol=1e-5)


def test_dogleg_says_what_it_lacks() -> None:
    """The Hessian is indefinite at the start, so nothing is tried: no noise, and no search."""
    result = sjb.minimize(lambda x: jnp.sum(x**4 - x**2), jnp.array([0.1, 0.2]), method="dogleg")
    assert (result.status, result.nit, result.nfev) == (Status.LINESEARCH, 0, 1)
    assert "non-psd Hessian" in result.message and "positive definite" in result.message
    assert "trust-exact" in result.message and "ounding" not in result.message


@pytest.mark.parametrize("method", [None, "BFGS", "CG"])
def test_a_wrong_gradient_at_the_start_is_no_noise(method: str | None) -> None:
    @jax.custom_vjp
    def wrong(x: jax.Array) -> jax.Array:
        return jnp.sum((x - 1.0) ** 2)

    wrong.defvjp(lambda x: (wrong(x), x), lambda x, cotangent: (-2.0 * (x - 1.0) * cotangent,))
    result = sjb.minimize(wrong, jnp.zeros(2), method=method)
    assert result.status == Status.LINESEARCH and "check_grads" in result.message


def lofty(x: jax.Array) -> jax.Array:
    """So high that rounding hides all of its changes: every accepted step leaves it exactly equal."""
    return 1e10 + 1e-8 * (jnp.sum((x - 1.0) ** 2) + (x[1] - x[0] ** 2) ** 2)


OFF = {"gtol": 0.0, "ftol": 0.0, "maxfun": 300}  # SLSQP would go on to the end of its evaluations


@pytest.mark.parametrize(
    ("backend", "method"), [("scipy", None), ("scipy", "TNC"), ("scipy", "SLSQP"), ("optax", None)], ids=str
)
def test_a_step_that_leaves_the_objective_equal_is_ftol(backend: str, method: str | None) -> None:
    """By its definition, as in SciPy's L-BFGS-B; for the other methods of SciPy it counted as no reduction."""
    start = jnp.array([0.1, 0.2])
    result = sjb.minimize(lofty, start, backend=backend, method=method, options={"gtol": 0.0})
    assert (result.status, result.nit) == (Status.FTOL, 1)
    assert result.trace.fun[0] == result.trace.fun[1] and np.any(result.params != start)
    result = sjb.minimize(lofty, start, backend=backend, method=method, options=OFF)
    assert result.status != Status.FTOL, "0 disables the test"


@methods(lambda method: has_gradient(method) and method.derivatives != "gradient" and method.name != "trust-krylov")
def test_trials_that_change_nothing_are_a_reduction_of_zero(method: Method) -> None:
    """All are rejected: FTOL, if there is one."""
    result = sjb.minimize(lofty, jnp.array([0.1, 0.2]), method=method.name, options={"gtol": 0.0})
    assert result.status == Status.FTOL and result.trace.fun[-1] == result.trace.fun[-2]
    result = sjb.minimize(lofty, jnp.array([0.1, 0.2]), method=method.name, options={"gtol": 0.0, "ftol": 0.0})
    assert result.status == Status.NOISE_FLOOR


@methods(lambda method: not has_gradient(method))
def test_a_method_without_derivatives_says_which_test_held(method: Method) -> None:
    result = sjb.minimize(convex, START, method=method.name)
    assert result.status == Status.FTOL
    rule = f"SciPy's {method.name} ended by its own rule ({method.stopping_rule}): "
    assert result.message.startswith(f"Converged. {rule}")
    assert any(name in method.stopping_rule for name in {*method.native, *method.option_names})


@pytest.mark.parametrize(
    ("method", "native"),
    [
        ("BFGS", {"xrtol": 0.1}),
        ("Newton-CG", {"xtol": 0.1}),
        ("TNC", {"xtol": 0.1}),
        ("trust-constr", {"xtol": 10.0}),
    ],
)
def test_a_native_test_that_was_set_counts(method: str, native: dict[str, float]) -> None:
    result = sjb.minimize(convex, START, method=method, options={"gtol": 0.0, "ftol": 0.0, **native})
    assert result.status == Status.FTOL
    assert f"SciPy's {method} ended by its own rule ({next(iter(native))}): " in result.message


@methods()
def test_trace_of_every_method(method: Method) -> None:
    reports = []
    result = sjb.minimize(convex, START, method=method.name, callback=reports.append)
    trace = result.trace
    assert len(trace.fun) == result.nit + 1
    assert trace.nfev[0] == 1 and np.all(np.diff(trace.nfev) >= 0) and trace.nfev[-1] <= result.nfev
    np.testing.assert_allclose(trace.fun[0], float(convex(START)), rtol=1e-12)
    assert np.all(np.isfinite(trace.fun))
    assert np.all(np.isfinite(trace.grad_norm)) == has_gradient(method)  # every iterate is found again, not evaluated
    assert [each.nit for each in reports] == list(range(1, result.nit + 1))
    for each, value in zip(reports, trace.fun[1:], strict=True):  # asked for after the solve: SciPy's array is gone
        np.testing.assert_allclose(float(convex(each.params)), value, rtol=1e-12, atol=1e-15)


@methods(lambda method: method.bounds)
def test_bounds_of_every_method(method: Method) -> None:
    upper = np.array([0.5, np.inf, np.inf])
    seen = []
    result = sjb.minimize(
        lambda x: jnp.sum((x - CENTER) ** 2),
        START,
        method=method.name,
        bounds=sjb.Bounds(0.0, upper),
        callback=lambda progress: seen.append(progress.params),
    )
    assert result.success, result.message
    np.testing.assert_allclose(result.params, [0.5, 0.0, 2.0], atol=5e-3)  # of the interior point: trust-constr
    assert seen, "the callback was never told"
    for x in (*seen, result.params):
        assert np.all(x <= upper) and np.all(x >= 0)


@methods(lambda method: not method.bounds)
def test_methods_without_bounds_say_so(method: Method) -> None:
    with pytest.raises(ValueError, match=r"takes no bounds.*L-BFGS-B"):
        sjb.minimize(convex, START, method=method.name, bounds=(0.0, None))


@methods()
def test_every_limit_of_scipys_own_is_lifted(method: Method, handed: list[dict[str, Any]]) -> None:
    """TNC's own is max(100, 10 n) evaluations, COBYQA's 500 n: whatever SciPy calls a limit, ours decides."""
    sjb.minimize(convex, START, method=method.name, options={"maxfun": 30, "maxiter": 7})
    described = str(scipy.optimize.show_options("minimize", method.name, disp=False))
    named = {name for name in ("maxiter", "maxfun", "maxfev") if re.search(rf"\b{name}\b[\w, ]* :", described)}
    ours = {"maxiter": 7} if method.native_stopping else {}
    limits = {name: handed[0]["options"].get(name) for name in named | method.native_limits}
    assert limits and limits == dict.fromkeys(limits, np.iinfo(np.int32).max) | ours


def test_tnc_goes_on_beyond_its_own_limit() -> None:
    result = sjb.minimize(rosenbrock, np.tile([-1.2, 1.0], 10), method="TNC")
    assert result.success and result.nfev > 200
    np.testing.assert_allclose(result.params, 1.0, atol=1e-2)


@jax.custom_jvp
def no_derivative(x: jax.Array) -> jax.Array:
    return x


@no_derivative.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
    raise AssertionError("a derivative was asked for")


@methods(lambda method: not has_gradient(method))
def test_derivative_free_methods_cost_no_gradient(method: Method) -> None:
    result = sjb.minimize(lambda x: jnp.sum((no_derivative(x) - 1.0) ** 2), jnp.zeros(2), method=method.name)
    assert result.success and result.jac is None
    np.testing.assert_allclose(result.params, [1.0, 1.0], atol=1e-3)
    assert np.all(np.isnan(result.trace.grad_norm))


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What scipy.optimize.minimize was called with, and every x it evaluated at."""
    seen: list[dict[str, Any]] = []
    minimize = scipy.optimize.minimize

    def spy(fun: Any, x0: Any, **rest: Any) -> Any:
        points: list[Any] = []
        seen.append({"x0": x0, "points": points, **rest})

        def watched(x: Any) -> Any:
            out = fun(x)
            points.append((x.dtype, out[1].dtype if isinstance(out, tuple) else None))
            return out

        return minimize(watched, x0, **rest)

    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    return seen


@methods(lambda method: method.derivatives in ("product", "hessian"))
def test_second_derivatives_are_exact(method: Method, handed: list[dict[str, Any]]) -> None:
    sjb.minimize(convex, START, method=method.name)
    x, v = np.array([0.3, -0.7, 1.9]), np.array([1.0, 2.0, -0.5])
    hessian = curvature(x)
    if method.derivatives == "hessian":
        np.testing.assert_allclose(handed[0]["hess"](x), hessian, rtol=1e-13)
    else:
        np.testing.assert_allclose(handed[0]["hessp"](x, v), hessian @ v, rtol=1e-13)


@methods()
def test_scipy_gets_double_precision(method: Method, handed: list[dict[str, Any]]) -> None:
    """SciPy casts every x to the type of x0, so float32 there would spoil the search."""
    result = sjb.minimize(lambda x: jnp.sum((x - 1.5) ** 2), np.zeros(2, np.float32), method=method.name)
    assert result.params.dtype == np.float32
    np.testing.assert_allclose(result.params, [1.5, 1.5], atol=2e-2)
    assert handed[0]["x0"].dtype == np.float64
    types = {each for point in handed[0]["points"] for each in point if each is not None}
    assert types == {np.dtype(np.float64)}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("trust-ncg", {"initial_trust_radius": 0.5, "max_trust_radius": 7.0}),
        ("trust-constr", {"initial_tr_radius": 0.5}),
        ("Nelder-Mead", {"xatol": 1e-7, "adaptive": True}),
        ("COBYLA", {"rhobeg": 0.3}),
        ("BFGS", {"norm": 2}),
        ("Newton-CG", {"xtol": 1e-9}),
        ("TNC", {"eta": 0.3}),
    ],
)
def test_own_options_reach_scipy(method: str, options: dict[str, Any], handed: list[dict[str, Any]]) -> None:
    sjb.minimize(convex, START, method=method, options=options | {"maxfun": 500})
    sjb.minimize(convex, START, method=method, options=sjb.Options(native=options))
    for call in handed:
        assert {name: call["options"][name] for name in options} == options


def test_own_option_of_another_method() -> None:
    with pytest.raises(ValueError, match="initial_trust_radius"):
        sjb.minimize(convex, START, options={"initial_trust_radius": 0.5})


@methods()
def test_counts_are_the_true_evaluations(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    evaluate = SolveRecorder.evaluate

    def counted(self: SolveRecorder, x: Any) -> Any:
        calls.append(1)
        return evaluate(self, x)

    monkeypatch.setattr(SolveRecorder, "evaluate", counted)
    result = sjb.minimize(convex, START, method=method.name, callback=lambda progress: progress.params)
    assert len(calls) == result.nfev


def test_method_names_are_scipys_in_any_case() -> None:
    assert sjb.minimize(convex, START, method="bfgs").method == "BFGS"


def test_no_program_is_compiled_twice() -> None:
    solve = sjb.Minimizer(lambda x, c: jnp.sum((x - c) ** 2), method="trust-ncg")
    assert solve.compile(START, (CENTER,)) > 0
    for center in (CENTER, 2 * CENTER):
        result = solve(START, (center,))
        assert result.timing.compiles == 0 and result.timing.compile_s == 0.0
        np.testing.assert_allclose(result.params, center, atol=1e-5)


def test_a_huge_gradient_is_finite_and_warns_of_nothing() -> None:
    result = sjb.minimize(lambda x: 1e200 * jnp.sum(x), np.ones(2), options={"maxiter": 0})
    assert result.status == Status.MAXITER and result.trace.grad_norm[0] == 1e200 and float(result.fun) == 2e200
