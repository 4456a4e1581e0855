"""What there is to say of a point that is handed back, beside why the solve ended."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.status import Status
from .._core.stopping import noise
from .._core.trace import Trace
from .cache import settle
from .params import leaf_paths
from .precision import describe_digits, describe_gain, describe_narrowest
from .problem import Problem

PROBES = 16  # directions in which the curvature is looked at; all there are, if they are no more


def describe_point(
    problem: Problem, status: Status, free: list[Any], grads: list[Any] | None, trace: Trace, norm: float
) -> str:
    """The notes of a solve on the host.

    Arguments:
        problem: what was minimized.
        status: why it ended.
        free, grads: leaves at the point; no gradient after a method without derivatives.
        trace: of the solve, without padding.
        norm: of the projected gradient.
    """
    notes = [_describe_unread(problem)]
    if status in (Status.NOISE_FLOOR, Status.LINESEARCH):
        narrowest = problem.spec.narrowest
        notes.append(describe_gain(problem.spec.dtype, norm) if narrowest is None else describe_narrowest(narrowest))
    if status == Status.FTOL:
        notes += [_describe_last(problem, trace), _describe_unmoved(problem, free, grads)]
    if status == Status.GTOL and len(trace.fun) == 1 and norm == 0 and not notes[0]:
        notes.append(_describe_curvature(problem, free))
    return " ".join(filter(None, notes))


def _paths(problem: Problem, places: list[int]) -> str:
    structure = problem.spec.params
    paths = leaf_paths(structure.params_or_none(range(len(structure.free))))
    return ", ".join(paths[place] for place in places)


def _describe_unread(problem: Problem) -> str:
    leaves = problem.spec.params.free
    places = [place for place in problem.spec.unread if leaves[place].size]
    if not places:
        return ""
    return f"The objective does not depend on {_paths(problem, places)}."


def _describe_last(problem: Problem, trace: Trace) -> str:
    """Of an objective coarser than float64: whether its last change was rounding."""
    spec = problem.spec
    if spec.rounding <= np.finfo(np.float64).eps or len(trace.fun) < 2:
        return ""
    before, last = map(float, trace.fun[-2:])
    if abs(before - last) > noise(max(abs(before), abs(last)), spec.rounding):
        return ""
    return describe_digits(spec.dtype if spec.narrowest is None else spec.narrowest.dtype)


def _describe_unmoved(problem: Problem, free: list[Any], grads: list[Any] | None) -> str:
    if grads is None or problem.bounds is not None:
        return ""
    pairs = [tuple(map(np.asarray, each)) for each in zip(problem.free, free, grads, strict=True)]
    places = [place for place, (start, end, grad) in enumerate(pairs) if grad.any() and np.array_equal(start, end)]
    if not places or len(places) == len(pairs):
        return ""
    return (
        f"Where it started stands {_paths(problem, places)}, although the gradient there is not zero: its scale "
        "differs too much from that of the others. Rescale it."
    )


def _describe_curvature(problem: Problem, free: list[Any]) -> str:
    """Of a start whose gradient is zero: whether the Hessian says that it is no minimum."""
    if problem.bounds is not None:
        return ""
    structure, dtype = problem.spec.params, problem.spec.dtype
    size = structure.size
    probes = np.eye(size) if size <= PROBES else np.random.default_rng(0).standard_normal((PROBES, size))
    probes = np.linalg.qr(probes.T)[0].T.astype(dtype)
    inputs = (structure.ravel_on_host(free, dtype), probes, problem.data)

    def products(x: Any, probes: Any, data: Any) -> Any:
        return jax.lax.map(
            lambda v: jax.jvp(lambda x: problem.value_and_grad(x, data)[1], (x,), (v,))[1], jnp.asarray(probes)
        )

    try:
        program, _ = problem.compile("curvature", lambda: (jax.jit(products), inputs))
        found = np.asarray(program(*inputs), np.float64)
        settle(problem.fun)  # what it changes while it is traced for this program is no change of it, either
    except (TypeError, ValueError, NotImplementedError):  # an objective without a forward rule
        return ""
    if not np.isfinite(found).all():
        return ""
    along = found @ np.asarray(probes, np.float64).T
    least = float(np.linalg.eigvalsh((along + along.T) / 2)[0])
    if not found.any():
        return "Gradient and curvature are zero at the start: the objective may be constant around it. Start elsewhere."
    if least < -1e3 * problem.spec.rounding * float(np.abs(found).max()):
        return (
            "The gradient is zero at the start, and the curvature negative along some direction: it is a saddle or a "
            "maximum. Start elsewhere."
        )
    return ""
