"""The boundary between the caller and the package: cures for words of other libraries, and short tracebacks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax

from .errors import PACKAGE_ROOT, unknown_name
from .options import OptionsDict
from .words import OPTIONS, WORDS

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS = "all else is given to Minimizer when it is made"
SHOWN = PACKAGE_ROOT / "models"  # objectives, as a user's are


def boundary(function: F) -> F:
    """Explain unknown keyword arguments, and hide the package's frames from tracebacks as JAX hides its own.

    Every exception that accepts attributes has `best_result`, which is None before a solve begins.

    `jax.config.update("jax_traceback_filtering", "off")` shows them.
    """
    signature = inspect.signature(function)
    known = [name for name in signature.parameters if name != "self"]
    positions = [name for name, each in signature.parameters.items() if each.kind == each.POSITIONAL_OR_KEYWORD]
    takes_any = any(each.kind == each.VAR_KEYWORD for each in signature.parameters.values())

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # read by IPython and pytest
        try:
            if len(args) > len(positions):
                raise TypeError(_explain_positions(function.__qualname__, positions, known))
            if not takes_any and not kwargs.keys() <= signature.parameters.keys():
                raise TypeError(explain_keyword(next(name for name in kwargs if name not in known), known))
            return function(*args, **kwargs)
        except BaseException as error:
            if not hasattr(error, "best_result"):  # no solve has begun
                with suppress(Exception):
                    error.best_result = None  # type: ignore[attr-defined]
            if isinstance(error, Exception):
                _add_notes(error, signature, args, kwargs)
            if jax.config.jax_traceback_filtering != "off":  # type: ignore[attr-defined]
                error.__traceback__ = _filter(error.__traceback__)
            raise  # and not `raise error`, which would add this frame

    return call  # type: ignore[return-value]


def explain_keyword(name: str, known: Iterable[str], owner: str = "") -> str:
    """Return what to write in place of an unknown keyword argument."""
    if name in WORDS:
        return f"there is no argument {name!r}. {WORDS[name]}"
    option = OPTIONS.get(name, name)
    if option in OptionsDict.__annotations__:
        return f"{name!r} is no argument but an option: write options={{{option!r}: ...}}."
    return unknown_name("keyword argument", name, known, owner)


def _explain_positions(name: str, positions: list[str], known: list[str]) -> str:
    """Return what may be given by position."""
    names = [each for each in positions if each != "self"]
    by_position = " and ".join(", ".join(names).rsplit(", ", 1))
    rest = "all else is named, as in backend='optax'" if len(known) > len(names) else SETTINGS
    one_tuple = " args is one tuple, as in (x, y)." if "args" in names else ""
    return f"{name.removesuffix('.__init__')} takes {by_position} by position; {rest}.{one_tuple}"


def _add_notes(error: Exception, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with suppress(Exception):  # an error of its own would hide the caller's
        given = signature.bind_partial(*args, **kwargs).arguments
        for note in [*_describe_foreign(given), *(_describe_lists(given) if isinstance(error, TypeError) else ())]:
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)


def _describe_foreign(given: Mapping[str, Any]) -> Iterator[str]:
    """Say of leaves that JAX does not take, and that are not settings, how to convert them."""
    for name in ("params", "args"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(given.get(name)):
            library, _, rest = type(leaf).__module__.partition(".")
            where, kind = name + jax.tree_util.keystr(path), type(leaf).__name__
            if library in ("pandas", "polars", "xarray"):
                yield f"{where} is a {kind} of {library}, which JAX cannot compute with: pass {where}.to_numpy()."
            elif library == "scipy" and rest.startswith("sparse"):
                yield (
                    f"{where} is a {kind} of scipy.sparse, which JAX cannot compute with: pass {where}.toarray(), or "
                    f"jax.experimental.sparse.BCOO.from_scipy_sparse({where})."
                )
            elif library == "torch":
                yield f"{where} is a {kind} of torch, which JAX cannot compute with: pass {where}.numpy()."


def _describe_lists(given: Mapping[str, Any]) -> Iterator[str]:
    """Say of lists that they are trees, where a type is wrong."""
    if isinstance(given.get("args"), list):
        yield "args is a list, which is one argument of fun: write a tuple with one entry for each, args=(x, y)."
    for name in ("params", "args"):
        for path, node in jax.tree_util.tree_leaves_with_path(given.get(name), is_leaf=_is_list_of_numbers):
            if _is_list_of_numbers(node):
                where = name + jax.tree_util.keystr(path)
                yield f"{where} is a list, which is a tree of leaves and no array: np.array({where}) is one."


def _is_list_of_numbers(node: Any) -> bool:
    return isinstance(node, list) and bool(node) and all(isinstance(each, (int, float)) for each in node)


def _filter(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the frames of the package."""
    kept = []
    while traceback is not None:
        file = Path(traceback.tb_frame.f_code.co_filename)
        if PACKAGE_ROOT not in file.parents or SHOWN in file.parents:
            kept.append(traceback)
        traceback = traceback.tb_next
    filtered = None
    for each in reversed(kept):
        filtered = TracebackType(filtered, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return filtered
