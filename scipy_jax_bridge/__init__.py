"""Minimize a JAX function over a tree of parameters, with SciPy or with a loop that stays on the device."""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError, version as _version
from typing import Any as _Any

from ._adapt import Adapter as Adapter, adapt as adapt
from ._autodiff.traced import TracedCall as TracedCall
from ._autodiff.warning import DerivativeWarning as DerivativeWarning
from ._compare.compare import Comparison as Comparison, compare as compare
from ._core.agreement import EveryProcess as EveryProcess
from ._core.errors import HeldLeafWarning as HeldLeafWarning
from ._core.monitor import Progress as Progress
from ._core.options import Options as Options, OptionsDict as OptionsDict
from ._core.status import Status as Status
from ._lbfgsb import lbfgsb as lbfgsb
from ._minimize import Minimizer as Minimizer, minimize as minimize
from ._pickles import accept_old_names as _accept_old_names
from ._problem.bounds import Bounds as Bounds
from ._problem.host import HostObjective as HostObjective, host_objective as host_objective
from ._problem.nonfinite import NonfiniteStart as NonfiniteStart
from ._problem.recompilation import RecompilationWarning as RecompilationWarning
from ._result import Result as Result, Timing as Timing, Trace as Trace


def _publish(names: dict[str, _Any]) -> None:
    """Set the module of public names to this package, for errors, pickles and documentation."""
    for name, value in names.items():
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(f"{__name__}."):
            value.__module__ = __name__


_publish(dict(globals()))
_accept_old_names()

try:
    __version__ = _version("scipy_jax_bridge")
except _PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
