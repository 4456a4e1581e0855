"""Trace an Optax transformation for one objective: its first state, and its move from one iterate to the next trial.

`optax.adam(0.1)` makes new functions at each call. Traced, they are known by what they compute, and the arrays that
they close over are inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import Array, PyTree

from .._core.manual import is_manual, vary_with
from .._core.promotion import standard_promotion
from .._core.types import FlatVector, Leaf, Scalar
from .._problem.hoisting import hoist_consts
from .._problem.jaxpr_key import key_of
from .._problem.objective import Data, FlatObjective, TracedMethod, to_array
from .._problem.problem import Problem

Move = Callable[..., tuple[list[Array], Any]]


def trace_method(problem: Problem, method: optax.GradientTransformation) -> TracedMethod:
    """Trace the transformation. It sees the tree of the free parameters, so labels and masks work as in Optax."""
    spec, extended = problem.spec, optax.with_extra_args_support(method)
    x = jax.ShapeDtypeStruct((spec.params.size,), spec.dtype)
    count = len(problem.data)

    def to_tree(x: FlatVector) -> PyTree:
        return spec.params.params_or_none(spec.params.unravel(x))

    def to_vector(tree: PyTree) -> FlatVector:
        return spec.params.ravel(jax.tree.leaves(tree), spec.dtype)

    def start(x: FlatVector) -> PyTree:
        return method.init(to_tree(x))

    def move(x: FlatVector, grad: FlatVector, value: Scalar, state: list[Leaf], data: Data) -> list[Array]:
        value_of = _differentiable(spec.flat, data)
        tree, grads = to_tree(x), to_tree(grad)
        given = {"value": value, "grad": grads, "value_fn": lambda tree: value_of(to_vector(tree))}
        updates, inner = extended.update(
            grads, structure.unflatten(state), tree, **_accepted_arguments(extended.update, given)
        )
        return [to_vector(optax.apply_updates(tree, updates)), *jax.tree.leaves(inner)]

    with standard_promotion():
        started, first = jax.make_jaxpr(start, return_shape=True)(x)
        leaves, structure = jax.tree.flatten(first)
        inputs = [x, x, jax.ShapeDtypeStruct((), spec.dtype), leaves]
        if is_manual():
            inputs = jax.tree.map(
                lambda each: vary_with(jnp.zeros(each.shape, each.dtype), problem.start_leaves), inputs
            )
        moved = hoist_consts(jax.make_jaxpr(move)(*inputs, problem.data))
    started = hoist_consts(started)
    consts = [*started.consts, *moved.consts]
    # Only Optax's own combinators are known not to rescale the step of a line search afterwards.
    can_reuse = extended.update.__module__.partition(".")[0] == optax.__name__
    split = count + len(started.consts)
    return TracedMethod(
        key=(key_of(started), key_of(moved), can_reuse),
        consts=list(map(to_array, consts)),
        start=_bind(started, count, split, 0),
        move=_bind(moved, split, split + len(moved.consts), count),
        tree=structure,
        can_reuse=can_reuse,
    )


def _bind(closed: ClosedJaxpr, first: int, end: int, inputs: int) -> Callable[..., list[Array]]:
    """Return the function of a jaxpr. Its constants are the data from `first` to `end`, its last inputs the first."""
    jaxpr = closed.jaxpr

    def run(*given: Leaf | list[Leaf]) -> list[Array]:
        *arrays, data = given
        assert isinstance(data, list)
        flat = jax.tree.leaves(arrays)
        return list(jaxpr_as_fun(ClosedJaxpr(jaxpr, data[first:end]))(*flat, *data[:inputs]))

    return run


def _differentiable(flat: FlatObjective, data: Data) -> Callable[[FlatVector], Scalar]:
    """Return x -> value, whose derivative is the traced gradient."""

    @jax.custom_jvp
    def value_of(x: FlatVector) -> Scalar:
        return flat.value(x, data)[0]

    @value_of.defjvp
    def differentiate(primals: tuple[FlatVector], tangents: tuple[FlatVector]) -> tuple[Scalar, Scalar]:
        value, grad, _ = flat.value_and_grad(primals[0], data)
        return value, jnp.vdot(grad, tangents[0])

    return value_of


def _accepted_arguments(update: Callable[..., PyTree], known: dict[str, PyTree]) -> dict[str, PyTree]:
    """Return those of the known arguments that an update takes. Some take one extra argument but not all."""
    parameters = inspect.signature(update).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return known
    return {name: value for name, value in known.items() if name in parameters}
