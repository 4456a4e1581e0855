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
    Flag,
    Halves,
    NewPair,
    Rows,
    Scalar,
    Square,
    Vector,
    combine_rows,
    empty_rows,
    multiply,
    multiply_rows,
    new_scale,
    newest_slot,
    put,
    write_pair,
)

Compact = Float[Array, " two_m"]
CompactMatrix = Float[Array, "two_m two_m"]
Mask = Bool[Array, " n"]


class BoundedMemory(NamedTuple):
    """The pairs by slot, and what B is made of."""

    rows: Rows
    theta: Scalar
    newest: Int[Array, ""]  # the slot of the newest pair
    sy: Square  # s_i'y_j; the diagonal is zero where a slot is empty
    ss: Square  # s_i's_j


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
    return BoundedMemory(empty_rows(size, maxcor, dtype), jnp.ones((), dtype), jnp.zeros((), jnp.int32), zeros, zeros)


def update_memory(memory: BoundedMemory, new: NewPair) -> BoundedMemory:
    """With the new pair if it is to be kept; emptied if the others are to be dropped."""
    here = newest_slot(new, memory.sy.shape[0])
    rows = write_pair(memory.rows, new)
    s, y = lax.dynamic_slice_in_dim(rows, 2 * new.slot, 2)  # read back, so that no vector of the turn is kept for it
    sy_new, yy_new = multiply_rows(rows, y)
    ss_new, ys_new = multiply_rows(rows, s)
    sy = put(memory.sy, here, ys_new, jnp.where(here, new.curvature, sy_new))
    ss = put(memory.ss, here, ss_new, ss_new)
    return BoundedMemory(
        rows=rows,
        theta=new_scale(memory.theta, new, here, yy_new),
        newest=jnp.where(new.keep, new.slot, memory.newest),
        sy=jnp.where(new.drop, 0, sy),
        ss=jnp.where(new.drop, 0, ss),
    )


def find_target(memory: BoundedMemory, x: Vector, grad: Vector, box: Any) -> Vector:
    """Where the full step leads: the Cauchy point, and from there the minimum over what is free."""
    middle = _middle_matrix(memory)
    cauchy = find_cauchy_point(memory, middle, x, grad, box.lower, box.upper)
    target = _subspace_minimum(memory, middle, cauchy, x, grad, box.lower, box.upper)
    return jnp.where(jnp.any(_filled(memory)) & jnp.any(cauchy.free), target, cauchy.x)


def _times_w(memory: BoundedMemory, vector: Vector) -> Compact:
    """W'v."""
    of_s, of_y = multiply_rows(memory.rows, vector)
    return jnp.concatenate([memory.theta * of_s, of_y])


def _w_times(memory: BoundedMemory, weights: Compact) -> Vector:
    """W w."""
    of_s, of_y = jnp.split(weights, 2)
    return combine_rows(memory.theta * of_s, of_y, memory.rows)


def _filled(memory: BoundedMemory) -> Bool[Array, " m"]:
    """Which slots hold a pair."""
    return jnp.diagonal(memory.sy) > 0


def _newer(memory: BoundedMemory) -> Bool[Array, "m m"]:
    """Whether the row's pair is newer than the column's."""
    slots = memory.sy.shape[0]
    age = (memory.newest - jnp.arange(slots)) % slots
    return age[:, None] < age[None, :]


def _middle_matrix(memory: BoundedMemory) -> CompactMatrix:
    """M, by the Cholesky factor of theta S'S + L D^-1 L' as in section 3 of BLNZ; zero for empty slots."""
    filled = _filled(memory)
    inverse_d = jnp.where(filled, 1 / jnp.diagonal(memory.sy), 0)
    below = jnp.where(_newer(memory), memory.sy, 0)
    weighed = below * inverse_d
    unit = jnp.diag(jnp.where(filled, 0, 1).astype(weighed.dtype))
    factor = jnp.linalg.cholesky(memory.theta * memory.ss + _matmul(weighed, below.T) + unit)
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
    path = (x, grad, lower, upper)
    walk = _walk_path(memory, middle, path)
    heading, _, _ = _breakpoints(*path)
    moving = ~walk.stopped & (heading != 0)
    rest = jnp.maximum(-walk.slope / walk.curve, 0)
    rest = jnp.where(jnp.any(moving), rest, 0)
    end = jnp.where(walk.stopped, jnp.where(grad < 0, upper, lower), x + (walk.time + rest) * heading)
    return CauchyPoint(
        x=jnp.clip(end, lower, upper),
        free=~(walk.stopped | _is_blocked(*path)),
        offset=walk.offset + rest * walk.heading,
    )


def _is_blocked(x: Array, grad: Array, lower: Array, upper: Array) -> Array:
    """Which variables are at a bound that the gradient step would leave."""
    return ((x <= lower) & (grad >= 0)) | ((x >= upper) & (grad <= 0))


def _breakpoints(x: Array, grad: Array, lower: Array, upper: Array) -> tuple[Array, Array, Array]:
    """Where each variable heads, the room it has there, and the time at which it has used that up, (4.1)."""
    heading = jnp.where(_is_blocked(x, grad, lower, upper), 0, -grad)
    room = jnp.where(grad < 0, upper - x, x - lower)
    return heading, room, jnp.where(heading != 0, room / jnp.abs(grad), jnp.inf)


def _walk_path(memory: BoundedMemory, middle: CompactMatrix, path: tuple[Vector, Vector, Vector, Vector]) -> Walk:
    """Pass every breakpoint that lies before the minimum of its segment.

    On the way breakpoints are computed one by one: the loop holds no vectors for them.
    """
    heading, _, times = _breakpoints(*path)
    _, order = lax.sort((times, lax.iota(jnp.int32, times.size)), num_keys=1)
    compact = _times_w(memory, heading)
    slope = -jnp.sum(heading * heading)
    curve = -memory.theta * slope - multiply(middle, compact) @ compact
    floor = -jnp.finfo(curve.dtype).eps * memory.theta * slope
    start = Walk(
        jnp.zeros((), jnp.int32),
        jnp.zeros_like(slope),
        slope,
        curve,
        compact,
        jnp.zeros_like(compact),
        jnp.zeros(heading.shape, bool),
    )

    def ahead(walk: Walk) -> tuple[Array, tuple[Scalar, Scalar, Scalar]]:
        index = order[jnp.minimum(walk.passed, order.size - 1)]
        return index, _breakpoints(*(each[index] for each in path))

    def goes_on(walk: Walk) -> Flag:
        _, (_, _, there) = ahead(walk)
        return (walk.passed < order.size) & (there < jnp.inf) & (-walk.slope / walk.curve >= there - walk.time)

    def pass_breakpoint(walk: Walk) -> Walk:
        index, (step, room, there) = ahead(walk)
        gap = jnp.sign(step) * room  # z_b in (4.9)
        column = memory.rows[:, index]
        row = jnp.concatenate([memory.theta * column[0::2], column[1::2]])
        duration = there - walk.time
        offset = walk.offset + duration * walk.heading
        middle_row = multiply(middle, row)
        slope = walk.slope + duration * walk.curve + step**2 - memory.theta * step * gap + step * (middle_row @ offset)
        curve = walk.curve - memory.theta * step**2 + 2 * step * (middle_row @ walk.heading)
        curve = jnp.maximum(curve - step**2 * (middle_row @ row), floor)  # (4.9) and (4.10)
        heads = walk.heading - step * row
        stopped = walk.stopped.at[index].set(True)
        return Walk(walk.passed + 1, there, slope, curve, heads, offset, stopped)

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
    theta = memory.theta
    reduced = _w_times(memory, multiply(middle, cauchy.offset)) - theta * (cauchy.x - x) - grad
    reduced = jnp.where(cauchy.free, reduced, 0)  # minus (5.4)
    inner = jnp.linalg.solve(_subspace_matrix(memory, cauchy.free), _times_w(memory, reduced))
    newton = (reduced + _w_times(memory, inner) / theta) / theta  # (5.11)
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

    Vector by vector, so that no masked copy of the memory is made.
    """
    rows, theta = memory.rows, memory.theta

    def products(of: tuple[Int[Array, ""], Flag]) -> Halves:
        index, held = of
        return multiply_rows(rows, jnp.where(free == held, 0, rows[index]))

    filled = _filled(memory)
    of_s = 2 * jnp.arange(filled.size)
    wanted = (jnp.concatenate([of_s, of_s + 1, of_s + 1]), jnp.repeat(jnp.array([True, False, True]), filled.size))
    s_products, y_products = lax.map(products, wanted)
    ss_held, sy_free, sy_held = jnp.split(s_products, 3)
    _, yy_free, _ = jnp.split(y_products, 3)
    corner = jnp.where(_newer(memory), sy_held.T, -sy_free.T)
    both = filled[:, None] & filled[None, :]
    blocks = (theta * ss_held, corner, -yy_free / theta - jnp.diag(jnp.diagonal(memory.sy)))
    first, corner, last = (jnp.where(both, block, 0) for block in blocks)
    unit = jnp.diag(jnp.where(filled, 0, 1).astype(theta.dtype))
    return jnp.block([[first + unit, corner], [corner.T, last - unit]])
