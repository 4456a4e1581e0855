"""How errors suggest the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def unknown_name(kind: str, name: object, names: Iterable[str], owner: str = "") -> str:
    """A sentence such as: unknown option 'gtoll' for method 'CG'; did you mean 'gtol'? Known: ..."""
    known = {_letters(each): each for each in sorted(names)}
    close = difflib.get_close_matches(_letters(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {known[close[0]]!r}?" if close else "."
    place = f" for {owner}" if owner else ""
    return f"unknown {kind} {name!r}{place}{hint} Known: {', '.join(known.values()) or 'none'}."


def _letters(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
