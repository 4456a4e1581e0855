"""Types shared by the whole package: parameter trees, leaves, flat vectors and objectives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax import Array
from jax.core import Tracer as Tracer
from jaxtyping import Float, PyTree

P = TypeVar("P")  # the tree of params
Aux = TypeVar("Aux")  # the auxiliary output
Params = Any  # any tree; its floating-point leaves are optimized
Leaf = Array | np.ndarray | np.generic | int | float | complex  # a leaf that a compiled program takes as an input
Objective = Callable[..., Any]  # fun(params, *args) -> a real scalar, or (scalar, aux)
Scalar = Float[Array, ""]
FlatVector = Float[Array, " n"]  # the optimized leaves, ravelled and concatenated, on the device
HostVector = Float[np.ndarray, " n"]  # a flat vector on the host; float64 for SciPy
Vector = FlatVector | HostVector
Number = Array | np.ndarray | np.number | float | int  # a start, a limit or a value; it may be traced

if TYPE_CHECKING:
    from .status import Status

    ResultArray = Array
    ResultInt = int
    ResultFloat = float
    ResultBool = bool
    ResultStatus = Status
else:  # a batch, a traced solve and what jax.tree.map makes of a result hold arrays or others
    ResultArray = ResultInt = ResultFloat = ResultBool = ResultStatus = Any


@runtime_checkable
class TreeDef(Protocol):
    """The structure of a tree, `jax.tree_util.PyTreeDef`, which type checkers do not know."""

    @property
    def num_leaves(self) -> int:
        """The number of leaves."""
        ...

    def unflatten(self, leaves: Iterable[PyTree], /) -> PyTree:
        """Return the tree with these leaves."""
        ...

    def flatten_up_to(self, tree: PyTree, /) -> list[PyTree]:
        """Return the parts of a tree at the leaves of this structure."""
        ...

    def node_data(self) -> tuple[type, PyTree] | None:
        """Return the class of the root and what that knows beside its children; None for a leaf."""
        ...

    def children(self) -> Sequence[TreeDef]:
        """Return the structures of the children of the root."""
        ...


def is_traced(tree: PyTree) -> bool:
    """Whether a leaf of the tree is a tracer: the call is being differentiated, batched or compiled."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def is_whole(leaf: Any) -> bool:
    """Whether this process can read all of a leaf; of an array over several processes it may hold a part only."""
    return not isinstance(leaf, Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def unwrap_partial(fun: Objective) -> Objective:
    """Return the function of a `functools.partial`."""
    while isinstance(fun, functools.partial):
        fun = fun.func
    return fun


def name_of(fun: Objective) -> str:
    """Return the name of a function, or of the class of an object that can be called."""
    fun = unwrap_partial(fun)
    return getattr(fun, "__name__", type(fun).__name__)
