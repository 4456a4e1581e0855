"""L-BFGS-B as an Optax transformation, of which each update processes one evaluation of the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ..._core.options import Options, changed
from ..._core.promotion import standard_promotion
from ..._core.status import RUNNING
from ..._problem.bounds import Bounds, flatten_bounds
from ..._problem.params import TreeSpec, partition_params
from ..._problem.prefix import leaf_paths
from ..limits import Box
from .layout import Layout
from .step import start_state
from .update import LbfgsbState, Limits, update

CALL = "updates, state = optimizer.update(grads, state, params, value=value)"


@dataclass(frozen=True)
class Lbfgsb:
    """The two functions of the transformation.

    Args:
        bounds: the bounds, or None.
        options: the settings.
    """

    bounds: Bounds | None
    options: Options

    @property
    def said(self) -> dict[str, Any]:
        """The settings that the user gave: those that are not the defaults of `lbfgsb`."""
        return changed(self.options, Options(gtol=0.0, ftol=0.0))

    def init(self, params: PyTree) -> LbfgsbState:
        """Return the state before the first evaluation."""
        params = jax.tree.map(jnp.asarray, params)
        spec = _read(params)
        with standard_promotion():
            layout = Layout.of(params)
            dtype, x = layout.dtype, layout.ravel(params)
            flat = None if self.bounds is None else flatten_bounds(self.bounds, params, spec)
            box = flat and Box(jnp.asarray(flat.lower, dtype), jnp.asarray(flat.upper, dtype))
            loop = start_state(x, (), self.options.maxcor, 0, box)
            state = LbfgsbState(
                count=loop.nit,
                status=jnp.full((), RUNNING, jnp.int32),
                nit=loop.nit,
                nfev=loop.nfev,
                accepted=jnp.zeros((), bool),
                value=jnp.full((), jnp.inf, dtype),
                grad=jax.tree.map(jnp.zeros_like, params),
                best_value=jnp.full((), jnp.inf, dtype),
                best_params=layout.unravel(loop.x),
                trial=loop.trial,
                x=loop.x,
                x_full_step=loop.x_full_step,
                memory=loop.memory,
                scalars=loop.scalars,
                box=box,
            )
            return jax.tree.map(jnp.copy, state)  # a caller who donates the state donates each array once

    def update(
        self,
        updates: PyTree,
        state: LbfgsbState,
        params: PyTree | None = None,
        *,
        value: Array | float | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, LbfgsbState]:
        """Return the updates that lead to the next trial, and the state.

        Args:
            updates: the gradient at params, as their tree.
            state: the state.
            params: where value and gradient were evaluated.
            value: the objective there.
            extra_args: those of other transformations in a chain; not used.
        """
        if params is None or value is None:
            missing = "params" if params is None else "value"
            raise TypeError(f"lbfgsb needs {missing}= in each update. Write\n    {CALL}")
        _check_structure(updates, params)
        value = jnp.asarray(value)
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(f"value must be a real scalar, not of shape {value.shape} and type {value.dtype}.")
        limits = Limits(*(getattr(self.options, name) for name in Limits._fields))
        return update(updates, state, params, value, limits)


def make_lbfgsb(bounds: Bounds | None, options: Options) -> optax.GradientTransformationExtraArgs:
    """Return the transformation."""
    functions = Lbfgsb(bounds, options)
    init, update = cast(Any, functions.init), cast(Any, functions.update)  # Optax's types know no such state
    return optax.GradientTransformationExtraArgs(init, update)


def lbfgsb_of(method: optax.GradientTransformation | None) -> Lbfgsb | None:
    """Return what a transformation was made of, or None if it is no `lbfgsb`."""
    owner = getattr(method and method.update, "__self__", None)
    return owner if isinstance(owner, Lbfgsb) else None


def _read(params: PyTree) -> TreeSpec:
    """Return the spec of the params.

    Raises:
        TypeError: a leaf is not floating-point.
    """
    spec, *_ = partition_params(params, None)
    for path, leaf in zip(leaf_paths(params), spec.leaves, strict=True):
        if leaf.kind != "free":
            what = repr(leaf.static.value) if leaf.static else f"of type {leaf.dtype}"
            raise TypeError(
                f"{path} is {what}; lbfgsb takes trees of floating-point arrays. Leave others out with "
                "optax.masked, eqx.filter(model, eqx.is_inexact_array) or nnx.Param."
            )
    return spec


def _check_structure(updates: PyTree, params: PyTree) -> None:
    """Raise ValueError if the gradient has not the tree and the shapes of params."""
    trees = [jax.tree.structure(each) for each in (updates, params)]
    if trees[0] != trees[1]:
        raise ValueError(f"The gradient has another tree than params: {trees[0]}, not {trees[1]}.")
    for path, grad, leaf in zip(leaf_paths(params), *map(jax.tree.leaves, (updates, params)), strict=True):
        if np.shape(grad) != np.shape(leaf):
            raise ValueError(f"The gradient of {path} has shape {np.shape(grad)}, not {np.shape(leaf)}.")
