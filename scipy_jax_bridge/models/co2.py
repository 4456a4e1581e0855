"""A Gaussian process on the Mauna Loa record of atmospheric carbon dioxide.

Source of the model: C. Rasmussen and C. Williams, Gaussian Processes for Machine Learning, 2006,
section 5.4.3, equations 5.15 to 5.19, and equation 2.30 for the marginal likelihood.
Source of the data: C. Keeling and T. Whorf, Atmospheric CO2 concentrations derived from flask air
samples at sites in the SIO network, Carbon Dioxide Information Analysis Center, 2004; the weekly
record of 1958 to 2001 ships with statsmodels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from scipy_jax_bridge.models._model import Model, import_data_library

JITTER = 1e-6
"""Added to the diagonal of the covariance, in ppm squared, on top of the noise. Amplitudes of
100 ppm on 521 points give eigenvalues near 5e6, whose rounding error in double precision is about
1e-9: this keeps the Cholesky factor finite where the noise vanishes, and is 30,000 times less than
the variance of the noise at the optimum. In single precision the same error is about 1, more than
the noise, and the factor is NaN from the start."""

START = {
    "trend": {"scale": 50.0, "length": 30.0},
    "season": {"scale": 2.0, "length": 1.0, "decay": 30.0},
    "irregular": {"scale": 1.0, "length": 1.0, "shape": 1.0},
    "noise": {"scale": 0.1, "length": 0.2, "white": 0.1},
}
"""Round orders of magnitude in ppm and years, before the logarithm is taken."""

Hyperparameters = dict[str, dict[str, Float[ArrayLike, ""]]]


def covariance(hyperparameters: Hyperparameters, years: Float[ArrayLike, " points"]) -> Float[Array, "points points"]:
    r"""Covariance of the measurements, noise and jitter included; every hyperparameter positive.

    With $d = t - t'$ and $a, \ell$ the "scale" and "length" of the term at hand,

    $$
    \begin{aligned}
    k(t, t') ={}& a^2 e^{-d^2 / 2\ell^2} && \text{trend (5.15)} \\
      &+ a^2 e^{-d^2 / 2\,\text{decay}^2 - 2 \sin^2(\pi d) / \ell^2} && \text{season (5.16)} \\
      &+ a^2 (1 + d^2 / 2\,\text{shape}\,\ell^2)^{-\text{shape}} && \text{irregular (5.17)} \\
      &+ a^2 e^{-d^2 / 2\ell^2} + (\text{white}^2 + \text{JITTER})\,\delta_{tt'}
        && \text{noise (5.18)}
    \end{aligned}
    $$

    Args:
        hyperparameters: the terms above, each a dict of positive numbers: scales and "white" in
            ppm, lengths and "decay" in years, the season's length and "shape" without unit.
        years: times of the measurements, shape (points,).

    Returns:
        A symmetric positive definite matrix, shape (points, points).
    """
    lags = jnp.asarray(years)[:, None] - jnp.asarray(years)[None, :]
    squares = jnp.square(lags)
    trend, season, irregular, noise = (
        jax.tree.map(jnp.asarray, hyperparameters[term]) for term in ("trend", "season", "irregular", "noise")
    )

    def squared_exponential(length):
        return jnp.exp(-squares / (2 * length**2))

    periodic = jnp.exp(-2 * jnp.square(jnp.sin(jnp.pi * lags)) / season["length"] ** 2)
    mixture = 1 + squares / (2 * irregular["shape"] * irregular["length"] ** 2)
    return (
        trend["scale"] ** 2 * squared_exponential(trend["length"])
        + season["scale"] ** 2 * squared_exponential(season["decay"]) * periodic
        + irregular["scale"] ** 2 * mixture ** -irregular["shape"]
        + noise["scale"] ** 2 * squared_exponential(noise["length"])
        + (noise["white"] ** 2 + JITTER) * jnp.eye(len(lags), dtype=lags.dtype)
    )


def objective(
    params: Hyperparameters,
    years: Float[ArrayLike, " points"],
    concentrations: Float[ArrayLike, " points"],
) -> Float[Array, ""]:
    r"""Negative log marginal likelihood for each measurement.

    $$
    f(\theta) = \frac1n \left( \frac12 \lVert L^{-1} y \rVert^2 + \sum_i \log L_{ii} \right)
                + \frac12 \log 2\pi, \qquad L L^\top = K(e^\theta)
    $$

    It needs double precision, which the caller turns on; in single precision it is NaN.

    Args:
        params: natural logarithms of the hyperparameters of `covariance`, the same nested dict.
        years: times of the measurements, shape (points,).
        concentrations: parts per million less their mean, shape (points,).

    Returns:
        The objective, a scalar.
    """
    factor = jnp.linalg.cholesky(covariance(jax.tree.map(jnp.exp, params), years))
    whitened = solve_triangular(factor, jnp.asarray(concentrations), lower=True)
    misfits = jnp.square(whitened) / 2 + jnp.log(jnp.diagonal(factor))
    return jnp.mean(misfits) + jnp.log(2 * jnp.pi) / 2


def metrics(
    params: Hyperparameters,
    args: tuple[Float[ArrayLike, " points"], Float[ArrayLike, " points"]],
) -> dict[str, float]:
    """The log marginal likelihood of the whole record, and the white noise it finds, in ppm."""
    likelihood = -np.size(args[0]) * float(objective(params, *args))
    return {
        "log_marginal_likelihood": likelihood,
        "white_noise_ppm": float(jnp.exp(params["noise"]["white"])),
    }


def read_record(
    every: int = 1,
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Monthly means of the record that statsmodels ships.

    Args:
        every: keep every so many months of those with a measurement.

    Returns:
        Mid-month times in years and concentrations in ppm, each of shape (points,).

    Raises:
        ValueError: `every` is less than 1.
        ModuleNotFoundError: statsmodels is not installed.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, to keep every month; it is {every}")
    record = import_data_library("statsmodels.datasets.co2", "statsmodels").load_pandas().data
    months = record["co2"].resample("MS").mean().dropna().iloc[::every]
    years = months.index.year + (months.index.month - 0.5) / 12
    return np.asarray(years, np.float64), np.asarray(months, np.float64)


def limits(years: Float[np.ndarray, " points"]) -> tuple[Any, Any]:
    """Bounds on the logarithms of the hyperparameters, from what the record can tell.

    Lengths in time lie between the spacing of the measurements and the span of the record:
    shorter ones look like white noise, and of longer ones only the ratio to the scale is seen.

    Args:
        years: times of the measurements, shape (points,), increasing.

    Returns:
        The pair (lower, upper), each like `params`.
    """
    scale = (0.01, 100.0)
    length = (np.diff(years).min(), years[-1] - years[0])
    pairs = {
        "trend": {"scale": scale, "length": length},
        "season": {"scale": scale, "length": (0.1, 10.0), "decay": length},
        "irregular": {"scale": scale, "length": length, "shape": (0.1, 10.0)},
        "noise": {"scale": scale, "length": length, "white": scale},
    }
    lower, upper = (
        {
            term: {name: np.asarray(np.log(pair[side])) for name, pair in values.items()}
            for term, values in pairs.items()
        }
        for side in (0, 1)
    )
    return lower, upper


def build(every: int = 1) -> Model:
    """The carbon dioxide problem: 521 monthly means, 11 hyperparameters with bounds.

    Args:
        every: keep every so many months; an evaluation costs the cube of the number kept.

    Returns:
        The model, `args` being (years, concentrations less their mean).

    Raises:
        ValueError: `every` is less than 1.
        ModuleNotFoundError: statsmodels is not installed.
    """
    years, concentrations = read_record(every)
    lower, upper = limits(years)
    start = jax.tree.map(lambda value, *pair: np.asarray(np.clip(np.log(value), *pair)), START, lower, upper)
    return Model(
        name="co2",
        title=f"Gaussian process on {len(years)} months of carbon dioxide at Mauna Loa",
        fun=objective,
        params=start,
        args=(years, concentrations - concentrations.mean()),
        bounds=(lower, upper),
        note="Needs double precision: in single precision the objective is NaN. It has several "
        "local minima. At the one that L-BFGS-B finds from here, the length of the trend and the "
        "decay of the season lie on their upper bounds, the span of the record.",
        metrics=metrics,
    )
