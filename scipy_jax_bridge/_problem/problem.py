"""A problem: the objective as a function of one flat vector, and the programs compiled from it.

A `ProblemSpec` is what stays the same from call to call: tree specs, types and compiled programs. It holds no user
function. A `Problem` is one call: a spec, the function and the arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._core.errors import HeldLeafWarning, warn
from .._core.types import FlatVector, Leaf, Objective, Params, Scalar, Vector, is_traced
from .bounds import Bounds, FlatBounds, flatten_bounds
from .cache import Programs, cache_of
from .params import TreeSpec, partition_args, partition_params
from .precision import NarrowestDtype, find_narrowest_dtype, find_unread
from .recompilation import ProgramKey
from .validation import check_output_leaves, describe_integers, describe_unregistered, read_fixed, split_output

JAX_SETTINGS = (  # those that change what a program computes
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_device",
    "jax_debug_nans",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_disable_jit",
)
Data = tuple[list[Leaf], list[Leaf]]  # the arrays of params and of args that are not optimized


class DevicePoint(TypedDict):
    """A point on the device: the objective, the optimized leaves and the gradient leaf by leaf, or None."""

    value: Array
    leaves: list[Leaf]
    grad: list[Leaf] | None


@dataclass(frozen=True)
class ProblemSpec:
    """What all problems of one structure share.

    Args:
        params, args: the trees without their arrays.
        dtype: type of the flat vector: the widest of the optimized leaves and of the value, at least float32.
        value_dtype: type of the objective.
        narrowest: where the objective is computed in a narrower type than `dtype`; None if nowhere.
        aux: shapes and types of the auxiliary output; None without one.
        unread: positions of the optimized leaves on which the objective does not depend.
        traced: whether the objective closes over traced values. Then the spec serves this call only.
        programs: compiled programs.
        paces: evaluations per second in the last solve, by method.
        took: seconds that the last call of a program took, by program.
    """

    params: TreeSpec
    args: TreeSpec
    dtype: np.dtype
    value_dtype: np.dtype
    narrowest: NarrowestDtype | None
    aux: PyTree
    unread: tuple[int, ...] = ()
    traced: bool = False
    programs: Programs = field(default_factory=Programs)
    paces: dict[Hashable, float] = field(default_factory=dict)
    took: dict[Hashable, float] = field(default_factory=dict)

    @property
    def rounding(self) -> float:
        """The relative rounding of an objective value."""
        return float(jnp.finfo(self.dtype if self.narrowest is None else self.narrowest.dtype).eps)


@dataclass(frozen=True)
class Problem:
    """The problem of one call.

    Args:
        fun, has_aux: as in `minimize`.
        spec: what it shares with other problems of its structure.
        start_leaves: the optimized leaves of params, at the start.
        static_leaves: the data of params, as the caller passed them.
        data: inputs of the compiled programs: the data of params and of args, on the device.
        bounds: bounds of the flat vector; None if there are none.
        key: what the programs are compiled for.
        is_new: whether no call before had this key.
        trace_s: seconds that this call spent on making the spec.
        flat_objective: (x, data) -> (value, aux), used in place of `fun`; it has the values that `fun` closes over
            bound to it.
    """

    fun: Objective
    has_aux: bool
    spec: ProblemSpec
    start_leaves: list[Leaf]
    static_leaves: list[Leaf]
    data: Data
    bounds: FlatBounds | None
    key: ProgramKey
    is_new: bool
    trace_s: float = 0.0
    flat_objective: Callable[[FlatVector, Data], tuple[Scalar, PyTree]] | None = None

    def value(self, x: FlatVector, data: Data) -> tuple[Scalar, PyTree]:
        """Evaluate the objective in the type of the flat vector; return it with the auxiliary output."""
        if self.flat_objective is not None:
            return self.flat_objective(x, data)
        return self._value_at(self.spec.params.unravel(x), data)

    def value_and_grad(self, x: FlatVector, data: Data) -> tuple[Scalar, FlatVector, PyTree]:
        """Evaluate the objective, its gradient and the auxiliary output.

        Differentiate with respect to the leaves. The derivative through the slices of the flat vector would pad the
        gradient of every leaf to the full length.
        """
        if self.flat_objective is not None:
            (value, aux), grad = jax.value_and_grad(self.flat_objective, has_aux=True)(x, data)
            return value, grad, aux
        leaves = self.spec.params.unravel(x)
        (value, aux), grads = jax.value_and_grad(self._value_at, has_aux=True)(leaves, data)
        return value, self.spec.params.ravel(grads, self.spec.dtype), aux

    def _value_at(self, leaves: list[Leaf], data: Data) -> tuple[Scalar, PyTree]:
        params = self.spec.params.combine(leaves, data[0])
        output = self.fun(params, *self.spec.args.combine([], data[1]))
        value, aux = output if self.has_aux else (output, None)
        return jnp.asarray(value).astype(self.spec.dtype), aux

    def on_device(self, x: Vector, value: Leaf, grad: Vector | None) -> DevicePoint:
        """Move a point to the device, split into leaves. The vectors may be on the host or on the device."""
        moved, (leaves, grads) = self.spec.params.to_device(np.asarray(value, self.spec.value_dtype), x, grad)
        assert moved is not None and leaves is not None
        return DevicePoint(value=moved, leaves=leaves, grad=grads)

    def compile(
        self, name: Hashable, make: Callable[[], tuple[Any, tuple[Any, ...]]]
    ) -> tuple[Callable[..., Any], float]:
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
) -> Problem:
    """Make the problem of one call. The spec is made once per structure, and cached.

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
    data = (_to_device(static_leaves), _to_device(arrays))

    seconds: list[float] = []

    def make() -> ProblemSpec:
        started_at = time.perf_counter()
        spec = _make_spec(fun, has_aux, structure, args_structure, start_leaves, data)
        seconds.append(time.perf_counter() - started_at)
        return spec

    key, cache = ProgramKey(structure, args_structure, has_aux, _jax_settings()), cache_of(fun)
    spec = cache.get(key, make)
    if spec.traced:
        cache.drop(key)
    if seconds and (integers := describe_integers(params, is_fixed)):
        warn(integers, HeldLeafWarning)
    is_new, trace_s = bool(seconds), sum(seconds, 0.0)
    return Problem(fun, has_aux, spec, start_leaves, static_leaves, data, flat_bounds, key, is_new, trace_s)


def _make_spec(
    fun: Objective, has_aux: bool, structure: TreeSpec, args: TreeSpec, leaves: list[Leaf], data: Data
) -> ProblemSpec:
    """Trace the objective, without evaluating it, and check that its value is a real scalar."""

    def call(leaves: list[Leaf], data: Data) -> PyTree:
        output = fun(structure.combine(leaves, data[0]), *args.combine([], data[1]))
        check_output_leaves(output, has_aux)
        return output

    program, output = jax.make_jaxpr(call, return_shape=True)(leaves, data)
    value, aux = split_output(output, has_aux)
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(jnp.float32, value.dtype, *(leaf.dtype for leaf in structure.optimized))
    narrowest = find_narrowest_dtype(program, len(leaves))
    if narrowest is not None and jnp.finfo(narrowest.dtype).eps <= jnp.finfo(dtype).eps:
        narrowest = None
    traced = is_traced(program.consts)
    unread = find_unread(program, len(leaves))
    return ProblemSpec(structure, args, dtype, value.dtype, narrowest, aux, unread, traced)


def _to_device(arrays: list[Leaf]) -> list[Leaf]:
    """Move NumPy arrays to the device, once per call instead of once per evaluation."""
    places = [place for place, each in enumerate(arrays) if isinstance(each, (np.ndarray, np.generic))]
    moved = list(arrays)
    if places:
        for place, each in zip(places, jax.device_put([arrays[place] for place in places]), strict=True):
            moved[place] = each
    return moved


def _jax_settings() -> Hashable:
    return tuple(getattr(jax.config, name) for name in JAX_SETTINGS)
