"""One verdict in float32: ordinary fits by both backends and by SciPy driven by hand.

    python benchmarks/float32.py
    python benchmarks/float32.py --fits 24 --seed 7

Random data, six families of objectives, L-BFGS-B's defaults. "By hand" is `scipy.optimize.minimize` of a packed
callable: float64 x0, x cast to float32, value and gradient cast back. A value is too high where it lies above the
one by hand by more than `SLACK` roundings of float32, relative to the larger of its size and 1.
`--bfloat16` has leaves of that type: there the reference is the optimum in float64, and 2 roundings are too many.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree

import scipy_jax_bridge as sjb

BACKENDS = ("scipy", "optax")
SLACK, COARSE_SLACK = 20, 2  # roundings; of float32 and of bfloat16


def linear(p: Any, x: Any, y: Any) -> Any:
    """Mean squares of a linear model."""
    return jnp.mean((x @ p["w"] + p["b"] - y) ** 2)


def logistic(p: Any, x: Any, y: Any) -> Any:
    """Negative log likelihood of a logistic model with a ridge."""
    z = x @ p["w"] + p["b"]
    return jnp.sum(jnp.logaddexp(0.0, z) - y * z) + 0.5 * jnp.sum(p["w"] ** 2)


def poisson(p: Any, x: Any, y: Any) -> Any:
    """Negative log likelihood of a Poisson model."""
    z = x @ p["w"] + p["b"]
    return jnp.sum(jnp.exp(z) - y * z)


def gaussian(p: Any, x: Any, y: Any) -> Any:
    """Negative log likelihood of a linear model with its own log sigma."""
    z = (y - x @ p["w"] - p["b"]) * jnp.exp(-p["log_sigma"])
    return jnp.sum(0.5 * z**2 + p["log_sigma"])


def process(p: Any, x: Any, y: Any) -> Any:
    """Negative log likelihood of a Gaussian process by Cholesky."""
    gap = (x[:, :1] - x[:, 0]) * jnp.exp(-p["log_length"])
    cov = jnp.exp(2 * p["log_height"] - 0.5 * gap**2) + (jnp.exp(2 * p["log_sigma"]) + 1e-4) * jnp.eye(len(y))
    root = jnp.linalg.cholesky(cov)
    z = jax.scipy.linalg.solve_triangular(root, y, lower=True)
    return 0.5 * z @ z + jnp.sum(jnp.log(jnp.diag(root)))


def network(p: Any, x: Any, y: Any) -> Any:
    """Mean squares of a small network with a ridge."""
    hidden = jnp.tanh(x @ p["in"] + p["shift"])
    return jnp.mean((hidden @ p["out"] - y) ** 2) + 1e-3 * (jnp.sum(p["in"] ** 2) + jnp.sum(p["out"] ** 2))


class Fit(NamedTuple):
    """One fit: the objective, where it starts, its data."""

    family: str
    fun: Callable[..., Any]
    params: Any
    args: tuple[Any, Any]


def make_fit(family: str, rng: np.random.Generator, dtype: Any = np.float32) -> Fit:
    """Random data of this family; the start is at or near 0."""
    many, few = (40, 1) if family == "process" else (200, 3 if family == "network" else 5)
    x = rng.standard_normal((many, few)) * 10 ** rng.uniform(-0.5, 0.5, few)
    line = x @ (rng.standard_normal(few) / 2 / np.sqrt(np.mean(x**2, 0))) + rng.standard_normal()
    zero, w = np.zeros(()), np.zeros(few)
    plain = {"w": w, "b": zero}
    noisy = line + 10 ** rng.uniform(-2, 0.5) * rng.standard_normal(many)
    y, fun, params = {
        "linear": (noisy, linear, plain),
        "logistic": (rng.random(many) < 1 / (1 + np.exp(-line)), logistic, plain),
        "poisson": (rng.poisson(np.exp(np.clip(line, -5, 5))), poisson, plain),
        "gaussian": (noisy, gaussian, plain | {"log_sigma": zero}),
        "process": (
            np.sin(2 * x[:, 0]) + 10 ** rng.uniform(-2, 0) * rng.standard_normal(many),
            process,
            {"log_length": zero, "log_height": zero, "log_sigma": zero - 1},
        ),
        "network": (
            np.sin(line),
            network,
            {
                "in": rng.standard_normal((few, 8)) / 2,
                "shift": rng.standard_normal(8) / 2,
                "out": rng.standard_normal(8) / 2,
            },
        ),
    }[family]
    return Fit(family, fun, jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params), _as_data(x, y, dtype))


def _as_data(x: np.ndarray, y: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(x, dtype), np.asarray(y, dtype)


FAMILIES = ("linear", "logistic", "poisson", "gaussian", "process", "network")


def make_fits(count: int, seed: int = 0, dtype: Any = np.float32, families: tuple[str, ...] = FAMILIES) -> list[Fit]:
    """So many fits, the families in turn."""
    rng = np.random.default_rng(seed)
    return [make_fit(families[place % len(families)], rng, dtype) for place in range(count)]


class End(NamedTuple):
    """How a solve ended."""

    success: bool
    fun: float
    nfev: int
    status: str


def by_hand() -> Callable[[Fit], End]:
    """SciPy driven by hand; a program is compiled once a family."""
    programs: dict[str, Any] = {}

    def solve(fit: Fit) -> End:
        flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, fit.params))
        if fit.family not in programs:

            def packed(x: Any, args: Any) -> Any:
                value, grad = jax.value_and_grad(lambda x: fit.fun(unravel(x), *args))(x)
                return jnp.concatenate([value[None], grad])

            programs[fit.family] = jax.jit(packed)

        def host(x: np.ndarray) -> tuple[float, np.ndarray]:
            out = np.asarray(programs[fit.family](x.astype(flat.dtype), fit.args), np.float64)
            return out[0], out[1:]

        found = scipy.optimize.minimize(host, np.asarray(flat, np.float64), jac=True, method="L-BFGS-B")
        return End(bool(found.success), float(found.fun), int(found.nfev), str(found.message))

    return solve


def by_us(fit: Fit, backend: str, **more: Any) -> End:
    """The same by this package."""
    result = sjb.minimize(fit.fun, fit.params, fit.args, backend=backend, **more)
    return End(bool(result.success), float(result.fun), int(result.nfev), result.status.name)


def run(fits: list[Fit], against: Callable[[Fit], End]) -> Iterator[tuple[Fit, dict[str, End]]]:
    """Each fit by all three."""
    for fit in fits:
        yield fit, {"by hand": against(fit)} | {backend: by_us(fit, backend) for backend in BACKENDS}


def above(end: End, least: float, dtype: Any) -> float:
    """How far a value lies above another one, in roundings of the type."""
    return (end.fun - least) / (float(jnp.finfo(dtype).eps) * max(1.0, abs(least)))


def main() -> None:
    """Prints a row for each family and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=204)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="a line for each fit on which they differ")
    asked = parser.parse_args()
    dtype, slack = (jnp.bfloat16, COARSE_SLACK) if asked.bfloat16 else (np.float32, SLACK)
    families = tuple(each for each in FAMILIES if not (asked.bfloat16 and each == "process"))  # no Cholesky in it
    against = (lambda fit: by_us(fit, "scipy", precision="float64")) if asked.bfloat16 else by_hand()
    kept = list(run(make_fits(asked.fits, asked.seed, dtype, families), against))
    print(f"{'family':10} fits  success: by hand  scipy  optax  all agree  too high  nfev/by hand: scipy  optax")
    for name in (*families, "all"):
        rows = [ends for fit, ends in kept if name in (fit.family, "all")]
        won = [sum(ends[each].success for ends in rows) for each in ("by hand", *BACKENDS)]
        agree = sum(len({end.success for end in ends.values()}) == 1 for ends in rows)
        high = sum(above(ends[each], ends["by hand"].fun, dtype) > slack for ends in rows for each in BACKENDS)
        cost = [sum(ends[each].nfev for ends in rows) for each in ("by hand", *BACKENDS)]
        ratios = [each / cost[0] for each in cost[1:]]
        print(
            f"{name:10} {len(rows):4}  {won[0]:16}  {won[1]:5}  {won[2]:5}  {agree:9}  {high:8}  "
            f"{ratios[0]:19.3f}  {ratios[1]:5.3f}"
        )
    if asked.verbose:
        for place, (fit, ends) in enumerate(kept):
            highest = max(above(ends[each], ends["by hand"].fun, dtype) for each in BACKENDS)
            if len({end.success for end in ends.values()}) > 1 or highest > slack:
                print(place, fit.family, f"{highest:.3g} roundings above", *ends.items(), sep="\n    ")


if __name__ == "__main__":
    main()
