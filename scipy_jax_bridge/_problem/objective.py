"""The objective, traced: a function of leaves and data that refers to nothing of the user's.

The arrays that the user's function closes over are inputs of it, beside the arrays of params and args. So objectives
that compute the same with other arrays share a compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from .._core.context import is_debugging
from .._core.promotion import with_user_promotion
from .._core.types import FlatVector, Leaf, Objective, Scalar, Tracer, TreeDef, Vector
from .hoisting import hoist_consts
from .jaxpr_key import key_of
from .leaves import has_explicit_axes
from .params import TreeSpec
from .prefix import leaf_paths
from .validation import check_output_leaves, check_value, explain_tracers

Data = list[Leaf]  # inputs of the programs that are not optimized: arrays of params, of args, and those closed over
Evaluate = Callable[[Sequence[Leaf], Data], list[Array]]  # leaves, data -> value, gradients (if any), leaves of aux


class Called(NamedTuple):
    """What Python returned for an evaluation: arrays on the host, the gradient leaf by leaf, the leaves of aux."""

    value: np.ndarray
    grads: list[np.ndarray]
    aux: list[Leaf]


HostEvaluate = Callable[[Vector, Data], Called]


@dataclass(frozen=True)
class TracedObjective:
    """What one trace of the objective found.

    Args:
        evaluate: evaluates the traced program.
        key: equal for objectives that compute the same.
        has_grad: whether it was traced with its gradient.
        value: type of the value.
        aux, aux_tree: shapes and types of the leaves of the auxiliary output, and its tree.
        consts: the arrays that it closes over, on the device.
        copied: positions of those that are copies.
        jaxpr: what was traced; its constants are inputs. None if JAX is debugging.
        host: (x, data) -> value, gradients, leaves of aux, evaluated by Python; then nothing was traced.
    """

    evaluate: Evaluate
    key: Hashable
    has_grad: bool
    value: np.dtype
    aux: list[jax.ShapeDtypeStruct]
    aux_tree: TreeDef
    consts: list[Leaf]
    copied: frozenset[int]
    jaxpr: ClosedJaxpr | None
    host: HostEvaluate | None = None

    @property
    def is_traced(self) -> bool:
        """Whether it closes over values that JAX is tracing. Then it serves this call only."""
        return any(isinstance(each, Tracer) for each in self.consts)


class TracedMethod(NamedTuple):
    """The moves of a method, traced for one objective. They refer to nothing of the user's.

    Args:
        key: equal for methods that compute the same.
        consts: the arrays that the method closes over.
        start: (x, data) -> leaves of the method's own state.
        move: (x, gradient, value, leaves of the state, held, data) -> [next x, leaves of the state]. `held` marks the
            components that stay where they are; None without bounds.
        tree: the tree of the state.
        can_reuse: whether the last line search of the method knows value and gradient of its trial.
        has_effects: whether a move does more than compute, as by `jax.debug.print`.
        searches: whether a move may evaluate the objective more than once.
    """

    key: Hashable
    consts: list[Leaf]
    start: Callable[..., list[Array]]
    move: Callable[..., list[Array]]
    tree: TreeDef
    can_reuse: bool
    has_effects: bool
    searches: bool


def trace_objective(
    fun: Objective, has_aux: bool, has_grad: bool, params: TreeSpec, args: TreeSpec, leaves: list[Leaf], data: Data
) -> TracedObjective:
    """Trace the objective, without evaluating it, and check that its value is a real scalar.

    Args:
        fun, has_aux: as in `minimize`.
        has_grad: whether to trace its gradient with it.
        params, args: their trees.
        leaves: the optimized leaves.
        data: the other arrays of params, and those of args.
    """
    held = sum(leaf.kind == "data" for leaf in params.leaves)
    structures: list[TreeDef] = []

    def value_of(leaves: Sequence[Leaf], data: Data) -> tuple[Array, list[Leaf]]:
        output = fun(params.combine(leaves, data[:held]), *args.combine([], data[held:]))
        check_output_leaves(output, has_aux)
        value, aux = check_value(output, has_aux)
        aux_leaves, tree = jax.tree.flatten(aux)
        structures.append(tree)
        return jnp.asarray(value), aux_leaves

    def evaluate(leaves: Sequence[Leaf], data: Data) -> list[Array]:
        if not has_grad:
            value, aux = value_of(leaves, data)
            return [value, *map(jnp.asarray, aux)]
        (value, aux), grads = jax.value_and_grad(value_of, has_aux=True)(list(leaves), data)
        return [value, *grads, *map(jnp.asarray, aux)]

    inputs = [_without_weak_type(leaf, spec.dtype) for leaf, spec in zip(leaves, params.optimized, strict=True)]
    with explain_tracers(lambda: _paths(params, args, leaves, data)):
        closed, outputs = jax.make_jaxpr(evaluate, return_shape=True)(inputs, data)
    closed = hoist_consts(closed)
    facts = (has_grad, outputs[0].dtype, outputs[1 + has_grad * len(leaves) :], structures[-1])
    if is_debugging():
        evaluate = with_user_promotion(evaluate)
        return TracedObjective(evaluate, object(), *facts, [], frozenset(), None)
    consts = list(map(to_array, closed.consts))
    copied = frozenset(place for place, const in enumerate(closed.consts) if const is not consts[place])
    return TracedObjective(
        bind_consts(closed, len(data), len(data)), key_of(closed), *facts, consts, copied, strip(closed)
    )


def _paths(params: TreeSpec, args: TreeSpec, leaves: list[Leaf], data: Data) -> dict[str, list[str]]:
    """Return the paths of the leaves and of the data, by the names that they have in `evaluate`."""
    held = sum(leaf.kind == "data" for leaf in params.leaves)
    trees = [(params.combine(leaves, data[:held]), params, "params"), (args.combine([], data[held:]), args, "args")]
    named = [pair for tree, spec, name in trees for pair in zip(leaf_paths(tree, name), spec.leaves, strict=True)]
    kinds = {"leaves": "free", "data": "data"}
    return {name: [path for path, leaf in named if leaf.kind == kind] for name, kind in kinds.items()}


def _without_weak_type(leaf: Leaf, dtype: DTypeLike) -> Array | jax.ShapeDtypeStruct:
    """Return the leaf, or its shape, with the type that the programs take."""
    if isinstance(leaf, Tracer):
        return jax.lax.convert_element_type(leaf, dtype)
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype)


def bind_consts(closed: ClosedJaxpr, first: int, inputs: int) -> Callable[..., list[Array]]:
    """Return the function of a traced program: (*trees of arrays, data) -> outputs.

    Args:
        closed: what was traced.
        first: position of its first constant in the data.
        inputs: how many of the first data are its inputs, behind the leaves of the trees.
    """
    jaxpr, count = strip(closed).jaxpr, len(closed.consts)

    def run(*given: PyTree) -> list[Array]:
        *trees, data = given
        consts = data[first : first + count]
        outputs = jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*jax.tree.leaves(trees), *data[:inputs])
        return list(map(jnp.asarray, outputs))  # JAX may hand over its own literals, which are no arrays

    return run


def strip(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Return the jaxpr without the values of its constants."""
    return ClosedJaxpr(closed.jaxpr, [None] * len(closed.consts))


def to_array(const: Any) -> Leaf:
    """Move a constant to the device. A copy, since its owner may change a NumPy array in place."""
    if isinstance(const, jax.Array):
        return const
    with jax.ensure_compile_time_eval():  # inside jit too it is known
        return jnp.array(np.asarray(const))


@dataclass(frozen=True)
class FlatObjective:
    """The objective as a function of the flat vector. It refers to no function, class or array of the user.

    Args:
        evaluate: the traced objective.
        leaves: the optimized leaves, without their tree.
        dtype: type of the flat vector.
        has_grad: whether `evaluate` returns gradients.
    """

    evaluate: Evaluate
    leaves: TreeSpec
    dtype: np.dtype
    has_grad: bool

    def value(self, x: FlatVector, data: Data) -> tuple[Scalar, list[Array]]:
        """Evaluate the objective in the type of the flat vector; return it with the leaves of the auxiliary output."""
        outputs = self.evaluate(self.leaves.unravel(x), data)
        return outputs[0].astype(self.dtype), outputs[1 + self.has_grad * len(self.leaves.leaves) :]

    def value_and_grad(self, x: FlatVector, data: Data) -> tuple[Scalar, FlatVector, list[Array]]:
        """Evaluate the objective, its gradient and the leaves of the auxiliary output."""
        assert self.has_grad, "the objective was traced without its gradient"
        outputs, count = self.evaluate(self.leaves.unravel(x), data), len(self.leaves.leaves)
        grad = self.leaves.ravel([_whole(each) for each in outputs[1 : 1 + count]], self.dtype)
        return outputs[0].astype(self.dtype), grad, outputs[1 + count :]


def _whole(array: Array) -> Array:
    """Return the array with a type that splits it over no explicit axes of a mesh, as the flat vector is."""
    where = getattr(jax.typeof(array), "sharding", None) if hasattr(jax, "typeof") else None
    if where is None or not any(where.spec) or not has_explicit_axes(where.mesh):
        return array
    return jax.sharding.reshard(array, NamedSharding(where.mesh, PartitionSpec()))
