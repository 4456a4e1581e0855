"""A key for programs that differentiate the objective twice."""

from __future__ import annotations

from collections.abc import Hashable

import jax
import numpy as np
from jaxtyping import Array

from .._core.types import Leaf, is_traced
from .hoisting import hoist_consts
from .jaxpr_key import key_of
from .problem import Problem
from .value_key import describe_array


def second_order_key(problem: Problem) -> Hashable:
    """Return a key that is equal for objectives whose derivatives compute the same.

    The key of the objective leaves out the rules of `jax.custom_jvp` that the next derivative will use. So the
    derivative of value and gradient is traced. The arrays that those rules close over are constants of the programs, so
    they enter by value.

    Raises:
        TypeError: a rule closes over a traced argument of the objective.
    """
    known = problem.spec.found
    if "second order" not in known:
        known["second order"] = _trace_key(problem)
    return known["second order"]


def _trace_key(problem: Problem) -> Hashable:
    flat = problem.spec.flat
    x = jax.ShapeDtypeStruct((problem.spec.params.size,), problem.spec.dtype)
    moves = [_tangent_of(each) for each in problem.data]

    def differentiate(x: Array, dx: Array, data: list[Leaf], moves: list[Leaf]) -> object:
        return jax.jvp(flat.value_and_grad, (x, data), (dx, moves))

    try:
        with jax.numpy_dtype_promotion("standard"):
            traced = jax.make_jaxpr(differentiate)(x, x, problem.data, moves)
    except Exception:  # of JAX or of a rule: there is no forward derivative, so such a program is not shared
        return object()
    traced = hoist_consts(traced)
    known = {id(each) for each in problem.data}
    if any(is_traced(each) and id(each) not in known for each in traced.consts):
        raise TypeError(
            "a rule of jax.custom_jvp inside the objective reads an argument of the objective from its closure. So the "
            "second derivative cannot be taken. Pass what the rule reads as an argument of the function with the rule."
        )
    return key_of(traced), tuple(map(describe_array, traced.consts))


def _tangent_of(value: Leaf) -> Leaf:
    """Return a tangent of this value: integers, booleans and random keys have one of type float0."""
    dtype = getattr(value, "dtype", None) or jax.numpy.result_type(value)
    if not jax.numpy.issubdtype(dtype, jax.numpy.inexact):
        return np.zeros(np.shape(value), jax.dtypes.float0)
    return jax.numpy.zeros(np.shape(value), jax.dtypes.canonicalize_dtype(dtype))
