"""Success is true of the point handed back, and what was found is handed back: every method, at walls and worse.

`python tests/test_truth.py --rounds N` runs the long version and prints a table; the suite runs a short one.

All objectives are one program: `hostile` switches by number, and all else is data.
"""

from __future__ import annotations

import argparse
import collections
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import scipy_jax_bridge as sjb
from scipy_jax_bridge import Status

N = 3
FREE = [
    "L-BFGS-B",
    "BFGS",
    "CG",
    "TNC",
    "SLSQP",
    "Newton-CG",
    "trust-ncg",
    "trust-krylov",
    "trust-constr",
    "dogleg",
    "trust-exact",
]
BARE = ["Nelder-Mead", "Powell", "COBYLA", "COBYQA"]
BOXED = ["L-BFGS-B", "TNC", "SLSQP", "trust-constr", "Nelder-Mead", "Powell", "COBYLA", "COBYQA"]
TRANSFORMS = {
    "adam": optax.adam(0.1),
    "sgd": optax.sgd(0.05),
    "momentum": optax.sgd(0.02, momentum=0.9),
    "clip + adam": optax.chain(optax.clip(1.0), optax.adam(0.2)),
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=20)),
}
SEEN: list[tuple[np.ndarray, float]] = []  # every evaluation: where, and the value


@jax.custom_jvp
def tilt(x: jax.Array, scale: jax.Array) -> jax.Array:
    """x, whose derivative is said to be `scale`: a flipped sign, a factor, a missing term."""
    return x


@tilt.defjvp
def _tilt(primals: Any, tangents: Any) -> Any:
    return tilt(*primals), primals[1] * tangents[0]


class Data(NamedTuple):
    """Of an objective: which one, its center, where the wall is, how steep, and what its gradient is times."""

    kind: Any
    center: Any
    wall: Any
    steep: Any
    scale: Any


def quad(x: jax.Array, d: Data) -> jax.Array:
    return jnp.sum(d.steep * (x - d.center) ** 2) + 0.3 * (x[0] - d.center[0]) * (x[1] - d.center[1])


def rosen(x: jax.Array) -> jax.Array:
    return jnp.sum(10 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def safe_inverse(x: jax.Array) -> jax.Array:
    inside = x > 0
    y = jnp.where(inside, x, 1.0)
    return jnp.sum(jnp.where(inside, y + 1 / y, jnp.inf))


KINDS: dict[str, Callable[[jax.Array, Data], jax.Array]] = {
    "nan where": lambda x, d: jnp.sum(jnp.where(x > d.wall, jnp.nan, d.steep * (x - d.center) ** 2)),
    "inf where": lambda x, d: jnp.sum(jnp.where(x > d.wall, jnp.inf, d.steep * (x - d.center) ** 2)),
    "nan half": lambda x, d: jnp.where(jnp.sum(x) > jnp.sum(d.wall), jnp.nan, quad(x, d)),
    "-inf half": lambda x, d: jnp.where(jnp.sum(x) > jnp.sum(d.wall), -jnp.inf, quad(x, d)),
    "nan poison": lambda x, d: quad(x, d) + jnp.sum(0 * jnp.sqrt(d.wall - x)),
    "log": lambda x, d: jnp.sum(d.steep * x - jnp.log(x)),
    "x log x": lambda x, d: jnp.sum(x * jnp.log(x) - x * jnp.log(d.steep)),
    "sqrt": lambda x, d: jnp.sum((jnp.sqrt(x) - d.steep) ** 2),
    "sqrt min at 0": lambda x, d: jnp.sum(d.steep * jnp.sqrt(x)),
    "1/x": lambda x, d: jnp.sum(d.steep * x + 1 / x),
    "1/x where": lambda x, d: safe_inverse(x),
    "disc": lambda x, d: -jnp.sqrt(4 - jnp.sum((x - d.center) ** 2)) + 0.1 * jnp.sum(x),
    "log of a ball": lambda x, d: jnp.log(quad(x, d) - 0.5),
    "log abs": lambda x, d: jnp.sum(jnp.log(jnp.abs(x - d.center))),
    "exp": lambda x, d: jnp.sum(jnp.exp(200 * x * d.steep) - x),
    "rosen nan": lambda x, d: jnp.where(x[0] > 1.05, jnp.nan, rosen(x)),
    "rosen": lambda x, d: rosen(x),
    "quad": quad,
    "abs": lambda x, d: jnp.sum(d.steep * jnp.abs(x - d.center)),
    "norm": lambda x, d: jnp.sqrt(jnp.sum((x - d.center) ** 2)),
    "max": lambda x, d: jnp.max(jnp.abs(x - d.center)) + 0.1 * quad(x, d),
    "stairs": lambda x, d: jnp.round(5 * quad(x, d)) / 5,
    "plateau": lambda x, d: jnp.minimum(quad(x, d), 3.0),
    "jump": lambda x, d: quad(x, d) + jnp.where(x[0] > d.wall[0], 1.0, 0.0),
    "gap": lambda x, d: jnp.where(jnp.abs(x[0] - d.wall[0]) < 0.2, jnp.nan, quad(x, d)),
    "only there": lambda x, d: jnp.where(jnp.all(x == d.wall), quad(x, d), jnp.nan),
    "only near": lambda x, d: jnp.where(jnp.max(jnp.abs(x - d.wall)) < 1e-3, quad(x, d), jnp.inf),
    "line": lambda x, d: jnp.where(jnp.any(x > d.wall), jnp.nan, -jnp.sum(d.steep * x)),
    "bad gradient": lambda x, d: quad(x, d) + jnp.sum(jnp.where(x > d.wall, 0.0, jnp.sqrt(jnp.abs(x - d.wall)))) * 0,
}
NAMES = list(KINDS)
# The minimum lies inside, and the objective is smooth there: here a solve has to succeed.
KIND_INSIDE = {"log", "x log x", "sqrt", "1/x where", "disc", "rosen nan", "rosen", "quad", "exp"}
WALL_INSIDE = {"nan where", "inf where", "nan half", "nan poison", "gap"}  # if the center does


def value_of(x: jax.Array, d: Data) -> jax.Array:
    y = tilt(x, d.scale)
    return jax.lax.switch(d.kind, list(KINDS.values()), y, d)


def hostile(x: jax.Array, d: Data) -> jax.Array:
    """What is minimized: it tells of every evaluation."""
    value = value_of(x, d)
    jax.debug.callback(_note, jax.lax.stop_gradient(x), jax.lax.stop_gradient(value))
    return value


def _note(x: Any, value: Any) -> None:
    SEEN.append((np.array(x), float(value)))


evaluate = jax.jit(jax.value_and_grad(value_of))


class Case(NamedTuple):
    """One run: the objective's data, the start, the bounds, and whether its minimum lies inside the walls."""

    name: str
    data: Data
    start: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray] | None
    easy: bool


def draw(rng: np.random.Generator, name: str, boxed: bool, honest: bool) -> Case | None:
    """A random case; None if its start is not finite, as at most one in two is."""
    start = rng.uniform(-2, 2, N)
    if name in ("log", "x log x", "sqrt", "sqrt min at 0", "1/x", "1/x where"):
        start = np.abs(start) + 0.05
    center, wall = rng.uniform(-2, 2, N), start + rng.exponential(0.7, N)
    if name in ("only there", "only near"):
        wall = start
    inside = name in KIND_INSIDE or (name in WALL_INSIDE and rng.random() < 0.5)
    if inside and name in WALL_INSIDE:
        wall = np.maximum(center, start) + 0.05 + rng.exponential(0.5, N)
    if inside and name == "disc":
        start = center + rng.uniform(-1, 1, N)
    if name == "exp":
        start = -np.abs(start)
    scale = np.ones(N)
    if not honest:
        choices = [-1.0, 0.0, 0.3, 3.0]
        scale = np.full(N, rng.choice([-1.0, 0.3, 3.0])) if rng.random() < 0.5 else rng.choice([*choices, 1.0, 1.0], N)
    data = Data(np.int32(NAMES.index(name)), center, wall, rng.uniform(0.3, 3, N), scale)
    bounds = None
    if boxed:
        low = start - rng.exponential(1.0, N) * (rng.random(N) < 0.8)
        high = start + rng.exponential(1.0, N) * (rng.random(N) < 0.8)
        low, high = np.where(rng.random(N) < 0.2, -np.inf, low), np.where(rng.random(N) < 0.2, np.inf, high)
        bounds = (low, high)
    value, grad = evaluate(start, data)
    if not (np.isfinite(value) and np.isfinite(grad).all()):
        return None
    return Case(name, data, start, bounds, honest and inside)


def projected(x: np.ndarray, grad: np.ndarray, bounds: Any) -> float:
    if bounds is None:
        return float(np.abs(grad).max())
    return float(np.abs(np.clip(x - grad, *bounds) - x).max())


def find_fault(case: Case, result: sjb.Result, gradient: bool, gtol: float = 1e-5, ftol: float = 2.3e-9) -> str:
    """What is wrong with the result; empty if nothing is. Nothing of the library is used."""
    x = np.asarray(result.params)
    value, grad = (np.asarray(each) for each in evaluate(x, case.data))
    near = 1e-9 * max(abs(float(value)), 1e-3)
    if case.bounds is not None and not np.all((case.bounds[0] <= x) & (x <= case.bounds[1])):
        return "lie: outside the bounds"
    if result.success:
        if not (np.isfinite(value) and np.isfinite(x).all()):
            return "lie: not finite"
        if abs(float(value) - float(result.fun)) > near:
            return "lie: not the value there"
        if not gradient:
            return "" if _was_tested(x) else "lie: nothing else was finite"
        if not np.isfinite(grad).all():
            return "lie: gradient not finite"
        if result.status == Status.GTOL:
            return "" if projected(x, grad, case.bounds) <= gtol * (1 + 1e-6) else "lie: gtol does not hold"
        return _find_false_ftol(case, result, x, grad, ftol)
    lower = [(where, v) for where, v in SEEN if np.isfinite(v) and v < float(result.fun) - near]
    for where, _ in lower:
        if case.bounds is not None and not np.all((case.bounds[0] <= where) & (where <= case.bounds[1])):
            continue
        value, grad = evaluate(where, case.data)
        if not gradient or np.isfinite(grad).all():
            return "lost"
    return "" if np.isfinite(result.fun) else "lost: not finite"


def _was_tested(x: np.ndarray) -> bool:
    return any(np.isfinite(value) and not np.array_equal(where, x) for where, value in SEEN)


def _find_false_ftol(case: Case, result: sjb.Result, x: np.ndarray, grad: np.ndarray, ftol: float) -> str:
    """FTOL: the last step satisfies ftol, and not only because trials that were not finite cut it short."""
    fun = np.asarray(result.trace.fun)
    if len(fun) < 2:
        return "lie: ftol without a step"
    if fun[-1] != float(result.fun):
        return "lie: ftol of another point"
    fell = fun[-2] - fun[-1]
    if not -1e-15 * abs(fun[-2]) <= fell <= ftol * max(abs(fun[-2]), abs(fun[-1]), 1.0):
        return "lie: ftol does not hold"
    before = [where for where, value in SEEN if value == fun[-2] and not np.array_equal(where, x)]
    if not before or projected(x, grad, case.bounds) <= 1e-3:
        return ""
    step = x - before[-1]
    _, grad_before = evaluate(before[-1], case.data)
    short = grad @ step <= 0.9 * (np.asarray(grad_before) @ step) < 0  # the objective goes on falling
    walls = [where for where, value in SEEN if not np.isfinite(value)]
    near = any(np.linalg.norm(where - x) <= 10 * np.linalg.norm(step) for where in walls)
    return "lie: ftol of a step cut short" if short and near else ""


def solve(case: Case, backend: str, method: Any, **options: Any) -> sjb.Result:
    SEEN.clear()
    settings = {"maxfun": 600, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = sjb.minimize(
            hostile, case.start, (case.data,), backend=backend, method=method, bounds=case.bounds, options=settings
        )
    jax.effects_barrier()
    return result


def solvers() -> Iterator[tuple[str, str, Any, bool, bool]]:
    """Name, backend, method, whether it uses a gradient, whether with bounds."""
    for method in FREE + BARE:
        yield method, "scipy", method, method in FREE, False
    for method in BOXED:
        yield f"{method}, bounds", "scipy", method, method in FREE, True
    yield "device L-BFGS", "optax", None, True, False
    yield "device L-BFGS-B", "optax", None, True, True
    for name, method in TRANSFORMS.items():
        yield name, "optax", method, True, False


def run_all(rounds: int, seed: int = 0, only: str = "", kinds: list[str] = NAMES) -> collections.Counter[Any]:
    """Every solver on every objective, `rounds` times; counts of (solver, what), and prints each fault."""
    counts: collections.Counter[Any] = collections.Counter()
    for label, backend, method, gradient, boxed in solvers():
        if only not in label:
            continue
        for kind in kinds:
            for round_ in range(rounds):
                rng = np.random.default_rng([seed, NAMES.index(kind), round_])
                case = draw(rng, kind, boxed, honest=round_ % 4 != 3)
                if case is None:
                    continue
                options = {} if backend == "scipy" or method is None else {"maxiter": 600}
                try:
                    result = solve(case, backend, method, **options)
                    fault = find_fault(case, result, gradient)
                except Exception as error:
                    result, fault = None, f"raised {type(error).__name__}: {str(error)[:150]}"
                counts[label, "runs"] += 1
                if case.easy:
                    counts[label, "easy"] += 1
                    counts[label, "solved"] += result is not None and bool(result.success)
                if fault:
                    counts[label, fault.split(":")[0]] += 1
                    print(f"{label}, {kind}, seed {seed} round {round_}: {fault}", result and result.status.name)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--kind", default="")
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    counts = run_all(given.rounds, given.seed, given.only, [given.kind] if given.kind else NAMES)
    whats = ("runs", "lie", "lost", "raised", "easy", "solved")
    print(f"{'':24}" + "".join(f"{what:>8}" for what in whats))
    for label in dict.fromkeys(label for label, _ in counts):
        print(f"{label:24}" + "".join(f"{counts[label, what]:8}" for what in whats))
    total = {what: sum(number for (_, each), number in counts.items() if each == what) for what in whats}
    print(f"{'all':24}" + "".join(f"{total[what]:8}" for what in whats))


if __name__ == "__main__":
    sys.exit(main())
