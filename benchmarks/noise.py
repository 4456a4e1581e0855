"""What a solve does where the rounding of the objective hides the decrease, with `ftol=0`.

    python benchmarks/noise.py                      # all rows
    python benchmarks/noise.py --rows gp wrong
    python benchmarks/noise.py --rows gp --count 10 --seed 3

`gp` is 40 Gaussian processes of 100 points by Cholesky, `long` a logistic regression of a million summed terms,
a Kalman filter and an ODE by a scan of fixed steps with gtol 1e-9 times the gradient at the start, `float32` the
gradient that the fits reach in single precision against bare SciPy, `wrong` objectives whose gradient is wrong, half of
them noisy.
"""

from __future__ import annotations

import argparse
import collections
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree

import scipy_jax_bridge as sjb

BACKENDS = ("optax", "scipy")
GTOLS = (1e-5, 1e-6, 1e-7, 1e-8)
TERMS = 1_000_000


class Fit(NamedTuple):
    """One fit: the objective, where it starts, its data."""

    fun: Callable[..., Any]
    params: Any
    args: Any


def process(p: Any, x: Any, y: Any) -> Any:
    """Negative log likelihood of a Gaussian process by Cholesky."""
    gap = (x[:, None] - x) * jnp.exp(-p["log_length"])
    cov = jnp.exp(2 * p["log_height"] - 0.5 * gap**2) + (jnp.exp(2 * p["log_sigma"]) + 1e-10) * jnp.eye(len(y))
    root = jnp.linalg.cholesky(cov)
    z = jax.scipy.linalg.solve_triangular(root, y, lower=True)
    return 0.5 * z @ z + jnp.sum(jnp.log(jnp.diag(root)))


def make_process(rng: np.random.Generator) -> Fit:
    """A smooth curve, and noise of random size."""
    x = np.sort(rng.uniform(0, 10, 100))
    smooth = np.sin(x * rng.uniform(0.5, 2)) + rng.uniform(0, 0.5) * np.cos(3 * x)
    y = smooth + 10 ** rng.uniform(-3, -1) * rng.standard_normal(100)
    return Fit(process, {"log_height": 0.0, "log_length": 0.0, "log_sigma": -1.0}, (x, y))


def logistic(p: Any, x: Any, y: Any) -> Any:
    """Negative log likelihood of a logistic model: a sum of many terms."""
    z = x @ p["w"] + p["b"]
    return jnp.sum(jnp.logaddexp(0.0, z) - y * z)


def make_logistic(rng: np.random.Generator, terms: int = TERMS) -> Fit:
    """Five features."""
    x = rng.standard_normal((terms, 5))
    y = rng.random(terms) < 1 / (1 + np.exp(-(x @ rng.standard_normal(5) + rng.standard_normal())))
    return Fit(logistic, {"w": np.zeros(5), "b": 0.0}, (x, y.astype(float)))


def kalman(p: Any, y: Any) -> Any:
    """Negative log likelihood of a local linear trend by the Kalman filter."""
    q = jnp.exp(jnp.stack([p["log_level"], p["log_slope"]]))
    r, move = jnp.exp(p["log_noise"]), jnp.array([[1.0, 1.0], [0.0, 1.0]], y.dtype)

    def step(state: Any, seen: Any) -> Any:
        mean, cov = state
        mean, cov = move @ mean, move @ cov @ move.T + jnp.diag(q)
        size, gap = cov[0, 0] + r, seen - mean[0]
        gain = cov[:, 0] / size
        return (mean + gain * gap, cov - jnp.outer(gain, cov[0])), 0.5 * (gap**2 / size + jnp.log(size))

    return jnp.sum(jax.lax.scan(step, (jnp.zeros(2, y.dtype), 100 * jnp.eye(2, dtype=y.dtype)), y)[1])


def make_kalman(rng: np.random.Generator) -> Fit:
    """Three hundred points of a random trend."""
    slope = np.cumsum(rng.standard_normal(300) * 10 ** rng.uniform(-2, -1))
    y = np.cumsum(slope + rng.standard_normal(300) * 0.3) + rng.standard_normal(300) * 10 ** rng.uniform(-0.5, 0.5)
    return Fit(kalman, {"log_level": -1.0, "log_slope": -3.0, "log_noise": 0.0}, (y,))


def orbit(p: Any, times: Any, y: Any) -> Any:
    """Squares of a Lotka-Volterra system by Runge's rule in fixed steps."""
    a, b, c, d = (jnp.exp(p[each]) for each in ("a", "b", "c", "d"))

    def slope(u: Any) -> Any:
        return jnp.stack([a * u[0] - b * u[0] * u[1], c * u[0] * u[1] - d * u[1]])

    def step(u: Any, gap: Any) -> Any:
        half = u + gap / 2 * slope(u)
        after = u + gap * slope(half)
        return after, after

    path = jax.lax.scan(step, jnp.exp(p["start"]), jnp.diff(times))[1]
    return 0.5 * jnp.sum((jnp.log(path) - y) ** 2)


def make_orbit(rng: np.random.Generator) -> Fit:
    """Four hundred steps, noise of a tenth."""
    times = np.linspace(0, 12, 401)
    truth = {"a": np.log(1.1), "b": np.log(0.4), "c": np.log(0.1), "d": np.log(0.4), "start": np.log([10.0, 5.0])}
    truth = {name: value + 0.1 * rng.standard_normal(np.shape(value)) for name, value in truth.items()}

    def path(p: Any) -> Any:  # the same steps, to make data
        u, out = np.exp(p["start"]), []
        a, b, c, d = (np.exp(p[each]) for each in "abcd")
        rate = lambda u: np.array([a * u[0] - b * u[0] * u[1], c * u[0] * u[1] - d * u[1]])  # noqa: E731
        for gap in np.diff(times):
            u = u + gap * rate(u + gap / 2 * rate(u))
            out.append(np.log(u))
        return np.array(out)

    start = {name: value + 0.05 * rng.standard_normal(np.shape(value)) for name, value in truth.items()}
    return Fit(orbit, start, (times, path(truth) + 0.1 * rng.standard_normal((400, 2))))


LONG = {"logistic": make_logistic, "kalman": make_kalman, "ode": make_orbit}


@jax.custom_jvp
def scaled(x: Any, scale: Any) -> Any:
    """x, whose derivative is said to be `scale`."""
    return x


@scaled.defjvp
def _scaled_jvp(primals: Any, tangents: Any) -> Any:
    return scaled(*primals), primals[1] * tangents[0]


def valley(x: Any) -> Any:
    """Rosenbrock's function, and where its minimum is not 0."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2) + 1


def pull(x: Any) -> Any:
    """A term of its own."""
    return jnp.sum((x - 3) ** 2)


def log_sums(x: Any) -> Any:
    """Convex, with a minimum that is not 0."""
    return jnp.sum(jnp.logaddexp(2 * x, -x)) + 0.1 * jnp.sum(x**2)


WRONG: dict[str, Callable[[Any], Any]] = {
    "a sign": lambda x: valley(scaled(x, -1.0)),
    "a sign, convex": lambda x: log_sums(scaled(x, -1.0)),
    "the sign of a component": lambda x: valley(x.at[1].set(scaled(x[1], -1.0))),
    "a factor of a term": lambda x: valley(x) + pull(scaled(x, 3.0)),
    "a factor of a term, convex": lambda x: log_sums(x) + pull(scaled(x, 1.5)),
    "a small factor of a term": lambda x: log_sums(x) + pull(scaled(x, 1.01)),
    "a missing term": lambda x: valley(x) + pull(scaled(x, 0.0)),
    "a missing term, convex": lambda x: log_sums(x) + 5 * jnp.sum(scaled(x, 0.0) ** 2),
    "a detached part": lambda x: jnp.sum((x - 2 * jax.lax.stop_gradient(x.mean()) - 1) ** 2) + 0.1 * jnp.sum(x**4),
    "a detached part, convex": lambda x: log_sums(x) + pull(jax.lax.stop_gradient(x) + 0.1 * x),
}
"""Ten gradients that are wrong."""


def rough(x: Any) -> Any:
    """Noise of 1e-10, without a slope."""
    return 1e-10 * jnp.sum(jnp.sin(1e9 * jax.lax.stop_gradient(x) + jnp.arange(x.size)))


def show(label: str, results: list[sjb.Result]) -> None:
    """Prints how often each status ended these solves, and their mean number of evaluations."""
    ends = collections.Counter(result.status.name for result in results)
    counts = "  ".join(f"{name} {count}" for name, count in ends.most_common())
    print(f"{label:44} {len(results):3} solves  {np.mean([r.nfev for r in results]):7.1f} evaluations  {counts}")


def solve(fit: Fit, backend: str, gtol: float) -> sjb.Result:
    """With an ftol of 0."""
    return sjb.minimize(fit.fun, fit.params, fit.args, backend=backend, options={"gtol": gtol, "ftol": 0.0})


def run_gp(count: int, seed: int) -> None:
    """Gaussian processes at four gtols."""
    rng = np.random.default_rng(seed)
    fits = [make_process(rng) for _ in range(count)]
    for backend in BACKENDS:
        for gtol in GTOLS:
            show(f"gp, {backend}, gtol {gtol:g}", [solve(fit, backend, gtol) for fit in fits])


def run_long(count: int, seed: int) -> None:
    """Sums, a filter and an ODE; the tolerance is relative to the gradient at the start."""
    for name, make in LONG.items():
        rng = np.random.default_rng(seed)
        fits = [make(rng) for _ in range(max(1, count // 4 if name == "logistic" else count // 2))]
        for backend in BACKENDS:
            show(f"{name}, {backend}, relative gtol 1e-9", [solve(f, backend, 1e-9 * start_norm(f)) for f in fits])


def start_norm(fit: Fit) -> float:
    """The largest component of the gradient at the start."""
    grads = jax.jit(jax.grad(fit.fun))(fit.params, *fit.args)
    return float(max(jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(grads)))


def in_single(fit: Fit) -> Fit:
    """The same fit in float32."""
    cast = lambda leaf: np.asarray(leaf, np.float32)  # noqa: E731
    return Fit(fit.fun, jax.tree.map(cast, fit.params), tuple(map(cast, fit.args)))


def run_float32(count: int, seed: int) -> None:
    """The gradient reached in float32 over that of bare SciPy, at its own default gtol and an ftol of 0."""
    makers = {"gp": make_process, **LONG}
    makers["logistic"] = lambda rng: make_logistic(rng, 20_000)
    for name, make in makers.items():
        rng = np.random.default_rng(seed)
        fits = [in_single(make(rng)) for _ in range(max(1, count // 2))]
        bare = [bare_norm(fit) for fit in fits]
        for backend in BACKENDS:
            ours = [float(solve(fit, backend, 1e-5).grad_norm) for fit in fits]
            good = sum(a <= max(b, 1e-5) for a, b in zip(ours, bare, strict=True))
            ratio = np.median(np.array(ours) / np.maximum(bare, 1e-30))
            print(f"float32, {name}, {backend}: not larger in {good} of {len(fits)}, median ratio {ratio:.2g}")


def bare_norm(fit: Fit) -> float:
    """The gradient that bare SciPy reaches."""
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, fit.params))
    both = jax.jit(jax.value_and_grad(lambda v, args: fit.fun(unravel(v), *args)))

    def host(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = both(jnp.asarray(x, flat.dtype), fit.args)
        return float(value), np.asarray(grad, np.float64)

    options = {"gtol": 1e-5, "ftol": 0.0}
    found = scipy.optimize.minimize(host, np.asarray(flat, float), jac=True, method="L-BFGS-B", options=options)
    return float(np.abs(found.jac).max())


def run_wrong(count: int, seed: int) -> None:
    """Gradients that are wrong."""
    start = np.array([-1.0, 0.5, -0.5, 1.2])
    for backend in BACKENDS:
        for gtol in (1e-5, 1e-8):
            noisy = [lambda x, fun=fun: fun(x) + rough(x) for fun in WRONG.values()]
            fits = [Fit(fun, start, ()) for fun in (*WRONG.values(), *noisy)]
            show(f"wrong gradients, {backend}, gtol {gtol:g}", [solve(fit, backend, gtol) for fit in fits])


ROWS = {"gp": run_gp, "long": run_long, "float32": run_float32, "wrong": run_wrong}


def main() -> None:
    """Runs the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore", sjb.RecompilationWarning)  # new objectives on purpose
    for row in asked.rows:
        ROWS[row](asked.count, asked.seed)


if __name__ == "__main__":
    main()
