"""The generalized Cauchy point: the first local minimum of the model along the projected gradient path.

Source: algorithm CP in section 4 of R. H. Byrd, P. Lu, J. Nocedal and C. Zhu [BLNZ].
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from .compact import BoundedMemory, Compact, CompactMatrix, Mask, times_w
from .memory import Flag, Scalar, Vector, multiply


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
    compact = times_w(memory, heading)
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
