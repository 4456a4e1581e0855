"""A guard against silent recompilation: one warning when one objective's code compiles over and over.

It counts solves and compilations by code, not by function object, since a lambda written in a loop is a new object
each time and the same code; each backend and method by itself, since trying them all is no fault. Compiling is not
wrong by itself; compiling at almost every call is. So is tracing, where it takes most of the time.
"""

from __future__ import annotations

import re
import threading
import types
import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import PyTree

from .._core.errors import warn
from .._core.types import Objective
from .functions import find_code, is_same, refer
from .jaxpr_key import JaxprKey
from .leaves import StaticValue
from .prefix import leaf_paths
from .problem import Problem
from .value_key import ById

MANY = 8  # compilations of one code
SHARE = 0.8  # of its calls: more of them compile than this
LONG_TRACE_S, ALL_TRACES_S = 0.25, 3.0  # seconds of one trace, and of all, that are worth a warning
CURES = {
    "number": "Pass it through args, or make it an array (jnp.asarray): both are inputs of the compiled program.",
    "callback": "Define the function that the host calls once, outside the objective.",
    "operation": "Pass what decides it through args, or keep one Minimizer for each.",
    "settings": "Set JAX's configuration once, when the program starts.",
    "shape": "Bring the data to one shape (pad them, and mask what was added), or use few shapes many times.",
    "dtype": "Convert it to one type first, as in jnp.asarray(value, dtype=float).",
    "weak type": "Pass it always as a number or always as an array, as in jnp.asarray(value, dtype=float).",
    "placement": "Leave it on one device, or put it there once.",
    "static value": "Make it an array or a number if it is data; else pass the same object each time.",
    "tree": "Pass the same containers with the same keys, and the same objects as static fields.",
}
NUMBER = re.compile(r"b'[^']*'|b\"[^\"]*\"")  # the bytes of a literal
KINDS = ("static value", "shape", "dtype", "weak type", "placement")  # of a change of a leaf


class RecompilationWarning(UserWarning):
    """One objective is compiled, or traced at length, at almost every call; with the argument, cause and cure."""


class _Static(NamedTuple):
    """A static value in words, and by identity if they tell its place in memory, where the next one may lie."""

    words: str
    value: Hashable

    def __str__(self) -> str:
        return self.words


class _Leaf(NamedTuple):
    """A leaf in words, so that nothing of the user's is kept alive."""

    path: str
    static: _Static | None
    shape: str
    dtype: str
    weak: str
    placement: str


class _Sketch(NamedTuple):
    """What was compiled, in words."""

    params: str
    args: str
    leaves: tuple[_Leaf, ...]
    settings: str


@dataclass
class _Count:
    solves: int = 0
    wasted: int = 0
    warned: bool = False
    traced: weakref.ref[Objective] | None = None  # the function that was traced last; the next three are its
    traces: int = 0
    trace_s: float = 0.0
    solve_s: float = 0.0
    owner: weakref.ref[Objective] | None = None  # to the function that was compiled last
    last: tuple[_Sketch, tuple[str, ...]] | None = None  # and what was compiled: its arguments, its operations
    seen: set[int] = field(default_factory=set)  # hashes of sketches


_counts: weakref.WeakKeyDictionary[types.CodeType, dict[Hashable, _Count]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _count_of(fun: Objective, solver: Hashable) -> _Count | None:
    code = find_code(fun)
    return None if code is None else _counts.setdefault(code, {}).setdefault(solver, _Count())


def count_solve(fun: Objective, solver: Hashable) -> None:
    """Count a solve of the objective by a backend and method."""
    with _lock:
        count = _count_of(fun, solver)
        if count is not None:
            count.solves += 1


def count_compilation(fun: Objective, problem: Problem, inputs: tuple[PyTree, PyTree], solver: Hashable) -> None:
    """Count a compilation; warn, once for a code, if almost all of many solves compile.

    A compilation is wasted if the same code was compiled for the same arguments before, in another function object,
    or if the same function object is compiled for yet other arguments. If both are new, so is the problem.

    Args:
        fun: the objective.
        problem: what is compiled.
        inputs: params and args, which say where each leaf lies.
        solver: the backend and the method.
    """
    with _lock:
        count = _count_of(fun, solver)
        if count is None:
            return
        before, sketch = count.last, _draw(problem, inputs)
        same = count.owner is not None and is_same(count.owner(), fun)
        count.wasted += same or hash(sketch) in count.seen
        operations = _describe_operations(problem.spec.objective.key)
        count.last, count.owner = (sketch, operations), refer(fun)
        count.seen.add(hash(sketch))
        due = count.wasted >= MANY and count.wasted >= SHARE * count.solves and not count.warned
        count.warned |= due
    if due and before is not None:
        where, cause, kind = _find_cause(before, (sketch, operations))
        warn(
            f"{_name(fun)} was compiled {count.wasted} times for {count.solves} solves. The argument: {where}. "
            f"The cause: {cause}. The cure: {CURES[kind]}",
            RecompilationWarning,
        )


def count_trace(fun: Objective, solver: Hashable, trace_s: float, solve_s: float) -> None:
    """Add up the seconds of a solve; warn, once for a code, if most of many solves is tracing.

    Args:
        fun: the objective.
        solver: the backend and the method.
        trace_s: seconds of tracing the objective.
        solve_s: seconds of everything else.
    """
    with _lock:
        count = _count_of(fun, solver)
        if count is None:
            return
        if count.traced is None or not is_same(count.traced(), fun):  # another function cannot keep a Minimizer
            count.traced, count.traces, count.trace_s, count.solve_s = refer(fun), 0, 0.0, 0.0
        count.traces += trace_s > 0
        count.trace_s += trace_s
        count.solve_s += solve_s
        is_long = count.trace_s >= max(ALL_TRACES_S, LONG_TRACE_S * count.traces, count.solve_s)
        due = count.traces >= MANY and is_long and not count.warned
        count.warned |= due
    if due:
        warn(
            f"{_name(fun)} was traced {count.traces} times, which took {count.trace_s:.2g} s of "
            f"{count.trace_s + count.solve_s:.2g} s. minimize traces again wherever what the objective reads may have "
            "changed. The cure: keep one Minimizer, which traces once.",
            RecompilationWarning,
        )


def _name(fun: Objective) -> str:
    code = find_code(fun)
    assert code is not None, "what has no code is not counted"
    return f"{code.co_name} (line {code.co_firstlineno} of {code.co_filename})"


def _draw(problem: Problem, inputs: tuple[PyTree, PyTree]) -> _Sketch:
    leaves, key = [], problem.key
    params, args = inputs
    trees = (params, args if isinstance(args, tuple) else (args,))
    for name, structure, tree in zip(("params", "args"), (key.params, key.args), trees, strict=True):
        for path, leaf in zip(leaf_paths(tree, name), structure.leaves, strict=True):
            static = _draw_static(leaf.static)
            words = ("a strong type (an array)", "a weak type (a plain number)")[leaf.weak_type]
            words = words if leaf.kind == "data" else ""
            leaves.append(_Leaf(path, static, str(leaf.shape), str(leaf.dtype), words, str(leaf.sharding)))
    return _Sketch(_shorten(key.params.treedef), _shorten(key.args.treedef), tuple(leaves), str(key.settings))


def _draw_static(static: StaticValue | None) -> _Static | None:
    if static is None:
        return None
    words, value = _shorten(static), static.value
    is_weak = not isinstance(value, types.MethodType) and refer(value) is not None  # a method is new at each access
    return _Static(words, ById(value) if is_weak and " at 0x" in words else None)


def _describe_operations(key: Hashable) -> tuple[str, ...]:
    return tuple(map(repr, key.tokens)) if isinstance(key, JaxprKey) else ()


def _find_cause(before: tuple[_Sketch, tuple[str, ...]], now: tuple[_Sketch, tuple[str, ...]]) -> tuple[str, str, str]:
    """Return the argument that changed since the last compilation, how, and the kind of change."""
    (old_sketch, old_operations), (sketch, operations) = before, now
    for name in ("params", "args"):
        old, new = getattr(old_sketch, name), getattr(sketch, name)
        if old != new:
            return name, f"its tree went from {old} to {new}", "tree"
    for old, new in zip(old_sketch.leaves, sketch.leaves, strict=False):
        for kind, was, is_now in zip(KINDS, old[1:], new[1:], strict=True):
            if was != is_now:
                words = "another one, at the same place in memory" if str(was) == str(is_now) else is_now
                return new.path, f"its {kind} went from {was} to {words}", kind
    if old_sketch.settings != sketch.settings:
        return "none", f"JAX's settings went from {old_sketch.settings} to {sketch.settings}", "settings"
    return "fun", *_find_operation(old_operations, operations)


def _find_operation(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, str]:
    """Return how the first operation that differs changed, and the kind of change."""
    different = [pair for pair in zip(before, now, strict=False) if pair[0] != pair[1]]
    if len(before) != len(now) or not different:
        return f"it computes something else each time: {len(before)} operations, then {len(now)}", "operation"
    old, new = different[0]
    name = new.partition("'")[2].partition("'")[0]
    if "callback" in name:
        return f"it calls another function on the host each time, in the operation {name!r}", "callback"
    numbers = [NUMBER.sub("#", each) for each in (old, new)]
    if numbers[0] == numbers[1]:
        return f"a Python number in it is part of the program and changes, in the operation {name!r}", "number"
    return f"it computes something else each time, first in the operation {name!r}", "operation"


def _shorten(value: Hashable) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."
