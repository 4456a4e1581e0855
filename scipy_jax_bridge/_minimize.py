"""The function `minimize`: one call, two backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, cast, overload

from jax import Array

from ._backend import BACKENDS as BACKENDS
from ._core.boundary import boundary
from ._core.monitor import Callback
from ._core.options import Options
from ._core.types import Aux, Number, Objective, P, Params
from ._minimizer import Minimizer as Minimizer
from ._problem.bounds import Bounds
from ._problem.traces import ProvedTraces
from ._result import Result
from ._settings import A, Arrays, NoArgs, Numbers, Optax, OptaxAux, Scipy, ScipyAux, Ts

if TYPE_CHECKING:
    Start: TypeAlias = P | Result[P, Any]

    # What a type checker finds: the start belongs to the objective, and so do args; the method belongs to the backend.
    # An array or a dict of arrays may start from numbers. Each for both backends, without and with auxiliary output.
    @overload
    def minimize(
        fun: Callable[[Array], Number], params: Number, args: NoArgs = ..., **rest: Unpack[Scipy]
    ) -> Result[Array, None]: ...
    @overload
    def minimize(
        fun: Callable[[Array], Number], params: Number, args: NoArgs = ..., **rest: Unpack[Optax]
    ) -> Result[Array, None]: ...
    @overload
    def minimize(
        fun: Callable[[Array], tuple[Number, Aux]], params: Number, args: NoArgs = ..., **rest: Unpack[ScipyAux]
    ) -> Result[Array, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[Array], tuple[Number, Aux]], params: Number, args: NoArgs = ..., **rest: Unpack[OptaxAux]
    ) -> Result[Array, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[Array, *Ts], Number], params: Number, args: tuple[*Ts], **rest: Unpack[Scipy]
    ) -> Result[Array, None]: ...
    @overload
    def minimize(
        fun: Callable[[Array, *Ts], Number], params: Number, args: tuple[*Ts], **rest: Unpack[Optax]
    ) -> Result[Array, None]: ...
    @overload
    def minimize(
        fun: Callable[[Array, *Ts], tuple[Number, Aux]], params: Number, args: tuple[*Ts], **rest: Unpack[ScipyAux]
    ) -> Result[Array, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[Array, *Ts], tuple[Number, Aux]], params: Number, args: tuple[*Ts], **rest: Unpack[OptaxAux]
    ) -> Result[Array, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[Arrays], Number], params: Numbers, args: NoArgs = ..., **rest: Unpack[Scipy]
    ) -> Result[Arrays, None]: ...
    @overload
    def minimize(
        fun: Callable[[Arrays], Number], params: Numbers, args: NoArgs = ..., **rest: Unpack[Optax]
    ) -> Result[Arrays, None]: ...
    @overload
    def minimize(
        fun: Callable[[Arrays], tuple[Number, Aux]], params: Numbers, args: NoArgs = ..., **rest: Unpack[ScipyAux]
    ) -> Result[Arrays, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[Arrays], tuple[Number, Aux]], params: Numbers, args: NoArgs = ..., **rest: Unpack[OptaxAux]
    ) -> Result[Arrays, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[Arrays, *Ts], Number], params: Numbers, args: tuple[*Ts], **rest: Unpack[Scipy]
    ) -> Result[Arrays, None]: ...
    @overload
    def minimize(
        fun: Callable[[Arrays, *Ts], Number], params: Numbers, args: tuple[*Ts], **rest: Unpack[Optax]
    ) -> Result[Arrays, None]: ...
    @overload
    def minimize(
        fun: Callable[[Arrays, *Ts], tuple[Number, Aux]], params: Numbers, args: tuple[*Ts], **rest: Unpack[ScipyAux]
    ) -> Result[Arrays, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[Arrays, *Ts], tuple[Number, Aux]], params: Numbers, args: tuple[*Ts], **rest: Unpack[OptaxAux]
    ) -> Result[Arrays, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[P], Number], params: Start[P], args: NoArgs = ..., **rest: Unpack[Scipy]
    ) -> Result[P, None]: ...
    @overload
    def minimize(
        fun: Callable[[P], Number], params: Start[P], args: NoArgs = ..., **rest: Unpack[Optax]
    ) -> Result[P, None]: ...
    @overload
    def minimize(
        fun: Callable[[P], tuple[Number, Aux]], params: Start[P], args: NoArgs = ..., **rest: Unpack[ScipyAux]
    ) -> Result[P, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[P], tuple[Number, Aux]], params: Start[P], args: NoArgs = ..., **rest: Unpack[OptaxAux]
    ) -> Result[P, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[P, *Ts], Number], params: Start[P], args: tuple[*Ts], **rest: Unpack[Scipy]
    ) -> Result[P, None]: ...
    @overload
    def minimize(
        fun: Callable[[P, *Ts], Number], params: Start[P], args: tuple[*Ts], **rest: Unpack[Optax]
    ) -> Result[P, None]: ...
    @overload
    def minimize(
        fun: Callable[[P, *Ts], tuple[Number, Aux]],
        params: Start[P],
        args: tuple[*Ts],
        **rest: Unpack[ScipyAux],
    ) -> Result[P, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[P, *Ts], tuple[Number, Aux]],
        params: Start[P],
        args: tuple[*Ts],
        **rest: Unpack[OptaxAux],
    ) -> Result[P, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[P, A], Number], params: Start[P], args: A, **rest: Unpack[Scipy]
    ) -> Result[P, None]: ...
    @overload
    def minimize(
        fun: Callable[[P, A], Number], params: Start[P], args: A, **rest: Unpack[Optax]
    ) -> Result[P, None]: ...
    @overload
    def minimize(
        fun: Callable[[P, A], tuple[Number, Aux]], params: Start[P], args: A, **rest: Unpack[ScipyAux]
    ) -> Result[P, Aux]: ...
    @overload
    def minimize(
        fun: Callable[[P, A], tuple[Number, Aux]], params: Start[P], args: A, **rest: Unpack[OptaxAux]
    ) -> Result[P, Aux]: ...


@boundary
def minimize(
    fun: Objective,
    params: Params,
    args: Any = (),
    *,
    backend: str = "scipy",
    method: Any = None,
    bounds: Bounds | tuple[Any, Any] | Mapping[str, Any] | None = None,
    fixed: Any = None,
    has_aux: bool = False,
    options: Options | Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    precision: str | None = None,
) -> Result[Any, Any]:
    """Minimize a JAX function over a tree of parameters.

    minimize over params:  fun(params, *args),  subject to  lower <= params <= upper.

    Args:
        fun: fun(params, *args) returns a real scalar, or (scalar, aux) with has_aux. Traced by JAX, at each call
            unless it is proved that what it reads from outside is the same. Arrays that it closes over are inputs of
            the compiled program; objectives that compute the same share one. Or a `host_objective`, which Python
            evaluates.
        params: the start, any tree. Floating-point arrays and floats are optimized. Everything else (integers,
            booleans, strings, functions) is passed through unchanged. A start outside the bounds is clipped.
            Or a Result to continue from. The device loop continues bit for bit as if it had never stopped, if
            objective, data, bounds, method and maxcor are the same; limits count from the first start. Otherwise,
            and always with SciPy, the solve starts at the result's params with fresh memory, and the note of the
            new result names what differs.
        args: further arguments of fun, a tuple of trees. Arrays and numbers are inputs of the compiled program, so
            new values compile nothing; all else is static. Default ().
        backend: "scipy" (SciPy runs on the host) or "optax" (one loop, all on the device). Default "scipy".
        method: scipy: the name of a method of scipy.optimize.minimize, None for L-BFGS-B. optax: an
            optax.GradientTransformation, None for sjb.lbfgsb(). Default None.
        bounds: Bounds(lower, upper) or the pair; each side None, a scalar or a prefix tree. Or a dict of pairs by
            path, {"alpha": (0, 1), "kernel.variance": (0, None)}. What is not named is unbounded. Default None.
        fixed: a prefix tree of booleans, or a dict by path, {"kernel.variance": True}; what is marked True keeps its
            start, what is not named is free. An array of booleans marks components of a leaf. Default None.
        has_aux: whether fun returns (value, aux). Default False.
        options: Options or a mapping of its fields, for SciPy together with the method's own. Default None.
        callback: callback(progress), called once per iteration, in the device loop once per chunk, about ten times
            a second. StopIteration ends the solve. Of several processes the first one calls it; see EveryProcess.
            Default None.
        progress: whether to show a progress bar (needs tqdm). Default False.
        precision: "float64" solves in double precision without the global flag; None in the type of the leaves,
            at least float32. Default None.

    Returns:
        A Result: params, fun, jac, aux, nit, nfev, status, success, message, trace, timing.

    Raises:
        TypeError, ValueError: the call is invalid. The message names the place (the path of the leaf) and the cure.
        NonfiniteStart: a ValueError; the objective or its gradient is not finite at the start.
        TracedCall: a RuntimeError; inside jit or vmap, backend "scipy" or an argument that needs the host (callback,
            progress, timeout, another precision) was requested. In jax.grad of a call that is not jitted, all but
            precision work.
        Exception: whatever the objective or the callback raises, with the best result so far as its attribute
            `best_result`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> def loss(params, x, y):
        ...     return jnp.mean((params["slope"] * x + params["offset"] - y) ** 2)
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> result = sjb.minimize(loss, {"slope": 0.0, "offset": 0.0}, (x, 2.0 * x + 1.0), backend="optax")
        >>> round(float(result.params["slope"]), 3)
        2.0
    """
    make = cast(Any, Minimizer)  # the overloads above have checked the types
    solve = make(
        fun,
        backend=backend,
        method=method,
        bounds=bounds,
        fixed=fixed,
        has_aux=has_aux,
        options=options,
        callback=callback,
        progress=progress,
        precision=precision,
    )
    solve._preparation.traces = ProvedTraces(fun)  # trace again, unless it is proved that nothing has changed
    return solve(params, args)
