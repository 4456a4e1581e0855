"""What a solve hands back, and the one place where it is made."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from ._panels import Curve
from ._plot import draw_one
from ._problem import Problem
from ._rounding import describe_coarsest, describe_gain
from ._status import Status
from ._types import Params, Tracer, is_traced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRESH_MEMORY = (
    "Went on from the best point of the earlier result, with fresh memory; nit, nfev and trace are of this call alone."
)


class Trace(NamedTuple):
    """The record of a solve: one row an iteration, row 0 the start.

    fun: the objective. grad_norm: max abs of the projected gradient. nfev: evaluations so far. seconds: since
    the solve began; in a device loop, which has no clock, spread evenly over the evaluations of each chunk.
    """

    fun: Any
    grad_norm: Any
    nfev: Any
    seconds: Any


class Timing(NamedTuple):
    """Seconds spent on compiling and on solving in this call, and the number of programs compiled in it."""

    compile_s: Any
    solve_s: Any
    compiles: Any


@dataclass(frozen=True)
class Carry:
    """All that the device loop needs to go on as if it had never stopped.

    Arguments:
        leaves: of the loop's carry, in the order of its tree.
        structure: that tree in words.
    """

    leaves: tuple[Any, ...]
    structure: str


@dataclass(frozen=True)
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
    carry: Carry | None = None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "fun", "jac", "aux", "nit", "nfev", "code", "trace", "timing"],
    meta_fields=["backend", "method", "detail", "note"],
)
@dataclass(frozen=True)
class Result:
    """The result of a solve: immutable, and a pytree. Pass it in the place of `params` to go on from it.

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
        carry: what the device loop needs to go on bit for bit, after a stop from outside or at a limit: the memory
            of the solve, about 2 maxcor + 10 vectors. It is pickled with the result, and no part of the tree.

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
    carry: Carry | None = field(default=None, init=False, repr=False, compare=False)

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
    def message(self) -> str:
        """Why the solve ended, with the likely cause and the cure."""
        status = self.status
        if not isinstance(status, Status):
            return "A batch of solves; see status."
        own_rule = status == Status.FTOL and self.detail  # not the interface's
        return " ".join(filter(None, ("Converged." if own_rule else status.sentence, self.detail, self.note)))

    def plot(self, path: str | Path | None = None, *, title: str | None = None, dark: bool = False) -> Figure:
        """Draws the objective against seconds, the gradient against evaluations, and compilation beside the solve.

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
        if not isinstance(self.status, Status):
            raise ValueError(
                "a batch of solves has no one curve; pick one first: jax.tree.map(lambda a: a[0], result)."
            )
        columns = {"seconds": self.trace.seconds, "evaluations": self.trace.nfev, "values": self.trace.fun}
        curve = Curve(
            name=self.backend,
            **{name: np.asarray(column, np.float64) for name, column in columns.items()},
            norms=np.asarray(self.trace.grad_norm, np.float64),
            compile_s=float(self.timing.compile_s),
            solve_s=float(self.timing.solve_s),
        )
        title = title or f"{self.backend}, {self.method}: {self.status.name}"
        return draw_one(curve, path, title, dark=dark)

    def __str__(self) -> str:
        if not isinstance(self.status, Status):
            return f"Result of {self.backend} ({self.method}), batched or traced"
        norm = float(np.asarray(self.trace.grad_norm)[-1]) if np.size(self.trace.grad_norm) else np.nan
        lines = [
            f"{'converged' if self.success else 'not converged'} ({self.status.name}) by {self.backend}, {self.method}",
            f"  fun       {float(self.fun):.12g}",
            f"  grad_norm {norm:.3g}",
            f"  nit       {int(self.nit)}, nfev {int(self.nfev)}",
            f"  seconds   {float(self.timing.solve_s):.4g} solving, {float(self.timing.compile_s):.4g} compiling",
            f"  {self.message}",
        ]
        return "\n".join(lines)


def finish(outcome: Outcome, problem: Problem, backend: str, method: str) -> Result:
    """The public result: the only place where flat vectors become trees again."""
    structure, plan = problem.plan.params, problem.plan
    free = outcome.x if isinstance(outcome.x, list) else structure.unravel(outcome.x)
    grads = outcome.grad if isinstance(outcome.grad, list | None) else structure.unravel(outcome.grad)
    value = outcome.value
    value = value if value.dtype == plan.value_dtype else value.astype(plan.value_dtype)
    result = Result(
        params=structure.merge(free, problem.riders),
        fun=value,
        jac=None if grads is None else structure.masked(grads),
        aux=outcome.aux,
        nit=outcome.nit,
        nfev=outcome.nfev,
        code=outcome.status,
        trace=outcome.trace,
        timing=outcome.timing,
        backend=backend,
        method=method,
        detail=outcome.detail,
        note=" ".join(filter(None, (outcome.note, _describe_floor(outcome, problem)))),
    )
    object.__setattr__(result, "carry", outcome.carry)  # no argument, since JAX takes those for parts of the tree
    return result


def _describe_floor(outcome: Outcome, problem: Problem) -> str:
    """What more precision would buy, where rounding may have ended the solve."""
    if is_traced((outcome.status, outcome.trace)) or outcome.status not in (Status.NOISE_FLOOR, Status.LINESEARCH):
        return ""
    plan = problem.plan
    if plan.coarsest is not None:
        return describe_coarsest(plan.coarsest)
    return describe_gain(plan.dtype, float(np.asarray(outcome.trace.grad_norm)[-1]))
