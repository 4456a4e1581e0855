"""Compile what SciPy's methods evaluate: the objective alone or with its gradient, and second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from .._backend import Compiled, Program
from .._core.options import Options
from .._core.types import FlatVector, Vector
from .._problem.cache import ToCompile
from .._problem.leaves import shared_mesh
from .._problem.objective import Data, FlatObjective, HostEvaluate
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
    wanted = {"evaluate": "value" if needs == "none" else "gradient"}
    if needs in ("product", "hessian"):
        wanted[needs] = needs
    compiled = {field: compile_program(problem, name) for field, name in wanted.items()}
    programs, seconds = {field: each[0] for field, each in compiled.items()}, [each[1] for each in compiled.values()]
    return Compiled(
        programs=ScipyPrograms(**programs),
        seconds=sum(seconds),
        compiles=sum(spent > 0 for spent in seconds),
        evaluate=programs["evaluate"],
        has_grad=needs != "none",
        only_evaluates=len(programs) == 1,
    )


def compile_program(problem: Problem, name: str) -> tuple[Program, float]:
    """Return a program of the problem and the seconds spent on compiling it now.

    Args:
        problem: traced with its gradient, but for the value alone.
        name: "value", "gradient" (the value in front of it), "product" or "hessian".
    """
    host = problem.spec.objective.host
    if host is not None:
        return host_program(host, name), 0.0
    make, vectors = MAKERS[name]
    key = second_order_key(problem) if name in ("product", "hessian") else None

    def describe() -> ToCompile:
        x = jax.ShapeDtypeStruct((problem.spec.params.size,), problem.spec.dtype)
        compiled, mesh = make(problem.spec.flat), shared_mesh([*problem.start_leaves, *problem.data])
        inputs = (*[x] * vectors, problem.data)
        if mesh is None:
            return jax.jit(compiled), inputs
        read: Any = (NamedSharding(mesh, PartitionSpec()), None)  # by each process
        return jax.jit(compiled, out_shardings=read), inputs

    return problem.compile(("scipy", name, key), describe)


def host_program(host: HostEvaluate, name: str) -> Program:
    """Return what takes the place of a program where Python evaluates the objective.

    Raises:
        TypeError: second derivatives are asked for.
    """
    if name not in ("value", "gradient"):
        raise TypeError(
            "this method uses second derivatives, and a host objective has none. Take a method that uses the gradient "
            "alone, such as L-BFGS-B or BFGS."
        )

    def evaluate(x: Vector, data: Data) -> tuple[Any, PyTree]:
        value, grads, aux = host(x, data)
        parts = [value, *grads] if name == "gradient" else [value]
        return np.concatenate([np.ravel(part).astype(np.float64) for part in parts]), aux

    return evaluate


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


MAKERS: dict[str, tuple[Callable[[FlatObjective], Program], int]] = {  # with the number of their vectors
    "value": (_bare, 1),
    "gradient": (_packed, 1),
    "product": (_product, 2),
    "hessian": (_hessian, 1),
}


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
