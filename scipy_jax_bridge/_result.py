"""What a solve hands back, and the one place where it is made."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import PyTree

from ._core.status import Status
from ._core.stopping import projected_norm
from ._core.trace import (
    Timing as Timing,
    Trace as Trace,
    drop_padding,
)
from ._core.types import Params, Tracer, is_traced
from ._problem.notes import describe_point
from ._problem.params import join_short, leaf_paths
from ._problem.problem import Problem
from ._render.figure import draw_one
from ._render.panels import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRESH_MEMORY = (
    "Went on from the params of the earlier result with fresh memory; nit, nfev and trace are of this call alone."
)


@dataclass(frozen=True, eq=False)
class ResumeState:
    """All that the device loop needs to go on as if it had never stopped, and what it belongs to.

    The defaults are those of a pickle that is older than the field.

    Arguments:
        leaves: of the loop's carry, in the order of its tree.
        structure: of the auxiliary output and of a transformation's state, in words.
        format: the version of what the leaves mean; see `_resume.FORMAT`.
        params: for each leaf of params its kind, shape and type.
        bounds: the lower and the upper flat vector; None without bounds.
        maxcor: pairs in memory; 0 for a transformation.
        method, hyperparams: the fingerprint of the transformation.
    """

    leaves: tuple[Any, ...]
    structure: str
    format: int = 0
    params: tuple[str, ...] = ()
    bounds: tuple[Any, Any] | None = None
    maxcor: int = 0
    method: str = ""
    hyperparams: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a backend hands back: the free leaves, or inside a trace the flat vector, and plain numbers.

    `x`, `value`, `grad` and `aux` belong to the final point if the solve converged, else to the best one.
    `detail` is what the method itself said, `note` what else there is to say.
    """

    x: Any
    value: Any
    grad: Any
    aux: Any
    nit: Any
    nfev: Any
    status: Any
    trace: Trace
    timing: Timing
    detail: str = ""
    note: str = ""
    carry: ResumeState | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a solve: immutable, a pytree, and equal to itself alone. Pass it as `params` to go on from it.

    Arguments:
        params: the final point if the solve converged, otherwise the best finite point it saw. The same tree,
            types and static leaves as given, inside the bounds.
        fun: the objective there.
        jac: its gradient there, with the tree of params; None in the place of every leaf that was not optimized,
            and None altogether after a method that uses no derivatives.
        aux: the auxiliary output there; None without has_aux.
        nit: iterations; 0 when the start is converged.
        nfev: objective evaluations, each with its gradient.
        code: the status as a number; see `status`.
        trace: one row an iteration.
        timing: seconds of compiling and solving, programs compiled.
        backend, method: who solved it.
        detail, note: what the method itself said; what else there is to say.
        bounded: whether there were bounds.
        carry: what the device loop needs to go on bit for bit, after a stop from outside or at a limit: the memory
            of the solve, about 2 maxcor + 10 vectors. It is pickled with the result, and no part of the tree.
        free: for each leaf of params whether it was optimized.
        norm: `grad_norm`, where it cannot be told from the others later; no part of the tree either.

    Example:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> result = sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), jnp.zeros(2))
        >>> result.success, result.status.name
        (True, 'GTOL')
    """

    params: Params
    fun: Any
    jac: PyTree
    aux: PyTree
    nit: Any
    nfev: Any
    code: Any
    trace: Trace
    timing: Timing
    backend: str
    method: str
    detail: str = ""
    note: str = ""
    bounded: bool = False
    free: tuple[bool, ...] = ()
    carry: ResumeState | None = field(default=None, repr=False)
    norm: float | None = field(default=None, repr=False)

    @property
    def x(self) -> Params:
        """The same as params, under SciPy's name."""
        return self.params

    @property
    def status(self) -> Any:
        """Why the solve ended: a Status, or an array of codes inside a trace and for a batch."""
        if isinstance(self.code, Tracer) or np.ndim(self.code) != 0:
            return self.code
        return Status(int(self.code))

    @property
    def success(self) -> Any:
        """Whether the solve converged: status is GTOL or FTOL."""
        status = self.status
        return status.success if isinstance(status, Status) else status <= Status.FTOL

    @property
    def grad_norm(self) -> float:
        """Max abs of the projected gradient at params; NaN where it is not known, as without derivatives.

        Errors:
            ValueError: the result is that of a batch or inside a trace.
        """
        status, trace = self._status_of_one(), drop_padding(self.trace)
        if self.jac is None:
            return math.nan
        if status.success and trace.grad_norm.size:  # params are those of the last row
            return float(trace.grad_norm[-1])
        if self.norm is not None:
            return self.norm
        if not self.bounded:
            return max((float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(self.jac) if leaf.size), default=0.0)
        rows = np.flatnonzero(trace.fun == float(self.fun))  # of none, if the best point was a trial
        return float(trace.grad_norm[rows[0]]) if rows.size else math.nan

    @property
    def message(self) -> str:
        """Why the solve ended, with the likely cause and the cure."""
        status = self.status
        if not isinstance(status, Status):
            return "A batch of solves; see status."
        own_rule = status == Status.FTOL and self.detail  # not the interface's
        return " ".join(filter(None, ("Converged." if own_rule else status.sentence, self.detail, self.note)))

    def plot(self, path: str | Path | None = None, *, title: str | None = None, dark: bool = False) -> Figure:
        """Draws the objective against seconds, the gradient against evaluations, and compilation beside the solve.

        Of a solve inside jit or vmap, which has no clock, the objective against evaluations.

        Arguments:
            path: where to write the picture; its ending says the format, such as ".png" or ".svg".
            title: a line above the picture. Default: backend, method and status.
            dark: light on dark, for a dark page. Default False.

        Returns:
            The Matplotlib figure. A notebook shows it.

        Errors:
            ModuleNotFoundError: Matplotlib is not installed; the message names the extra.
            ValueError: the result is that of a batch or inside a trace, which has no one curve.
        """
        status = self._status_of_one()
        title = title or f"{self.backend}, {self.method}: {status.name}"
        curve = curve_of(self, self.backend, float(self.timing.compile_s), float(self.timing.solve_s))
        return draw_one(curve, path, title, dark=dark)

    def __str__(self) -> str:
        if not isinstance(self.status, Status):
            return f"Result of {self.backend} ({self.method}), batched or traced"
        timing = self.timing
        lines = [
            f"{'converged' if self.success else 'not converged'} ({self.status.name}) by {self.backend}, {self.method}",
            f"  fun       {float(self.fun):.12g}",
            f"  grad_norm {_write(self.grad_norm, '.3g')}",
            f"  nit       {int(self.nit)}, nfev {int(self.nfev)}",
            f"  seconds   {_write(timing.solve_s, '.4g')} solving, {_write(timing.compile_s, '.4g')} compiling",
            *([f"  params    {self._describe_free()}"] if self.free else []),
            f"  {self.message}",
        ]
        return "\n".join(lines)

    def _describe_free(self) -> str:
        """How many numbers were optimized, and which leaves were held; strings and functions need no words."""
        leaves = list(zip(self.free, jax.tree.leaves(self.params), leaf_paths(self.params), strict=False))
        size = sum(int(np.size(leaf)) for free, leaf, _ in leaves if free)
        held = [path for free, leaf, path in leaves if not free and _is_number(leaf)]
        return f"{size} free" + (f", held: {join_short(held)}" if held else "")

    def __getstate__(self) -> dict[str, Any]:
        """Plain fields, so that a pickle names no private module."""
        return vars(self) | {"carry": None if self.carry is None else vars(self.carry)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        carry = state.get("carry")
        if isinstance(carry, dict):  # a pickle that is older holds the carry itself
            carry = ResumeState(
                **{name: value for name, value in carry.items() if name in ResumeState.__dataclass_fields__}
            )
        vars(self).update(state, carry=carry)

    def _status_of_one(self) -> Status:
        status = self.status
        if not isinstance(status, Status):
            raise ValueError(
                "this is a batch of solves, or traced; pick one first: jax.tree.map(lambda a: a[0], result)."
            )
        return status


DATA = ("params", "fun", "jac", "aux", "nit", "nfev", "code", "trace", "timing")
META = ("backend", "method", "detail", "note", "bounded", "free")


def _flatten(result: Result) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    data = [(jax.tree_util.GetAttrKey(name), getattr(result, name)) for name in DATA]
    return data, tuple(getattr(result, name) for name in META)


def _unflatten(meta: tuple[Any, ...], data: Iterable[Any]) -> Result:
    return Result(**dict(zip((*DATA, *META), (*data, *meta), strict=True)))


# register_dataclass of JAX 0.6 takes the names of fields to leave out letter by letter
jax.tree_util.register_pytree_with_keys(Result, _flatten, _unflatten)


def curve_of(result: Result, name: str, compile_s: float, solve_s: float) -> Curve:
    """The trace of a result for a picture."""
    trace = drop_padding(result.trace)
    return Curve(name, trace.seconds, trace.nfev, trace.fun, trace.grad_norm, compile_s, solve_s)


def finish(outcome: Outcome, problem: Problem, backend: str, method: str) -> Result:
    """The public result: the only place where flat vectors become trees again."""
    structure, spec = problem.spec.params, problem.spec
    free = outcome.x if isinstance(outcome.x, list) else structure.unravel(outcome.x)
    grads = outcome.grad if isinstance(outcome.grad, list | None) else structure.unravel(outcome.grad)
    value = outcome.value
    value = value if value.dtype == spec.value_dtype else value.astype(spec.value_dtype)
    result = Result(
        params=structure.combine(free, problem.static_leaves),
        fun=value,
        jac=None if grads is None else structure.params_or_none(grads),
        aux=outcome.aux,
        nit=outcome.nit,
        nfev=outcome.nfev,
        code=outcome.status,
        trace=outcome.trace,
        timing=outcome.timing,
        backend=backend,
        method=method,
        detail=outcome.detail,
        note=outcome.note,
        bounded=problem.bounds is not None,
        free=structure.is_free,
        carry=outcome.carry,
    )
    if is_traced((free, grads, result.code, result.trace)):
        return result
    if not result.success and problem.bounds is not None and grads is not None:
        x, grad = (structure.ravel_on_host(leaves, np.float64) for leaves in (free, grads))
        result = replace(result, norm=projected_norm(x, grad, problem.bounds.lower, problem.bounds.upper))
    said = describe_point(problem, result.status, free, grads, drop_padding(result.trace), result.grad_norm)
    return replace(result, note=" ".join(filter(None, (result.note, said)))) if said else result


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (int, float, np.generic)) or hasattr(leaf, "dtype")


def _write(number: Any, form: str) -> str:
    return "unknown" if not number >= 0 else format(float(number), form)
