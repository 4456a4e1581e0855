"""Describe in words what a comparison was made with: the problem, each run, the versions, the machine."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._core.options import Options
from .._core.types import Objective, name_of, unwrap_partial
from .._problem.bounds import Bounds, read_bounds
from .runs import Entry

PACKAGES = ("scipy_jax_bridge", "jax", "jaxlib", "scipy", "numpy", "optax")
SHORT = 6  # arrays of at most so many numbers are written out
LINES = 12  # leaves of a tree that are listed


@dataclass(frozen=True)
class Provenance:
    """Names and values as text.

    Attributes:
        problem: the objective, its start and its data.
        runs: the exact settings of each run by name, defaults included.
        machine: versions and hardware.
    """

    problem: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)


def describe_problem(fun: Objective, params: PyTree, args: PyTree) -> dict[str, str]:
    """Describe the objective by its name, the start and the data by their shapes."""
    fun = unwrap_partial(fun)
    module, name = getattr(fun, "__module__", ""), getattr(fun, "__qualname__", name_of(fun))
    return {
        "objective": f"{module}.{name}" if module else name,
        "start": describe_tree(params, "params"),
        "data": describe_tree(args, "args") if jax.tree.leaves(args) else "none",
    }


def describe_run(entry: Entry, method: str, options: Options) -> dict[str, str]:
    """Describe the settings of one run.

    Args:
        entry: the keyword arguments of its `Minimizer`.
        method: the method's name, as in its results.
        options: its options, defaults included.
    """
    bounds, fixed = read_bounds(entry.get("bounds")) or Bounds(), entry.get("fixed")
    trees = {"lower": bounds.lower, "upper": bounds.upper, "fixed": fixed}
    said = {name: "none" if tree is None else describe_tree(tree, name) for name, tree in trees.items()}
    return {
        "backend": str(entry.get("backend", "scipy")),
        "method": method,
        **{each.name: str(getattr(options, each.name)) for each in fields(Options) if each.name != "native"},
        **{name: str(value) for name, value in options.native.items()},
        "lower bounds": said["lower"],
        "upper bounds": said["upper"],
        "fixed": said["fixed"],
        "precision": str(entry.get("precision") or "that of the leaves"),
        "has_aux": str(bool(entry.get("has_aux"))),
    }


def describe_machine() -> dict[str, str]:
    """Describe the versions, the processor, the devices and JAX's settings."""
    devices = jax.devices()
    threads = [
        f"{name}={os.environ[name]}" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS") if name in os.environ
    ]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "threads": ", ".join(threads) or "no limit set",
        "JAX": f"jax_enable_x64 {getattr(jax.config, 'jax_enable_x64')}, default backend {jax.default_backend()}",  # noqa: B009
    }


def describe_tree(tree: PyTree, name: str) -> str:
    """Return one line for each leaf: its path, and its value or its type and shape."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    lines = [f"{name}{jax.tree_util.keystr(path)}: {_describe_leaf(leaf)}" for path, leaf in leaves[:LINES]]
    more = len(leaves) - LINES
    return "\n".join([*lines, *([f"and {more} more leaves"] if more > 0 else [])])


def _describe_leaf(leaf: PyTree) -> str:
    if not hasattr(leaf, "dtype"):
        return repr(leaf)[:60]
    if np.size(leaf) <= SHORT and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended):  # not a random key
        return f"{leaf.dtype} {np.array2string(np.asarray(leaf), precision=6, separator=', ')}".replace("\n", "")
    return f"{leaf.dtype}{list(np.shape(leaf))}"


@functools.cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


@functools.cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
