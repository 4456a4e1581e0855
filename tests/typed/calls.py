"""Right calls, whose types are asserted, and wrong calls, marked `# wrong`; see `test_types.py`. Nothing here runs."""

# ruff: noqa: B018
import functools
from typing import NamedTuple, TypedDict, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float

import scipy_jax_bridge as sjb


class Net(NamedTuple):
    weight: Array
    bias: Array


class Curve(TypedDict):
    slope: Array
    offset: Array


def loss(net: Net, x: Array, y: Array) -> Array:
    return jnp.mean((net.weight * x + net.bias - y) ** 2)


def loss_and_fit(net: Net, x: Array, y: Array) -> tuple[Array, dict[str, Array]]:
    return loss(net, x, y), {"fit": net.weight * x}


def line(curve: Curve, x: Array) -> Array:
    return jnp.mean((curve["slope"] * x + curve["offset"]) ** 2)


def bowl(x: Float[Array, " n"], scale: float = 1.0) -> Float[Array, ""]:
    return scale * jnp.sum(x**2)


def at_b(params: dict[str, Array]) -> Array:
    return params["b"] ** 2


def bare(params, x):  # type: ignore[no-untyped-def] # without annotations
    return jnp.sum(params["a"] * x)


x = jnp.ones(3)
net = Net(x, x)
transformation = optax.adam(1e-2)


# What a result holds.
result = sjb.minimize(loss, net, (x, x))
assert_type(result, sjb.Result[Net, None])
assert_type(result.params, Net)
assert_type(result.x, Net)
assert_type(result.jac, Net)
assert_type(result.fun, Array)
assert_type(result.status, sjb.Status)
assert_type(result.success, bool)
assert_type(result.nit, int)
assert_type(result.message, str)
assert_type(result.grad_norm, float)
with_aux = sjb.minimize(loss_and_fit, net, (x, x), has_aux=True)
assert_type(with_aux.aux, dict[str, Array])
assert_type(with_aux.params, Net)

# Every way to call.
assert_type(sjb.minimize(loss, net, (x, x), backend="optax").params, Net)
assert_type(sjb.minimize(loss, result, (x, x), backend="optax", options={"maxiter": 100}).params, Net)
assert_type(sjb.minimize(loss_and_fit, net, (x, x), has_aux=True, backend="optax").aux, dict[str, Array])
sjb.minimize(loss, net, (x, x), backend="optax", method=transformation, callback=lambda progress: print(progress.nit))
sjb.minimize(loss, net, (x, x), method="nelder-mead", options={"xatol": 1e-3, "maxfun": 10}, precision="float64")
sjb.minimize(loss, net, (x, x), method="powell", options={"direc": [[1.0, 0.0], [0.0, 1.0]], "xtol": np.float32(1e-3)})
sjb.minimize(loss, net, (x, x), bounds=sjb.Bounds(0.0, None), fixed={"bias": True}, options=sjb.Options(gtol=1e-8))
sjb.minimize(loss, net, (x, x), bounds=(None, Net(x, x)), progress=True, options=None)
options: sjb.OptionsDict = {"gtol": 1e-8}
sjb.minimize(loss, net, (x, x), options=options)

# A start of numbers or of NumPy arrays: the params of the result are JAX's.
assert_type(sjb.minimize(bowl, np.zeros(2)).params, Array)
assert_type(sjb.minimize(bowl, 1.0, (2.0,)).params, Array)
assert_type(sjb.minimize(bowl, jnp.zeros(2), 2.0).params, Array)
assert_type(sjb.minimize(at_b, {"b": 0.0}).params, dict[str, Array])
sjb.minimize(lambda p: p["a"] ** 2 + p["b"] ** 2, {"a": 0.0, "b": 1.0}).params["a"].shape
sjb.minimize(lambda p, x: jnp.sum(p * x), jnp.zeros(2), (x,)).params.shape
assert_type(sjb.minimize(line, Curve(slope=x, offset=x), (x,)).params, Curve)
assert_type(sjb.minimize(bare, {"a": x}, (x,)).params, dict[str, Array])
assert_type(sjb.minimize(functools.partial(loss, x=x, y=x), net).params, Net)
sjb.minimize(jax.jit(loss), net, (x, x))
sjb.minimize(jax.jit(loss), net, (x, x), backend="optax")

# A solver for one objective.
solve = sjb.Minimizer(loss, backend="optax")
assert_type(solve(net, (x, x)), sjb.Result[Net, None])
assert_type(solve(solve(net, (x, x)), (x, x)).params, Net)
solve.compile(net, (x, x))
assert_type(sjb.Minimizer(loss_and_fit, has_aux=True)(net, (x, x)).aux, dict[str, Array])
assert_type(sjb.Minimizer(at_b)({"b": 0.0}).params, dict[str, Array])
sjb.Minimizer(jax.jit(loss))(net, (x, x))
sjb.Minimizer(lambda x, center: jnp.sum((x - center) ** 2))(jnp.zeros(2), (x,))

# Wrong calls: the checkers find each.
sjb.minimize(loss, jnp.zeros(3), (x, x))  # wrong: params of another type
sjb.minimize(loss, {"weight": x}, (x, x))  # wrong: params of another type
sjb.minimize(loss, net, (x,))  # wrong: an argument is missing
sjb.minimize(loss, net)  # wrong: all arguments are missing
sjb.minimize(loss, net, (x, "y"))  # wrong: an argument of another type
sjb.minimize(loss, net, (x, x), backend="jax")  # wrong: unknown backend
sjb.minimize(loss, net, (x, x), method="LBFGS")  # wrong: unknown method
sjb.minimize(loss, net, (x, x), backend="optax", method="BFGS")  # wrong: a method of the other backend
sjb.minimize(loss, net, (x, x), options={"gtoll": 1e-8})  # wrong: unknown option
sjb.minimize(loss, net, (x, x), options={"maxiter": "many"})  # wrong: an option of another type
sjb.minimize(loss, net, (x, x), method="trust-constr", options={"initial_tr_radius": "1"})  # wrong: one of SciPy
sjb.minimize(loss, net, (x, x), tol=1e-8)  # wrong: unknown keyword
sjb.minimize(loss, net, (x, x), bounds=[(0, 1), (0, 1)])  # wrong: SciPy's list of pairs
sjb.minimize(loss, net, (x, x), precision="float32")  # wrong: unknown precision
sjb.minimize(loss, net, (x, x), callback=lambda: None)  # wrong: a callback without its argument
sjb.minimize(loss_and_fit, net, (x, x))  # wrong: has_aux is missing
sjb.minimize(loss, net, (x, x), has_aux=True)  # wrong: the objective returns no pair
result.params.weights  # wrong: the params have no such field
result.parameters  # wrong: the result has no such field
result.status.nmae  # wrong: the status has no such field
with_aux.aux.fit  # wrong: aux is a dict
solve(net, (x,))  # wrong: an argument is missing
solve(x, (x, x))  # wrong: params of another type
sjb.Minimizer(loss, backend="jax")  # wrong: unknown backend
sjb.Minimizer(loss, option={})  # wrong: unknown keyword
sjb.Options(gtoll=1e-8)  # wrong: unknown option
