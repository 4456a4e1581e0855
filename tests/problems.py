"""Test problems with known minima, as JAX functions of a flat vector.

``minimum`` and ``minimizer`` belong to the minimum that a descent method reaches from ``start``;
where that is not the global one, ``source`` says so. The problems named "hs" are from W. Hock,
K. Schittkowski, "Test examples for nonlinear programming codes" (1981); those marked MGH are
from J. J. Moré, B. S. Garbow, K. E. Hillstrom, "Testing unconstrained optimization software",
ACM Trans. Math. Softw. 7 (1981), 17-41.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

BACKENDS = ("scipy", "optax")

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Problem:
    """A function with a start, bounds (None: no bound at all) and the minimum reached."""

    name: str
    fun: Callable[[jax.Array], jax.Array]
    start: Vector
    minimum: float
    minimizer: Vector | None
    lower: Vector | None
    upper: Vector | None
    source: str

    @property
    def bounded(self) -> bool:
        return self.lower is not None


def free(
    name: str,
    fun: Callable[[jax.Array], jax.Array],
    start: ArrayLike,
    minimum: float,
    minimizer: ArrayLike | None,
    source: str,
) -> Problem:
    """A problem without bounds."""
    found = None if minimizer is None else np.array(minimizer, np.float64)
    return Problem(name, fun, np.array(start, np.float64), minimum, found, None, None, source)


def boxed(
    name: str,
    fun: Callable[[jax.Array], jax.Array],
    start: ArrayLike,
    minimum: float,
    minimizer: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    source: str,
) -> Problem:
    """A problem with bounds; a scalar bound is meant for every variable."""
    x = np.array(start, np.float64)
    low = np.array(np.broadcast_to(np.asarray(lower, np.float64), x.shape))
    high = np.array(np.broadcast_to(np.asarray(upper, np.float64), x.shape))
    return Problem(name, fun, x, minimum, np.array(minimizer, np.float64), low, high, source)


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def beale(x: jax.Array) -> jax.Array:
    y = jnp.array([1.5, 2.25, 2.625])
    return jnp.sum((y - x[0] * (1 - x[1] ** jnp.array([1, 2, 3]))) ** 2)


def booth(x: jax.Array) -> jax.Array:
    return (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2


def himmelblau(x: jax.Array) -> jax.Array:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def ill_conditioned(x: jax.Array) -> jax.Array:
    scale = 10 ** jnp.linspace(0, 4, x.size)
    return 0.5 * jnp.sum(scale * (x - 1) ** 2)


def styblinski_tang(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(x**4 - 16 * x**2 + 5 * x)


def wood(x: jax.Array) -> jax.Array:
    first = 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    second = 90 * (x[3] - x[2] ** 2) ** 2 + (1 - x[2]) ** 2
    return first + second + 10 * (x[1] + x[3] - 2) ** 2 + 0.1 * (x[1] - x[3]) ** 2


def powell_singular(x: jax.Array) -> jax.Array:
    first = (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2
    return first + (x[1] - 2 * x[2]) ** 4 + 10 * (x[0] - x[3]) ** 4


def log_sum(x: jax.Array) -> jax.Array:
    """The logarithm of a sum of cosh(row (x - 1)); convex, with its minimum log(2 n) at ones."""
    rows = jnp.eye(x.size) + 0.5 * jnp.eye(x.size, k=1)
    y = rows @ (x - 1)
    return jax.nn.logsumexp(jnp.concatenate([y, -y]))


def badly_scaled(x: jax.Array) -> jax.Array:
    return (x[0] - 1e6) ** 2 + (x[1] - 2e-6) ** 2 + (x[0] * x[1] - 2) ** 2


def hs3(x: jax.Array) -> jax.Array:
    return x[1] + 1e-5 * (x[1] - x[0]) ** 2


def hs4(x: jax.Array) -> jax.Array:
    return (x[0] + 1) ** 3 / 3 + x[1]


def hs5(x: jax.Array) -> jax.Array:
    return jnp.sin(x[0] + x[1]) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1


def hs45(x: jax.Array) -> jax.Array:
    return 2 - jnp.prod(x) / 120


def hs110(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.log(x - 2) ** 2 + jnp.log(10 - x) ** 2) - jnp.prod(x) ** 0.2


def shifted_quadratic(x: jax.Array) -> jax.Array:
    """A separable quadratic, so that its minimizer in a box is ``TARGETS`` clipped to it."""
    n = x.size
    return 0.5 * jnp.sum(jnp.arange(1, n + 1) * (x - targets(n)) ** 2)


def targets(n: int) -> Vector:
    return 3 * np.sin(np.arange(1, n + 1))


def separable(name: str, start: Vector, lower: ArrayLike, upper: ArrayLike) -> Problem:
    """The separable quadratic with its solution by clipping."""
    n = start.size
    solution = np.clip(targets(n), lower, upper)
    value = 0.5 * float(np.sum(np.arange(1, n + 1) * (solution - targets(n)) ** 2))
    source = "separable, so the minimizer is the unbounded one clipped"
    return boxed(name, shifted_quadratic, start, value, solution, lower, upper, source)


def coupled_quadratic(n: int) -> Problem:
    """A tridiagonal quadratic made from its solution and multipliers, two thirds active."""
    A = 2.1 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    i = np.arange(n)
    solution = np.select([i % 3 == 0, i % 3 == 1], [-1.0, 1.0], 0.5 * np.cos(i))
    multipliers = np.select([i % 3 == 0, i % 3 == 1], [1.0 + i / n, -2.0], 0.0)
    b = A @ solution - multipliers

    value = 0.5 * float(solution @ A @ solution) - float(b @ solution)
    A, b = jnp.asarray(A), jnp.asarray(b)

    def fun(x: jax.Array) -> jax.Array:
        return 0.5 * x @ (A @ x) - b @ x

    source = "convex, made to satisfy the optimality conditions at the minimizer"
    return boxed("coupled quadratic", fun, np.zeros(n), value, solution, -1.0, 1.0, source)


def hs2_roots() -> tuple[float, float]:
    """x[0] at the local and at the global minimum: roots of 400 t^3 - 598 t - 2."""
    a = np.sqrt(598 / 1200)
    angle = np.arccos(1 / (400 * a**3)) / 3
    return float(2 * a * np.cos(angle + 2 * np.pi / 3)), float(2 * a * np.cos(angle))


def hs2(name: str, start: ArrayLike, which: int) -> Problem:
    """Rosenbrock above 1.5, toward its local (0) or its global (1) minimum."""
    t = hs2_roots()[which]
    value = 100 * (1.5 - t**2) ** 2 + (1 - t) ** 2
    source = ("local minimum; ", "")[which] + "the minimizer is the root of a cubic"
    lower = [-np.inf, 1.5]
    return boxed(name, rosenbrock, start, value, [t, 1.5], lower, np.inf, source)


INF = np.inf
STYBLINSKI = -2.903534027771177  # the least root of 4 t^3 - 32 t + 5
STYBLINSKI_VALUE = 0.5 * (STYBLINSKI**4 - 16 * STYBLINSKI**2 + 5 * STYBLINSKI)
HS110 = -45.77846970744627  # ten times ln(t - 2)^2 + ln(10 - t)^2, less t^2,
HS110_AT = 9.350265833069385  # at its stationary point

# A few programs serve all problems: see `padded` and `in_one_program`.
UNBOUNDED = (
    free("rosenbrock 2", rosenbrock, [-1.2, 1], 0.0, [1, 1], "MGH 1"),
    free("rosenbrock 20", rosenbrock, [-1.2, 1] * 10, 0.0, np.ones(20), "MGH 21, chained"),
    free("beale", beale, [1, 1], 0.0, [3, 0.5], "MGH 5"),
    free("booth", booth, [0, 0], 0.0, [1, 3], "a sum of two squares"),
    free("himmelblau", himmelblau, [0, 0], 0.0, [3, 2], "one of four minima"),
    free("ill-conditioned", ill_conditioned, np.zeros(10), 0.0, np.ones(10), "condition 1e4"),
    free(
        "styblinski-tang",
        styblinski_tang,
        [-1.0, -2.0, -3.5, -4.5],
        4 * STYBLINSKI_VALUE,
        [STYBLINSKI] * 4,
        "separable quartic; the minimizer is the root of a cubic",
    ),
    free("wood", wood, [-3, -1, -3, -1], 0.0, np.ones(4), "MGH 14"),
    free("powell singular", powell_singular, [3, -1, 0, 1], 0.0, np.zeros(4), "MGH 13"),
    free("log sum", log_sum, np.linspace(-2, 3, 4), float(np.log(8)), np.ones(4), "convex"),
    free("badly scaled", badly_scaled, [1, 1], 0.0, [1e6, 2e-6], "MGH 4"),
)

BOUNDED = (
    boxed("hs1", rosenbrock, [-2, 1], 0.0, [1, 1], [-INF, -1.5], INF, "hs 1"),
    hs2("hs2", [-2, 1], 0),
    hs2("hs2 global", [2, 2], 1),
    boxed("hs3", hs3, [10, 1], 0.0, [0, 0], [-INF, 0], INF, "hs 3"),
    boxed("hs4", hs4, [1.125, 0.125], 8 / 3, [1, 0], [1, 0], INF, "hs 4"),
    boxed(
        "hs5",
        hs5,
        [0, 0],
        float(-np.sqrt(3) / 2 - np.pi / 3),
        [0.5 - np.pi / 3, -0.5 - np.pi / 3],
        [-1.5, -3],
        [4, 3],
        "hs 5",
    ),
    boxed("hs38", wood, [-3, -1, -3, -1], 0.0, np.ones(4), -10, 10, "hs 38"),
    boxed("hs45", hs45, [2] * 5, 1.0, [1, 2, 3, 4, 5], 0, [1, 2, 3, 4, 5], "hs 45"),
    boxed("hs110", hs110, [9] * 10, HS110, [HS110_AT] * 10, 2.001, 9.999, "hs 110"),
    boxed("rosenbrock wall", rosenbrock, [-1.2, 1], 0.25, [0.5, 0.25], -2, [0.5, 2], "closed form"),
    coupled_quadratic(30),
    separable("many active", np.zeros(30), -1.0, 1.0),
    separable(
        "one-sided",
        np.full(10, 0.25),
        np.where(np.arange(10) % 3 == 0, -0.5, -INF),
        np.where(np.arange(10) % 3 == 1, 0.5, INF),
    ),
    separable("start on a bound", np.full(10, -1.0), -1.0, 2.0),
    boxed(
        "fixed coordinate",
        wood,
        [-3, -1, -3, -1],
        0.0,
        np.ones(4),
        [-10, -10, 1, -10],
        [10, 10, 1, 10],
        "hs 38 with a variable held at its solution",
    ),
    separable(
        "fixed coordinates",
        np.zeros(10),
        np.where(np.arange(10) % 2 == 0, 0.75, -2.0),
        np.where(np.arange(10) % 2 == 0, 0.75, 2.0),
    ),
    separable("start outside", np.full(10, 9.0), -1.0, 2.0),
)

PROBLEMS = UNBOUNDED + BOUNDED


def widened(fun: Callable[[jax.Array], jax.Array], size: int) -> Callable[[jax.Array], jax.Array]:
    return lambda x: fun(x[:size])


@cache
def padded(problem: Problem, width: int) -> Problem:
    """The problem with further variables that the objective does not read; they start at 0 and stay there.

    They have bounds on both sides if all others have, since the first step of L-BFGS-B is another one then.
    """
    size, more = problem.start.size, width - problem.start.size
    if not more:
        return problem
    boxed = problem.bounded and np.all(np.isfinite([problem.lower, problem.upper]))
    zeros, side = np.zeros(more), np.full(more, 1.0 if boxed else INF)
    return Problem(
        problem.name,
        widened(problem.fun, size),
        np.append(problem.start, zeros),
        problem.minimum,
        None if problem.minimizer is None else np.append(problem.minimizer, zeros),
        None if problem.lower is None else np.append(problem.lower, -side),
        None if problem.upper is None else np.append(problem.upper, side),
        problem.source,
    )


@cache
def switched(members: tuple[Problem, ...]) -> Callable[[jax.Array, int], jax.Array]:
    """One function that is each of these problems by its number.

    It reads nothing that can change, so that `minimize` traces it once.
    """
    branches = tuple(each.fun for each in members)
    return lambda x, which: jax.lax.switch(which, branches, x)


def in_one_program(
    problem: Problem, among: tuple[Problem, ...] = PROBLEMS
) -> tuple[Callable[[jax.Array, int], jax.Array], int]:
    """A function of params and a number, and the number at which it is the problem.

    Its program serves all problems of this size among these, those with and without bounds apart, so that a solver is
    compiled a few times and not for each problem.
    """
    kind = problem.start.size, problem.bounded
    members = tuple(each for each in among if (each.start.size, each.bounded) == kind)
    return switched(members), members.index(problem)
