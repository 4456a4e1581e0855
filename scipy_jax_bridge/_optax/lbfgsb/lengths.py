"""The length of a step and the point that it leads to, within the bounds."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int

from ..limits import Box
from .lanes import Flag
from .linesearch import LARGEST_STEP
from .memory import Scalar, Vector


def project(x: Vector, grad: Vector, box: Box | None) -> Vector:
    """Return the projected gradient (6.1) of BLNZ: x - P(x - grad), where P projects onto the box."""
    if box is None:
        return grad
    return jnp.where(grad < 0, jnp.maximum(x - box.upper, grad), jnp.minimum(x - box.lower, grad))


def step_max(x: Vector, direction: Vector, nit: Int[Array, ""], box: Box) -> Scalar:
    """Return the longest step inside the box: at least 1, the full step, and 1 in the first iteration."""
    gap = jnp.where(direction < 0, box.lower - x, box.upper - x)
    longest = jnp.min(jnp.where(direction != 0, gap / direction, LARGEST_STEP), initial=LARGEST_STEP)
    return jnp.where(nit == 0, 1, jnp.maximum(longest, 1))


def first_step(step: Scalar, x: Vector, x_full_step: Vector, is_start: Flag, box: Box) -> Scalar:
    """At a start, return a step of unit length at most, or the full step if all bounds are finite; else `step`."""
    direction = x_full_step - x
    unit = jnp.minimum(1 / jnp.sqrt(jnp.sum(direction * direction)), 1)
    boxed = jnp.all(jnp.isfinite(box.lower) & jnp.isfinite(box.upper))
    return jnp.where(is_start, jnp.where(boxed, 1, unit), step)


def take_step(x: Vector, x_full_step: Vector, step: Scalar, box: Box | None) -> Vector:
    """Return x + step * (x_full_step - x): exactly x_full_step if step is 1, and never outside the box."""
    trial = x + step * (x_full_step - x)
    trial = trial if box is None else jnp.clip(trial, box.lower, box.upper)
    return jnp.where(step == 1, x_full_step, jnp.where(step > 0, trial, x))
