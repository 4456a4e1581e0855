"""What a transformation is made of, as text that a pickle may carry into another process."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NUMBERS = (int, float, complex, np.generic, np.ndarray, jax.Array)


class Fingerprint(NamedTuple):
    """Equal for what is made of the same code and the same numbers.

    `code` is of functions, names and flags; `numbers` is of numbers and arrays, the hyperparameters.
    """

    code: str
    numbers: str


def fingerprint(method: Any) -> Fingerprint:
    """The fingerprint of a transformation. One made anew of the same has the same, in another process too."""
    numbers: list[str] = []
    code = _describe(method, numbers, {})
    return Fingerprint(_digest(code), _digest(numbers))


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _describe(value: Any, numbers: list[str], seen: dict[int, tuple[int, Any]]) -> Any:
    """The value without its numbers, which are added to `numbers`; `seen` has the objects described so far."""
    if value is None or isinstance(value, (bool, str, bytes)):
        return repr(value)
    if isinstance(value, NUMBERS):
        numbers.append(_describe_number(value))
        return "number"
    if isinstance(value, (type, types.ModuleType)):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
    if id(value) in seen:
        return seen[id(value)][0]
    seen[id(value)] = len(seen), value  # kept alive, so that no other takes its place in memory
    parts = [_describe(part, numbers, seen) for part in _parts(value)]
    return f"{type(value).__module__}.{type(value).__qualname__}", parts


def _describe_number(value: Any) -> str:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    return f"{array.shape} {array.dtype} {value if array.dtype == object else array.tobytes().hex()}"


def _parts(value: Any) -> Iterable[Any]:
    """What the value is made of."""
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
