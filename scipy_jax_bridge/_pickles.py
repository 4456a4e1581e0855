"""Load pickles of version 0.1, which name modules that have moved since."""

import sys

from . import _result
from ._core import options, status, trace
from ._problem import bounds

PACKAGE = __name__.partition(".")[0]
MOVED = {"_bounds": bounds, "_options": options, "_status": status, "_trace": trace}


def accept_old_names() -> None:
    """Register modules and classes under their old names, by which pickle imports them."""
    _result.Carry = _result.ResumeState  # type: ignore[attr-defined]
    options.Native = options.FrozenOptions  # type: ignore[attr-defined]
    for name, module in MOVED.items():
        sys.modules.setdefault(f"{PACKAGE}.{name}", module)
