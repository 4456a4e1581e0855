"""Objectives that Python evaluates, with their gradient: a simulator, several programs, another process."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._core.types import Leaf, Objective, TreeDef, Vector
from .objective import Called, Data, TracedObjective
from .params import TreeSpec
from .prefix import leaf_paths
from .validation import check_output_leaves, check_value


class HostObjective:
    """A function that returns value and gradient, evaluated as it is; `host_objective` makes it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function, updated=())

    def __repr__(self) -> str:
        return f"host_objective({getattr(self.function, '__name__', None) or repr(self.function)})"

    def __call__(self, *given: Any) -> Any:
        """Evaluate the function."""
        return self.function(*given)


@dataclass(frozen=True)
class HostProgram:
    """A host objective for one structure of params and args.

    Args:
        objective: the user's function, a HostObjective.
        has_aux: whether it also returns an auxiliary output.
        params, args: their trees.
        known: the first call, which told the types, until it is asked for or another call is prepared.
        aux_trees: the tree of the auxiliary output, from the first call on.
    """

    objective: Objective
    has_aux: bool
    params: TreeSpec
    args: TreeSpec
    known: list[tuple[bytes, Called]]
    aux_trees: list[TreeDef]

    def __call__(self, x: Vector, data: Data) -> Called:
        """Call the function at a flat vector, or return what the first call returned there."""
        leaves = self.params.unravel(np.asarray(x))
        key = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
        with suppress(IndexError):  # none is known
            first, called = self.known.pop()
            if first == key:
                return called
        return self.call(leaves, data)

    def forget(self) -> None:
        """Forget the first call: it was made for the data of another one."""
        self.known.clear()

    def call(self, leaves: Sequence[Leaf], data: Data) -> Called:
        """Call the function, and check what it returns."""
        held = sum(leaf.kind == "data" for leaf in self.params.leaves)
        params = self.params.combine(jax.device_put(list(leaves)), data[:held])
        output = self.objective(params, *self.args.combine([], data[held:]))
        if not (isinstance(output, tuple) and len(output) == 2):
            what = "((value, aux), gradient)" if self.has_aux else "(value, gradient)"
            raise TypeError(
                f"a host objective must return {what}, as jax.value_and_grad does, not a {type(output).__name__}."
            )
        value, gradient = output
        check_output_leaves(value, self.has_aux)
        value, aux = check_value(value, self.has_aux)
        aux, tree = jax.tree.flatten(aux)
        if self.aux_trees and tree != self.aux_trees[0]:
            raise ValueError(f"aux has another tree than at the start: {tree}, not {self.aux_trees[0]}.")
        self.aux_trees[:] = [tree]
        return Called(np.asarray(value), self._read_gradient(gradient, params), [jnp.asarray(leaf) for leaf in aux])

    def _read_gradient(self, gradient: PyTree, params: PyTree) -> list[np.ndarray]:
        """Return the optimized leaves of the gradient's tree.

        Raises:
            TypeError, ValueError: the tree, or the shape or type of a leaf, is not that of params.
        """
        try:
            parts = self.params.treedef.flatten_up_to(gradient)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"the gradient has another tree than params: {jax.tree.structure(gradient)}, not {self.params.treedef}."
            ) from error
        found = []
        for part, path, spec in zip(parts, leaf_paths(params), self.params.leaves, strict=True):
            if spec.kind != "free":
                continue
            if not jnp.issubdtype(jnp.result_type(part) if jax.tree_util.all_leaves([part]) else object, jnp.floating):
                raise TypeError(f"the gradient of {path} must be a floating-point array, not {part!r}.")
            if np.shape(part) != spec.shape:
                raise ValueError(f"the gradient of {path} has shape {np.shape(part)}, not {spec.shape}.")
            found.append(np.asarray(part))
        return found


def describe_host(
    objective: Objective,
    has_aux: bool,
    has_grad: bool,
    params: TreeSpec,
    args: TreeSpec,
    leaves: list[Leaf],
    data: Data,
) -> TracedObjective:
    """Call a host objective at the start, which tells its types, and describe it as a trace would."""
    program = HostProgram(objective, has_aux, params, args, [], [])
    start = [np.asarray(leaf, spec.dtype) for leaf, spec in zip(leaves, params.optimized, strict=True)]
    called = program.call(start, data)
    program.known[:] = [(b"".join(leaf.tobytes() for leaf in start), called)]
    aux = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in map(jnp.asarray, called.aux)]
    return TracedObjective(
        evaluate=_refuse,
        key=("host", called.value.dtype, tuple((leaf.shape, leaf.dtype) for leaf in aux)),
        has_grad=has_grad,
        value=called.value.dtype,
        aux=aux,
        aux_tree=program.aux_trees[0],
        consts=[],
        copied=frozenset(),
        jaxpr=None,
        host=program,
    )


def _refuse(*given: Any) -> list[Any]:
    raise TypeError(
        "Python evaluates a host objective, so it cannot be part of a compiled program. Take a method that does not "
        "evaluate by itself, as Optax's line searches do: method=None, or for example optax.adam(1e-2)."
    )


def host_objective(fun: Callable[..., Any]) -> HostObjective:
    """Mark a function that returns value and gradient, to be called as it is and not traced by JAX.

    For what is not one JAX program: a simulator, several programs one after another, other processes. Only the steps
    of the solver are compiled. The first call, at the start, tells the types; its result is the first evaluation.

    Args:
        fun: fun(params, *args) -> (value, gradient), as of jax.value_and_grad; with has_aux ((value, aux), gradient).
            The value is a real scalar. The gradient is a tree like params, with an array of the same shape for each
            leaf that is optimized; its other leaves are not read.

    Returns:
        What `minimize`, `Minimizer` and `adapt` take as `fun`, on both backends, with every method that uses no
        second derivatives and does not evaluate by itself. It cannot be called inside jit, vmap or grad.

    Raises:
        TypeError: `fun` is no function.

    Examples:
        >>> import numpy as np
        >>> import scipy_jax_bridge as sjb
        >>> def simulate(params, target):
        ...     residual = np.asarray(params["x"]) - target
        ...     return residual @ residual, {"x": 2 * residual}
        >>> result = sjb.minimize(sjb.host_objective(simulate), {"x": np.zeros(2)}, (3.0,))
        >>> [round(float(x), 3) for x in result.params["x"]]
        [3.0, 3.0]
    """
    if not callable(fun):
        raise TypeError(f"host_objective takes a function of params, not {type(fun).__name__}.")
    return HostObjective(fun)
