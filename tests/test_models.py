"""The models: their contract, and their objectives against independent implementations."""

import sys

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

from scipy_jax_bridge.models import MODELS, Model, co2, digits, load, rosenbrock

SMALL = {"digits": {}, "co2": {"every": 12}, "rosenbrock": {"n": 12, "leaves": 3}}


@pytest.fixture(autouse=True)
def double_precision():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(params=sorted(MODELS))
def model(request) -> Model:
    return load(request.param, **SMALL[request.param])


def flat_bounds(model: Model) -> scipy.optimize.Bounds:
    """The model's bounds, one pair for each number; infinite where it has none."""
    lower, upper = model.bounds or (-np.inf, np.inf)
    return scipy.optimize.Bounds(
        *(
            np.concatenate(
                [
                    np.full(np.shape(leaf), limit).ravel()
                    for limit, leaf in zip(
                        jax.tree.leaves(jax.tree.broadcast(side, model.params)),
                        jax.tree.leaves(model.params),
                        strict=True,
                    )
                ]
            )
            for side in (lower, upper)
        )
    )


def solve(model: Model, **options) -> scipy.optimize.OptimizeResult:
    """SciPy's L-BFGS-B by hand; the result's `params` is the solution as a tree."""
    start, unravel = ravel_pytree(model.params)
    evaluate = jax.jit(
        jax.value_and_grad(lambda x, *args: model.fun(unravel(x), *args)),
    )

    def host_evaluate(x):
        value, grad = evaluate(x, *model.args)
        return float(value), np.asarray(grad)

    result = scipy.optimize.minimize(
        host_evaluate,
        np.asarray(start),
        jac=True,
        method="L-BFGS-B",
        bounds=flat_bounds(model),
        options={"maxiter": 15000, "maxfun": 15000, **options},
    )
    result.params = unravel(jnp.asarray(result.x))
    return result


def projected_grad_norm(model: Model, result: scipy.optimize.OptimizeResult) -> float:
    bounds = flat_bounds(model)
    return np.abs(result.x - np.clip(result.x - result.jac, bounds.lb, bounds.ub)).max()


# The contract of every model


def test_objective_is_a_finite_scalar_with_a_finite_gradient(model):
    value, grad = jax.jit(jax.value_and_grad(model.fun))(model.params, *model.args)
    assert value.shape == () and value.dtype == jnp.float64 and jnp.isfinite(value)
    assert jax.tree.structure(grad) == jax.tree.structure(model.params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grad))


def test_gradient_agrees_with_finite_differences(model):
    fun = jax.jit(model.fun)
    jax.test_util.check_grads(lambda params: fun(params, *model.args), (model.params,), order=1, modes="rev")


def test_data_are_arguments_and_not_constants(model):
    assert all(np.size(value) <= 1 for value in jax.make_jaxpr(model.fun)(model.params, *model.args).consts)


def test_arrays_are_numpy_in_double_precision(model):
    leaves = jax.tree.leaves((model.params, model.bounds))
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 for leaf in leaves)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(model.args))


def test_start_is_inside_the_bounds(model):
    start = np.asarray(ravel_pytree(model.params)[0])
    bounds = flat_bounds(model)
    assert (bounds.lb <= start).all() and (start <= bounds.ub).all()


def test_metrics_are_plain_numbers(model):
    metrics = model.metrics(model.params, model.args)
    assert metrics and all(type(value) is float for value in metrics.values())


def test_names_agree_with_the_registry():
    assert all(load(name, **SMALL[name]).name == name for name in MODELS)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="'digit'; did you mean 'digits'"):
        load("digit")


@pytest.mark.parametrize(
    "name, module, distribution",
    [
        ("digits", "sklearn.datasets", "scikit-learn"),
        ("co2", "statsmodels.datasets.co2", "statsmodels"),
    ],
)
def test_missing_data_library_names_the_extra(monkeypatch, name, module, distribution):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{distribution}.*scipy_jax_bridge\[data\]"):
        load(name)


# Digits


def test_digits_minimum_agrees_with_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = load("digits")
    fit = linear_model.LogisticRegression(C=1.0, solver="newton-cg", tol=1e-10, max_iter=10_000)
    fit.fit(*model.args)
    theirs = model.fun({"weights": fit.coef_.T, "bias": fit.intercept_}, *model.args)

    result = solve(model, ftol=0, gtol=1e-8)
    assert result.fun == pytest.approx(float(theirs), abs=1e-10)
    np.testing.assert_allclose(result.params["weights"], fit.coef_.T, atol=1e-4)
    accuracy = model.metrics(result.params, model.args)["training_accuracy"]
    assert accuracy == pytest.approx(fit.score(*model.args), abs=1e-12)


def test_digits_objective_is_scikit_learns_up_to_the_documented_factor():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    model = load("digits")
    images, labels = model.args
    weights = np.random.default_rng(0).normal(size=(64, 10))
    params = {"weights": weights, "bias": np.linspace(-1.0, 1.0, 10)}
    losses = sklearn_metrics.log_loss(labels, jax.nn.softmax(digits.logits(params, images)), normalize=False)
    theirs = digits.INVERSE_REGULARIZATION * losses + 0.5 * np.sum(weights**2)
    factor = 1 / (digits.INVERSE_REGULARIZATION * len(images))
    np.testing.assert_allclose(model.fun(params, images, labels), factor * theirs, rtol=1e-12)


# Carbon dioxide


def test_co2_objective_agrees_with_scikit_learn():
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    kernels = gaussian_process.kernels
    model = load("co2", every=4)
    years, concentrations = model.args
    term = jax.tree.map(lambda value: float(np.exp(value)), model.params)
    trend, season, irregular, noise = (term[name] for name in ("trend", "season", "irregular", "noise"))
    kernel = (
        trend["scale"] ** 2 * kernels.RBF(trend["length"])
        + season["scale"] ** 2
        * kernels.RBF(season["decay"])
        * kernels.ExpSineSquared(season["length"], periodicity=1.0)
        + irregular["scale"] ** 2 * kernels.RationalQuadratic(irregular["length"], irregular["shape"])
        + noise["scale"] ** 2 * kernels.RBF(noise["length"])
        + kernels.WhiteKernel(noise["white"] ** 2)
    )
    process = gaussian_process.GaussianProcessRegressor(kernel, alpha=co2.JITTER, optimizer=None)
    process.fit(years[:, None], concentrations)
    theirs = process.log_marginal_likelihood_value_
    np.testing.assert_allclose(-len(years) * model.fun(model.params, *model.args), theirs, rtol=1e-9)
    np.testing.assert_allclose(model.metrics(model.params, model.args)["log_marginal_likelihood"], theirs, rtol=1e-9)


@pytest.mark.slow
def test_co2_solution_is_a_minimum_on_its_bounds():
    model = load("co2")
    assert len(model.args[0]) == 521
    result = solve(model)
    assert result.success and projected_grad_norm(model, result) < 1e-4
    assert result.fun == pytest.approx(0.2284998, abs=1e-6)
    _, upper = model.bounds
    assert result.params["trend"]["length"] == upper["trend"]["length"]
    assert result.params["season"]["decay"] == upper["season"]["decay"]


def test_co2_is_nan_in_single_precision():
    model = load("co2")
    jax.config.update("jax_enable_x64", False)
    assert jnp.isnan(model.fun(model.params, *model.args))


def test_co2_stays_finite_without_noise():
    model = load("co2", every=4)
    params = jax.tree.map(np.asarray, model.bounds[1])
    for term, name in (("noise", "white"), ("noise", "scale"), ("irregular", "scale")):
        params[term][name] = np.asarray(-50.0)
    assert jnp.isfinite(model.fun(params, *model.args))


def test_co2_rejects_a_step_that_keeps_nothing():
    with pytest.raises(ValueError, match="at least 1"):
        load("co2", every=0)


# Rosenbrock


@pytest.mark.parametrize("leaves", [1, 4, 20])
def test_rosenbrock_agrees_with_scipy(leaves):
    model = rosenbrock.build(n=100, leaves=leaves)
    assert len(jax.tree.leaves(model.params)) == leaves
    x, unravel = ravel_pytree(model.params)
    np.testing.assert_array_equal(x, np.tile([-1.2, 1.0], 50))
    x = np.random.default_rng(0).normal(size=100)
    value, grad = jax.value_and_grad(model.fun)(unravel(jnp.asarray(x)))
    np.testing.assert_allclose(value, scipy.optimize.rosen(x), rtol=1e-12)
    np.testing.assert_allclose(ravel_pytree(grad)[0], scipy.optimize.rosen_der(x), rtol=1e-10)


def test_rosenbrock_start_leads_to_the_global_minimum():
    model = load("rosenbrock")
    result = solve(model, ftol=0)
    assert model.metrics(result.params, model.args)["largest_error"] < 1e-4


@pytest.mark.parametrize("settings", [{"n": 1}, {"leaves": 3}, {"leaves": 0}])
def test_rosenbrock_rejects_unequal_leaves(settings):
    with pytest.raises(ValueError, match="divides n"):
        rosenbrock.build(**settings)
