"""A guard against silent recompilation: one warning when one objective's code compiles over and over.

It counts calls and compilations by code, not by function object, since a lambda written in a loop is a new object
each time and the same code; each backend and method by itself, since trying them all is no fault. Compiling is not
wrong by itself; compiling at almost every call is.
"""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .._core.errors import warn
from .params import TreeSpec
from .prefix import leaf_paths

MANY = 8  # compilations of one code
SHARE = 0.8  # of its calls: more of them compile than this
CURES = {
    "fun": "Define the function once, outside the loop, and pass what changes through args; or keep one Minimizer.",
    "object": "Pass what changes through args: arrays and numbers there are inputs of the compiled program.",
    "settings": "Set JAX's configuration once, when the program starts.",
    "shape": "Bring the data to one shape (pad them, and mask what was added), or use few shapes many times.",
    "dtype": "Convert it to one type first, as in jnp.asarray(value, dtype=float).",
    "weak type": "Pass it always as a number or always as an array, as in jnp.asarray(value, dtype=float).",
    "placement": "Leave it on one device, or put it there once.",
    "static value": "Make it an array or a number if it is data; else pass the same object each time.",
    "tree": "Pass the same containers with the same keys, and the same objects as static fields.",
}


KINDS = ("static value", "shape", "dtype", "weak type", "placement")  # of a change of a leaf


class RecompilationWarning(UserWarning):
    """One objective is compiled at almost every call; with the argument, the cause and the cure."""


class ProgramKey(NamedTuple):
    """What a plan is made for."""

    params: TreeSpec
    args: TreeSpec
    has_aux: bool
    settings: Any


class _Leaf(NamedTuple):
    """A leaf in words, so that nothing of the user's is kept alive."""

    path: str
    static: str
    shape: str
    dtype: str
    weak: str
    placement: str


class _Sketch(NamedTuple):
    """A key in words."""

    params: str
    args: str
    leaves: tuple[_Leaf, ...]
    settings: str


@dataclass
class _Count:
    calls: int = 0
    wasted: int = 0
    warned: bool = False
    owner: Any = None  # a weak reference to the function that was compiled last
    last: _Sketch | None = None
    seen: set[int] = field(default_factory=set)  # hashes of sketches


_counts: weakref.WeakKeyDictionary[types.CodeType, dict[Hashable, _Count]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def count_call(
    fun: Callable[..., Any], key: ProgramKey, inputs: tuple[Any, Any], solver: Hashable, *, compiles: bool, solves: bool
) -> None:
    """Count a call; warn, once for a code, if almost all of many calls compile.

    A compilation is wasted if the same code was compiled for the same structures before, in another function
    object, or if the same function object is compiled for yet other structures. If both are new, so is the problem.

    Args:
        fun: the objective.
        key: what it is compiled for.
        inputs: params and args, which say where each leaf lies.
        solver: the backend and the method.
        compiles: whether it is, now.
        solves: whether it is solved, or compiled ahead of time.
    """
    code = _code(fun)
    if code is None:
        return
    with _lock:
        count = _counts.setdefault(code, {}).setdefault(solver, _Count())
        count.calls += solves
        if not compiles:
            return
        before, sketch = count.last, _draw(key, inputs)
        same = count.owner is not None and count.owner() is fun
        count.wasted += same or hash(sketch) in count.seen
        count.last, count.owner = sketch, _refer(fun)
        count.seen.add(hash(sketch))
        due = count.wasted >= MANY and count.wasted >= SHARE * count.calls and not count.warned
        count.warned |= due
    if due and before is not None:
        where, cause, kind = _find_cause(before, sketch, same, isinstance(fun, types.MethodType))
        warn(
            f"{code.co_name} (line {code.co_firstlineno} of {code.co_filename}) was compiled {count.wasted} times "
            f"for {count.calls} solves. The argument: {where}. The cause: {cause}. The cure: {CURES[kind]}",
            RecompilationWarning,
        )


def _draw(key: ProgramKey, inputs: tuple[Any, Any]) -> _Sketch:
    leaves = []
    params, args = inputs
    trees = (params, args if isinstance(args, tuple) else (args,))
    for name, structure, tree in zip(("params", "args"), (key.params, key.args), trees, strict=True):
        for path, leaf in zip(leaf_paths(tree, name), structure.leaves, strict=True):
            static = "" if leaf.static is None else _shorten(leaf.static)
            words = ("a strong type (an array)", "a weak type (a plain number)")[leaf.weak_type]
            words = words if leaf.kind == "data" else ""
            leaves.append(_Leaf(path, static, str(leaf.shape), str(leaf.dtype), words, str(leaf.sharding)))
    return _Sketch(_shorten(key.params.treedef), _shorten(key.args.treedef), tuple(leaves), str(key.settings))


def _find_cause(before: _Sketch, now: _Sketch, same: bool, is_method: bool) -> tuple[str, str, str]:
    """The argument that changed since the last compilation, how, and the kind of change."""
    if not same and is_method:
        return "fun", "the object of this method, or an attribute of it, is another each time", "object"
    if not same:
        return "fun", "it is a new function object each time, of the same code", "fun"
    for name in ("params", "args"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            return name, f"its tree went from {old} to {new}", "tree"
    for old, new in zip(before.leaves, now.leaves, strict=False):
        for kind, was, is_now in zip(KINDS, old[1:], new[1:], strict=True):
            if was != is_now:
                return new.path, f"its {kind} went from {was} to {is_now}", kind
    if before.settings != now.settings:
        return "none", f"JAX's settings went from {before.settings} to {now.settings}", "settings"
    return "fun", "what it reads from outside its arguments is another each time", "object"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _refer(fun: Callable[..., Any]) -> Any:
    try:
        return weakref.ref(fun)
    except TypeError:
        return None


def _code(fun: Any) -> types.CodeType | None:
    """The code behind the function, through wrappers; None for what has none, or is meant to compile anew."""
    while not isinstance(fun, types.FunctionType):
        if isinstance(fun, functools.partial):
            fun = fun.func
        elif isinstance(fun, types.MethodType):
            fun = fun.__func__
        elif hasattr(fun, "__wrapped__"):
            fun = fun.__wrapped__
        elif isinstance(type(fun).__dict__.get("__call__"), types.FunctionType):
            fun = type(fun).__dict__["__call__"]
        else:
            return None
    return None if getattr(fun, "compiles_anew", False) else fun.__code__
