"""Traces of an objective, kept for its next call.

A `Minimizer` traces once for each structure, as `jax.jit` does, and keeps its traces. `minimize` traces at each call,
unless it is proved that the objective reads the same as before.
"""

from __future__ import annotations

import functools
import operator
import threading
import types
import weakref
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import jax

from .._core.types import Leaf, Objective
from .cache import BoundedCache
from .leaves import LeafSpec
from .params import TreeSpec
from .purity import PJIT, has_plain_tree, prove

if TYPE_CHECKING:
    from .problem import ProblemSpec


JAX_SETTINGS = (  # those that change what a program computes; not each version has all
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_device",
    "jax_debug_nans",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_disable_jit",
    "jax_random_seed_offset",
    "jax_enable_custom_prng",
    "jax_softmax_custom_jvp",
    "jax_high_dynamic_range_gumbel",
    "jax_allow_f16_reductions",
    "jax_explicit_x64_dtypes",
    "jax_error_checking_behavior_nan",
    "jax_error_checking_behavior_divide",
    "jax_error_checking_behavior_oob",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
    "jax_debug_infs",
)
_read_settings = operator.attrgetter(*(name for name in JAX_SETTINGS if hasattr(jax.config, name)))
FUNCTIONS = (types.FunctionType, functools.partial, PJIT)  # of which a proof is tried


class TraceKey(NamedTuple):
    """What a trace is made for: trees, types and settings."""

    params: TreeSpec
    args: TreeSpec
    has_aux: bool
    has_grad: bool
    settings: Hashable

    @property
    def arrays(self) -> list[LeafSpec]:
        """The leaves that are inputs of a program."""
        return [leaf for tree in (self.params, self.args) for leaf in tree.leaves if leaf.kind != "static"]


def jax_settings() -> Hashable:
    """Return JAX's settings that a trace and a program depend on."""
    return _read_settings(jax.config)


@runtime_checkable
class Traces(Protocol):
    """Where earlier traces are found."""

    def find(self, key: TraceKey, /) -> ProblemSpec | None:
        """Return the trace of this key, or None."""
        ...

    def put(self, key: TraceKey, spec: ProblemSpec, /) -> None:
        """Keep a trace."""
        ...


class _Kept(NamedTuple):
    """A trace that keeps no array of the user's alive.

    Args:
        spec: without its constants.
        consts: functions that return its constants; they refer weakly to arrays of the user.
    """

    spec: ProblemSpec
    consts: list[Callable[[], Leaf | None]]


class _Proved(NamedTuple):
    """The traces of a function while it reads the same.

    Args:
        proof: all that it can read.
        traces: by key.
    """

    proof: Hashable
    traces: BoundedCache[_Kept]


_proved: weakref.WeakKeyDictionary[Objective, _Proved] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class ProvedTraces:
    """The traces that `minimize` may use again: those of this function, if it is proved to read the same as then."""

    def __init__(self, fun: Objective) -> None:
        self._fun, self._proof = fun, prove(fun) if isinstance(fun, FUNCTIONS) else None

    def find(self, key: TraceKey) -> ProblemSpec | None:
        """Return the trace of this key, or None."""
        with _lock:
            found = None if self._proof is None else _proved.get(self._fun)
        kept = None if found is None or found.proof != self._proof else found.traces.find(key)
        if kept is None:
            return None
        consts = [read() for read in kept.consts]
        if any(each is None for each in consts):
            return None
        return replace(kept.spec, objective=replace(kept.spec.objective, consts=consts))

    def put(self, key: TraceKey, spec: ProblemSpec) -> None:
        """Keep a trace, unless something that the function reads has changed since the proof."""
        if self._proof is None or spec.objective.jaxpr is None or prove(self._fun) != self._proof:
            return
        if not (has_plain_tree(key.params) and has_plain_tree(key.args)):
            return
        objective = spec.objective
        consts = [_refer(const, is_copy=place in objective.copied) for place, const in enumerate(objective.consts)]
        kept = _Kept(replace(spec, objective=replace(objective, consts=[])), consts)
        with _lock:
            found = _proved.get(self._fun)
            if found is None or found.proof != self._proof:
                found = _proved[self._fun] = _Proved(self._proof, BoundedCache())
        found.traces.put(key, kept)


def _refer(const: Leaf, *, is_copy: bool) -> Callable[[], Leaf | None]:
    return (lambda: const) if is_copy else weakref.ref(const)
