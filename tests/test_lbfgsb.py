"""`lbfgsb` as a transformation: the path of `minimize` in a loop of the caller's, and what a caller may do to it."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import Status

RUNNING = -1
START = np.where(np.arange(10) % 2 == 0, -1.2, 1.0)


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(params: dict[str, jax.Array]) -> jax.Array:
    """A bowl over leaves of any types, computed in float32 or wider."""
    return sum(
        jnp.sum((leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) - 1.7) ** 2) for leaf in params.values()
    )


@functools.cache
def evaluated(fun: Callable[..., jax.Array]) -> Callable[..., Any]:
    return jax.jit(jax.value_and_grad(fun))


def make_step(optimizer: Any, fun: Callable[..., jax.Array], evaluate: Any = jax.value_and_grad) -> Callable[..., Any]:
    """The step as a reader of Optax's pages writes it, and puts into `jit`."""

    def step(params: Any, state: Any, *args: Any) -> Any:
        value, grads = evaluate(fun)(params, *args)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value, grads

    return step


def run(
    optimizer: Any,
    params: Any,
    fun: Callable[..., jax.Array] = rosenbrock,
    steps: int = 300,
    after: Callable[[Any], Any] = lambda params: params,
    step: Callable[..., Any] | None = None,
    args: tuple[Any, ...] = (),
) -> tuple[Any, Any, list[Any]]:
    """Run until the search ends. Return params, state, and (params, value, gradient) of every step.

    Outside `jit` the programs of an objective and of an update serve every optimizer.
    """
    step, state, seen = step or make_step(optimizer, fun, evaluated), optimizer.init(params), []
    for _ in range(steps):
        before = params
        params, state, value, grads = step(params, state, *args)
        seen.append((before, value, grads))
        params = after(params)
        if get(state, "status") != RUNNING:
            break
    return params, state, seen


def get(state: Any, name: str) -> Any:
    return np.asarray(optax.tree.get(state, name))[()]


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("bounds", [None, (-2.0, 0.5), (0.2, None)], ids=["free", "boxed", "half"])
def test_the_plain_loop_takes_the_path_of_minimize(bounds: Any) -> None:
    start = START if bounds is None else np.clip(START, *(bounds[0], bounds[1] or np.inf))
    optimizer = sjb.lbfgsb(bounds, gtol=1e-5, ftol=2.2e-9)
    step = jax.jit(make_step(optimizer, rosenbrock)) if bounds is None else None
    params, state, seen = run(optimizer, start, step=step)
    result = sjb.minimize(rosenbrock, start, backend="optax", bounds=bounds, options={"ftol": 2.2e-9})
    assert (get(state, "nit"), get(state, "nfev")) == (result.nit, result.nfev)
    assert len(seen) == get(state, "count") == result.nfev
    assert get(state, "status") == result.status
    np.testing.assert_allclose(params, result.params, atol=1e-9)
    reduction = rosenbrock(start) - result.fun
    assert abs(get(state, "value") - result.fun) <= 1e-6 * reduction


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_every_trial_is_within_the_bounds(dtype: str) -> None:
    lower, upper = 0.1 + np.linspace(0, 1, 5), 1.3 + np.linspace(0, 1, 5)
    lower[-1] = upper[-1]
    start = {"x": jnp.zeros(5, dtype), "y": jnp.full(2, 3.0, "float32")}
    optimizer = sjb.lbfgsb(sjb.Bounds({"x": lower, "y": -1.0}, {"x": upper, "y": 1.0}))
    params, state, seen = run(optimizer, start, quadratic, 30)
    inside = sjb.minimize(quadratic, start, bounds=sjb.Bounds({"x": lower, "y": -1.0}, {"x": upper, "y": 1.0}))
    eps = float(jnp.finfo(dtype).eps)
    for point, _, _ in [*seen[1:], (params, 0, 0)]:
        x = np.asarray(point["x"], np.float64)
        assert np.all(x[:-1] >= lower[:-1]) and np.all(x[:-1] <= upper[:-1])
        assert abs(x[-1] - upper[-1]) <= eps * upper[-1]  # a point, which the type may not hold
        assert np.all(np.abs(np.asarray(point["y"])) <= 1.0)
    for name, leaf in get_tree(state, "best_params").items():
        assert leaf.dtype == start[name].dtype
        np.testing.assert_allclose(
            *(np.asarray(each, np.float64) for each in (leaf, inside.params[name])), rtol=4 * eps
        )


def get_tree(state: Any, name: str) -> Any:
    return optax.tree.get(state, name)


def weighted(x: jax.Array, scale: Any, target: Any) -> jax.Array:
    return jnp.sum(scale * (x - target) ** 2)


@pytest.mark.parametrize("seed", range(6))
def test_a_sum_that_rounds_beyond_a_bound_is_moved_inside(seed: int) -> None:
    """Bounds of all sizes: 1 + (1e-20 - 1) is 0, which is below 1e-20."""
    rng = np.random.default_rng(seed)
    lower = 10.0 ** rng.uniform(-20, 1, 40) * rng.choice([-1, 1], 40)
    upper = lower + 10.0 ** rng.uniform(-12, 2, 40)
    target = 10.0 ** rng.uniform(-20, 2, 40) * rng.choice([-1, 1], 40)
    scale = 10.0 ** rng.uniform(-1, 1, 40)
    params, _, seen = run(sjb.lbfgsb((lower, upper)), rng.uniform(-3, 3, 40), weighted, 60, args=(scale, target))
    for point, _, _ in seen[1:]:
        assert np.all(point >= lower) and np.all(point <= upper)
    least = weighted(np.clip(target, lower, upper), scale, target)
    np.testing.assert_allclose(weighted(params, scale, target), least, rtol=1e-9)


def test_params_outside_the_bounds_are_moved_inside_first() -> None:
    params, state, seen = run(sjb.lbfgsb((-0.5, 0.5), gtol=1e-8), START)
    np.testing.assert_allclose(seen[1][0], np.clip(START, -0.5, 0.5))
    assert get(state, "nfev") == len(seen) - 1  # the value outside is not used
    result = sjb.minimize(rosenbrock, START, bounds=(-0.5, 0.5))
    np.testing.assert_allclose(params, result.params, atol=1e-6)


CHANGED: dict[str, Callable[[], tuple[Any, Any]]] = {
    "half of each step": lambda: (optax.chain(sjb.lbfgsb(gtol=1e-6), optax.scale(0.5)), lambda params: params),
    "short steps": lambda: (optax.chain(sjb.lbfgsb(gtol=1e-6), optax.clip(0.05)), lambda params: params),
    "short norms": lambda: (optax.chain(sjb.lbfgsb(gtol=1e-6), optax.clip_by_global_norm(0.1)), lambda params: params),
    "a projection": lambda: (sjb.lbfgsb(gtol=1e-6), lambda params: jnp.clip(params, -2.0, 2.0)),
    "one jump": lambda: (sjb.lbfgsb(gtol=1e-6), _jump()),
}


def _jump() -> Callable[[Any], Any]:
    calls = iter(range(1000))
    return lambda params: params + 0.5 if next(calls) == 9 else params


@pytest.mark.smoke
@pytest.mark.parametrize("change", CHANGED)
def test_changed_params_put_no_wrong_pair_in_the_memory(change: str) -> None:
    optimizer, after = CHANGED[change]()
    params, state, seen = run(optimizer, START, after=after)
    assert get(state, "status") == Status.GTOL
    assert np.abs(jax.grad(rosenbrock)(params)).max() <= 1e-6
    points, grads = (np.array([each[place] for each in seen]) for place in (0, 2))
    rows = np.asarray(optax.tree.get(state, "memory").rows)
    steps, changes = (each[None] - each[:, None] for each in (points, grads))
    for s, y in zip(rows[0::2], rows[1::2], strict=True):
        if s.any():
            apart = np.maximum(np.abs(s - steps).max(-1), np.abs(y - changes).max(-1) / 1e3)
            assert apart.min() <= 1e-12


def test_a_trial_that_is_not_finite_is_not_taken() -> None:
    def fun(x: jax.Array) -> jax.Array:
        return jnp.sum(x - jnp.log(x))

    params, state, seen = run(sjb.lbfgsb(gtol=1e-8), jnp.full(START.size, 5.0), fun)
    assert not all(np.isfinite(value) for _, value, _ in seen)
    assert get(state, "status") == Status.GTOL
    np.testing.assert_allclose(params, 1.0, atol=1e-7)


def test_after_the_end_params_are_the_best_and_stay() -> None:
    """The second component of the gradient has the wrong sign: the search ends, and its last trial is not the best."""

    def fun(x: jax.Array) -> jax.Array:
        flat = jax.lax.stop_gradient(x[1])
        return (x[0] - 1) ** 2 + (flat - 1) ** 2 - 2 * (flat - 1) * (x[1] - flat)

    optimizer = sjb.lbfgsb()
    params, state, seen = run(optimizer, jnp.zeros(START.size).at[:2].set([3.0, 2.0]), fun)
    assert get(state, "status") == Status.LINESEARCH
    best = min(seen, key=lambda each: each[1])
    np.testing.assert_allclose(params, best[0], rtol=1e-15)
    np.testing.assert_array_equal(get(state, "best_params"), best[0])
    assert get(state, "best_value") == best[1]
    again, later, *_ = make_step(optimizer, fun, evaluated)(params, state)
    np.testing.assert_array_equal(again, params)
    assert get(later, "nfev") == get(state, "nfev") and get(later, "count") == get(state, "count") + 1


def test_a_training_loop_does_not_stop_by_surprise() -> None:
    params, state, seen = run(sjb.lbfgsb(), jnp.zeros(START.size), lambda x: jnp.sum(jnp.cosh(x - 1)), steps=12)
    assert (
        get(state, "status") == RUNNING or np.abs(seen[-1][2]).max() == 0 or get(state, "status") >= Status.LINESEARCH
    )
    assert np.abs(np.asarray(params) - 1).max() < 1e-8


@pytest.mark.slow
def test_the_state_goes_through_vmap_and_while_loop() -> None:
    optimizer, starts = sjb.lbfgsb(gtol=1e-6), jnp.stack([START, 0.5 * START, START + 0.1])
    step = make_step(optimizer, rosenbrock)

    def goes_on(carry: Any) -> Any:
        return optax.tree.get(carry[1], "status") == RUNNING

    def solve(x: jax.Array) -> Any:
        return jax.lax.while_loop(goes_on, lambda carry: step(*carry)[:2], (x, optimizer.init(x)))

    ends, state = jax.jit(jax.vmap(solve))(starts)
    assert len(set(get(state, "nfev").tolist())) > 1  # the shorter ones waited
    for start, end, status in zip(starts, ends, get(state, "status"), strict=True):
        alone, own, _ = run(optimizer, start)
        assert status == get(own, "status") == Status.GTOL
        np.testing.assert_allclose(end, alone, atol=1e-6)
        assert np.abs(jax.grad(rosenbrock)(end)).max() <= 1e-6


def test_the_state_goes_through_scan_and_shard_map() -> None:
    if not hasattr(jax, "shard_map"):
        pytest.skip("this JAX has no jax.shard_map")
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    x = np.random.default_rng(0).normal(size=(20, 3))
    optimizer = sjb.lbfgsb((0.0, 2.5), gtol=1e-8)

    def fit(x: jax.Array, y: jax.Array) -> Any:
        def loss(w: jax.Array) -> jax.Array:
            return jax.lax.psum(jnp.sum((x @ w - y) ** 2), "data")

        step = make_step(optimizer, loss)
        start = (jnp.zeros(3), optimizer.init(jnp.zeros(3)))
        return jax.lax.scan(lambda carry, _: (step(*carry)[:2], None), start, length=20)[0]

    sharded = jax.shard_map(fit, mesh=mesh, in_specs=(spec("data"), spec("data")), out_specs=spec())
    params, state = jax.jit(sharded)(x, x @ np.array([1.0, 2.0, 3.0]))
    assert get(state, "status") == Status.GTOL and params[2] == 2.5


def test_the_state_can_be_pickled_and_donated() -> None:
    optimizer = sjb.lbfgsb(gtol=1e-6)
    step = make_step(optimizer, rosenbrock, evaluated)
    params, state = jnp.asarray(START), optimizer.init(START)
    for _ in range(20):
        params, state, *_ = step(params, state)
    copy = pickle.loads(pickle.dumps(state))
    donating = jax.jit(lambda params, state: step(params, state)[:2], donate_argnums=1)
    other = params
    for _ in range(20):
        params, state = donating(params, state)
        other, copy, *_ = step(other, copy)
    np.testing.assert_array_equal(params, other)
    fresh = donating(jnp.asarray(START), optimizer.init(START))
    np.testing.assert_array_equal(fresh[0], step(START, optimizer.init(START))[0])


def test_one_step_holds_the_objective_once_and_compiles_once(no_programs: None) -> None:
    import jax.monitoring

    counted: list[str] = []

    def fun(x: jax.Array) -> jax.Array:
        counted.append("traced")
        return jnp.sum(jnp.sinh(x) ** 2) + jnp.sum(x**2)

    step = jax.jit(make_step(sjb.lbfgsb(), fun))
    params, state = jnp.asarray(START), sjb.lbfgsb().init(START)
    text = step.lower(params, state).as_text()
    assert text.count("chlo.sinh") == jax.jit(jax.value_and_grad(fun)).lower(params).as_text().count("chlo.sinh") > 0
    params, state, *_ = step(params, state)
    before = len(counted)
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if "backend_compile" in event else None
    )
    for _ in range(5):
        params, state, *_ = step(params, state)
    updates = sjb.lbfgsb(gtol=1e-3).update(params, state, params, value=0.0)  # compiles: called without jit
    first = len(compiled)
    for gtol in (1e-4, 1e-5):
        updates = sjb.lbfgsb(gtol=gtol).update(params, state, params, value=1.0)
    assert len(counted) == before and len(compiled) == first and updates is not None


def test_the_state_has_two_vectors_a_pair_and_eight_more() -> None:
    n, maxcor = 10_000, 5
    for bounds in (None, (0.0, 1.0)):
        state = sjb.lbfgsb(bounds, maxcor=maxcor).init(jnp.zeros(n))
        assert sum(leaf.size for leaf in jax.tree.leaves(state)) <= (2 * maxcor + 8) * n


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no value": (lambda: update_with(value=None), TypeError, r"needs value=.*\n.*value=value"),
    "no params": (lambda: update_with(params=None, value=1.0), TypeError, "needs params="),
    "another tree": (lambda: update_with(grads={"v": jnp.zeros(2)}, value=1.0), ValueError, "another tree"),
    "another shape": (
        lambda: update_with(grads={"w": jnp.zeros(3)}, value=1.0),
        ValueError,
        r"gradient of params\['w'\] has shape \(3,\), not \(2,\)",
    ),
    "a vector": (lambda: update_with(value=jnp.ones(2)), TypeError, r"real scalar, not of shape \(2,\)"),
    "integers": (lambda: sjb.lbfgsb().init({"n": jnp.arange(3)}), TypeError, r"params\['n'\] is of type int.*masked"),
    "bounds": (lambda: sjb.lbfgsb((0.0, jnp.ones(3))).init(jnp.ones(2)), ValueError, "bounds.upper of params"),
    "maxcor": (lambda: sjb.lbfgsb(maxcor=0), ValueError, "maxcor"),
    "crossed": (lambda: sjb.lbfgsb((1.0, 0.0)).init(jnp.ones(2)), ValueError, "above upper"),
}


def update_with(params: Any = ..., grads: Any = ..., value: Any = None) -> Any:
    start, optimizer = {"w": jnp.zeros(2)}, sjb.lbfgsb()
    params, grads = (start if each is ... else each for each in (params, grads))
    return optimizer.update(grads, optimizer.init(start), params, value=value)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_are_told_what_to_write(case: str) -> None:
    call, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(("bounds", "maxcor"), [(None, 5), ((-2.0, 0.5), 10)], ids=["free", "boxed"])
def test_as_a_method_it_is_the_default(bounds: Any, maxcor: int) -> None:
    usual = sjb.minimize(rosenbrock, START, backend="optax", bounds=bounds, options={"maxcor": maxcor, "gtol": 1e-7})
    solve = sjb.Minimizer(rosenbrock, backend="optax", method=sjb.lbfgsb(bounds, maxcor=maxcor, gtol=1e-7))
    for solver in (solve, pickle.loads(pickle.dumps(solve))):
        result = solver(START)
        assert (result.status, result.nit, result.nfev) == (usual.status, usual.nit, usual.nfev)
        np.testing.assert_array_equal(result.params, usual.params)
        assert result.method == usual.method == "L-BFGS-B" and result.timing.compiles == 0


def test_a_setting_that_is_given_twice_is_an_error() -> None:
    for method, given in [
        (sjb.lbfgsb(maxcor=5), {"options": {"maxcor": 10}}),
        (sjb.lbfgsb(gtol=1e-3), {"options": sjb.Options(gtol=1e-4)}),
        (sjb.lbfgsb((0.0, 1.0)), {"bounds": (0.0, None)}),
    ]:
        with pytest.raises(ValueError, match="is given twice"):
            sjb.minimize(rosenbrock, START, backend="optax", method=method, **given)
    result = sjb.minimize(rosenbrock, START, backend="optax", method=sjb.lbfgsb(maxcor=5), options={"maxiter": 3})
    assert result.status == Status.MAXITER


def test_in_a_chain_it_is_a_transformation_as_others() -> None:
    method = optax.chain(sjb.lbfgsb(), optax.scale(0.7))
    result = sjb.minimize(rosenbrock, START, backend="optax", method=method, options={"ftol": 0.0})
    assert result.status == Status.GTOL
    assert np.abs(jax.grad(rosenbrock)(result.params)).max() <= 1e-5
