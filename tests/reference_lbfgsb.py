"""A plain NumPy reference of L-BFGS-B 3.0, written for comparison and not for speed.

Everything is dense float64: the limited memory matrix B is formed explicitly and the subspace
problem is solved by a dense solve. The numbers in the comments refer to

    [BLNZ] R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, "A limited memory algorithm for bound
           constrained optimization", SIAM J. Sci. Comput. 16 (1995), 1190-1208;
    [ZBLN] C. Zhu, R. H. Byrd, P. Lu, J. Nocedal, "Algorithm 778: L-BFGS-B", ACM Trans. Math.
           Softw. 23 (1997), 550-560;
    [MN]   J. L. Morales, J. Nocedal, "Remark on Algorithm 778", ACM Trans. Math. Softw. 38
           (2011), 7:1-7:4;
    [MT]   J. J. Moré, D. J. Thuente, "Line search algorithms with guaranteed sufficient
           decrease", ACM Trans. Math. Softw. 20 (1994), 286-307.

Where the papers leave a choice open, SciPy's ``L-BFGS-B`` decides, with one exception: after an
iteration whose Cauchy point leaves no variable free, SciPy goes on with inner products that were
not brought up to date, so that it may drop the memory or take another step; here they are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Objective = Callable[[Vector], tuple[float, Vector]]

EPS = float(np.finfo(np.float64).eps)

# The line search's constants, [ZBLN] section 3 and [MT].
DECREASE = 1e-3  # sufficient decrease
CURVATURE = 0.9  # slope reduction
INTERVAL = 0.1  # relative width of the interval at which the search gives up
STEP_CAP = 1e10  # longest step without bounds


@dataclass
class Reference:
    """What a minimization returned, with every iterate (row 0 is the start)."""

    x: Vector
    fun: float
    jac: Vector
    nit: int
    nfev: int
    reason: str
    iterates: Matrix
    values: Vector
    evaluations: list[int]


@dataclass
class Memory:
    """The correction pairs, oldest first, and the scaling theta."""

    maxcor: int
    S: list[Vector] = field(default_factory=list)
    Y: list[Vector] = field(default_factory=list)
    theta: float = 1.0

    def clear(self) -> None:
        self.S, self.Y, self.theta = [], [], 1.0

    def update(self, s: Vector, y: Vector, sy: float) -> None:
        self.S = [*self.S, s][-self.maxcor :]
        self.Y = [*self.Y, y][-self.maxcor :]
        self.theta = float(y @ y) / sy


@dataclass
class Counted:
    """An objective that counts its evaluations; the last point is not evaluated twice."""

    fun: Objective
    count: int = 0
    last: tuple[Vector, float, Vector] | None = None

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        if self.last is None or not np.array_equal(self.last[0], x):
            value, gradient = self.fun(x.copy())
            self.count += 1
            self.last = (x.copy(), float(value), np.array(gradient, dtype=np.float64))
        return self.last[1], self.last[2].copy()


def projected_gradient(x: Vector, g: Vector, lower: Vector, upper: Vector) -> Vector:
    """P(x - g) - x, with the opposite sign; its largest entry is the stopping test (6.1)."""
    return np.where(g < 0, np.maximum(x - upper, g), np.minimum(x - lower, g))


def middle_matrix(S: Sequence[Vector], Y: Sequence[Vector], theta: float) -> tuple[Matrix, Matrix]:
    """The matrices W and M of the compact form B = theta I - W M W', [BLNZ] (3.3) and (3.4)."""
    s, y = np.stack(S, axis=1), np.stack(Y, axis=1)
    sy = s.T @ y
    D, L = np.diag(np.diag(sy)), np.tril(sy, -1)
    W = np.hstack([y, theta * s])
    return W, np.linalg.inv(np.block([[-D, L.T], [L, theta * s.T @ s]]))


def hessian(n: int, S: Sequence[Vector], Y: Sequence[Vector], theta: float) -> Matrix:
    """The matrix B: theta I, updated by the BFGS formula with one pair after the other.

    It is equal to theta I - W M W', (3.2); updating loses less to rounding than inverting the
    middle matrix, whose condition is poor where there are more pairs than variables.
    """
    B = theta * np.eye(n)
    for s, y in zip(S, Y, strict=True):
        Bs = B @ s
        B = B - np.outer(Bs, Bs) / (s @ Bs) + np.outer(y, y) / (s @ y)
    return B


def breakpoints(x: Vector, g: Vector, lower: Vector, upper: Vector) -> tuple[Vector, Vector]:
    """The times t_i at which x - t g meets the bounds, (4.1), and the first direction."""
    t = np.full_like(x, np.inf)
    t[g < 0] = (x - upper)[g < 0] / g[g < 0]
    t[g > 0] = (x - lower)[g > 0] / g[g > 0]
    return t, np.where(t > 0, -g, 0.0)


def generalized_cauchy_point(
    x: Vector, g: Vector, lower: Vector, upper: Vector, B: Matrix, theta: float
) -> tuple[Vector, NDArray[np.bool_]]:
    """The first local minimizer of the model on the path P(x - t g), and who is free there.

    [BLNZ] section 4, algorithm CP, with f' = d'(g + B z) and f'' = d'B d from B itself.
    """
    t, d = breakpoints(x, g, lower, upper)
    free = (t > 0) & ((g != 0) | ((x > lower) & (x < upper)))
    floor = EPS * theta * (d @ d)
    point, now = x.copy(), 0.0
    slope, bend = d @ g, d @ B @ d
    for i in np.argsort(t, kind="stable"):
        if t[i] <= 0:
            continue
        if not d.any() or t[i] == np.inf or -slope / bend < t[i] - now:
            break
        point = np.where(d != 0, x + t[i] * d, point)
        point[i] = upper[i] if d[i] > 0 else lower[i]
        now, d[i], free[i] = t[i], 0.0, False
        slope = d @ (g + B @ (point - x))
        bend = max(floor, d @ B @ d)
    if not d.any():
        return point, free
    return np.where(d != 0, x + (now + max(-slope / bend, 0.0)) * d, point), free


def subspace_minimum(
    x: Vector,
    g: Vector,
    cauchy: Vector,
    free: NDArray[np.bool_],
    B: Matrix,
    bounds: tuple[Vector, Vector],
) -> Vector:
    """The model's minimizer over the free variables, brought back into the box.

    [BLNZ] section 5 for the step (5.7), [MN] for projecting it first and truncating it (5.8)
    only where the projection is no descent direction.
    """
    r = g + B @ (cauchy - x)  # (5.4)
    d = np.zeros_like(x)
    factor = np.linalg.cholesky(B[np.ix_(free, free)])  # fails unless positive definite
    d[free] = -np.linalg.solve(factor.T, np.linalg.solve(factor, r[free]))
    point = np.where(free, np.clip(cauchy + d, *bounds), cauchy)
    touched = free & ((point == bounds[0]) | (point == bounds[1]))
    if not touched.any() or (point - x) @ g <= 0:
        return point
    reach = np.full_like(x, np.inf)  # (5.8)
    reach[d < 0] = (bounds[0] - cauchy)[d < 0] / d[d < 0]
    reach[d > 0] = (bounds[1] - cauchy)[d > 0] / d[d > 0]
    first = int(np.argmin(reach))
    point = cauchy + min(1.0, max(0.0, reach[first])) * d
    if reach[first] < 1:
        point[first] = bounds[1][first] if d[first] > 0 else bounds[0][first]
    return point


def target(
    x: Vector,
    g: Vector,
    lower: Vector,
    upper: Vector,
    S: Sequence[Vector],
    Y: Sequence[Vector],
    theta: float,
) -> Vector:
    """The point the line search heads for; LinAlgError where B is not positive definite."""
    B = hessian(x.size, S, Y, theta)
    cauchy, free = x.copy(), np.full(x.shape, True)
    bounded = bool(np.isfinite(lower).any() or np.isfinite(upper).any())
    if bounded or not S:
        cauchy, free = generalized_cauchy_point(x, g, lower, upper, B, theta)
    if not S or not free.any():
        return cauchy
    return subspace_minimum(x, g, cauchy, free, B, (lower, upper))


def direction(
    x: Vector,
    g: Vector,
    lower: Vector,
    upper: Vector,
    S: Sequence[Vector],
    Y: Sequence[Vector],
    theta: float,
) -> Vector:
    """The search direction at x, from the pairs S and Y (oldest first) and theta."""
    return target(x, g, lower, upper, S, Y, theta) - x


@dataclass(frozen=True)
class Trial:
    """A step with the value and the slope there."""

    step: float
    value: float
    slope: float

    def tilted(self, slope: float) -> Trial:
        """The same trial for the function minus ``slope`` times the step, [MT] section 2."""
        return Trial(self.step, self.value - slope * self.step, self.slope - slope)


def cubic_parts(a: Trial, b: Trial, nonnegative: bool) -> tuple[float, float]:
    """Theta and the (unsigned) root gamma of the cubic through two trials, [MT] section 4."""
    theta = 3 * (a.value - b.value) / (b.step - a.step) + a.slope + b.slope
    s = max(abs(theta), abs(a.slope), abs(b.slope))
    radicand = (theta / s) ** 2 - (a.slope / s) * (b.slope / s)
    return theta, s * np.sqrt(max(0.0, radicand) if nonnegative else radicand)


def cubic_minimizer(a: Trial, b: Trial) -> float:
    """The minimizer of the cubic that fits values and slopes at a and b, measured from a."""
    theta, gamma = cubic_parts(a, b, False)
    gamma = -gamma if a.step > b.step else gamma
    ratio = ((gamma - a.slope) + theta) / ((gamma - a.slope) + gamma + b.slope)
    return a.step + ratio * (b.step - a.step)


def secant(a: Trial, b: Trial) -> float:
    """The zero of the line through the two slopes, measured from a."""
    return a.step + a.slope / (a.slope - b.slope) * (b.step - a.step)


def quadratic(a: Trial, b: Trial) -> float:
    """The minimizer of the quadratic that fits both values and the slope at a."""
    chord = (a.value - b.value) / (b.step - a.step)
    return a.step + a.slope / (chord + a.slope) / 2 * (b.step - a.step)


def beyond(best: Trial, trial: Trial, low: float, high: float) -> float:
    """[MT] case 3: the cubic's minimizer where it lies beyond the trial, else a limit."""
    theta, gamma = cubic_parts(best, trial, True)
    gamma = -gamma if trial.step > best.step else gamma
    ratio = ((gamma - trial.slope) + theta) / ((gamma + (best.slope - trial.slope)) + gamma)
    if ratio < 0 and gamma != 0:
        return trial.step + ratio * (best.step - trial.step)
    return high if trial.step > best.step else low


def trial_step(best: Trial, other: Trial, trial: Trial, bracketed: bool, low: float, high: float) -> tuple[float, bool]:
    """The next step and whether a minimizer is bracketed now, [MT] section 4, cases 1 to 4."""
    if trial.value > best.value:  # case 1
        cubic, square = cubic_minimizer(best, trial), quadratic(best, trial)
        nearer = abs(cubic - best.step) < abs(square - best.step)
        return (cubic if nearer else cubic + (square - cubic) / 2), True
    if trial.slope * np.sign(best.slope) < 0:  # case 2
        cubic, line = cubic_minimizer(trial, best), secant(trial, best)
        return (cubic if abs(cubic - trial.step) > abs(line - trial.step) else line), True
    if abs(trial.slope) < abs(best.slope):  # case 3
        cubic, line = beyond(best, trial, low, high), secant(trial, best)
        nearer = abs(cubic - trial.step) < abs(line - trial.step)
        if not bracketed:
            farther = abs(cubic - trial.step) > abs(line - trial.step)
            return max(low, min(high, cubic if farther else line)), False
        step = cubic if nearer else line
        edge = trial.step + 0.66 * (other.step - trial.step)
        return (min(edge, step) if trial.step > best.step else max(edge, step)), True
    if bracketed:  # case 4
        return cubic_minimizer(trial, other), True
    return (high if trial.step > best.step else low), False


def next_interval(best: Trial, other: Trial, trial: Trial) -> tuple[Trial, Trial]:
    """The interval's best and other end after the trial, [MT] section 2, updating algorithm."""
    if trial.value > best.value:
        return best, trial
    return trial, (best if trial.slope * np.sign(best.slope) < 0 else other)


def refine(
    best: Trial,
    other: Trial,
    trial: Trial,
    tilt: float,
    bracketed: bool,
    reach: tuple[float, float],
) -> tuple[float, bool, Trial, Trial]:
    """The next step and the next interval, found for the function minus ``tilt`` times the step."""
    a, b, c = best.tilted(tilt), other.tilted(tilt), trial.tilted(tilt)
    step, bracketed = trial_step(a, b, c, bracketed, *reach)
    best, other = next_interval(a, b, c)
    return step, bracketed, best.tilted(-tilt), other.tilted(-tilt)


def accepted(trial: Trial, start: Trial, cap: float) -> bool:
    """Whether the strong Wolfe conditions hold, or the longest or the zero step is taken."""
    limit = start.value + DECREASE * trial.step * start.slope
    decreased = trial.value <= limit
    if decreased and abs(trial.slope) <= -CURVATURE * start.slope:
        return True
    steep = trial.slope <= DECREASE * start.slope
    return (trial.step == cap and decreased and steep) or (
        trial.step == 0 and not (decreased and trial.slope < DECREASE * start.slope)
    )


def exhausted(step: float, bracketed: bool, low: float, high: float) -> bool:
    """Whether the bracket is used up: the step is not inside it, or it is narrow enough."""
    return bracketed and (step <= low or step >= high or high - low <= INTERVAL * high)


def search(phi: Callable[[float], Trial], start: Trial, step: float, cap: float, maxls: int) -> Trial | None:
    """[MT]'s search for a step in [0, cap]; None where ``maxls`` trials do not suffice."""
    best = other = start
    bracketed, first_stage = False, True
    low, high = 0.0, 5 * step
    width, width_before = cap, 2 * cap
    for _ in range(maxls):
        trial = phi(step)
        limit = start.value + DECREASE * step * start.slope
        first_stage = first_stage and not (trial.value <= limit and trial.slope >= 0)
        if exhausted(step, bracketed, low, high) or accepted(trial, start, cap):
            return trial
        psi = first_stage and limit < trial.value <= best.value  # [MT] section 2, psi
        tilt = DECREASE * start.slope if psi else 0.0
        step, bracketed, best, other = refine(best, other, trial, tilt, bracketed, (low, high))
        low, high = step + 1.1 * (step - best.step), step + 4 * (step - best.step)
        if bracketed:
            if abs(other.step - best.step) >= 0.66 * width_before:
                step = best.step + 0.5 * (other.step - best.step)
            width_before, width = width, abs(other.step - best.step)
            low, high = sorted((best.step, other.step))
        step = float(np.fmin(np.fmax(step, 0.0), cap))  # a step that is no number becomes 0
        step = best.step if exhausted(step, bracketed, low, high) else step
    return None


def longest_step(x: Vector, d: Vector, lower: Vector, upper: Vector, nit: int) -> float:
    """The longest step within the bounds, [ZBLN] section 3; at most 1 in a bounded first one."""
    if not (np.isfinite(lower).any() or np.isfinite(upper).any()):
        return STEP_CAP
    if nit == 0:
        return 1.0
    reach = [(upper - x)[d > 0] / d[d > 0], (lower - x)[d < 0] / d[d < 0]]
    return float(np.min(np.concatenate([*reach, [STEP_CAP]])))


@dataclass(frozen=True)
class State:
    """An iterate with its value and gradient."""

    x: Vector
    value: float
    gradient: Vector


def advance(
    evaluate: Counted, now: State, box: tuple[Vector, Vector], memory: Memory, nit: int, maxls: int
) -> State | None:
    """The next iterate, with the memory updated; None where no step was found."""
    x, g, (lower, upper) = now.x, now.gradient, box
    goal = target(x, g, lower, upper, memory.S, memory.Y, memory.theta)
    d = goal - x
    start = Trial(0.0, now.value, float(g @ d))
    if start.slope >= 0:
        return None
    cap = longest_step(x, d, lower, upper, nit)
    boxed = bool(np.isfinite(lower).all() and np.isfinite(upper).all())
    step = min(1 / float(np.linalg.norm(d)), cap) if nit == 0 and not boxed else 1.0
    reached = now

    def phi(step: float) -> Trial:
        nonlocal reached
        point = goal if step == 1 else np.clip(x + step * d, lower, upper)
        reached = State(point, *evaluate(point))
        return Trial(step, reached.value, float(reached.gradient @ d))

    found = search(phi, start, step, cap, maxls)
    if found is None:
        return None
    sy = (found.slope - start.slope) * found.step
    if sy > -EPS * start.slope * found.step:  # [BLNZ] (3.9), else the pair is left out
        memory.update(found.step * d, reached.gradient - g, sy)
    return reached


def advance_or_restart(
    evaluate: Counted, now: State, box: tuple[Vector, Vector], memory: Memory, nit: int, maxls: int
) -> State | None:
    """As ``advance``; where it fails, once more without the memory if there was one."""
    try:
        reached = advance(evaluate, now, box, memory, nit, maxls)
    except np.linalg.LinAlgError:
        reached = None
    if reached is None and memory.S:
        memory.clear()
        reached = advance(evaluate, now, box, memory, nit, maxls)
    return reached


def verdict(before: State, now: State, box: tuple[Vector, Vector], gtol: float, ftol: float) -> str | None:
    """The stopping tests of [ZBLN] section 2, the gradient's first."""
    if np.max(np.abs(projected_gradient(now.x, now.gradient, *box))) <= gtol:
        return "gtol"
    scale = max(abs(before.value), abs(now.value), 1.0)
    return "ftol" if before.value - now.value <= ftol * scale else None


def history(states: list[State], counts: list[int], nfev: int, reason: str) -> Reference:
    """The result of a minimization that went through the states."""
    last, rows = states[-1], np.stack([state.x for state in states])
    values, nit = np.array([state.value for state in states]), len(states) - 1
    return Reference(last.x, last.value, last.gradient, nit, nfev, reason, rows, values, counts)


def minimize(
    fun: Objective,
    x0: ArrayLike,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    maxcor: int = 10,
    gtol: float = 1e-5,
    ftol: float = 2.220446049250313e-09,
    maxiter: int = 15000,
    maxls: int = 20,
) -> Reference:
    """Minimize ``fun``, which returns the value and the gradient, over a box."""
    low, high = -np.inf if lower is None else lower, np.inf if upper is None else upper
    x = np.array(x0, dtype=np.float64)
    box = (np.full(x.shape, low, np.float64), np.full(x.shape, high, np.float64))
    x = np.clip(x, *box)
    evaluate, memory = Counted(fun), Memory(maxcor)
    states, counts = [State(x, *evaluate(x))], [1]
    start = projected_gradient(x, states[0].gradient, *box)
    reason = "gtol" if np.max(np.abs(start)) <= gtol else None
    while reason is None:
        reached = advance_or_restart(evaluate, states[-1], box, memory, len(states) - 1, maxls)
        if reached is None:
            reason = "linesearch"
            break
        states, counts = [*states, reached], [*counts, evaluate.count]
        done = len(states) - 1 >= maxiter
        reason = "maxiter" if done else verdict(states[-2], reached, box, gtol, ftol)
    return history(states, counts, evaluate.count, reason)
