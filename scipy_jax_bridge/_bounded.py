"""The step of a problem with bounds: the generalized Cauchy point, then the minimum over the free variables.

Sources: R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, "A limited memory algorithm for bound constrained
optimization", SIAM J. Scientific Computing 16 (1995), 1190-1208 [BLNZ]; J. L. Morales and J. Nocedal, "Remark
on Algorithm 778", ACM Transactions on Mathematical Software 38 (2011) [MN]. The model of the objective is

    m(z) = f + g'(z - x) + (z - x)'B (z - x) / 2,   B = theta I - W M W',   W = [theta S  Y],

    M^-1 = [ theta S'S   L  ]     L_ij = s_i'y_j where pair i is newer than pair j, else 0,
           [ L'          -D ]

(3.2) to (3.4) in BLNZ, with the two halves of W in the order in which the pairs lie in the memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from ._memory import (
    Compact,
    Flag,
    NewPair,
    Pairs,
    Scalar,
    Square,
    Vector,
    combine,
    empty_pairs,
    forget,
    multiply,
    newest_slot,
    put,
    write_pair,
)

CompactMatrix = Float[Array, "two_m two_m"]
Mask = Bool[Array, " n"]


class BoundedMemory(NamedTuple):
    """The pairs, S'Y and S'S, all by slot."""

    pairs: Pairs
    sy: Square
    ss: Square


class CauchyPoint(NamedTuple):
    """The first local minimum of the model along the projected gradient path, and what is free there."""

    x: Vector
    free: Mask
    offset: Compact  # W'(x_cauchy - x)


class Walk(NamedTuple):
    """Where the walk along the path stands: at the breakpoint `time`, about to enter a new segment."""

    passed: Int[Array, ""]
    time: Scalar
    slope: Scalar  # f' in algorithm CP of BLNZ
    curve: Scalar  # f''
    heading: Compact  # p = W'd
    offset: Compact  # c = W'(z - x)
    stopped: Mask  # the variables that reached their bound on the way


def empty_memory(size: int, maxcor: int, dtype: jnp.dtype) -> BoundedMemory:
    """A memory that makes B the identity."""
    zeros = jnp.zeros((maxcor, maxcor), dtype)
    return BoundedMemory(empty_pairs(size, maxcor, dtype), zeros, zeros)


def update_memory(memory: BoundedMemory, new: NewPair, drop: Flag) -> BoundedMemory:
    """With the new pair if it is to be kept; emptied where `drop`."""
    slot = newest_slot(memory.pairs, new)
    pairs, products = write_pair(memory.pairs, new)
    ss_new, ys_new = jnp.split(multiply(pairs.rows, new.s), 2)
    sy_new, _ = jnp.split(products, 2)
    sy = put(memory.sy, slot, row=ys_new, column=sy_new)
    ss = put(memory.ss, slot, row=ss_new, column=ss_new)
    return _forget(BoundedMemory(pairs, sy, ss), drop)


def find_target(memory: BoundedMemory, x: Vector, grad: Vector, box: Any) -> tuple[BoundedMemory, Vector]:
    """Where the full step leads, in the box whatever the rounding; without memory where that would ascend."""

    def again(attempt: tuple[Vector, Int[Array, ""]]) -> Flag:
        target, tries = attempt
        ascends = ~(jnp.dot(target - x, grad) < 0)
        return (tries == 0) | ((tries == 1) & ascends)

    def aim(attempt: tuple[Vector, Int[Array, ""]]) -> tuple[Vector, Int[Array, ""]]:
        _, tries = attempt
        return _minimize_model(_forget(memory, tries > 0), x, grad, box.lower, box.upper), tries + 1

    target, tries = lax.while_loop(again, aim, (x, jnp.zeros((), jnp.int32)))
    return _forget(memory, tries > 1), target


def _forget(memory: BoundedMemory, drop: Flag) -> BoundedMemory:
    return BoundedMemory(forget(memory.pairs, drop), jnp.where(drop, 0, memory.sy), jnp.where(drop, 0, memory.ss))


def _minimize_model(memory: BoundedMemory, x: Vector, grad: Vector, lower: Vector, upper: Vector) -> Vector:
    """The Cauchy point, and from there the minimum over what is free; from x itself if no bound is met."""
    middle = _middle_matrix(memory)
    cauchy = find_cauchy_point(memory, middle, x, grad, lower, upper)
    target = _subspace_minimum(memory, middle, cauchy, x, grad, lower, upper)
    return jnp.where((memory.pairs.count > 0) & jnp.any(cauchy.free), target, cauchy.x)


def _scale(pairs: Pairs) -> Compact:
    """What turns the memory's rows into those of W'."""
    ones = jnp.ones_like(pairs.curvature)
    return jnp.concatenate([pairs.theta * ones, ones])


def _newer(pairs: Pairs) -> Bool[Array, "m m"]:
    """Whether the row's pair is newer than the column's."""
    slots = pairs.curvature.size
    age = (pairs.count - 1 - jnp.arange(slots)) % slots
    return age[:, None] < age[None, :]


def _middle_matrix(memory: BoundedMemory) -> CompactMatrix:
    """M, by the Cholesky factor of theta S'S + L D^-1 L' as in section 3 of BLNZ; zero for empty slots."""
    pairs = memory.pairs
    filled = pairs.curvature > 0
    inverse_d = jnp.where(filled, 1 / pairs.curvature, 0)
    below = jnp.where(_newer(pairs), memory.sy, 0)
    weighed = below * inverse_d
    unit = jnp.diag(jnp.where(filled, 0, 1).astype(weighed.dtype))
    factor = jnp.linalg.cholesky(pairs.theta * memory.ss + _matmul(weighed, below.T) + unit)
    inverse = jsl.cho_solve((factor, True), jnp.diag(filled.astype(weighed.dtype)))
    corner = _matmul(inverse, weighed)
    last = _matmul(weighed.T, corner) - jnp.diag(inverse_d)
    return jnp.block([[inverse, corner], [corner.T, last]])


def _matmul(a: Square, b: Square) -> Square:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def find_cauchy_point(
    memory: BoundedMemory,
    middle: CompactMatrix,
    x: Vector,
    grad: Vector,
    lower: Vector,
    upper: Vector,
) -> CauchyPoint:
    """Algorithm CP of BLNZ, one breakpoint a step."""
    blocked = ((x <= lower) & (grad >= 0)) | ((x >= upper) & (grad <= 0))
    heading = jnp.where(blocked, 0, -grad)
    room = jnp.where(grad < 0, upper - x, x - lower)
    times = jnp.where(heading != 0, room / jnp.abs(grad), jnp.inf)  # (4.1)
    walk = _walk_path(memory.pairs, middle, heading, room, times)
    moving = ~walk.stopped & (heading != 0)
    rest = jnp.maximum(-walk.slope / walk.curve, 0)
    rest = jnp.where(jnp.any(moving), rest, 0)
    end = jnp.where(walk.stopped, jnp.where(grad < 0, upper, lower), x + (walk.time + rest) * heading)
    return CauchyPoint(
        x=jnp.clip(end, lower, upper),
        free=~(walk.stopped | blocked),
        offset=walk.offset + rest * walk.heading,
    )


def _walk_path(pairs: Pairs, middle: CompactMatrix, heading: Vector, room: Vector, times: Vector) -> Walk:
    """Pass every breakpoint that lies before the minimum of its segment."""
    order = jnp.argsort(times)
    compact = _scale(pairs) * multiply(pairs.rows, heading)
    slope = -jnp.sum(heading * heading)
    curve = -pairs.theta * slope - multiply(middle, compact) @ compact
    floor = -jnp.finfo(curve.dtype).eps * pairs.theta * slope
    start = Walk(
        jnp.zeros((), jnp.int32),
        jnp.zeros_like(slope),
        slope,
        curve,
        compact,
        jnp.zeros_like(compact),
        jnp.zeros(heading.shape, bool),
    )

    def ahead(walk: Walk) -> Scalar:
        return times[order[jnp.minimum(walk.passed, order.size - 1)]]

    def goes_on(walk: Walk) -> Flag:
        there = ahead(walk)
        return (walk.passed < order.size) & (there < jnp.inf) & (-walk.slope / walk.curve >= there - walk.time)

    def pass_breakpoint(walk: Walk) -> Walk:
        index = order[jnp.minimum(walk.passed, order.size - 1)]
        step = heading[index]
        gap = jnp.sign(step) * room[index]  # z_b in (4.9)
        row = _scale(pairs) * pairs.rows[:, index]
        duration = ahead(walk) - walk.time
        offset = walk.offset + duration * walk.heading
        middle_row = multiply(middle, row)
        slope = walk.slope + duration * walk.curve + step**2 - pairs.theta * step * gap + step * (middle_row @ offset)
        curve = walk.curve - pairs.theta * step**2 + 2 * step * (middle_row @ walk.heading)
        curve = jnp.maximum(curve - step**2 * (middle_row @ row), floor)  # (4.9) and (4.10)
        heads = walk.heading - step * row
        stopped = walk.stopped.at[index].set(True)
        return Walk(walk.passed + 1, ahead(walk), slope, curve, heads, offset, stopped)

    return lax.while_loop(goes_on, pass_breakpoint, start)


def _subspace_minimum(
    memory: BoundedMemory,
    middle: CompactMatrix,
    cauchy: CauchyPoint,
    x: Vector,
    grad: Vector,
    lower: Vector,
    upper: Vector,
) -> Vector:
    """The direct primal method of section 5.1 of BLNZ, then the projection of MN or the way back to the box."""
    pairs, theta, scale = memory.pairs, memory.pairs.theta, _scale(memory.pairs)
    reduced = combine(scale * multiply(middle, cauchy.offset), pairs.rows)
    reduced = jnp.where(cauchy.free, reduced - theta * (cauchy.x - x) - grad, 0)  # minus (5.4)
    inner = jnp.linalg.solve(_subspace_matrix(memory, cauchy.free), scale * multiply(pairs.rows, reduced))
    newton = (reduced + combine(scale * inner, pairs.rows) / theta) / theta  # (5.11)
    newton = jnp.where(cauchy.free, newton, 0)
    projected = jnp.clip(cauchy.x + newton, lower, upper)
    # (5.8): as far along the Newton step as the box allows
    room = jnp.where(newton < 0, lower - cauchy.x, upper - cauchy.x)
    ratio = jnp.where(newton != 0, room / newton, jnp.inf)
    reach = jnp.minimum(jnp.min(ratio, initial=1.0), 1.0)
    edge = jnp.where(newton < 0, lower, upper)
    shortened = jnp.where(ratio <= reach, jnp.where(reach < 1, edge, projected), cauchy.x + reach * newton)
    ascends = jnp.sum((projected - x) * grad) > 0
    return jnp.where(ascends, jnp.clip(shortened, lower, upper), projected)


def _subspace_matrix(memory: BoundedMemory, free: Mask) -> CompactMatrix:
    """M^-1 - W'Z Z'W / theta, over the free variables Z, summed so that nothing large cancels.

    Pair by pair, so that no masked copy of the memory is made.
    """
    pairs, theta = memory.pairs, memory.pairs.theta
    slots = pairs.curvature.size

    def products(slot: Int[Array, ""]) -> tuple[Compact, Compact, Compact]:
        s, y = pairs.rows[slot], pairs.rows[slots + slot]
        held_s, free_y, held_y = jnp.where(free, 0, s), jnp.where(free, y, 0), jnp.where(free, 0, y)
        return multiply(pairs.rows, held_s), multiply(pairs.rows, free_y), multiply(pairs.rows, held_y)

    held_s, free_y, held_y = (block.T for block in lax.map(products, jnp.arange(slots)))
    filled = pairs.curvature > 0
    corner = jnp.where(_newer(pairs), held_y[:slots], -free_y[:slots])
    both = filled[:, None] & filled[None, :]
    blocks = (theta * held_s[:slots], corner, -free_y[slots:] / theta - jnp.diag(pairs.curvature))
    first, corner, last = (jnp.where(both, block, 0) for block in blocks)
    unit = jnp.diag(jnp.where(filled, 0, 1).astype(theta.dtype))
    return jnp.block([[first + unit, corner], [corner.T, last - unit]])
