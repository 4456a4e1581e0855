"""Texts of errors that name the nearest known word, and warnings that point at the caller's line."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jaxtyping

PACKAGE_ROOT = Path(__file__).parents[1]
# Frames of JAX, and of the wrappers that tests put around functions, are skipped too.
SKIPPED = (Path(jax.__file__).parent, Path(jaxtyping.__file__).parent)


class HeldLeafWarning(UserWarning):
    """An integer in params is not optimized. The message names its path and the cure."""


def unknown_name(kind: str, name: object, names: Iterable[str], owner: str = "") -> str:
    """Return a sentence such as: unknown option 'gtoll' for method 'CG'; did you mean 'gtol'? Known: ..."""
    names = sorted(names)
    place = f" for {owner}" if owner else ""
    return f"unknown {kind} {name!r}{place}{suggest(name, names)} Known: {', '.join(names) or 'none'}."


def suggest(name: object, names: Iterable[str]) -> str:
    """Return the end of a sentence: the nearest of the names, or a full stop."""
    known = {_letters(each): each for each in names}
    close = difflib.get_close_matches(_letters(name), known, n=1, cutoff=0.5)
    return f"; did you mean {known[close[0]]!r}?" if close else "."


def shorten(value: object) -> str:
    """Return the value as an error shows it; for an integer of more than 20 digits, their number."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"
    return repr(value)


def _letters(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the caller: the innermost frame outside this package and JAX that called into them."""
    frame, files = inspect.currentframe(), []
    while frame is not None:
        files.append(Path(frame.f_code.co_filename))
        frame = frame.f_back
    outside = max(level for level, file in enumerate(files) if PACKAGE_ROOT in file.parents) + 1
    while outside < len(files) - 1 and any(home in files[outside].parents for home in SKIPPED):
        outside += 1
    warnings.warn(message, category, stacklevel=outside + 1)


def join_short(names: Sequence[str], shown: int = 4) -> str:
    """Join the first few names, and say how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
