"""Where the arrays of a loop over several devices lie: its vectors as params do, its numbers on each device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from .._core.types import Leaf
from .._problem.leaves import place_at, shared_mesh
from .._problem.problem import Problem
from .._problem.split import SplitSpec
from .device_solver import DeviceSolver, DeviceState, Leaves, LoopReport
from .limits import Box, box_of

Begin = Callable[[Leaves, Box | None], DeviceState]  # the free leaves, the bounds -> the state before the loop


class Placement:
    """Where the arrays of one solve lie.

    Args:
        mesh: the devices.
        split: the params, if they are split; else each device has all of each vector.
    """

    def __init__(self, mesh: Mesh, split: SplitSpec | None) -> None:
        self._split, self._whole = split, NamedSharding(mesh, PartitionSpec())

    def place(self, shape: tuple[int, ...]) -> NamedSharding:
        """Return where an array of this shape lies: split if its rows are vectors, or if it is like a leaf."""
        split = self._split
        if split is None:
            return self._whole
        if shape and shape[-1] == split.size:
            return split.place(*[None] * (len(shape) - 1), split.axes)
        leaves = [leaf for leaf in split.optimized if leaf.shape == shape and shape]
        return split.place_leaf(leaves[0]) if leaves else self._whole

    def of_state(self, shapes: DeviceState) -> Any:
        """Return where the arrays of a state lie. JAX chooses for the auxiliary output: it may be as large as data."""
        placed = jax.tree.map(lambda each: self.place(each.shape), shapes)
        nowhere = jax.tree.map(lambda _: None, shapes.aux)
        return placed._replace(aux=nowhere, best_aux=nowhere, rows=self._whole)

    def of_report(self, shapes: DeviceState) -> Any:
        """Return where the arrays of a report lie."""
        state = self.of_state(shapes)
        where: Any = self._whole
        return LoopReport(where, where, best=(state.best_x, state.best_grad, state.best_aux))

    def start(self, free: Leaves) -> list[Leaf]:
        """Return leaves as the program of the start takes them: split ones where they lie, others from the host."""
        if self._split is None:
            return [np.asarray(leaf) for leaf in free]
        pairs = zip(free, self._split.optimized, strict=True)
        return [np.asarray(leaf) if spec.sharding is None else place_at(leaf, spec.sharding) for leaf, spec in pairs]

    def box(self, box: Box) -> Box:
        """Return the bounds where the vectors lie."""
        lower, upper = (jnp.asarray(place_at(side, self.place(side.shape))) for side in box)
        return Box(lower, upper)


def placement_of(problem: Problem) -> Placement | None:
    """Return where the arrays of the solve lie; None if all is on one device, or JAX may choose."""
    split = problem.spec.params
    if jax.device_count() == 1:
        return None
    if isinstance(split, SplitSpec):
        return Placement(split.mesh, split)
    mesh = shared_mesh([*problem.start_leaves, *problem.data])
    return None if mesh is None else Placement(mesh, None)


def zeros_of(shapes: PyTree) -> PyTree:
    """Return zeros on the host, which the next program takes to where it wants them. Random keys exist only in JAX."""

    def zeros(each: jax.ShapeDtypeStruct) -> Leaf:
        xp: Any = jnp if jnp.issubdtype(each.dtype, jax.dtypes.extended) else np
        return xp.zeros(each.shape, each.dtype)

    return jax.tree.map(zeros, shapes)


def with_places(shapes: PyTree, places: PyTree) -> PyTree:
    """Return shapes and types with where the arrays lie; None leaves it to JAX."""

    def place(each: jax.ShapeDtypeStruct, where: NamedSharding | None) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=where)

    return jax.tree.map(place, shapes, places)


def to_host(free: Leaves) -> list[np.ndarray]:
    """Return the leaves without their placement: the loop runs where its data are."""
    return [np.asarray(leaf) for leaf in free]


def box_on_device(problem: Problem) -> Box | None:
    """Return the bounds as inputs of the program, where its vectors lie."""
    box = box_of(problem)
    placement = None if box is None else placement_of(problem)
    return box if placement is None or box is None else placement.box(box)


def compile_start(
    problem: Problem, solver: DeviceSolver, name: tuple[object, ...], shapes: Callable[[], DeviceState]
) -> tuple[Begin, float]:
    """Return the function that makes the first state, and the seconds spent on compiling it now.

    Args:
        problem: what is minimized.
        solver: the solver.
        name: what its programs depend on.
        shapes: gives the shapes and types of its state.
    """
    placement, data, box = placement_of(problem), problem.data, box_on_device(problem)
    if placement is None:
        inputs = (to_host(problem.start_leaves), data, box)
        compiled, seconds = problem.compile(("start", *name), lambda: (jax.jit(solver.start), inputs))
        return lambda free, box: compiled(to_host(free), data, box), seconds
    state, inputs = shapes(), (placement.start(problem.start_leaves), data, box)
    placed = jax.jit(solver.start, out_shardings=placement.of_state(state))
    compiled, seconds = problem.compile(("start", *name), lambda: (placed, inputs))

    def begin(free: Leaves, box: Box | None) -> DeviceState:
        started = compiled(placement.start(free), data, box)
        return started._replace(aux=zeros_of(state.aux), best_aux=zeros_of(state.aux))

    return begin, seconds
