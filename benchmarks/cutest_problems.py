"""The CUTEst problems of sif2jax in one shape, for solvers of trees and of flat vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

INSTALL = "pip install 'scipy_jax_bridge[bench]'"
KINDS = ("unconstrained", "bounded")


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimize `objective(y, args)` from `y0`, inside `bounds` where there are any.

    Attributes:
        name: the CUTEst name.
        kind: "unconstrained" or "bounded".
        objective: takes the tree and `args`, returns a scalar.
        y0: the start, moved into the bounds.
        args: data that the compiled programs take as an input.
        bounds: lower and upper tree, or None.
        unravel: turns the flat vector into the tree.
    """

    name: str
    kind: str
    objective: Callable[[Any, Any], jax.Array]
    y0: Any
    args: Any
    bounds: tuple[Any, Any] | None
    unravel: Callable[[jax.Array], Any]

    def fun(self, x: jax.Array, args: Any) -> jax.Array:
        """The objective of the flat vector."""
        return self.objective(self.unravel(x), args)

    @property
    def x0(self) -> jax.Array:
        """The start as a flat vector."""
        return ravel_pytree(self.y0)[0]

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds as flat vectors, infinite where there is none."""
        if self.bounds is None:
            free = np.full(self.x0.shape, np.inf)
            return -free, free
        lower, upper = (np.asarray(ravel_pytree(side)[0]) for side in self.bounds)
        return lower, upper


def select(
    kinds: Sequence[str], letters: tuple[str, str], names: Sequence[str], max_n: int
) -> list[tuple[str, str, int]]:
    """Lists the problems to run as rows of (kind, name, number of variables).

    Args:
        kinds: the kinds to list.
        letters: first and last initial; problems outside are not even built.
        names: keep these only; empty keeps all.
        max_n: the most variables a problem may have.
    """
    found = []
    for kind in kinds:
        for name, source in _collection(kind).items():
            if not letters[0] <= name[0] <= letters[1] or (names and name not in names):
                continue
            size = sum(np.size(leaf) for leaf in jax.tree.leaves(source.y0))
            if size <= max_n:
                found.append((kind, name, size))
    return found


def load(kind: str, name: str) -> Problem:
    """Builds one problem in double precision, its start moved into the bounds."""
    source = _collection(kind)[name]
    y0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), source.y0)
    bounds = None
    if kind == "bounded":
        lower, upper = (_fill(side, y0) for side in source.bounds)
        bounds, y0 = (lower, upper), jax.tree.map(jnp.clip, y0, lower, upper)
    objective, args = _split_args(source.objective, source.args)
    return Problem(name, kind, objective, y0, args, bounds, ravel_pytree(y0)[1])


def rosenbrock(kind: str) -> Problem:
    """A small problem that warms a solver up before anything is timed."""

    def objective(y: jax.Array, args: Any) -> jax.Array:
        return jnp.sum(100.0 * (y[1:] - y[:-1] ** 2) ** 2 + (args - y[:-1]) ** 2)

    y0 = jnp.zeros(3)
    bounds = (y0 - 0.5, y0 + 0.5) if kind == "bounded" else None
    return Problem("rosenbrock", kind, objective, y0, jnp.ones(()), bounds, lambda x: x)


def _collection(kind: str) -> dict[str, Any]:
    """The problems of one kind by name; bounded quadratics belong to the bounded ones."""
    try:
        import sif2jax
    except ImportError as error:
        raise ImportError(f"the CUTEst problems need sif2jax: {INSTALL}") from error
    if kind == "unconstrained":
        problems = sif2jax.unconstrained_minimisation_problems
    else:
        problems = sif2jax.bounded_minimisation_problems + sif2jax.bounded_quadratic_problems
    return {problem.name: problem for problem in problems}


def _fill(side: Any, y0: Any) -> Any:
    """One side of the bounds as a full tree of doubles."""
    return jax.tree.map(lambda y, b: jnp.broadcast_to(jnp.asarray(b, float), y.shape), y0, side)


def _split_args(objective: Callable[..., Any], args: Any) -> tuple[Callable[..., Any], Any]:
    """Keeps floating leaves of `args` as an input and closes over every other leaf."""
    leaves, tree = jax.tree.flatten(args)
    traced = [isinstance(leaf, float) or _is_floating_array(leaf) for leaf in leaves]

    def with_static(y: Any, inputs: list[Any]) -> jax.Array:
        supply = iter(inputs)
        merged = [next(supply) if t else leaf for t, leaf in zip(traced, leaves, strict=True)]
        return objective(y, jax.tree.unflatten(tree, merged))

    inputs = [jnp.asarray(leaf) for t, leaf in zip(traced, leaves, strict=True) if t]
    return with_static, inputs


def _is_floating_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
