"""A figure that a notebook shows without pyplot. Importing this module needs Matplotlib; importing others does not."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that a notebook shows without pyplot; a class of its own module, so that it can be pickled."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()
