"""Compile what SciPy's methods evaluate: the objective alone or with its gradient, and second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._backend import Compiled, Program
from .._core.options import Options
from .._core.types import FlatVector
from .._problem.objective import Data, FlatObjective
from .._problem.problem import Problem
from .._problem.second_order import second_order_key
from .methods import METHODS


class ScipyPrograms(NamedTuple):
    """The compiled programs; None for what the method does not use."""

    evaluate: Program  # x, data -> [value, gradient...] or [value], aux
    product: Program | None = None  # x, v, data -> H v, None
    hessian: Program | None = None  # x, data -> H, None


def compile_scipy(problem: Problem, method: str, options: Options) -> Compiled[ScipyPrograms]:
    """Compile the programs that the method calls, or find them compiled."""
    needs = METHODS[method].derivatives
    x = jax.ShapeDtypeStruct((problem.spec.params.size,), problem.spec.dtype)
    wanted: dict[str, tuple[Callable[[FlatObjective], Program], tuple[jax.ShapeDtypeStruct, ...]]] = {
        "evaluate": (_bare if needs == "none" else _packed, (x,))
    }
    if needs == "product":
        wanted["product"] = (_product, (x, x))
    elif needs == "hessian":
        wanted["hessian"] = (_hessian, (x,))
    programs, seconds = {}, []
    for name, (make, inputs) in wanted.items():
        key = None if name == "evaluate" else second_order_key(problem)
        programs[name], spent = problem.compile(
            ("scipy", make.__name__, key),
            lambda make=make, inputs=inputs: (jax.jit(make(problem.spec.flat)), (*inputs, problem.data)),
        )
        seconds.append(spent)
    return Compiled(
        programs=ScipyPrograms(**programs),
        seconds=sum(seconds),
        compiles=sum(spent > 0 for spent in seconds),
        evaluate=programs["evaluate"],
        has_grad=needs != "none",
        only_evaluates=len(programs) == 1,
    )


def _packed(flat: FlatObjective) -> Program:
    # Value and gradient and no more: another output would change their last bits, and with them SciPy's path.
    def packed(x: FlatVector, data: Data) -> tuple[Float[Array, " n_and_1"], PyTree]:
        value, grad, aux = flat.value_and_grad(x, data)
        return jnp.concatenate([value[None], grad]), aux

    return packed


def _bare(flat: FlatObjective) -> Program:
    def bare(x: FlatVector, data: Data) -> tuple[Float[Array, " 1"], PyTree]:
        value, aux = flat.value(x, data)
        return value[None], aux

    return bare


def _product(flat: FlatObjective) -> Program:
    def product(x: FlatVector, v: FlatVector, data: Data) -> tuple[FlatVector, None]:
        return _hessian_times(flat, x, data)(v), None

    return product


def _hessian(flat: FlatObjective) -> Program:
    def hessian(x: FlatVector, data: Data) -> tuple[Float[Array, "n n"], None]:
        multiply = _hessian_times(flat, x, data)
        return jax.vmap(multiply)(jnp.eye(x.size, dtype=x.dtype)).T, None

    return hessian


def _hessian_times(flat: FlatObjective, x: FlatVector, data: Data) -> Callable[[FlatVector], FlatVector]:
    """Return v -> H v.

    Forward over reverse differentiation; reverse over reverse where a rule of jax.custom_vjp forbids forward mode.
    """

    def gradient(x: FlatVector) -> FlatVector:
        return flat.value_and_grad(x, data)[1]

    def forward(v: FlatVector) -> FlatVector:
        return jax.jvp(gradient, (x,), (v,))[1]

    try:
        jax.eval_shape(jax.vmap(forward), x[None])  # without vmap, JAX raises only when it compiles
        return forward
    except (TypeError, ValueError, NotImplementedError) as error:
        first = error
    try:
        _, pull = jax.vjp(gradient, x)
        jax.eval_shape(pull, x)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise TypeError(
            "this method uses second derivatives, and JAX cannot differentiate the gradient of fun again, neither "
            f"forward ({_first_line(first)}) nor in reverse ({_first_line(error)}). Take a method that uses the "
            "gradient alone, such as L-BFGS-B or BFGS, or mend the rule of jax.custom_vjp."
        ) from error
    return lambda v: pull(v)[0]  # H is symmetric


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
