"""The generalized Cauchy point: the first local minimum of the model along the projected gradient path.

The path x(t) = P(x - t g), where P projects onto the box, bends at the breakpoint of every variable that reaches a
bound. Source: algorithm CP in section 4 of R. H. Byrd, P. Lu, J. Nocedal and C. Zhu [BLNZ], whose letters are used.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from ..._core.manual import vary_with
from .cauchy_parts import Heads, SortedParts, count_parts
from .compact import BoundedMemory, Compact, CompactMatrix, Mask, filled_slots, times_w
from .memory import Flag, Scalar, Vector, multiply

Path = tuple[Vector, Vector, Vector, Vector]  # x, gradient, lower and upper bounds


class CauchyPoint(NamedTuple):
    """The generalized Cauchy point, and which variables are free there."""

    x: Vector
    free: Mask
    offset: Compact  # c = W'(x_cauchy - x)


class PathState(NamedTuple):
    """The state at the breakpoint t, before the next segment of the path."""

    passed: Int[Array, ""]  # number of breakpoints
    t: Scalar
    f1: Scalar  # f', the slope of the model along the segment
    f2: Scalar  # f'', its curvature
    p: Compact  # W'd, where d is the direction of the segment
    c: Compact  # W'(x(t) - x)
    stopped: Mask  # the variables that have reached their bound


FEW = 1024  # breakpoints that are sorted by themselves


def find_cauchy_point(
    memory: BoundedMemory,
    middle: CompactMatrix,
    x: Vector,
    grad: Vector,
    lower: Vector,
    upper: Vector,
) -> CauchyPoint:
    """Find the point by algorithm CP of BLNZ, one breakpoint per step."""
    path = (x, grad, lower, upper)
    state = _follow_path(memory, middle, path)
    d, _, _ = _breakpoints(*path)
    moving = ~state.stopped & (d != 0)
    dt_min = jnp.maximum(-state.f1 / state.f2, 0)
    dt_min = jnp.where(jnp.any(moving), dt_min, 0)
    end = jnp.where(state.stopped, jnp.where(grad < 0, upper, lower), x + (state.t + dt_min) * d)
    return CauchyPoint(
        x=jnp.clip(end, lower, upper),
        free=~(state.stopped | _is_blocked(*path)),
        offset=state.c + dt_min * state.p,
    )


def _is_blocked(x: Array, grad: Array, lower: Array, upper: Array) -> Array:
    """Return which variables are at a bound that the gradient step would cross."""
    return ((x <= lower) & (grad >= 0)) | ((x >= upper) & (grad <= 0))


def _breakpoints(x: Array, grad: Array, lower: Array, upper: Array) -> tuple[Array, Array, Array]:
    """Return for each variable the direction d, the gap to its bound, and the breakpoint t = gap / |d|, (4.1)."""
    d = jnp.where(_is_blocked(x, grad, lower, upper), 0, -grad)
    gap = jnp.where(grad < 0, upper - x, x - lower)
    return d, gap, jnp.where(d != 0, gap / jnp.abs(grad), jnp.inf)


def _start_path(memory: BoundedMemory, middle: CompactMatrix, d: Vector) -> tuple[PathState, Scalar]:
    """Return the state at the iterate, before the first segment, and the least curvature that a segment may have."""
    p = times_w(memory, d)
    f1 = -jnp.sum(d * d)
    f2 = -memory.theta * f1 - multiply(middle, p) @ p
    f2_min = -jnp.finfo(f2.dtype).eps * memory.theta * f1
    return PathState(
        passed=jnp.zeros((), jnp.int32),
        t=jnp.zeros_like(f1),
        f1=f1,
        f2=f2,
        p=p,
        c=jnp.zeros_like(p),
        stopped=jnp.zeros(d.shape, bool),
    ), f2_min


def _follow_path(memory: BoundedMemory, middle: CompactMatrix, path: Path) -> PathState:
    """Pass every breakpoint that lies before the minimum of its segment.

    Sorting all breakpoints of a long vector would take longer than all else. Most steps pass none or few: those before
    the minimum of the first segment are sorted first, and all only if the path goes on beyond it. Without pairs,
    B = theta I, whose model has its minimum at t = 1 / theta in every variable: what reaches its bound before, stops.
    """
    if count_parts() > 1:
        return _follow_in_parts(memory, middle, path)
    d, _, breakpoints = _breakpoints(*path)
    start, f2_min = _start_path(memory, middle, d)
    start = vary_with(start, d)

    def follow(state: PathState, order: Int[Array, " _"], known: int | Array) -> PathState:
        return _pass_breakpoints(memory, middle, path, f2_min, state, order, known)

    if breakpoints.size <= FEW:
        return follow(start, _sort(breakpoints, lax.iota(jnp.int32, breakpoints.size)), breakpoints.size)
    reach = -start.f1 / start.f2
    near = breakpoints <= reach
    no_pairs = ~jnp.any(filled_slots(memory))
    start = start._replace(stopped=near & no_pairs)
    count = jnp.where(no_pairs, 0, jnp.sum(near))

    def sort_near() -> tuple[Int[Array, " n"], Array]:
        places = jnp.nonzero(near, size=FEW, fill_value=0)[0].astype(jnp.int32)
        order = _sort(jnp.where(jnp.arange(FEW) < count, breakpoints[places], jnp.inf), places)
        return jnp.pad(order, (0, breakpoints.size - FEW)), count

    def sort_all() -> tuple[Int[Array, " n"], Array]:
        return _sort(breakpoints, lax.iota(jnp.int32, breakpoints.size)), jnp.full_like(count, breakpoints.size)

    def follow_known(carry: tuple[PathState, Flag, Flag]) -> tuple[PathState, Flag, Flag]:
        state, _, needs_all = carry
        order, known = lax.cond(needs_all, sort_all, sort_near)
        state = follow(state, order, known)
        beyond = ~needs_all & (state.passed == known) & (-state.f1 / state.f2 >= reach - state.t)
        return state, beyond, beyond

    return lax.while_loop(lambda carry: carry[1], follow_known, (start, count > 0, count > FEW))[0]


def _sort(breakpoints: Array, places: Int[Array, " _"]) -> Int[Array, " _"]:
    """Return the places in the order of their breakpoints."""
    return lax.sort((breakpoints, places), num_keys=1)[1]


def _pass_breakpoints(
    memory: BoundedMemory,
    middle: CompactMatrix,
    path: Path,
    f2_min: Scalar,
    start: PathState,
    order: Int[Array, " _"],
    known: int | Array,
) -> PathState:
    """Pass the first `known` breakpoints of the order that lie before the minimum of their segment.

    They are computed again one by one, so that the loop holds no vectors of them.
    """

    def next_breakpoint(state: PathState) -> tuple[Array, tuple[Scalar, Scalar, Scalar]]:
        index = order[jnp.minimum(state.passed, order.size - 1)]
        return index, _breakpoints(*(each[index] for each in path))

    def goes_on(state: PathState) -> Flag:
        _, (_, _, t_next) = next_breakpoint(state)
        return (state.passed < known) & (t_next < jnp.inf) & (-state.f1 / state.f2 >= t_next - state.t)

    def pass_breakpoint(state: PathState) -> PathState:
        index, found = next_breakpoint(state)
        state = _pass(memory, middle, state, found, memory.rows[:, index], f2_min)
        return state._replace(stopped=state.stopped.at[index].set(True))

    return lax.while_loop(goes_on, pass_breakpoint, start)


def _pass(
    memory: BoundedMemory,
    middle: CompactMatrix,
    state: PathState,
    found: tuple[Scalar, Scalar, Scalar],
    column: Compact,
    f2_min: Scalar,
) -> PathState:
    """Return the state behind a breakpoint, but for the variable that stops there."""
    d_b, gap, t_next = found
    z_b = jnp.sign(d_b) * gap
    w_b = jnp.concatenate([memory.theta * column[0::2], column[1::2]])
    dt = t_next - state.t
    c = state.c + dt * state.p
    mw_b = multiply(middle, w_b)
    f1 = state.f1 + dt * state.f2 + d_b**2 - memory.theta * d_b * z_b + d_b * (mw_b @ c)  # (4.9), g_b = -d_b
    f2 = state.f2 - memory.theta * d_b**2 + 2 * d_b * (mw_b @ state.p)
    f2 = jnp.maximum(f2 - d_b**2 * (mw_b @ w_b), f2_min)  # (4.10)
    p = state.p - d_b * w_b
    return state._replace(passed=state.passed + 1, t=t_next, f1=f1, f2=f2, p=p, c=c)


def _follow_in_parts(memory: BoundedMemory, middle: CompactMatrix, path: Path) -> PathState:
    """Pass the same breakpoints of vectors that are split over devices."""
    d, _, breakpoints = _breakpoints(*path)
    parts = SortedParts(breakpoints, path, memory.rows)
    start, f2_min = _start_path(memory, middle, d)

    def goes_on(carry: tuple[PathState, Heads]) -> Flag:
        state, heads = carry
        found = parts.next(heads)
        _, _, t_next = _breakpoints(*found.variable)
        return found.exists & (-state.f1 / state.f2 >= t_next - state.t)

    def pass_breakpoint(carry: tuple[PathState, Heads]) -> tuple[PathState, Heads]:
        state, heads = carry
        found = parts.next(heads)
        return _pass(memory, middle, state, _breakpoints(*found.variable), found.column, f2_min), found.heads

    state, heads = lax.while_loop(goes_on, pass_breakpoint, (start, parts.begin()))
    return state._replace(stopped=parts.stopped(heads))
