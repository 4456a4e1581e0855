"""Check what the caller passes to a solve, and explain what is wrong with it and how to mend it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._core.errors import join_short
from .._core.monitor import Callback
from .._core.types import Objective, Params
from .prefix import leaf_paths, spread_prefix

TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
BRANCH = "Write jnp.where or jax.lax.cond in place of an if on what depends on params or args."
COMPUTE = "Compute with jax.numpy in place of NumPy, and leave out float(), int() and .item()."


def check_settings(
    fun: Objective, callback: Callback | None, has_aux: bool, progress: bool, precision: str | None
) -> None:
    """Raise if an argument of a solver has another type or value than it may have.

    Raises:
        TypeError: `fun` or the callback is no function, or a flag is neither True nor False.
        ValueError: the precision is unknown.
    """
    if not callable(fun):
        raise TypeError(f"fun must be a function of params, not {type(fun).__name__}.")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function, not {type(callback).__name__}.")
    for name, flag in (("has_aux", has_aux), ("progress", progress)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be True or False, not {flag!r}.")
    if precision not in (None, "float64"):
        raise ValueError(f"precision must be None or 'float64', not {precision!r}.")


def check_output_leaves(output: PyTree, has_aux: bool) -> None:
    """Raise TypeError for outputs of `fun` that JAX would refuse to trace."""
    if output is None:
        raise TypeError("fun must return a real scalar, but it returned None. Is the return missing?")
    for path, leaf in jax.tree_util.tree_leaves_with_path(output):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
            what = f"aux{jax.tree_util.keystr(path[1:])}" if has_aux and len(path) > 0 else "its value"
            raise TypeError(
                f"fun must return arrays and numbers, but {what} is a {type(leaf).__name__} ({leaf!r}). Leave it out."
            )


def check_value(output: PyTree, has_aux: bool) -> tuple[Array, PyTree]:
    """Return the value of `fun` as an array, and the auxiliary output, None without one.

    Raises:
        TypeError: the value is not a real scalar, or with has_aux the output is not a pair.
    """
    value, aux = output, None
    if has_aux:
        if not (isinstance(output, tuple) and len(output) == 2):
            raise TypeError("with has_aux=True fun must return a pair (value, aux).")
        value, aux = output
    if not jax.tree_util.all_leaves([value]):
        cure = "" if has_aux or not isinstance(value, tuple) else " If the rest is auxiliary, pass has_aux=True."
        raise TypeError(f"fun must return a real scalar, but it returned a {type(value).__name__}.{cure}")
    value = jnp.asarray(value)
    if value.shape != ():
        raise TypeError(
            f"fun must return a scalar, but it returned an array of shape {value.shape}. "
            "Sum or average it; a single element is squeezed with .squeeze()."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        kind = "complex" if jnp.issubdtype(value.dtype, jnp.complexfloating) else "not a floating-point number"
        raise TypeError(f"fun must return a real scalar, but its value is {kind} ({value.dtype}).")
    return value, aux


def read_fixed(fixed: PyTree, params: Params) -> list[bool] | None:
    """Return for each leaf of params whether it is fixed; None if `fixed` is None.

    Raises:
        TypeError: a leaf of `fixed` is not a boolean.
        ValueError: `fixed` does not fit the tree of params.
    """
    if fixed is None:
        return None
    if _is_name(fixed):
        names = [fixed] if isinstance(fixed, str) else sorted(fixed)
        written = ", ".join(f"{name!r}: True" for name in names)
        raise TypeError(f"fixed must be True or False for parts of params, not {fixed!r}. Write fixed={{{written}}}.")
    values = spread_prefix(fixed, params, "fixed")
    for value, path in zip(values, leaf_paths(params, "fixed"), strict=True):
        if not (value is None or isinstance(value, (bool, np.bool_))):
            raise TypeError(f"{path} must be True or False, or an array of booleans for its components, not {value!r}.")
    return [bool(value) for value in values]


def _is_name(fixed: PyTree) -> bool:
    """Whether names are given in place of a tree: fixed="alpha" or fixed=["alpha", "beta"]."""
    names = fixed if isinstance(fixed, (list, tuple, set, frozenset)) else [fixed]
    return bool(names) and all(isinstance(name, str) for name in names)


def describe_unregistered(params: Params) -> str:
    """Explain the first leaf that may hold parameters invisible to JAX; empty if there is none."""
    for value, path in zip(jax.tree.leaves(params), leaf_paths(params), strict=True):
        name = type(value).__qualname__
        if isinstance(value, (jax.Array, np.ndarray, np.generic)):
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return (
                f"{path} is a {name}, a dataclass that JAX takes for a single leaf: "
                "register it with jax.tree_util.register_dataclass."
            )
        if hasattr(value, "__dict__") and not callable(value) and not isinstance(value, ModuleType):
            return (
                f"{path} is a {name}, an object that JAX takes for a single leaf: pass a dict of its arrays, or "
                "register the class with jax.tree_util.register_pytree_node_class."
            )
    return ""


def describe_integers(params: Params, fixed: Sequence[bool] | None) -> str:
    """Explain that scalar integers, which look like parameters, are not optimized; empty if there is none.

    Leave out fixed ones, and integer arrays, which usually are counts or indices.
    """
    fixed = fixed or [False] * len(jax.tree.leaves(params))
    found = [
        (path, value)
        for path, value, is_fixed in zip(leaf_paths(params), jax.tree.leaves(params), fixed, strict=True)
        if not is_fixed and (type(value) is int or isinstance(value, np.integer))
    ]
    if not found:
        return ""
    path, value = found[0]
    more = f" So do {join_short([path for path, _ in found[1:]])}." if found[1:] else ""
    return (
        f"{path} is an integer and stays {value}; write {float(value)!r} to fit it, or say with fixed=True there that "
        f"it shall stay.{more}"
    )


@contextmanager
def explain_tracers(paths: Callable[[], Mapping[str, Sequence[str]]]) -> Iterator[None]:
    """Add to JAX's errors about traced values the cure, and the paths of the arguments that they name.

    Args:
        paths: returns the paths by the names of the arguments.
    """
    try:
        yield
    except TRACED as error:
        with suppress(Exception):  # a class of the user's may refuse to be made again
            known = paths()
            for name, place in set(re.findall(r"\b(leaves|data)\[(\d+)\]", str(error))):
                error.add_note(f"{name}[{place}] is {known[name][int(place)]}.")
        is_branch = isinstance(error, jax.errors.TracerBoolConversionError)
        error.add_note(BRANCH if is_branch else COMPUTE)
        raise
