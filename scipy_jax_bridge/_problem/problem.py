"""A problem: the objective as a function of one flat vector, and the programs compiled from it.

The parameters are split once. A `Plan` is what stays the same from call to call (structures, types, compiled
programs) and knows no user function; a `Problem` is one call: a plan, the function, and the arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._core.errors import HeldLeafWarning, warn
from .._core.types import FlatVector, Objective, Params, is_traced
from .bounds import Bounds, FlatBounds, flatten_bounds
from .cache import Programs, cache_of
from .params import (
    TreeSpec,
    describe_integers,
    describe_unknown,
    leaf_paths,
    partition_args,
    partition_params,
    spread_prefix,
)
from .precision import NarrowestDtype, find_narrowest_dtype, find_unread
from .recompilation import ProgramKey

SETTINGS = (
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
Data = tuple[list[Any], list[Any]]  # the arrays that are not optimized: of params, of args


@dataclass(frozen=True)
class ProblemSpec:
    """What a problem shares with every other of its structure.

    Arguments:
        params, args: the trees without their arrays.
        dtype: of the flat vector: the widest of the free leaves and of the value, at least float32.
        value_dtype: of the objective.
        coarsest: where the objective is computed in a coarser type than the flat vector's; None if nowhere.
        aux: shapes and types of the auxiliary output, None without one.
        unread: free leaves that the objective does not depend on, by their places.
        traced: whether the objective holds traced values of this call, which then is the only one the plan serves.
        programs: what has been compiled.
        paces: evaluations a second in the last solve, by method.
        took: seconds of the last call of a program, by program.
    """

    params: TreeSpec
    args: TreeSpec
    dtype: Any
    value_dtype: Any
    narrowest: NarrowestDtype | None
    aux: PyTree
    unread: tuple[int, ...] = ()
    traced: bool = False
    programs: Programs = field(default_factory=Programs)
    paces: dict[Hashable, float] = field(default_factory=dict)
    took: dict[Any, float] = field(default_factory=dict)

    @property
    def rounding(self) -> float:
        """The relative rounding of an objective value."""
        return float(jnp.finfo(self.dtype if self.narrowest is None else self.narrowest.dtype).eps)


@dataclass(frozen=True)
class Problem:
    """One call's problem. `data` enters the compiled programs; nothing of it is baked in."""

    fun: Objective
    has_aux: bool
    spec: ProblemSpec
    free: list[Any]
    static_leaves: list[Any]  # the data of params as they were given
    data: Data
    bounds: FlatBounds | None
    key: ProgramKey
    is_new: bool  # no call before had this key
    trace_s: float = 0.0  # seconds that making the plan took now

    def value(self, x: FlatVector, data: Data) -> tuple[Any, Any]:
        """The objective at the flat vector, in the vector's type, and the auxiliary output."""
        return self._value_of(self.spec.params.unravel(x), data)

    def value_and_grad(self, x: FlatVector, data: Data) -> tuple[Any, FlatVector, Any]:
        """The objective, its gradient and the auxiliary output.

        Differentiated by leaves: through the slices of one vector, every leaf would add a padded vector of its own.
        """
        free = self.spec.params.unravel(x)
        (value, aux), grads = jax.value_and_grad(self._value_of, has_aux=True)(free, data)
        return value, self.spec.params.ravel(grads, self.spec.dtype), aux

    def _value_of(self, free: list[Any], data: Data) -> tuple[Any, Any]:
        params = self.spec.params.combine(free, data[0])
        output = self.fun(params, *self.spec.args.combine([], data[1]))
        value, aux = output if self.has_aux else (output, None)
        return jnp.asarray(value).astype(self.spec.dtype), aux

    def on_device(self, x: Any, value: Any, grad: Any) -> dict[str, Any]:
        """A point as leaves on the device; flat, on the host or on the device, the gradient perhaps None."""
        value = np.asarray(value, self.spec.value_dtype)
        return dict(zip(("value", "x", "grad"), self.spec.params.to_device(value, x, grad), strict=True))

    def compile(self, name: Hashable, make: Callable[[], tuple[Any, tuple[Any, ...]]]) -> tuple[Any, float]:
        """The plan's program of this name, and the seconds spent on compiling it now; `make` as in Programs."""
        return self.spec.programs.get(name, make)


def prepare(
    fun: Objective,
    params: Params,
    args: Any,
    *,
    fixed: PyTree = None,
    bounds: Bounds | None = None,
    has_aux: bool = False,
) -> Problem:
    """The problem of one call; its plan is made once for a structure.

    Errors:
        TypeError, ValueError: what is wrong with the objective, the leaves, the bounds or the mask, and where.
    """
    args = args if isinstance(args, tuple) else (args,)
    held = _read_fixed(fixed, params)
    structure, free, static_leaves = partition_params(params, held)
    if structure.size == 0:
        raise ValueError(
            "there are no free parameters: params holds no floating-point values that are not fixed. "
            + (describe_unknown(params) or "Turn integers into floats, and leave something out of `fixed`.")
        )
    args_structure, arrays = partition_args(args)
    box = None if bounds is None else flatten_bounds(bounds, params, structure)
    data = (_to_device(static_leaves), _to_device(arrays))

    seconds: list[float] = []

    def make() -> ProblemSpec:
        began = time.perf_counter()
        spec = _make_spec(fun, has_aux, structure, args_structure, free, data)
        seconds.append(time.perf_counter() - began)
        return spec

    key, cache = ProgramKey(structure, args_structure, has_aux, _settings()), cache_of(fun)
    spec = cache.get(key, make)
    if spec.traced:
        cache.drop(key)
    if seconds and (integers := describe_integers(params, held)):
        warn(integers, HeldLeafWarning)
    return Problem(fun, has_aux, spec, free, static_leaves, data, box, key, bool(seconds), sum(seconds, 0.0))


def _make_spec(
    fun: Objective, has_aux: bool, structure: TreeSpec, args: TreeSpec, free: list[Any], data: Data
) -> ProblemSpec:
    """Prove that the objective is a real scalar, without evaluating it."""

    def call(free: list[Any], data: Data) -> Any:
        output = fun(structure.combine(free, data[0]), *args.combine([], data[1]))
        _check_leaves(output, has_aux)
        return output

    program, output = jax.make_jaxpr(call, return_shape=True)(free, data)
    if has_aux:
        if not (isinstance(output, tuple) and len(output) == 2):
            raise TypeError("with has_aux=True fun must return a pair (value, aux).")
        output, aux = output
    else:
        aux = None
    _check_value(output, has_aux)
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(jnp.float32, output.dtype, *(leaf.dtype for leaf in structure.free))
    narrowest = find_narrowest_dtype(program, len(free))
    if narrowest is not None and jnp.finfo(narrowest.dtype).eps <= jnp.finfo(dtype).eps:
        narrowest = None
    traced = is_traced(program.consts)
    unread = find_unread(program, len(free))
    return ProblemSpec(structure, args, dtype, output.dtype, narrowest, aux, unread, traced)


def _check_leaves(output: Any, has_aux: bool) -> None:
    """What JAX would refuse to trace, in our words."""
    if output is None:
        raise TypeError("fun must return a real scalar, but it returned None. Is the return missing?")
    for path, leaf in jax.tree_util.tree_leaves_with_path(output):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
            what = f"aux{jax.tree_util.keystr(path[1:])}" if has_aux and len(path) > 0 else "its value"
            raise TypeError(
                f"fun must return arrays and numbers, but {what} is a {type(leaf).__name__} ({leaf!r}). Leave it out."
            )


def _check_value(output: Any, has_aux: bool) -> None:
    if not isinstance(output, jax.ShapeDtypeStruct):
        cure = "" if has_aux or not isinstance(output, tuple) else " If the rest is auxiliary, pass has_aux=True."
        raise TypeError(f"fun must return a real scalar, but it returned a {type(output).__name__}.{cure}")
    if output.shape != ():
        raise TypeError(
            f"fun must return a scalar, but it returned an array of shape {output.shape}. "
            "Sum or average it; a single element is squeezed with .squeeze()."
        )
    if not jnp.issubdtype(output.dtype, jnp.floating):
        kind = "complex" if jnp.issubdtype(output.dtype, jnp.complexfloating) else "not a floating-point number"
        raise TypeError(f"fun must return a real scalar, but its value is {kind} ({output.dtype}).")


def _read_fixed(fixed: PyTree, params: Params) -> list[bool] | None:
    """For each leaf of params whether it is held."""
    if fixed is None:
        return None
    values = spread_prefix(fixed, params, "fixed")
    for value, path in zip(values, leaf_paths(params, "fixed"), strict=True):
        if not (value is None or isinstance(value, (bool, np.bool_))):
            raise TypeError(
                f"{path} must be True or False, not {value!r}. "
                "To hold single components of an array, give them equal lower and upper bounds."
            )
    return [bool(value) for value in values]


def _to_device(arrays: list[Any]) -> list[Any]:
    """NumPy arrays on the device, once a call and not once an evaluation."""
    places = [place for place, each in enumerate(arrays) if isinstance(each, (np.ndarray, np.generic))]
    moved = list(arrays)
    if places:
        for place, each in zip(places, jax.device_put([arrays[place] for place in places]), strict=True):
            moved[place] = each
    return moved


def _settings() -> Hashable:
    """JAX's settings that change what a program computes."""
    return tuple(getattr(jax.config, name) for name in SETTINGS)
