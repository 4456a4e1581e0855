"""What `print`, `repr` and a notebook show of a result, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np
from jaxtyping import PyTree

from ._core.status import Status
from ._core.trace import Timing, Trace, drop_padding
from ._core.types import Number, ResultArray, ResultBool, ResultInt, ResultStatus, is_traced
from ._problem.moves import Move, Origin, describe_move
from ._problem.notes import describe_optimized, is_number
from ._problem.prefix import dotted_paths
from ._render.panels import Curve
from ._render.summary import LeafRow, Summary
from ._render.table import format_seconds

FEW, LONG = 50, 300  # parameters; evaluations

if TYPE_CHECKING:

    class _Solved(Protocol):
        """What is read of a `Result`, which imports this module."""

        @property
        def params(self) -> PyTree: ...

        @property
        def free(self) -> tuple[bool, ...]: ...

        @property
        def bounded(self) -> bool: ...

        @property
        def origin(self) -> Origin | list[Move] | None: ...

        @property
        def fun(self) -> ResultArray: ...

        @property
        def nit(self) -> ResultInt: ...

        @property
        def nfev(self) -> ResultInt: ...

        @property
        def grad_norm(self) -> float: ...

        @property
        def code(self) -> ResultInt: ...

        @property
        def status(self) -> ResultStatus: ...

        @property
        def success(self) -> ResultBool: ...

        @property
        def message(self) -> str: ...

        @property
        def timing(self) -> Timing: ...

        @property
        def backend(self) -> str: ...

        @property
        def method(self) -> str: ...

else:  # a check at run time would read every property, of which some raise
    _Solved = Any


def describe(result: _Solved) -> str:
    """Say what the result of a solve is, in one short line."""
    by = f"{result.backend}, {result.method}"
    if is_traced((result.code, result.fun)):
        return f"<Result of {by}, traced>"
    try:
        if np.shape(result.code):
            return f"<Result, {_describe_batch(result)} by {by}>"
        verdict = "converged" if result.success else "not converged"
        counts = f"nit={int(result.nit)}, nfev={int(result.nfev)}"
        return f"<Result {result.status.name}, {verdict}: fun={float(result.fun):.6g}, {counts} by {by}>"
    except (TypeError, ValueError):  # jax.tree.map and eval_shape fill a result with anything
        return f"<Result of {by}, without numbers>"


def summarize(result: _Solved) -> Summary | None:
    """Collect what is shown of a solve or of a batch; None of a traced one, and of one without numbers."""
    if is_traced((result.code, result.fun)):
        return None
    try:
        return _summarize_batch(result) if np.shape(result.code) else _summarize_one(result)
    except (TypeError, ValueError):
        return None


def _summarize_one(result: _Solved) -> Summary:
    status = result.status
    held = sum(held for *_, held in measure_moves(result) or ())
    facts = [
        ("fun", f"{float(result.fun):.12g}"),
        ("grad_norm", _write(result.grad_norm, "{:.3g}".format)),
        ("nit", f"{int(result.nit)}, nfev {int(result.nfev)}"),
        ("time", _write_times(result.timing)),
    ]
    return Summary(
        verdict="converged" if result.success else "not converged",
        success=bool(result.success),
        details=f"({status.name}) by {result.backend}, {result.method}",
        message=" ".join(filter(None, (_capitalize(result.message.removeprefix("Converged: ")), _suggest(result)))),
        caption=describe_optimized(result.params, result.free, held) if result.free else "",
        leaves=_leaf_rows(result, 0),
        facts=facts,
    )


def _summarize_batch(result: _Solved) -> Summary:
    codes = np.asarray(result.code)
    bad = np.argwhere(codes > Status.FTOL)
    place = ", ".join(map(str, bad[0] if len(bad) else [0] * codes.ndim))
    pick = f"jax.tree.map(lambda a: a[{place}], result)"
    return Summary(
        verdict=_describe_batch(result),
        success=bool((codes <= Status.FTOL).all()),
        details=f"by {result.backend}, {result.method}",
        message=f"The first that did not converge: {pick}." if len(bad) else f"Pick one solve: {pick}.",
        caption="the range over all solves",
        leaves=_leaf_rows(result, codes.ndim),
        facts=[(name, _write_range(getattr(result, name))) for name in ("fun", "nit", "nfev")],
    )


def _suggest(result: _Solved) -> str:
    """Suggest BFGS, which keeps the whole matrix, after a long solve for few parameters."""
    leaves = zip(result.free, jax.tree.leaves(result.params), strict=False)
    size = sum(int(np.size(leaf)) for is_free, leaf in leaves if is_free)
    if result.method != "L-BFGS-B" or result.bounded or not 0 < size <= FEW or int(result.nfev) < LONG:
        return ""
    return "For so few parameters backend='scipy', method='BFGS' may take fewer evaluations."


def curve_of(trace: Trace, name: str, compile_s: float, solve_s: float) -> Curve:
    """Convert a trace to a curve of a plot."""
    fun, grad_norm, nfev, seconds = map(np.asarray, drop_padding(trace))
    return Curve(name, seconds, nfev, fun, grad_norm, compile_s, solve_s)


def measure_moves(result: _Solved) -> list[Move] | None:
    """Return the moves of the optimized leaves; None if they are unknown."""
    origin = result.origin
    if not isinstance(origin, Origin):
        return origin
    leaves = zip(result.free, jax.tree.leaves(result.params), strict=False)
    try:
        return origin.measure([leaf for is_free, leaf in leaves if is_free])
    except (RuntimeError, TypeError, ValueError):  # a start was donated to a program, or params were replaced
        return None


def _describe_batch(result: _Solved) -> str:
    codes = np.asarray(result.code)
    good = int((codes <= Status.FTOL).sum())
    counts = Counter(Status(int(code)).name for code in codes.ravel())
    named = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"{good} of {codes.size} batched solves converged ({named})"


def _leaf_rows(result: _Solved, batched: int) -> list[LeafRow]:
    """Return the rows of the leaves that are numbers. The first `batched` axes are those of a batch."""
    leaves, paths = jax.tree.leaves(result.params), dotted_paths(result.params)
    known = len(result.free) == len(leaves)
    moves = iter(measure_moves(result) or ()) if known and not batched else iter(())
    rows = []
    for place, (leaf, path) in enumerate(zip(leaves, paths, strict=True)):
        is_free = known and result.free[place]
        move = next(moves, None) if is_free else None
        if not is_number(leaf):
            continue
        shape = tuple(np.shape(leaf))[batched:]
        note = describe_move(move, math.prod(shape)) if move else "held" if known and not is_free else ""
        rows.append(LeafRow(path or "params", shape, _read(leaf), move[0] if move else None, note))
    return rows


def _read(leaf: PyTree) -> np.ndarray | None:
    try:
        value = np.asarray(leaf)
        value.astype(np.float64)
    except (TypeError, ValueError, RuntimeError):  # a random key, or an array that was donated
        return None
    return value


def _write_range(numbers: Number) -> str:
    values = np.asarray(numbers, np.float64)
    if not np.isfinite(values).any():
        return "not finite"
    low, middle, high = np.nanmin(values), np.nanmedian(values), np.nanmax(values)
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}, median {middle:.6g}"


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def _seconds(seconds: float) -> str:
    return format_seconds(seconds) if seconds else "0 s"


def _write_times(timing: Timing) -> str:
    if not timing.solve_s >= 0:
        return "unknown: the solve was part of a compiled program"
    return f"{_seconds(float(timing.solve_s))} solving, {_write(timing.compile_s, _seconds)} compiling"


def _write(number: Number, write: Callable[[float], str]) -> str:
    return write(float(number)) if number >= 0 else "unknown"
