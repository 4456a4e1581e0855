"""Programs are known by what they compute: equal for what is written anew, different for every mutation."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

import scipy_jax_bridge as sjb
from helpers_calls import count_compiles
from problems import BACKENDS
from scipy_jax_bridge._problem.hoisting import hoist_consts
from scipy_jax_bridge._problem.jaxpr_key import JaxprKey, key_of

Make = Callable[[int], Callable[[Any], Any]]
START = jnp.linspace(0.5, 1.5, 4)


def arrays(seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(5, 4))), jnp.asarray(rng.normal(size=5))


def least_squares(seed: int) -> Callable[[Any], Any]:
    a, y = arrays(seed)
    return lambda x: jnp.sum((a @ x - y) ** 2)


def logaddexp(seed: int) -> Callable[[Any], Any]:
    a, y = arrays(seed)
    return lambda x: jnp.sum(jnp.logaddexp(a @ x, y)) + jnp.sum(x**2)


def relu_and_softmax(seed: int) -> Callable[[Any], Any]:
    a, y = arrays(seed)
    return lambda x: jnp.sum(jax.nn.relu(a @ x - y) ** 2) + jnp.sum(jax.nn.softmax(x) ** 2) + jnp.sum(x**2)


def custom_vjp(seed: int) -> Callable[[Any], Any]:
    a, y = arrays(seed)

    @jax.custom_vjp
    def norm(v: Any) -> Any:
        return jnp.sum(v**2)

    norm.defvjp(lambda v: (jnp.sum(v**2), v), lambda v, g: (2 * g * v,))
    return lambda x: norm(a @ x - y)


def scan(seed: int) -> Callable[[Any], Any]:
    a, y = arrays(seed)

    def fun(x: Any) -> Any:
        return jax.lax.scan(lambda total, row: (total + (row @ x - y[0]) ** 2, None), jnp.zeros(()), a)[0]

    return fun


def cond(seed: int) -> Callable[[Any], Any]:
    a, y = arrays(seed)
    return lambda x: jax.lax.cond(x[0] > -9, lambda x: jnp.sum((a @ x - y) ** 2), lambda x: jnp.sum(x**2), x)


def cholesky(seed: int) -> Callable[[Any], Any]:
    a, y = arrays(seed)

    def fun(x: Any) -> Any:
        factor = jnp.linalg.cholesky(a @ a.T + jnp.eye(5) * (1 + jnp.sum(x**2)))
        return jnp.sum(jax.scipy.linalg.solve_triangular(factor, y, lower=True) ** 2) + jnp.sum(
            jnp.log(jnp.diag(factor))
        )

    return fun


def interp(seed: int) -> Callable[[Any], Any]:
    _, y = arrays(seed)
    return lambda x: jnp.sum(jnp.interp(x, jnp.arange(5.0), y) ** 2) + jnp.sum(x**2)


def jitted(seed: int) -> Callable[[Any], Any]:
    a, y = arrays(seed)
    inner = jax.jit(lambda x: jnp.sum((a @ x - y) ** 2))
    return jax.jit(lambda x: inner(x) + inner(2 * x))


def numpy_data(seed: int) -> Callable[[Any], Any]:
    a, y = map(np.asarray, arrays(seed))
    return lambda x: jnp.sum((a @ x - y) ** 2)


def method_of_a_new_object(seed: int) -> Callable[[Any], Any]:
    class Model:
        def __init__(self) -> None:
            self.a, self.y = arrays(seed)

        def loss(self, x: Any) -> Any:
            return jnp.sum((self.a @ x - self.y) ** 2)

    return Model().loss


MAKES: list[Make] = [
    least_squares,
    logaddexp,
    relu_and_softmax,
    custom_vjp,
    scan,
    cond,
    cholesky,
    interp,
    jitted,
    numpy_data,
    method_of_a_new_object,
]


def trace(fun: Callable[[Any], Any], start: Any = START) -> ClosedJaxpr:
    return hoist_consts(jax.make_jaxpr(jax.value_and_grad(fun))(start))


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_equal_for_what_is_written_anew(make: Make) -> None:
    one, other = trace(make(0)), trace(make(1))
    assert key_of(one) == key_of(other) and hash(key_of(one)) == hash(key_of(other))
    assert sorted(map(np.shape, one.consts)) == sorted(map(np.shape, other.consts)) != []
    expected = jax.value_and_grad(make(0))(START)
    for found, wanted in zip(jaxpr_as_fun(one)(START), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


LOOPED = [least_squares, custom_vjp, scan, numpy_data, method_of_a_new_object]  # in the loop, too: the key is the same


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "backend"),
    [(make, "scipy") for make in MAKES] + [(make, "optax") for make in LOOPED],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_written_anew_nothing_compiles(make: Make, backend: str) -> None:
    calls = 30 if make is least_squares or make is method_of_a_new_object else 3
    sjb.minimize(make(0), START, backend=backend)
    with count_compiles() as compiled:
        for seed in range(1, calls):
            result = sjb.minimize(make(seed), START, backend=backend)
    assert compiled == [] and result.timing.compiles == 0
    by_jit = sjb.Minimizer(make(seed), backend=backend)(START)
    np.testing.assert_array_equal(result.params, by_jit.params)


def mutations(closed: ClosedJaxpr) -> Iterator[tuple[str, ClosedJaxpr]]:
    """Yield programs that differ in one literal, one parameter, one operand or one operation."""
    jaxpr = closed.jaxpr
    for place, equation in enumerate(jaxpr.eqns):

        def with_equation(changed: Any, place: int = place) -> ClosedJaxpr:
            equations = [*jaxpr.eqns[:place], changed, *jaxpr.eqns[place + 1 :]]
            return ClosedJaxpr(jaxpr.replace(eqns=equations), closed.consts)

        name = f"{place} {equation.primitive.name}"
        for number, atom in enumerate(equation.invars):
            if isinstance(atom, Literal):
                changed = not atom.val if atom.aval.dtype == bool else atom.val + 1
                other = Literal(np.asarray(changed, atom.aval.dtype)[()], atom.aval)
                inputs = [*equation.invars[:number], other, *equation.invars[number + 1 :]]
                yield f"{name}: literal {number}", with_equation(equation.replace(invars=inputs))
        if len(equation.invars) == 2 and equation.invars[0] is not equation.invars[1]:
            yield f"{name}: operands", with_equation(equation.replace(invars=equation.invars[::-1]))
        for param, value in equation.params.items():
            if isinstance(value, bool):
                yield f"{name}: {param}", with_equation(equation.replace(params={**equation.params, param: not value}))
            elif isinstance(value, int):
                yield f"{name}: {param}", with_equation(equation.replace(params={**equation.params, param: value + 1}))
            elif isinstance(value, tuple) and value and all(isinstance(each, int) for each in value):
                other = (value[0] + 1, *value[1:])
                yield f"{name}: {param}", with_equation(equation.replace(params={**equation.params, param: other}))
            elif isinstance(value, ClosedJaxpr) and not equation.primitive.name.startswith("custom_"):
                for inner, changed in itertools.islice(mutations(value), 4):
                    params = {**equation.params, param: changed}
                    yield f"{name}: {param}: {inner}", with_equation(equation.replace(params=params))
        shorter = [*jaxpr.eqns[:place], *jaxpr.eqns[place + 1 :]]
        yield f"{name}: left out", ClosedJaxpr(jaxpr.replace(eqns=shorter), closed.consts)


def key_or_none(closed: ClosedJaxpr) -> JaxprKey | None:
    """None where a variable is used that no equation defines any more."""
    try:
        return key_of(closed)
    except KeyError:
        return None


def test_every_mutation_has_a_key_of_its_own() -> None:
    pairs = 0
    for make in MAKES:
        closed = trace(make(0))
        key = key_of(closed)
        for name, mutant in mutations(closed):
            changed = key_or_none(mutant)
            assert changed != key, (make.__name__, name)
            pairs += changed is not None
    assert pairs >= 60


PAIRS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "literal": (lambda x: jnp.sum(x * 2.0), lambda x: jnp.sum(x * 3.0)),
    "sign of zero": (lambda x: jnp.sum(x * 0.0), lambda x: jnp.sum(x * -0.0)),
    "nan and inf": (lambda x: jnp.sum(x * jnp.nan), lambda x: jnp.sum(x * jnp.inf)),
    "static power": (lambda x: jnp.sum(x**2), lambda x: jnp.sum(x**3)),
    "axis": (lambda x: jnp.sum(jnp.sum(jnp.outer(x, x), 0) ** 2), lambda x: jnp.sum(jnp.sum(jnp.outer(x, x), 1) ** 2)),
    "precision": (
        lambda x: jnp.dot(x, x, precision="highest"),
        lambda x: jnp.dot(x, x, precision="default"),
    ),
    "dtype": (
        lambda x: jnp.sum(x.astype(jnp.float32)).astype(x.dtype),
        lambda x: jnp.sum(x.astype(jnp.float16)).astype(x.dtype),
    ),
    "branch": (
        lambda x: jax.lax.cond(x[0] > 0, jnp.sum, jnp.prod, x),
        lambda x: jax.lax.cond(x[0] > 0, jnp.sum, jnp.max, x),
    ),
    "length of a scan": (
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=3)[0].sum(),
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=4)[0].sum(),
    ),
    "reversed scan": (
        lambda x: jax.lax.scan(lambda c, v: (jnp.sin(c * v), None), 1.0, x)[0],
        lambda x: jax.lax.scan(lambda c, v: (jnp.sin(c * v), None), 1.0, x, reverse=True)[0],
    ),
    "shape of a constant": (
        lambda x: jnp.sum(jnp.asarray(np.ones(3))) * jnp.sum(x),
        lambda x: jnp.sum(jnp.asarray(np.ones(4))) * jnp.sum(x),
    ),
    "clip or promise": (
        lambda x: x.at[jnp.asarray([9])].get(mode="clip").sum(),
        lambda x: x.at[jnp.asarray([9])].get(mode="fill", fill_value=0).sum(),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_objectives_that_differ_in_one_place(name: str) -> None:
    one, other = map(trace, PAIRS[name])
    assert key_of(one) != key_of(other)


def test_rules_that_differ() -> None:
    def make(slope: float) -> Callable[[Any], Any]:
        @jax.custom_jvp
        def fun(x: Any) -> Any:
            return jnp.sum(x**2)

        fun.defjvp(lambda primals, tangents: (fun(*primals), slope * jnp.sum(primals[0] * tangents[0])))
        return fun

    assert key_of(trace(make(2.0))) == key_of(trace(make(2.0)))
    assert key_of(trace(make(2.0))) != key_of(trace(make(3.0)))


def test_second_rules_that_differ() -> None:
    """Value and gradient compute the same, and the rule of the gradient's rule does not."""

    def make(curvature: float) -> Callable[[Any], Any]:
        @jax.custom_jvp
        def slope(x: Any) -> Any:
            return 2 * (x - 1)

        slope.defjvp(lambda primals, tangents: (slope(*primals), curvature * tangents[0]))

        @jax.custom_jvp
        def fun(x: Any) -> Any:
            return jnp.sum((x - 1) ** 2)

        fun.defjvp(lambda primals, tangents: (fun(*primals), jnp.sum(slope(primals[0]) * tangents[0])))
        return fun

    start, nit = jnp.zeros(2), []
    assert key_of(trace(make(2.0))) == key_of(trace(make(8.0)))
    for curvature in (2.0, 8.0, 2.0):
        nit.append(sjb.minimize(make(curvature), start, method="trust-exact", options={"maxiter": 50}).nit)
    assert nit[0] == nit[2] != nit[1]


def with_rule(weights: Any) -> Callable[[Any], Any]:
    """A weighted sum of squares whose second derivative reads the weights by a rule."""

    @jax.custom_jvp
    def slope(x: Any) -> Any:
        return 2 * weights * x

    slope.defjvp(lambda primals, tangents: (slope(*primals), 2 * weights * tangents[0]))

    @jax.custom_jvp
    def fun(x: Any) -> Any:
        return jnp.sum(weights * x**2)

    fun.defjvp(lambda primals, tangents: (fun(*primals), jnp.sum(slope(primals[0]) * tangents[0])))
    return fun


@pytest.mark.parametrize("backend", BACKENDS)
def test_arrays_that_a_rule_closes_over(backend: str) -> None:
    """They are constants of the programs that use the rule."""
    for weights in (jnp.asarray([1.0, 1.0]), jnp.asarray([4.0, 0.5])):
        fun = with_rule(weights)

        def total(y: Any, fun: Any = fun) -> Any:
            return jnp.sum(sjb.minimize(lambda x, y: fun(x) - x @ y, jnp.zeros(2), (y,), backend=backend).params)

        np.testing.assert_allclose(jax.grad(total)(jnp.ones(2)), 0.5 / weights, rtol=1e-5)


def test_a_rule_that_closes_over_an_argument() -> None:
    def fun(x: Any, y: Any) -> Any:
        @jax.custom_jvp
        def square(x: Any) -> Any:
            return jnp.sum((x - y) ** 2)

        square.defjvp(lambda p, t: (square(*p), jnp.sum(2 * (p[0] - y) * t[0])))
        return square(x)

    np.testing.assert_allclose(sjb.minimize(fun, jnp.zeros(2), (1.0,)).params, 1, atol=1e-4)
    with pytest.raises(TypeError, match="Pass what the rule reads as an argument"):
        sjb.minimize(fun, jnp.zeros(2), (1.0,), method="trust-exact")

    def solve(start: Any, y: Any) -> Any:
        return sjb.minimize(fun, start, (y,), backend="optax").params[0]

    np.testing.assert_allclose(jax.vmap(solve, (0, None))(jnp.zeros((2, 2)), 1.0), 1, atol=1e-4)
    with pytest.raises(TypeError, match="Pass what the rule reads as an argument"):
        jax.jit(jax.grad(solve, 1))(jnp.zeros(2), 1.0)


@pytest.mark.slow
def test_a_batch_needs_no_second_derivative() -> None:
    def fun(x: Any, y: Any) -> Any:
        @jax.custom_vjp
        def square(x: Any) -> Any:
            return jnp.sum((x - y) ** 2)

        square.defvjp(lambda x: (square(x), x), lambda x, g: (2 * g * (x - y),))
        return square(x)

    found = jax.vmap(lambda y: sjb.minimize(fun, jnp.zeros(2), (y,), backend="optax").params)(jnp.arange(3.0))
    np.testing.assert_allclose(found[:, 0], [0, 1, 2], atol=1e-4)


def test_a_key_holds_no_large_data() -> None:
    def nested(value: float) -> Callable[[Any], Any]:
        data = np.full(9000, value)
        inner = jax.jit(lambda x: jnp.sum(jnp.asarray(data)) * jnp.sum(x**2))
        return lambda x: jax.lax.scan(lambda total, _: (total + inner(x), None), 0.0, None, length=2)[0]

    def size(tokens: Any) -> int:
        return sum(map(size, tokens)) if isinstance(tokens, tuple) else len(tokens) if isinstance(tokens, bytes) else 0

    one, other = key_of(trace(nested(1.0))), key_of(trace(nested(2.0)))
    assert size(one.tokens) < 9000
    closed = jax.make_jaxpr(jax.jit(lambda x: jnp.sum(x * np.arange(9000.0)[:4])))(START)
    assert size(key_of(closed).tokens) < 9000
    assert isinstance(other, JaxprKey)


def test_equal_for_shard_map_and_policies() -> None:
    def spread(seed: int) -> Callable[[Any], Any]:
        a, y = arrays(seed)
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("i",))
        spec = jax.sharding.PartitionSpec
        inside = jax.shard_map(lambda x: jax.lax.psum(jnp.sum(x**2), "i"), mesh=mesh, in_specs=spec(), out_specs=spec())
        return lambda x: inside(a @ x - y)

    def saved(seed: int) -> Callable[[Any], Any]:
        a, y = arrays(seed)
        policy = jax.checkpoint_policies.save_only_these_names("residual")
        return jax.checkpoint(lambda x: jnp.sum(jnp.sin(a @ x - y) ** 2), policy=policy)

    for make in (spread, saved):
        assert key_of(trace(make(0))) == key_of(trace(make(1)))


@pytest.mark.slow
def test_a_policy_is_not_kept_alive() -> None:
    """No program holds it."""

    class Holder:
        pass

    def make(holder: Holder) -> Callable[[Any], Any]:
        return jax.checkpoint(lambda x: jnp.sum(jnp.sin(x) ** 2), policy=lambda *_, **__: holder is None)

    holder = Holder()
    alive = weakref.ref(holder)
    sjb.minimize(make(holder), START)
    del holder
    jax.clear_caches()
    gc.collect()
    assert alive() is None
