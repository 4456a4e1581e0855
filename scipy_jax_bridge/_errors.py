"""How errors suggest the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: object, names: Iterable[str]) -> str:
    """A sentence such as: unknown option 'gtoll'; did you mean 'gtol'? Known are ..."""
    known = sorted(names)
    close = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}."
