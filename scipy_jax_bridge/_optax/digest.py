"""Digest an Optax transformation as text that stays comparable in another process.

`optax.adam(0.1)` makes new functions at each call. Their digests are equal, because they have equal code.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._core.types import Tracer

Description = str | int | tuple[str, list[Any]]  # nested: a type and its parts; an int refers to an earlier one

NUMBERS = (int, float, complex, np.generic, np.ndarray, jax.Array)


class Digest(NamedTuple):
    """Two hashes of a transformation."""

    code: str  # of functions, names and flags
    numbers: str  # of numbers and arrays: the hyperparameters


def digest(method: optax.GradientTransformation | None) -> Digest:
    """Return the digest, which is equal for transformations made of equal code and equal numbers."""
    numbers: list[str] = []
    code = _describe(method, numbers, {})
    return Digest(_hash(code), _hash(numbers))


def _hash(value: Description | list[str]) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _describe(value: Any, numbers: list[str], seen: dict[int, tuple[int, Any]]) -> Description:
    """Describe a value without its numbers, and append those to `numbers`.

    Args:
        value: anything.
        numbers: descriptions of the numbers so far.
        seen: by their id, the objects described so far and their order.
    """
    if value is None or isinstance(value, (bool, str, bytes)):
        return repr(value)
    if isinstance(value, NUMBERS):
        numbers.append(_describe_number(value))
        return "number"
    if isinstance(value, (type, types.ModuleType)):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
    if id(value) in seen:
        return seen[id(value)][0]
    seen[id(value)] = len(seen), value  # a reference, so that its id is not used again
    parts = [_describe(part, numbers, seen) for part in _parts(value)]
    return f"{type(value).__module__}.{type(value).__qualname__}", parts


def _describe_number(value: int | float | complex | np.generic | np.ndarray | jax.Array) -> str:
    if isinstance(value, Tracer):  # differentiated, and no result is resumed inside a trace
        return "traced"
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return f"{array.shape} {array.dtype} {value if array.dtype == object else array.tobytes().hex()}"


def _parts(value: Any) -> Iterable[Any]:
    """Return what the value is made of."""
    if isinstance(value, types.CodeType):
        consts = [sorted(map(repr, const)) if isinstance(const, frozenset) else const for const in value.co_consts]
        return [value.co_code, *value.co_names, *consts]
    if isinstance(value, types.FunctionType):
        return [value.__code__, value.__defaults__, value.__kwdefaults__, *(value.__closure__ or ())]
    if isinstance(value, types.CellType):
        try:
            return [value.cell_contents]
        except ValueError:  # not filled yet
            return []
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, (tuple, list)):
        return value
    return [vars(value)] if hasattr(value, "__dict__") else []
