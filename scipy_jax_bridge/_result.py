"""The public result of a solve, and the only function that makes it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, cast

import jax
import numpy as np
from jaxtyping import PyTree

from ._core.outcome import (
    FRESH_MEMORY as FRESH_MEMORY,
    Outcome as Outcome,
    ResumeState as ResumeState,
)
from ._core.status import Status
from ._core.stopping import projected_norm
from ._core.trace import (
    Timing as Timing,
    Trace as Trace,
    drop_padding,
)
from ._core.types import Aux, P, ResultArray, ResultBool, ResultInt, ResultStatus, Tracer, is_traced, is_whole
from ._problem.moves import Move, Origin
from ._problem.notes import describe_point
from ._problem.problem import Problem
from ._render.figure import draw_one
from ._render.panels import as_written
from ._render.summary import write_summary, write_summary_html
from ._summary import curve_of, describe, measure_moves, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Result(Generic[P, Aux]):
    """The result of a solve. Pass it as `params` to continue from it.

    It is immutable, a pytree, and equal only to itself. For type checkers it is `Result[Params, Aux]`, one solve.

    Args:
        params: the final point if the solve converged, otherwise the best finite point. It has the tree, the types
            and the static leaves of the params passed in, and lies inside the bounds.
        fun: the objective at params.
        jac: the gradient at params, with the same tree; None in place of every leaf that was not optimized.
            None as a whole after a method without derivatives.
        aux: the auxiliary output at params; None without has_aux.
        nit: number of iterations; 0 if the start is converged.
        nfev: number of objective evaluations, each with its gradient.
        code: the status as an integer; see `status`.
        trace: the record of the solve, one row per iteration.
        timing: seconds of compiling and solving, number of programs compiled.
        backend: name of the backend.
        method: name of the method.
        detail: what the method itself reports.
        note: further remarks.
        bounded: whether there were bounds.
        carry: the state from which the device loop continues bit for bit, after a stop from outside or at a limit.
            It holds about 2 maxcor + 10 vectors. It is pickled with the result but is not part of the pytree.
        free: for each leaf of params whether it was optimized.
        norm: `grad_norm`, if it cannot be computed from the other fields. It is not part of the pytree.
        origin: the start and the bounds, for what `print` shows of params. It is not part of the pytree; of a result
            that was pickled only what is shown is left.
        objective: name of the objective; "" if unknown. It is not part of the pytree.

    Examples:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> result = sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), jnp.zeros(2))
        >>> result.success, result.status.name
        (True, 'GTOL')
    """

    params: P
    fun: ResultArray
    jac: P
    aux: Aux
    nit: ResultInt
    nfev: ResultInt
    code: ResultInt
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
    origin: Origin | list[Move] | None = field(default=None, repr=False)
    objective: str = ""

    @property
    def x(self) -> P:
        """SciPy's name of params."""
        return self.params

    @property
    def status(self) -> ResultStatus:
        """Why the solve ended: a Status, or an array of codes inside a trace and for a batch."""
        is_one = not isinstance(self.code, Tracer) and np.ndim(self.code) == 0
        return Status(int(self.code)) if is_one else cast(Any, self.code)

    @property
    def success(self) -> ResultBool:
        """Whether the solve converged: status is GTOL or FTOL."""
        status = self.status
        return status.success if isinstance(status, Status) else status <= Status.FTOL

    @property
    def grad_norm(self) -> float:
        """Max abs of the projected gradient at params; NaN if unknown, as without derivatives.

        Raises:
            ValueError: the result is that of a batch or inside a trace.
        """
        status, trace = self._status_of_one(), drop_padding(self.trace)
        if self.jac is None:
            return math.nan
        if status.success and trace.grad_norm.size:  # the last row belongs to params
            return float(trace.grad_norm[-1])
        if self.norm is not None:
            return self.norm
        grads = [leaf for leaf in jax.tree.leaves(self.jac) if leaf.size]
        if not self.bounded and all(map(is_whole, grads)):
            return max((float(np.max(np.abs(leaf))) for leaf in grads), default=0.0)
        rows = np.flatnonzero(trace.fun == float(self.fun))  # empty if the best point was a trial
        return float(trace.grad_norm[rows[0]]) if rows.size else math.nan

    @property
    def message(self) -> str:
        """Why the solve ended, with the likely cause and the cure."""
        status = self.status
        if not isinstance(status, Status):
            return "A batch of solves; see status."
        own_rule = status == Status.FTOL and self.detail  # the method ended by a test of its own
        return " ".join(filter(None, ("Converged." if own_rule else status.sentence, self.detail, self.note)))

    def plot(self, path: str | Path | None = None, *, title: str | None = None, dark: bool = False) -> Figure:
        """Plot the objective over seconds, the gradient over evaluations, and the seconds of compiling and solving.

        A solve inside jit or vmap has no clock: plot its objective over evaluations.

        Args:
            path: file to write; its extension sets the format, such as ".png" or ".svg". Default None: no file.
            title: title of the figure. Default: objective, status, backend and method.
            dark: whether to draw light on dark. Default False.

        Returns:
            The Matplotlib figure. A notebook shows it.

        Raises:
            ModuleNotFoundError: Matplotlib is not installed; the message names the extra.
            ValueError: the result is that of a batch or inside a trace.
        """
        status = self._status_of_one()
        what = f"Minimization of {self.objective}" if self.objective else "Minimization"
        title = title or as_written(f"{what}: {status.name} by {self.backend}, {self.method}")
        curve = curve_of(self.trace, self.backend, float(self.timing.compile_s), float(self.timing.solve_s))
        return draw_one(curve, path, title, dark=dark)

    def __str__(self) -> str:
        summary = summarize(self)
        return repr(self) if summary is None else write_summary(summary)

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str | None:
        summary = summarize(self)
        return None if summary is None else write_summary_html(summary)

    def __getstate__(self) -> dict[str, Any]:
        """Return plain fields, so that a pickle names no private module."""
        return vars(self) | {"carry": None if self.carry is None else vars(self.carry), "origin": measure_moves(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        carry = state.get("carry")
        if isinstance(carry, dict):  # older pickles hold the object itself
            known = ResumeState.__dataclass_fields__
            carry = ResumeState(**{name: value for name, value in carry.items() if name in known})
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


def _flatten(result: Result) -> tuple[list[tuple[Hashable, PyTree]], tuple[Hashable, ...]]:
    data = [(jax.tree_util.GetAttrKey(name), getattr(result, name)) for name in DATA]
    return data, tuple(getattr(result, name) for name in META)


def _unflatten(meta: tuple[Any, ...], data: Iterable[Any]) -> Result:
    return Result(**dict(zip((*DATA, *META), (*data, *meta), strict=True)))


# not register_dataclass: that of JAX 0.6 reads a field name to drop as a list of letters
jax.tree_util.register_pytree_with_keys(Result, _flatten, _unflatten)


def finish(outcome: Outcome, problem: Problem, objective: str, backend: str, method: str) -> Result:
    """Make the public result of an outcome, and write its notes unless it is traced."""
    structure, spec, leaves, grads = problem.spec.params, problem.spec, outcome.leaves, outcome.grad
    value: Any = outcome.value
    value = value if value.dtype == spec.value_dtype else value.astype(spec.value_dtype)
    result = Result(
        params=structure.combine(leaves, problem.static_leaves),
        fun=value,
        jac=None if grads is None else structure.params_or_none(grads),
        aux=spec.objective.aux_tree.unflatten(outcome.aux),
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
        free=structure.is_optimized,
        carry=outcome.carry,
    )
    if is_traced((leaves, grads, result.code, result.trace)):
        return result
    known: dict[str, Any] = {"objective": objective, "origin": Origin.keep(problem.start_leaves, problem.bounds)}
    if not all(map(is_whole, leaves)):
        return replace(result, **known)
    status = result.status
    if not status.success and problem.bounds is not None and grads is not None:
        x, grad = (structure.ravel_on_host(each, np.float64) for each in (leaves, grads))
        known["norm"] = projected_norm(x, grad, problem.bounds.lower, problem.bounds.upper)
    result = replace(result, **known)
    said = describe_point(problem, status, leaves, grads, outcome.trace, lambda: result.grad_norm)
    return replace(result, note=" ".join(filter(None, (result.note, said)))) if said else result
