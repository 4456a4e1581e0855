"""Trace an Optax transformation for one objective: its first state, and its move from one iterate to the next trial.

`optax.adam(0.1)` makes new functions at each call. Traced, they are known by what they compute, and the arrays that
they close over are inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._core.manual import is_manual, vary_with
from .._core.promotion import standard_promotion
from .._core.types import FlatVector, Leaf, Scalar, TreeDef
from .._problem.hoisting import hoist_consts
from .._problem.jaxpr_key import key_of
from .._problem.leaves import sharding_of
from .._problem.objective import Data, FlatObjective, TracedMethod, bind_consts, to_array
from .._problem.problem import Problem
from .._problem.split import arrange
from .loop_tools import Held, hold


class _Moves:
    """The functions to trace. The transformation sees the tree of the free parameters, as in Optax's own loops.

    Attributes:
        structure: the tree of the transformation's state, known after `start`.
        searches: whether a line search is among the transformations, known after `start`.
    """

    structure: TreeDef
    searches: bool

    def __init__(self, problem: Problem, method: optax.GradientTransformation) -> None:
        self._spec, self._method = problem.spec, optax.with_extra_args_support(method)

    @property
    def can_reuse(self) -> bool:
        """Whether the last part of a chain hands on its step unchanged, as Optax's own combinators do."""
        return self._method.update.__module__.partition(".")[0] == optax.__name__

    def _to_tree(self, x: FlatVector) -> PyTree:
        return self._spec.params.params_or_none(self._spec.params.unravel(x))

    def _to_vector(self, tree: PyTree) -> FlatVector:
        return self._spec.params.ravel(jax.tree.leaves(tree), self._spec.dtype)

    def start(self, x: FlatVector) -> list[Array]:
        """Return the leaves of the first state."""
        state = self._method.init(self._to_tree(x))
        leaves, self.structure = jax.tree.flatten(state)
        self.searches = bool(optax.tree_utils.tree_get_all_with_path(state, "num_linesearch_steps"))
        return leaves

    def move(
        self, x: FlatVector, grad: FlatVector, value: Scalar, state: list[Leaf], held: Held, data: Data
    ) -> list[Array]:
        """Return the next trial, and the leaves of the next state.

        Held components are constants of the objective that the transformation sees: its gradient is zero there.
        """
        value_of = _differentiable(self._spec.flat, data)
        tree, grads, update = self._to_tree(x), self._to_tree(hold(held, 0, grad)), self._method.update

        def value_fn(tree: PyTree) -> Scalar:
            return value_of(hold(held, x, self._to_vector(tree)))

        inner = self.structure.unflatten(state)
        known = _accepted_arguments(update, {"value": value, "grad": grads, "value_fn": value_fn})
        updates, inner = update(grads, inner, tree, **known)
        return [hold(held, x, self._to_vector(optax.apply_updates(tree, updates))), *jax.tree.leaves(inner)]


def trace_method(problem: Problem, method: optax.GradientTransformation) -> TracedMethod:
    """Trace the transformation."""
    problem = arrange(problem)
    moves, dtype = _Moves(problem, method), problem.spec.dtype
    x = jax.ShapeDtypeStruct((problem.spec.params.size,), dtype)
    with standard_promotion():
        started, leaves = jax.make_jaxpr(moves.start, return_shape=True)(x)
        held = None if problem.bounds is None else jax.ShapeDtypeStruct(x.shape, bool)
        inputs = [x, x, jax.ShapeDtypeStruct((), dtype), leaves, held]
        if is_manual():
            zeros = jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), inputs)
            inputs = vary_with(zeros, problem.start_leaves)
        moved = hoist_consts(jax.make_jaxpr(moves.move)(*inputs, problem.data))
    started, count = hoist_consts(started), len(problem.data)
    split = count + len(started.consts)
    consts = list(map(to_array, [*started.consts, *moved.consts]))
    return TracedMethod(
        key=(key_of(started), key_of(moved), moves.can_reuse, str(moves.structure), tuple(map(sharding_of, consts))),
        consts=consts,
        start=bind_consts(started, count, 0),
        move=bind_consts(moved, split, count),
        tree=moves.structure,
        can_reuse=moves.can_reuse,
        has_effects=bool(moved.jaxpr.effects),
        searches=moves.searches,
    )


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
