"""What single methods of SciPy need: second derivatives, a start, a simplex; and what they raise."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import Status
from scipy_jax_bridge._scipy.methods import METHODS

BOUNDED = [method.name for method in METHODS.values() if method.bounds]
SECOND = ["Newton-CG", "trust-ncg", "trust-krylov", "trust-constr", "dogleg", "trust-exact"]


def bowl(x: jax.Array, center: Any) -> jax.Array:
    return jnp.sum((x - center) ** 2)


@pytest.mark.parametrize("method", BOUNDED)
def test_all_components_held_by_equal_bounds(method: str) -> None:
    """SciPy 1.18 refuses empty bounds."""
    result = sjb.minimize(bowl, np.full(2, 5.0), (1.0,), method=method, bounds=(2.0, 2.0))
    assert result.success and result.nfev <= 2
    np.testing.assert_array_equal(result.params, 2.0)


@pytest.mark.parametrize("start", [-2.0, -2.0 + 1e-9])
def test_nelder_mead_starts_at_a_negative_lower_bound(start: float) -> None:
    """Its first simplex was clipped to the start, and it converged there."""
    result = sjb.minimize(bowl, np.full(2, start), (1.0,), method="Nelder-Mead", bounds=(-2.0, None))
    assert result.success
    np.testing.assert_allclose(result.params, 1.0, atol=1e-3)
    result = sjb.minimize(bowl, np.full(2, start), (1.0,), method="Nelder-Mead", bounds=(-2.0, -1.99))
    np.testing.assert_allclose(result.params, -1.99, atol=1e-6)


def test_a_simplex_of_the_user_stays() -> None:
    simplex = np.array([[-2.0, -2.0], [-2.0, 0.0], [0.0, -2.0]])
    options = {"initial_simplex": simplex, "maxfun": 3}
    result = sjb.minimize(bowl, simplex[0], (1.0,), method="Nelder-Mead", bounds=(-2.0, None), options=options)
    assert float(result.fun) == 10.0


def edge(x: jax.Array, center: Any) -> jax.Array:
    """Finite at the bound 0 and below 0.1 alone."""
    return jnp.sum(jnp.where(x < 0.1, (x - center) ** 2, jnp.nan))


def test_cobyqa_does_not_blame_a_finite_start() -> None:
    """It begins by moving a start away from the bounds, to where this one is not finite."""
    result = sjb.minimize(edge, np.zeros(2), (0.05,), method="COBYQA", bounds=(0.0, None))
    assert np.isfinite(result.fun) and float(result.fun) <= 2 * 0.05**2
    assert result.trace.fun[0] == pytest.approx(2 * 0.05**2)
    with pytest.raises(ValueError, match="no way down from this start"):
        sjb.minimize(edge, np.full(2, 0.2), (0.05,), method="COBYQA", bounds=(0.15, None))


def line(x: jax.Array, slope: Any) -> jax.Array:
    return jnp.sum(slope * x)


@pytest.mark.parametrize("method", SECOND)
def test_a_hessian_of_zeros_raises_nothing(method: str) -> None:
    """trust-constr raised SciPy's "Negative curvature"."""
    with np.errstate(all="ignore"):
        result = sjb.minimize(line, np.zeros(2), (1.0,), method=method, options={"maxfun": 500})
    assert not result.success and float(result.fun) <= 0
    if METHODS[method.lower()].bounds:
        result = sjb.minimize(line, np.zeros(2), (1.0,), method=method, bounds=(-1.0, 1.0))
        np.testing.assert_allclose(result.params, -1.0, atol=1e-3)


@jax.custom_vjp
def ruled(x: jax.Array) -> jax.Array:
    return jnp.sum((x - 1.0) ** 2 + 0.1 * (x - 1.0) ** 4)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return ruled(x), x


def _backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (cotangent * (2 * (x - 1.0) + 0.4 * (x - 1.0) ** 3),)


ruled.defvjp(_forward, _backward)


@pytest.mark.parametrize("method", SECOND)
def test_a_rule_in_reverse_that_calls_the_function(method: str) -> None:
    """Forward over reverse is refused by JAX there; reverse over reverse is not."""
    result = sjb.minimize(ruled, jnp.zeros(2), method=method)
    assert result.success
    np.testing.assert_allclose(result.params, 1.0, atol=1e-4)


@jax.custom_vjp
def opaque(x: jax.Array) -> jax.Array:
    return jnp.sum((x - 1.0) ** 2)


@jax.custom_vjp
def opaque_slope(x: jax.Array) -> jax.Array:
    return 2 * (x - 1.0)


def _refuse(x: Any, cotangent: Any) -> Any:
    raise NotImplementedError("no second derivative here")


opaque_slope.defvjp(lambda x: (opaque_slope(x), x), _refuse)
opaque.defvjp(lambda x: (opaque(x), x), lambda x, cotangent: (cotangent * opaque_slope(x),))


@pytest.mark.parametrize("method", ["trust-ncg", "trust-exact"])
def test_no_second_derivative_is_said_with_the_cure(method: str) -> None:
    with pytest.raises(TypeError, match=r"differentiate the gradient of fun again.*L-BFGS-B or BFGS"):
        sjb.minimize(opaque, jnp.zeros(2), method=method)
    assert sjb.minimize(opaque, jnp.zeros(2), method="BFGS").success


def test_an_error_of_the_objective_is_not_scipys() -> None:
    def explode(x: Any) -> Any:
        raise ValueError("mine")

    def fun(x: jax.Array) -> jax.Array:
        late = jax.pure_callback(lambda x: explode(x) if x[0] > 0.5 else x, jax.ShapeDtypeStruct((2,), x.dtype), x)
        return jnp.sum((x - 1.0) ** 2) + 0 * jax.lax.stop_gradient(late)[0]

    with pytest.raises(Exception, match="mine"):
        sjb.minimize(fun, jnp.zeros(2), method="Nelder-Mead")


def test_a_wrong_option_of_a_method_is_still_an_error() -> None:
    with pytest.raises(ValueError, match="hess_inv0"):
        sjb.minimize(bowl, jnp.zeros(2), (1.0,), method="BFGS", options={"hess_inv0": -np.eye(2)})


def singular(x: jax.Array, center: Any) -> jax.Array:
    """Finite with its gradient, and its second derivative is not, where a component is 0."""
    return jnp.sum(jnp.abs(x - center) ** 1.5)


def test_a_hessian_that_is_not_finite_is_no_exception() -> None:
    with np.errstate(all="ignore"):
        result = sjb.minimize(singular, jnp.array([1.0, 3.0]), (1.0,), method="trust-exact")
    assert result.status in list(Status) and float(result.fun) < 1e-3
