"""A problem: the objective as a function of one flat vector, and the programs compiled from it.

A `ProblemSpec` is what a trace of the objective found: trees, types and the programs that compute the same. A
`Problem` is one call: a spec and the arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._core.errors import HeldLeafWarning, warn
from .._core.types import Leaf, Objective, Params, Vector
from .bounds import Bounds, FlatBounds, flatten_bounds
from .cache import Programs, ToCompile, programs_of
from .host import HostObjective, HostProgram, describe_host
from .leaves import explain_meshes, sharding_of, to_device
from .objective import Data, FlatObjective, TracedMethod, TracedObjective, trace_objective
from .params import TreeSpec, partition_args, partition_params
from .precision import Diagnosis, NarrowestDtype, diagnose
from .traces import TraceKey, Traces, jax_settings
from .validation import describe_integers, describe_unregistered, read_fixed

NO_TREE = jax.tree.structure(None)  # where the tree of the user is not known


class DevicePoint(TypedDict):
    """A point on the device: the objective, the optimized leaves and the gradient leaf by leaf, or None."""

    value: Array
    leaves: list[Leaf]
    grad: list[Leaf] | None


@dataclass(frozen=True, eq=False)
class ProblemSpec:
    """What a trace of the objective found, and the programs that compute the same.

    Args:
        params, args: the trees without their arrays.
        objective: the traced objective.
        dtype: type of the flat vector: the widest of the optimized leaves and of the value, at least float32.
        programs: compiled programs, shared by all objectives that compute the same.
        is_new: whether this trace is the first one for these programs.
        found: keys that were found later, by name; the objective and its copies share them.
    """

    params: TreeSpec
    args: TreeSpec
    objective: TracedObjective
    dtype: np.dtype
    programs: Programs
    is_new: bool
    found: dict[str, Hashable] = field(default_factory=dict)

    @property
    def value_dtype(self) -> np.dtype:
        """The type of the objective."""
        return self.objective.value

    @property
    def diagnosis(self) -> Diagnosis:
        """What reading the traced objective tells."""
        return self.programs.keep(
            "diagnosis", lambda: diagnose(self.objective.jaxpr, len(self.params.optimized), self.dtype)
        )

    @property
    def narrowest(self) -> NarrowestDtype | None:
        """Where the objective computes in a narrower type than `dtype`; None if nowhere."""
        return self.diagnosis.narrowest

    @property
    def is_host(self) -> bool:
        """Whether Python evaluates the objective."""
        return self.objective.host is not None

    @cached_property
    def flat(self) -> FlatObjective:
        """The objective as a function of the flat vector."""
        leaves = replace(self.params, treedef=NO_TREE, leaves=tuple(self.params.optimized))
        return FlatObjective(self.objective.evaluate, leaves, self.dtype, self.objective.has_grad)

    @cached_property
    def rounding(self) -> float:
        """The relative rounding of an objective value."""
        return float(jnp.finfo(self.dtype if self.narrowest is None else self.narrowest.dtype).eps)


@dataclass(frozen=True)
class Problem:
    """The problem of one call.

    Args:
        spec: what its objective shares with others.
        start_leaves: the optimized leaves of params, at the start.
        static_leaves: the data of params, as the caller passed them.
        data: inputs of the compiled programs, on the device.
        bounds: bounds of the flat vector; None if there are none.
        key: what its objective was traced for.
        trace_s: seconds that this call spent on tracing the objective.
        method: the traced method of the solve; None if it needs no trace. Its constants are the last of `data`.
    """

    spec: ProblemSpec
    start_leaves: list[Leaf]
    static_leaves: list[Leaf]
    data: Data
    bounds: FlatBounds | None
    key: TraceKey
    trace_s: float = 0.0
    method: TracedMethod | None = None

    @property
    def method_key(self) -> Hashable:
        """Equal for methods that compute the same."""
        return None if self.method is None else self.method.key

    @property
    def is_new(self) -> bool:
        """Whether this call has traced what no call before computed."""
        return self.trace_s > 0 and self.spec.is_new

    @property
    def args(self) -> tuple[PyTree, ...]:
        """The further arguments of the objective."""
        held = sum(leaf.kind == "data" for leaf in self.spec.params.leaves)
        return self.spec.args.combine([], self.data[held:])

    def trees(self) -> tuple[Params, PyTree]:
        """Return params and args of the call. No array in them is the caller's, who may change it."""
        params = self.spec.params
        held = sum(leaf.kind == "data" for leaf in params.leaves)
        return params.combine(to_device(self.start_leaves), self.data[:held]), self.args

    def with_arrays(self, start: list[Leaf], data: Data, bounds: FlatBounds | None) -> Problem:
        """Return the problem with other arrays."""
        held = sum(leaf.kind == "data" for leaf in self.spec.params.leaves)
        return replace(self, start_leaves=start, static_leaves=data[:held], data=data, bounds=bounds)

    def placed(self) -> Problem:
        """Return the problem with programs for where its arrays lie; those of a derivative tell it late."""
        free, data = iter(self.start_leaves), iter(self.data)
        params, args = (tree.placed(free, data) for tree in (self.key.params, self.key.args))
        key = self.key._replace(params=params, args=args)
        return (
            self if key == self.key else replace(self, key=key, spec=_make_spec(key, self.spec.objective, list(data)))
        )

    def detached(self) -> Problem:
        """Return the problem without its arrays."""
        objective = replace(self.spec.objective, consts=[])
        method = None if self.method is None else self.method._replace(consts=[])
        return replace(self.with_arrays([], [], None), spec=replace(self.spec, objective=objective), method=method)

    def without_trees(self) -> Problem:
        """Return the problem without what is of the user's; params and auxiliary output cannot be rebuilt."""
        spec = replace(self.spec, params=self.spec.flat.leaves, args=TreeSpec(NO_TREE, ()))
        return replace(self, spec=replace(spec, objective=replace(spec.objective, aux_tree=NO_TREE)))

    def on_device(self, x: Vector, value: Leaf, grad: Vector | None) -> DevicePoint:
        """Move a point to the device, split into leaves. The vectors may be on the host or on the device."""
        moved, (leaves, grads) = self.spec.params.to_device(np.asarray(value, self.spec.value_dtype), x, grad)
        assert moved is not None and leaves is not None
        return DevicePoint(value=moved, leaves=leaves, grad=grads)

    def compile(self, name: Hashable, make: Callable[[], ToCompile]) -> tuple[Callable[..., PyTree], float]:
        """Return the program of this name and the seconds spent on compiling it now. See `Programs.get`."""
        return self.spec.programs.get(name, make)


def prepare(
    fun: Objective,
    params: Params,
    args: PyTree,
    *,
    fixed: PyTree = None,
    bounds: Bounds | None = None,
    has_aux: bool = False,
    has_grad: bool = True,
    traces: Traces | None = None,
) -> Problem:
    """Make the problem of one call.

    Args:
        fun, params, args, fixed, bounds, has_aux: as in `minimize`.
        has_grad: whether the method uses the gradient.
        traces: earlier traces, of which one may serve again; None to trace anew.

    Raises:
        TypeError, ValueError: the objective, a leaf, the bounds or `fixed` is invalid; the message names the place.
    """
    args = args if isinstance(args, tuple) else (args,)
    is_fixed = read_fixed(fixed, params)
    structure, start_leaves, static_leaves = partition_params(params, is_fixed)
    if structure.size == 0:
        raise ValueError(
            "there are no free parameters: params holds no floating-point values that are not fixed. "
            + (describe_unregistered(params) or "Turn integers into floats, and leave something out of `fixed`.")
        )
    args_structure, arrays = partition_args(args)
    flat_bounds = None if bounds is None else flatten_bounds(bounds, params, structure)
    data = to_device([*static_leaves, *arrays])
    key = TraceKey(structure, args_structure, has_aux, has_grad, jax_settings())
    spec, trace_s = None if traces is None else traces.find(key), 0.0
    if spec is None:
        started_at = time.perf_counter()
        trace = describe_host if isinstance(fun, HostObjective) else trace_objective
        with explain_meshes([*start_leaves, *data]):
            objective = trace(fun, has_aux, has_grad, structure, args_structure, start_leaves, data)
        spec = _make_spec(key, objective, objective.consts)
        if traces is not None and not objective.is_traced:
            traces.put(key, spec)
        trace_s = time.perf_counter() - started_at
        if spec.programs.is_first(("integers", hash(structure))) and (integers := describe_integers(params, is_fixed)):
            warn(integers, HeldLeafWarning)
    elif isinstance(spec.objective.host, HostProgram):
        spec.objective.host.forget()
    data = data + spec.objective.consts
    return Problem(spec, start_leaves, static_leaves, data, flat_bounds, key, trace_s)


def _make_spec(key: TraceKey, objective: TracedObjective, consts: list[Leaf]) -> ProblemSpec:
    """Find the programs of a traced objective with these constants, by all that they depend on."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(jnp.float32, objective.value, *(leaf.dtype for leaf in key.params.optimized))
    inputs = [(leaf.kind, leaf.shape, leaf.dtype, leaf.weak_type, leaf.sharding) for leaf in key.arrays]
    places = [sharding_of(each) for each in consts]
    programs, is_new = programs_of((objective.key, objective.has_grad, tuple(inputs), tuple(places), key.settings))
    return ProblemSpec(key.params, key.args, objective, dtype, programs, is_new)
