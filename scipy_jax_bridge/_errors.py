"""How errors suggest the nearest name, and where warnings point."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

HOUSE = Path(__file__).parent


def unknown_name(kind: str, name: object, names: Iterable[str], owner: str = "") -> str:
    """A sentence such as: unknown option 'gtoll' for method 'CG'; did you mean 'gtol'? Known: ..."""
    known = {_letters(each): each for each in sorted(names)}
    close = difflib.get_close_matches(_letters(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {known[close[0]]!r}?" if close else "."
    place = f" for {owner}" if owner else ""
    return f"unknown {kind} {name!r}{place}{hint} Known: {', '.join(known.values()) or 'none'}."


def shorten(value: object) -> str:
    """The value in an error; of a number with more digits than anyone reads, their count."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"
    return repr(value)


def _letters(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line outside this package that led here, through whatever lies between."""
    frame, level, outside = inspect.currentframe(), 0, 1
    while frame is not None:
        frame, level = frame.f_back, level + 1
        if frame is not None and Path(frame.f_code.co_filename).parent == HOUSE:
            outside = level + 2
    warnings.warn(message, category, stacklevel=outside)
