"""What the noise of the values lets be seen of a trial.

The noise is bounded by ten roundings of the value until the trials of the solve show more: see `measured_noise`.
Where it hides the change of the value, the slopes tell the change.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from ..._core.stopping import DOUBT, LOST_FACTOR, contradiction, largest_noise, measured_noise, noise
from ..limits import Tolerances
from .lanes import Flag
from .linesearch import Scalar, Search


class Seen(NamedTuple):
    """A trial of a search, seen through the noise of its value."""

    value: Scalar  # or, where noise hides the change and ftol is 0, what the slopes say that the value is
    noise: Scalar  # values at the iterate that differ by at most this are equal
    shown: Scalar  # the noise that the trials of the solve have shown
    contradiction: Scalar  # the noise up to which no trial of the search contradicts the gradient
    contradicted: Flag


def see(
    search: Search, trial: tuple[Scalar, Scalar], slope_start: Scalar, finite: Flag, shown: Scalar, limit: Tolerances
) -> Seen:
    """Measure the noise and compare a trial with it.

    Args:
        search: the search so far, opened.
        trial: phi(t) and phi'(t).
        slope_start: phi'(0).
        finite: whether the trial is; another one tells nothing.
        shown: the noise that earlier trials have shown.
        limit: the tolerances.
    """
    (value, slope), start = trial, search.value_start
    rise, begin, end = value - start, search.step * slope_start, search.step * slope
    longer = search.value_other - start, search.step_other * slope_start, search.step_other * search.slope_other
    size = jnp.maximum(jnp.maximum(jnp.abs(start), jnp.abs(value)), 1)
    found = measured_noise((rise, begin, end), longer, largest_noise(size, limit.rounding, jnp), jnp)
    shown = jnp.where(finite, jnp.maximum(shown, found), shown)
    level = jnp.maximum(noise(jnp.abs(start), limit.rounding), shown)
    against = contradiction(rise, begin, end, jnp)
    against = jnp.where(finite & (against > noise(size, limit.rounding)), against, 0)
    against = jnp.maximum(search.contradiction, against)
    lost = (jnp.abs(rise) <= level) & (jnp.maximum(jnp.abs(begin), jnp.abs(end)) <= LOST_FACTOR * level)
    return Seen(
        value=jnp.where(lost & (limit.ftol == 0), start + (begin + end) / 2, value),
        noise=level,
        shown=shown,
        contradiction=against,
        contradicted=against > DOUBT * shown,
    )
