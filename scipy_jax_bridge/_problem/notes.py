"""Notes about the point that a solve returns, beside why the solve ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._core.errors import join_short
from .._core.status import Status
from .._core.stopping import noise
from .._core.trace import Trace, drop_padding
from .._core.types import FlatVector, Leaf, Params
from .objective import Data
from .precision import describe_digits, describe_gain, describe_narrowest
from .prefix import leaf_paths
from .problem import Problem
from .second_order import second_order_key

PROBES = 16  # directions in which the curvature is probed; with fewer parameters, all


def describe_point(
    problem: Problem,
    status: Status,
    leaves: list[Leaf],
    grads: list[Leaf] | None,
    trace: Trace,
    find_norm: Callable[[], float],
) -> str:
    """Write the notes of a solve on the host.

    Args:
        problem: what was minimized.
        status: why the solve ended.
        leaves: optimized leaves at the point.
        grads: the gradient there, leaf by leaf; None after a method without derivatives.
        trace: record of the solve.
        find_norm: returns the max abs of the projected gradient.
    """
    notes = [_describe_unread(problem)]
    if status in (Status.NOISE_FLOOR, Status.LINESEARCH):
        dtype, narrowest = problem.spec.dtype, problem.spec.narrowest
        notes.append(describe_gain(dtype, find_norm()) if narrowest is None else describe_narrowest(narrowest))
    if status == Status.FTOL:
        notes += [_describe_last(problem, drop_padding(trace)), _describe_unmoved(problem, leaves, grads)]
    if status == Status.GTOL and len(trace.fun) == 1 and find_norm() == 0 and not notes[0]:
        notes.append(_describe_curvature(problem, leaves))
    return " ".join(filter(None, notes))


def _paths(problem: Problem, places: list[int]) -> str:
    structure = problem.spec.params
    paths = leaf_paths(structure.params_or_none(range(len(structure.optimized))))
    return ", ".join(paths[place] for place in places)


def _describe_unread(problem: Problem) -> str:
    leaves = problem.spec.params.optimized
    places = [place for place in problem.spec.diagnosis.unread if leaves[place].size]
    if not places:
        return ""
    return f"The objective does not depend on {_paths(problem, places)}."


def _describe_last(problem: Problem, trace: Trace) -> str:
    """Note that the last change of an objective coarser than float64 is within rounding."""
    spec = problem.spec
    if spec.rounding <= np.finfo(np.float64).eps or len(trace.fun) < 2:
        return ""
    before, last = map(float, trace.fun[-2:])
    if abs(before - last) > noise(max(abs(before), abs(last)), spec.rounding):
        return ""
    return describe_digits(spec.dtype if spec.narrowest is None else spec.narrowest.dtype)


def _describe_unmoved(problem: Problem, leaves: list[Leaf], grads: list[Leaf] | None) -> str:
    """Note leaves that ended where they started although their gradient is not zero."""
    if grads is None or problem.bounds is not None:
        return ""
    pairs = [tuple(map(np.asarray, each)) for each in zip(problem.start_leaves, leaves, grads, strict=True)]
    places = [place for place, (start, end, grad) in enumerate(pairs) if grad.any() and np.array_equal(start, end)]
    if not places or len(places) == len(pairs):
        return ""
    return (
        f"Where it started stands {_paths(problem, places)}, although the gradient there is not zero: its scale "
        "differs too much from that of the others. Rescale it."
    )


def _describe_curvature(problem: Problem, leaves: list[Leaf]) -> str:
    """Note that the Hessian at a start with zero gradient does not prove a minimum."""
    if problem.bounds is not None:
        return ""
    size = problem.spec.params.size
    probes = np.eye(size) if size <= PROBES else np.random.default_rng(0).standard_normal((PROBES, size))
    probes = np.linalg.qr(probes.T)[0].T.astype(problem.spec.dtype)
    try:
        found = _times_hessian(problem, leaves, probes)
    except (TypeError, ValueError, NotImplementedError):  # the objective has no forward derivative
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


def _times_hessian(problem: Problem, leaves: list[Leaf], vectors: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "k n"]:
    """Return the products of the Hessian with these vectors."""
    flat, x = problem.spec.flat, problem.spec.params.ravel_on_host(leaves, problem.spec.dtype)
    inputs = (x, vectors, problem.data)

    def products(x: FlatVector, vectors: Float[Array, "k n"], data: Data) -> Float[Array, "k n"]:
        return jax.lax.map(
            lambda v: jax.jvp(lambda x: flat.value_and_grad(x, data)[1], (x,), (v,))[1], jnp.asarray(vectors)
        )

    program, _ = problem.compile(("curvature", second_order_key(problem)), lambda: (jax.jit(products), inputs))
    return np.asarray(program(*inputs), np.float64)


def describe_optimized(params: Params, is_optimized: Sequence[bool], held: int = 0) -> str:
    """Say how many numbers were optimized and which numeric leaves were fixed, for the summary of a result.

    Args:
        params, is_optimized: the leaves, and whether each was optimized.
        held: how many components of optimized leaves equal bounds held.
    """
    leaves = list(zip(is_optimized, jax.tree.leaves(params), leaf_paths(params), strict=False))
    size = sum(int(np.size(leaf)) for optimized, leaf, _ in leaves if optimized) - held
    fixed = [path for optimized, leaf, path in leaves if not optimized and is_number(leaf)]
    return f"{size} free" + (f", held: {join_short(fixed)}" if fixed else "")


def is_number(leaf: PyTree) -> bool:
    """Whether a leaf is a number or an array, and not a setting such as a string."""
    return isinstance(leaf, (int, float, np.generic)) or hasattr(leaf, "dtype")
