"""The objective on the host: NumPy in, NumPy out, one copy to the device and one back for each evaluation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import scipy.optimize
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from .._backend import Program
from .._core.types import HostVector, Leaf, Params, is_whole
from .._problem.prefix import dotted_paths, leaf_paths
from .._problem.problem import Problem
from .fixed import FixedComponents, FreeVector
from .programs import compile_program

SPLIT_MAX = 10**7  # components of split params that SciPy takes


class NumpyObjective:
    """Compiled programs of one objective as functions of NumPy vectors.

    The SciPy backend and `sjb.adapt` both evaluate with it.

    Args:
        problem: the objective, its data and its bounds.
        fixed: components that a solver does not see; None if it sees all.
    """

    def __init__(self, problem: Problem, fixed: FixedComponents | None) -> None:
        self.problem, self._fixed = problem, fixed
        bounds, start = problem.bounds, problem.spec.params.ravel_on_host(gather(problem), np.float64)
        self._start = start if bounds is None else np.clip(start, bounds.lower, bounds.upper)
        self.shape = (problem.spec.params.size if fixed is None else fixed.free.size,)  # of a free vector
        self._dtype = None if problem.spec.dtype == np.float64 else problem.spec.dtype

    def bind(self, program: Program) -> Callable[..., tuple[np.ndarray, PyTree]]:
        """Return a program as a function of whole NumPy vectors.

        It returns the program's array, read-only on the host, and the auxiliary output, which stays on the device.
        """
        data, dtype = self.problem.data, self._dtype

        def run(*inputs: np.ndarray) -> tuple[np.ndarray, PyTree]:
            if dtype is not None:
                inputs = tuple(each.astype(dtype) for each in inputs)
            array, aux = program(*inputs, data)
            found = np.asarray(array, np.float64)
            if dtype is not None:
                found.flags.writeable = False  # as that of a float64 array is
            return found, aux

        return run

    def function(self, name: str) -> Callable[..., tuple[np.ndarray, PyTree]]:
        """Compile a program by its name, or find it compiled. Return it as a function of free vectors."""
        run, held = self.bind(compile_program(self.problem, name)[0]), self._fixed
        if held is None:
            return run

        def run_free(x: FreeVector, *steps: FreeVector) -> tuple[np.ndarray, PyTree]:
            if x.shape != self.shape:
                raise TypeError(f"x has the shape {x.shape} and not {self.shape}.")
            array, aux = run(held.restore(x), *map(held.embed, steps))
            if name == "gradient":
                array = np.append(array[:1], held.reduce(array[1:]))
            elif name != "value":
                array = held.reduce(array)
            array.flags.writeable = False
            return array, aux

        return run_free

    def restore(self, x: FreeVector) -> HostVector:
        """Return the whole point."""
        return x if self._fixed is None else self._fixed.restore(x)

    def embed(self, step: FreeVector) -> HostVector:
        """Return the whole step; it is zero in the fixed components."""
        return step if self._fixed is None else self._fixed.embed(step)

    def reduce(self, array: np.ndarray) -> np.ndarray:
        """Return the free components of a whole vector, or the free rows and columns of a matrix."""
        return array if self._fixed is None else self._fixed.reduce(array)

    def start(self) -> HostVector:
        """Return the start of the problem as a whole vector, clipped to the bounds."""
        return self._start.copy()

    def bounds(self) -> scipy.optimize.Bounds | None:
        """Return SciPy's bounds of the free components; None if there are none."""
        bounds = self.problem.bounds
        if bounds is None:
            return None
        lower, upper = self.reduce(bounds.lower), self.reduce(bounds.upper)
        # SciPy 1.18 refuses empty bounds.
        return scipy.optimize.Bounds(lower, upper) if lower.size else None  # type: ignore[arg-type]  # typed by a float

    def to_params(self, x: HostVector) -> PyTree:
        """Return the whole point as a tree of params."""
        return self.problem.spec.params.to_params(x, self.problem.static_leaves)

    def from_params(self, params: Params) -> FreeVector:
        """Return the free components of a tree like params.

        Raises:
            ValueError: the tree or the shape of a leaf differs from that of params.
        """
        structure = self.problem.spec.params
        leaves, treedef = jax.tree.flatten(params)
        if treedef != structure.treedef:
            raise ValueError(f"params has another tree than at the start: {treedef} and not {structure.treedef}.")
        free = [place for place, leaf in enumerate(structure.leaves) if leaf.kind == "free"]
        for place in free:
            shape, known = np.shape(leaves[place]), structure.leaves[place].shape
            if shape != known:
                raise ValueError(f"{leaf_paths(params)[place]} has the shape {shape} and not {known}, as at the start.")
        return self.reduce(structure.ravel_on_host([leaves[place] for place in free], np.float64))

    def names(self, params: Params) -> list[str]:
        """Return the path of every free component of params, such as w[0, 2]."""
        names = []
        for path, leaf in zip(dotted_paths(params), self.problem.spec.params.leaves, strict=True):
            if leaf.kind == "free":
                places = [str(list(place)) if place else "" for place in np.ndindex(leaf.shape)]
                names += [(path or "params") + place for place in places]
        return self.reduce(np.array(names)).tolist()


def gather(problem: Problem) -> list[Leaf]:
    """Return the optimized leaves so that this process can read them; those over several processes are gathered.

    Raises:
        ValueError: they are split, and too large for every process to hold some twenty such vectors.
    """
    leaves, size = problem.start_leaves, problem.spec.params.size
    split = [leaf for leaf in leaves if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated]
    if split and size > SPLIT_MAX:
        raise ValueError(
            f"params are split over {len(split[0].sharding.device_set)} devices and have {size} components. SciPy "
            f"would hold about 20 such vectors whole on the host of each process, {20 * 8 * size / 1e9:.0f} GB. Take "
            "backend='optax', which leaves every vector where params are."
        )
    return [leaf if is_whole(leaf) else multihost_utils.process_allgather(leaf, tiled=True) for leaf in leaves]
