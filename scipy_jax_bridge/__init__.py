"""Minimize a JAX function over a tree of parameters: by SciPy, or by a loop that stays on the device."""

from importlib.metadata import PackageNotFoundError, version

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

try:
    __version__ = version("scipy_jax_bridge")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
