"""When a solve may say that it converged, in one place for every method of both backends.

The tests hold of one point, the one that is handed back. Elementwise, in operators that NumPy's and JAX's numbers
share: the host asks them, and so do the programs.
"""

from __future__ import annotations

from typing import Any

from .status import Status


def is_flat(before: Any, after: Any, ftol: Any) -> Any:
    """FTOL: the objective falls by at most ftol, relative to max(abs(before), abs(after), 1); 0 disables the test.

    A rise is no convergence: not every method descends.
    """
    fell = before - after
    small = (fell <= ftol * abs(before)) | (fell <= ftol * abs(after)) | (fell <= ftol)
    return (ftol > 0) & (fell >= 0) & small


def is_false(status: Any, finite: Any, gtol_holds: Any = True) -> Any:
    """Whether the status claims a success that the point does not bear out.

    Arguments:
        status: what the solve says.
        finite: whether the value, and for methods that use it the gradient, is finite at the point.
        gtol_holds: whether the projected gradient there is at most gtol.
    """
    gtol, ftol = status == Status.GTOL, status == Status.FTOL
    return ((gtol | ftol) & (finite == False)) | (gtol & (gtol_holds == False))  # noqa: E712
