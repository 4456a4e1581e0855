"""The transformation `lbfgsb`, for those who own the loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optax

from ._backend import load
from ._core.options import Options
from ._core.types import Number
from ._problem.bounds import Bounds, read_bounds


def lbfgsb(
    bounds: Bounds | tuple[Any, Any] | Mapping[str, Any] | None = None,
    *,
    maxcor: int = 10,
    maxls: int = 20,
    gtol: Number = 0.0,
    ftol: Number = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Make L-BFGS-B a transformation that is called like Adam: one evaluation of value and gradient a step.

    The line search is in the state. Each update takes the value and the gradient at params and leads to the next
    trial: the next iterate, or another point on the line. So a step may lead to a higher value, and the next one
    goes back.

        x_{k+1} = x_k - t_k H_k g_k

    with t_k by Moré and Thuente's search and H_k by the last `maxcor` pairs, or with bounds the minimum of the
    quadratic model over the box.

    Args:
        bounds: as in `minimize`. Params outside are first moved to the nearest point inside. Default None.
        maxcor: pairs in memory, from 1 to 1000. Default 10.
        maxls: evaluations in one line search, at least 1. Default 20.
        gtol: end when max abs of the projected gradient is at most this, in units of fun / params. Default 0, off.
        ftol: end when the relative reduction of an iteration is at most this. Default 0, off.

    Returns:
        A transformation. `init` takes any tree of floating-point arrays. `update` also takes `value=`, the objective
        at params. Its state is a NamedTuple of arrays; read it with `optax.tree.get(state, "status")`, and likewise
        `count`, `nit`, `nfev`, `value`, `grad`, `best_value`, `best_params` and `accepted`. `status` is -1 while the
        search goes on, then the code of a `Status`. The last update leads to the best point, and later ones are zero.

    The objective must stay the same from step to step. For new data, call `init` again. Params that were changed
    between two steps are noticed: the search goes on along the line to them.

    Raises:
        TypeError, ValueError: a setting is invalid; in `init` a leaf is not floating-point or the bounds do not fit;
            in `update` params or value is missing, or the gradient has another tree. Each message names the place.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> import scipy_jax_bridge as sjb
        >>> loss = lambda params: jnp.sum((params["w"] - 2.0) ** 2)
        >>> optimizer = sjb.lbfgsb(bounds=(None, 1.5))
        >>> params = {"w": jnp.zeros(3)}
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     value, grads = jax.value_and_grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params, value=value)
        ...     params = optax.apply_updates(params, updates)
        >>> params["w"].tolist()
        [1.5, 1.5, 1.5]

    References:
        R. H. Byrd, P. Lu, J. Nocedal and C. Zhu, SIAM J. Scientific Computing 16 (1995), 1190-1208.
        J. J. Moré and D. J. Thuente, ACM Transactions on Mathematical Software 20 (1994), 286-307.
    """
    options = Options(maxcor=maxcor, maxls=maxls, gtol=gtol, ftol=ftol)
    return load("optax").make_lbfgsb(read_bounds(bounds), options)
