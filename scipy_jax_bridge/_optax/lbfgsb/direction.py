"""What the loop needs from a search direction: a memory of pairs and the point that the full step leads to."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import PyTree

from .memory import NewPair, Vector


class Direction(NamedTuple):
    """The functions of one kind of step. Their memory is a NamedTuple of arrays that only they read.

    empty_memory: (numpy or jax.numpy, length of x, maxcor, dtype) -> the memory without pairs.
    update: (memory, new pair) -> the memory with the pair stored, or emptied.
    full_step: (memory, x, gradient) -> the point to which the step of length 1 leads.
    """

    empty_memory: Callable[[ModuleType, int, int, jnp.dtype], PyTree]
    update: Callable[[PyTree, NewPair], PyTree]
    full_step: Callable[[PyTree, Vector, Vector], Vector]
