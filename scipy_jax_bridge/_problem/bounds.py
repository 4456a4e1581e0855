"""Spread bounds, one value or a prefix tree of params, over the flat vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree

from .._core.errors import shorten
from .._core.types import Params, is_traced
from .params import TreeSpec
from .prefix import leaf_paths, spread_prefix

Side = np.ndarray | Array  # the lower or upper bounds of one leaf; an Array if they are traced


@dataclass(frozen=True, eq=False)
class Bounds:
    """Lower and upper bounds of params.

    Args:
        lower: None (no bound), a scalar for all leaves, or a prefix tree of params whose leaves are None,
            scalars, or arrays that broadcast to the shape of their leaf. In the units of params. A dict may name some
            leaves only, also by path, as in {"kernel.variance": 0.0}; the others are unbounded. Default None.
        upper: as lower. A component with equal bounds is fixed. Default None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> fun = lambda p: jnp.sum((p["w"] - 2.0) ** 2) + p["b"] ** 2
        >>> result = sjb.minimize(fun, {"w": jnp.zeros(3), "b": 1.0}, bounds=sjb.Bounds({"w": 0.0, "b": None}, 1.0))
        >>> result.params["w"].tolist()
        [1.0, 1.0, 1.0]
    """

    lower: Any = None
    upper: Any = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bounds):
            return NotImplemented
        (mine, treedef), (theirs, other_treedef) = (
            jax.tree.flatten((each.lower, each.upper)) for each in (self, other)
        )
        return treedef == other_treedef and all(map(np.array_equal, mine, theirs))

    def __hash__(self) -> int:
        return hash(jax.tree.structure((self.lower, self.upper)))


@dataclass(frozen=True)
class FlatBounds:
    """Bounds of the flat vector, infinite where there is none: float64 on the host, or traced."""

    lower: Any  # np.ndarray, or a tracer
    upper: Any


def read_bounds(bounds: Bounds | tuple[Any, Any] | Mapping[str, Any] | None) -> Bounds | None:
    """Convert the argument `bounds` to a Bounds; None if it bounds nothing.

    Raises:
        TypeError: it is neither a Bounds, nor a pair, nor a dict of pairs.
        ValueError: a pair in a dict can be read in two ways.
    """
    if bounds is None:
        return None
    if isinstance(bounds, Mapping):
        bounds = Bounds(*_split_pairs(bounds, "bounds"))
    if not isinstance(bounds, Bounds):
        if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
            raise TypeError(
                "bounds is SciPy's Bounds; write bounds=(bounds.lb, bounds.ub), each one value or shaped like params."
            )
        if not isinstance(bounds, tuple) or len(bounds) != 2:
            raise TypeError(
                "bounds must be sjb.Bounds(lower, upper), a pair (lower, upper) or a dict of pairs by path, such as "
                f"{{'alpha': (0, 1)}}, not {_kind_of(bounds)}. "
                "SciPy's list of one pair a component is Bounds(lower_array, upper_array) here."
            )
        bounds = Bounds(*bounds)
    return None if bounds.lower is None and bounds.upper is None else bounds


def _kind_of(bounds: object) -> str:
    return f"a tuple of {len(bounds)}" if type(bounds) is tuple else f"a {type(bounds).__name__}"


def _split_pairs(pairs: Mapping[str, PyTree], name: str) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Split a dict of pairs, such as {"alpha": (0, 1)}, into the lower and the upper sides."""
    lower, upper = dict[str, PyTree](), dict[str, PyTree]()
    for key, pair in pairs.items():
        where = f"{name}[{key!r}]"
        if isinstance(pair, Bounds):
            pair = (pair.lower, pair.upper)
        elif isinstance(pair, Mapping):
            pair = _split_pairs(pair, where)
        elif pair is None:
            pair = (None, None)
        elif not isinstance(pair, tuple) or len(pair) != 2:
            cure = f" Write ({pair[0]!r}, {pair[1]!r})." if isinstance(pair, list) and len(pair) == 2 else ""
            raise TypeError(f"{where} must be a pair (lower, upper) or a dict of pairs, not {pair!r}.{cure}")
        elif all(isinstance(side, (tuple, list)) and len(side) == 2 for side in pair):
            (a, b), (c, d) = pair
            first, second = (repr(f"{key}.{place}") for place in (0, 1))
            raise ValueError(
                f"{where} can be read in two ways: as lower bounds {pair[0]!r} and upper bounds {pair[1]!r}, or as one "
                f"pair for each of two parts. Write {{{first}: ({a!r}, {c!r}), {second}: ({b!r}, {d!r})}} for the "
                f"former, {{{first}: ({a!r}, {b!r}), {second}: ({c!r}, {d!r})}} for the latter."
            )
        lower[key], upper[key] = pair
    return lower, upper


def flatten_bounds(bounds: Bounds, params: Params, structure: TreeSpec) -> FlatBounds | None:
    """Return the bounds of the optimized leaves as two flat vectors; None if all are infinite.

    Raises:
        ValueError: a side does not fit the tree or a leaf's shape, is NaN, or leaves no finite number. The message
            names the path.
    """
    lower = _flatten_side(bounds.lower, -np.inf, "bounds.lower", params, structure)
    upper = _flatten_side(bounds.upper, np.inf, "bounds.upper", params, structure)
    if is_traced((lower, upper)):
        with jax.debug_infs(False):  # no bound is infinity
            return FlatBounds(jnp.concatenate(lower), jnp.concatenate(upper))
    lower, upper = ([np.asarray(side) for side in sides] for sides in (lower, upper))
    low, high = np.concatenate(lower), np.concatenate(upper)
    if not (low <= high).all():
        for sides in zip(lower, upper, _optimized_paths(params, structure), strict=True):
            _check_order(*sides)
    if any(leaf.dtype != np.float64 for leaf in structure.optimized):
        inside = map(_round_inside, lower, upper, [leaf.dtype for leaf in structure.optimized])
        low, high = (np.concatenate(side) for side in zip(*inside, strict=True))
    for side, given, name, wrong in ((low, lower, "lower", np.inf), (high, upper, "upper", -np.inf)):
        if (side == wrong).any():
            _refuse_infinite(_first(side == wrong), given, name, wrong, params, structure)
    return None if (low == -np.inf).all() and (high == np.inf).all() else FlatBounds(low, high)


def _refuse_infinite(
    place: int, given: list[np.ndarray], name: str, wrong: float, params: Params, structure: TreeSpec
) -> NoReturn:
    """Raise for a bound that leaves no finite number at this component of the flat vector."""
    for side, leaf, path in zip(given, structure.optimized, _optimized_paths(params, structure), strict=True):
        if place < side.size:
            raise ValueError(
                f"bounds.{name} of {path} is {side[place]} at component {place}, which leaves no finite {leaf.dtype}. "
                f"Where there is no {name} bound write None or {-wrong}."
            )
        place -= side.size
    raise AssertionError("the place lies in no leaf")


def _flatten_side(side: PyTree, default: float, name: str, params: Params, structure: TreeSpec) -> list[Side]:
    """Return the bounds of each optimized leaf, ravelled."""
    flat = []
    for place, (leaf, value) in enumerate(zip(structure.leaves, spread_prefix(side, params, name), strict=True)):
        if leaf.kind == "free":
            try:
                flat.append(np.full(leaf.size, default) if value is None else _spread_value(value, leaf.shape))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name} of {leaf_paths(params)[place]} {error}") from error.__cause__
    return flat


def _spread_value(value: PyTree, shape: tuple[int, ...]) -> Side:
    """Broadcast a bound to a leaf, ravelled. The errors continue the sentence "bounds.lower of params['w']"."""
    if not is_traced(value):
        array = np.asarray(_as_float(value) if isinstance(value, int) else value)
        if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"must be a real number or array, not {value!r}.")
        value = array.astype(np.float64)
    try:
        return (jnp if is_traced(value) else np).broadcast_to(value, shape).ravel()
    except ValueError as error:
        raise ValueError(
            f"has shape {np.shape(value)}, which does not broadcast to {shape}. "
            f"Give a scalar, or an array of shape {shape}."
        ) from error


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"is {shorten(value)}, more than a float holds. Use None or an infinity.") from None


def _check_order(lower: np.ndarray, upper: np.ndarray, path: str) -> None:
    for side, name in ((lower, "lower"), (upper, "upper")):
        if np.isnan(side).any():
            raise ValueError(f"bounds.{name} of {path} is NaN at {_first(np.isnan(side))}. Use None or an infinity.")
    if (lower > upper).any():
        where = _first(lower > upper)
        raise ValueError(
            f"bounds of {path} leave nothing at component {where}: lower {lower[where]} is above upper {upper[where]}. "
            "Swap them, or make them equal to hold the component."
        )


def _round_inside(lower: np.ndarray, upper: np.ndarray, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """Round the bounds to numbers of the leaf's type inside them, so that rounding moves no leaf out of bounds."""
    if np.dtype(dtype) == np.float64:
        return lower, upper
    infinity = np.asarray(np.inf, dtype)
    with np.errstate(over="ignore"):  # beyond the range of the type they become infinite
        low, high = lower.astype(dtype), upper.astype(dtype)
        low = np.where(low.astype(np.float64) < lower, np.nextafter(low, infinity), low)
        high = np.where(high.astype(np.float64) > upper, np.nextafter(high, -infinity), high)
        nearest = lower.astype(dtype)
    crossed = low > high  # no number of this type lies between: take the nearest
    low, high = np.where(crossed, nearest, low), np.where(crossed, nearest, high)
    return low.astype(np.float64), high.astype(np.float64)


def _optimized_paths(params: Params, structure: TreeSpec) -> list[str]:
    leaves = zip(leaf_paths(params), structure.leaves, strict=True)
    return [path for path, leaf in leaves if leaf.kind == "free"]


def _first(where: np.ndarray) -> int:
    return int(np.argmax(where))
