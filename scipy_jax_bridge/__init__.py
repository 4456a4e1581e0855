"""Minimize a JAX function over a tree of parameters: by SciPy, or by a loop that stays on the device."""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError, version as _version

from ._bounds import Bounds as Bounds
from ._compare import Comparison as Comparison, compare as compare
from ._derivative import DerivativeWarning as DerivativeWarning
from ._errors import HeldLeafWarning as HeldLeafWarning
from ._guard import RecompilationWarning as RecompilationWarning
from ._minimize import Minimizer as Minimizer, minimize as minimize
from ._options import Options as Options
from ._result import Result as Result, Timing as Timing, Trace as Trace
from ._status import Status as Status
from ._watch import Progress as Progress

for _name, _value in list(vars().items()):  # errors, pickles and pages say where to import it from
    if not _name.startswith("_") and getattr(_value, "__module__", "").startswith(f"{__name__}."):
        _value.__module__ = __name__
del _name, _value

try:
    __version__ = _version("scipy_jax_bridge")
except _PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
