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

F = TypeVar("F", bound=Callable[..., Any])

DERIVATIVES = "JAX differentiates fun; leave it out. A rule of your own is a jax.custom_vjp of fun."
START = "The start is the second argument, params."
WORDS = {  # of other libraries, with what to write here
    **dict.fromkeys(("jac", "grad", "hess", "hessp", "value_and_grad"), DERIVATIVES),
    **dict.fromkeys(("x0", "y0", "init", "init_params", "initial_guess"), START),
    "tol": "Write options={'gtol': ...} for the gradient, options={'ftol': ...} for the objective.",
    "constraints": "There are bounds= and fixed= only; put other constraints into fun, as a penalty or a change of "
    "variables.",
    "learning_rate": "It belongs to the transformation: backend='optax', method=optax.adam(learning_rate).",
    **dict.fromkeys(
        ("disp", "verbose", "verbosity"), "progress=True shows a progress bar; print(result) says the rest."
    ),
    **dict.fromkeys(("dtype", "x64"), "precision='float64' solves in double precision."),
    **dict.fromkeys(("mask", "frozen", "freeze", "trainable"), "fixed= holds parts of params, by path or by a mask."),
}
OPTIONS = {
    "max_iter": "maxiter",
    "max_steps": "maxiter",
    "maxfev": "maxfun",
    "memory": "maxcor",
    "history_size": "maxcor",
}
SHOWN = PACKAGE_ROOT / "models"  # objectives, as a user's are


def boundary(function: F) -> F:
    """Explain unknown keyword arguments, and hide the package's frames from tracebacks as JAX hides its own.

    Every exception that accepts attributes has `best_result`, which is None before a solve begins.

    `jax.config.update("jax_traceback_filtering", "off")` shows them.
    """
    signature = inspect.signature(function)
    known = [name for name in signature.parameters if name != "self"]
    takes_any = any(each.kind == each.VAR_KEYWORD for each in signature.parameters.values())

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # read by IPython and pytest
        try:
            if not takes_any and not kwargs.keys() <= signature.parameters.keys():
                raise TypeError(explain_keyword(next(name for name in kwargs if name not in known), known))
            return function(*args, **kwargs)
        except BaseException as error:
            if not hasattr(error, "best_result"):  # no solve has begun
                with suppress(Exception):
                    error.best_result = None  # type: ignore[attr-defined]
            if isinstance(error, Exception):
                _add_notes(error, signature, args, kwargs)
            if jax.config.jax_traceback_filtering == "off":  # type: ignore[attr-defined]
                raise
            raise error.with_traceback(_filter(error.__traceback__))  # noqa: B904  # the same error, with its cause

    return call  # type: ignore[return-value]


def explain_keyword(name: str, known: Iterable[str], owner: str = "") -> str:
    """Return what to write in place of an unknown keyword argument."""
    if name in WORDS:
        return f"there is no argument {name!r}. {WORDS[name]}"
    option = OPTIONS.get(name, name)
    if option in OptionsDict.__annotations__:
        return f"{name!r} is no argument but an option: write options={{{option!r}: ...}}."
    return unknown_name("keyword argument", name, known, owner)


def _add_notes(error: Exception, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with suppress(Exception):  # an error of its own would hide the caller's
        for note in _describe_foreign(signature.bind_partial(*args, **kwargs).arguments):
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
