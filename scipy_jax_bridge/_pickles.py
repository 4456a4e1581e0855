"""Load the pickles of version 0.1, which name the modules that held its classes."""

import sys

from ._core import options, status, trace
from ._problem import bounds

PACKAGE = __name__.partition(".")[0]
MOVED = {"_bounds": bounds, "_options": options, "_status": status, "_trace": trace}


def accept_old_names() -> None:
    """Let `import` find the old modules, as pickle asks for them."""
    for name, module in MOVED.items():
        sys.modules.setdefault(f"{PACKAGE}.{name}", module)
