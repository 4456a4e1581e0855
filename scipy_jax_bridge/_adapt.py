"""An objective as NumPy functions of one vector, for those who own the loop: `adapt` and what it returns."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
from jaxtyping import Array, Float, PyTree

from ._autodiff.traced import TracedCall
from ._backend import choose_backend
from ._core.boundary import boundary
from ._core.context import enable_x64, has_float64, solve_context, to_host
from ._core.forks import EmptiedByFork, note_use, refuse_fork
from ._core.monitor import SolveMonitor
from ._core.types import HostVector, Objective, Params, is_traced
from ._preparation import Preparation
from ._problem.bounds import Bounds, read_bounds
from ._problem.validation import check_settings

if TYPE_CHECKING:
    from ._scipy.numpy_objective import NumpyObjective

Point = np.ndarray | Array | Sequence[int | float]  # the free components


class _Memory(threading.local):
    """The last point of a thread as bytes; its value, with the gradient behind it if known."""

    def __init__(self) -> None:
        self.last: list[Any] = [None, None]


class Adapter:
    """A JAX objective as NumPy functions of one vector x; `adapt` makes it.

    Every function takes and returns NumPy arrays, and gives back NaN and infinity as they are. What comes back is
    read-only, as NumPy's view of a JAX array is. Each function compiles its own program at its first call. A value or a
    gradient that was computed at the same point in the last call of the same thread is not computed again. x may leave
    the bounds: they are for the solver to keep.

    Threads may share it. It can be pickled if the objective can, for processes that are started anew; a forked
    process cannot use it.
    """

    def __init__(self, fun: Objective, params: Params, args: PyTree, double: bool, **settings: Any) -> None:
        self._fun, self._params, self._args, self._settings = fun, params, args, settings
        self._preparation: Preparation | None = None
        self._programs = EmptiedByFork[str, Callable[..., tuple[np.ndarray, PyTree]]]()
        self._memory = _Memory()
        self._double = double  # the precision of the call of `adapt`

    def __repr__(self) -> str:
        return f"Adapter({getattr(self._fun, '__name__', None) or repr(self._fun)}, {self._host.shape[0]} components)"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call with NumPy arrays; what is loaded touches JAX at its first use only."""
        params, args = to_host((self._params, self._args))
        return functools.partial(Adapter, **self._settings), (self._fun, params, args, self._double)

    @property
    def x0(self) -> HostVector:
        """The start: the free components of params, in float64, clipped to the bounds."""
        return self._host.reduce(self._host.start())

    @property
    def bounds(self) -> scipy.optimize.Bounds | None:
        """The bounds of x; None without bounds."""
        return self._host.bounds()

    @property
    def names(self) -> list[str]:
        """The path of every component of x, such as kernel.variance or w[0, 2]."""
        return self._host.names(self._params)

    def fun(self, x: Point) -> float:
        """Return the objective. Its program computes no gradient."""
        x = np.asarray(x, np.float64)
        key, last = x.tobytes(), self._memory.last
        if last[0] != key:
            last[:] = key, self._run("value", x)
        return last[1].item(0)

    def jac(self, x: Point) -> HostVector:
        """Return the gradient."""
        return self.value_and_grad(x)[1]

    def value_and_grad(self, x: Point) -> tuple[float, HostVector]:
        """Return the objective and its gradient, from one program; for jac=True in SciPy."""
        x = np.asarray(x, np.float64)
        key, last = x.tobytes(), self._memory.last
        packed = last[1]
        if last[0] != key or len(packed) == 1:
            try:  # directly, since microseconds count here
                packed = self._programs["gradient"](x)[0]
            except (KeyError, TypeError):  # it is not compiled yet, x is wrong, or the precision is another one
                packed = None
            packed = self._run("gradient", x) if packed is None else packed
            last[:] = key, packed
        return packed.item(0), packed[1:]

    def hess(self, x: Point) -> Float[np.ndarray, "n n"]:
        """Return the Hessian."""
        return self._run("hessian", x)

    def hessp(self, x: Point, p: Point) -> HostVector:
        """Return the product of the Hessian with a vector."""
        return self._run("product", x, p)

    def ravel(self, params: Params) -> HostVector:
        """Return x for a tree like params. What is held keeps its start.

        Raises:
            ValueError: the tree or the shape of a leaf differs from that of params.
        """
        return self._host.from_params(params)

    def unravel(self, x: Point) -> Params:
        """Return x as a tree like params, each leaf in its type and on its device."""
        with self._context():
            return self._host.to_params(self._host.restore(self._read(x)))

    @boundary
    def with_args(self, args: Any) -> Adapter:
        """Return the same with other args. It compiles nothing if their shapes and types are the same."""
        other = Adapter(self._fun, self._params, args, self._double, **self._settings)
        other._preparation = self._preparation
        return other._checked()

    def _checked(self) -> Adapter:
        """Trace the objective; raise if the call is invalid."""
        _refuse_traced((self._params, self._args))
        _refuse_traced(self._host.problem.data)  # what the objective closes over
        return self

    @functools.cached_property
    def _hosts(self) -> tuple[NumpyObjective, NumpyObjective | Exception]:
        """The objective traced alone and with its gradient; the exception if it has none."""
        refuse_fork()
        backend = choose_backend("scipy", "Nelder-Mead")  # uses no gradient
        from ._scipy.fixed import find_fixed
        from ._scipy.numpy_objective import NumpyObjective

        with self._context(), SolveMonitor():
            preparation = self._preparation or Preparation(backend, self._fun, has_aux=False, **self._settings)
            problem = preparation.prepare_eagerly(self._params, self._args, solves=False)
            held = find_fixed(problem.bounds)
            host = NumpyObjective(problem, held)
            try:
                slope = NumpyObjective(preparation.prepare(self._params, self._args, with_grad=True), held)
            except Exception as error:
                slope = error.with_traceback(None)
        note_use()
        self._preparation = preparation
        self._params, self._args = problem.trees()  # not the arrays of the caller, who may change them
        return host, slope

    @functools.cached_property
    def _host(self) -> NumpyObjective:
        return self._hosts[0]

    def _context(self) -> AbstractContextManager[None]:
        """The precision and the device of the call of `adapt`."""
        return solve_context("float64" if self._double else None, self._params)

    def _read(self, x: Point) -> HostVector:
        x = np.asarray(x, np.float64)
        if x.shape != self._host.shape:
            raise ValueError(f"a vector must have the shape of x0, {self._host.shape}, not {x.shape}.")
        return x

    def _run(self, name: str, x: Point, *steps: Point) -> np.ndarray:
        inputs = [self._read(each) for each in (x, *steps)]
        run = self._programs.get(name) or self._compile(name)
        with enable_x64(True) if self._double and not has_float64() else nullcontext():
            return run(*inputs)[0]

    def _compile(self, name: str) -> Callable[..., tuple[np.ndarray, PyTree]]:
        refuse_fork()
        host = self._hosts[name != "value"]
        if isinstance(host, Exception):
            raise host
        with self._context(), SolveMonitor():
            return self._programs.setdefault(name, host.function(name))


@boundary
def adapt(
    fun: Objective,
    params: Params,
    args: Any = (),
    *,
    bounds: Bounds | tuple[Any, Any] | Mapping[str, Any] | None = None,
    fixed: Any = None,
    precision: str | None = None,
) -> Adapter:
    """Make NumPy functions of one vector from a JAX objective, for a solver that `minimize` does not drive.

    What the objective reads from outside its arguments keeps the value that it has now.

    Args:
        fun: as in `minimize`; it returns the scalar alone.
        params: as in `minimize`. Components that `fixed` or equal bounds hold are no components of x.
        args: as in `minimize`. Default ().
        bounds: as in `minimize`. Default None.
        fixed: as in `minimize`. Default None.
        precision: as in `minimize`. Default None.

    Returns:
        An Adapter.

    Raises:
        TypeError, ValueError: as `minimize`.
        TracedCall, RuntimeError: it was called inside jit, vmap or grad; or in a process forked from one that uses JAX.

    Examples:
        >>> import jax.numpy as jnp
        >>> import scipy.optimize
        >>> import scipy_jax_bridge as sjb
        >>> problem = sjb.adapt(lambda p: jnp.sum((p["w"] - 2.0) ** 2) + p["b"] ** 2, {"w": jnp.zeros(2), "b": 1.0})
        >>> problem.names
        ['b', 'w[0]', 'w[1]']
        >>> local = {"jac": True, "method": "L-BFGS-B"}
        >>> found = scipy.optimize.basinhopping(problem.value_and_grad, problem.x0, niter=2, minimizer_kwargs=local)
        >>> [round(float(each), 3) for each in problem.unravel(found.x)["w"]]
        [2.0, 2.0]
    """
    check_settings(fun, None, False, False, precision)
    found = read_bounds(bounds)
    sides = (None, None) if found is None else (found.lower, found.upper)
    _refuse_traced((sides, fixed))
    sides, fixed = to_host((sides, fixed))
    double = precision is not None or has_float64()
    return Adapter(fun, params, args, double, bounds=read_bounds(sides), fixed=fixed, precision=precision)._checked()


def _refuse_traced(given: PyTree) -> None:
    if is_traced(given):
        raise TracedCall("adapt makes functions of NumPy arrays. Call it outside jax.jit, jax.vmap and jax.grad.")
