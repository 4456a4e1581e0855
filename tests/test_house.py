"""Imports go strictly downward, the backends never meet, and others' private modules stay theirs."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import scipy_jax_bridge

HOUSE = Path(scipy_jax_bridge.__file__).parent
FLOORS = [
    "_types _errors _status _beside _kernel _methods _show _threads _rounding _stopping models",
    "_options _tree _trace _identity _scope _watch _memory _linesearch _panels _target",
    "_bounds _cache _progress _transform _decide _free _compact _guard _nonfinite _plot _setting _arguments _point",
    "_problem _report _cauchy _held",
    "_notes _bounded",
    "_result",
    "_engine _record _verdict",
    "_loop _scipy _comparison",
    "_chunks",
    "_optax",
    "_backends",
    "_implicit",
    "_minimize",
    "_shares",
    "_compare",
    "_stories __init__",
    "__main__",
]
ROOMS = (("_scipy", "_record", "_point", "_held"), ("_optax", "_chunks", "_loop"))  # of the two backends
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, as a dotted name; those of the house begin with a dot."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base if node.module else ""
            yield from (f"{base}{'.' if node.module else ''}{alias.name}" for alias in node.names)


def test_imports_go_strictly_downward() -> None:
    rooms = {path.stem: path for path in HOUSE.glob("*.py")}
    assert set(FLOOR) == {*rooms, "models"}, "a room without a floor, or a floor without its room"
    for room, path in rooms.items():
        below = {name.lstrip(".").split(".")[0] for name in imports(path) if name.startswith(".")}
        upward = {other for other in below & set(FLOOR) if FLOOR[other] >= FLOOR[room]}
        assert not upward, f"{room} imports {upward}"
    for path in (HOUSE / "models").glob("*.py"):
        assert all("scipy_jax_bridge" not in name or "models" in name for name in imports(path)), path.name


def test_the_backends_never_meet() -> None:
    for room, other in itertools.chain(itertools.product(ROOMS[0], ROOMS[1]), itertools.product(ROOMS[1], ROOMS[0])):
        assert not any(other in name.split(".") for name in imports(HOUSE / f"{room}.py"))


def test_only_public_modules_of_others() -> None:
    for path in HOUSE.rglob("*.py"):
        for name in imports(path):
            if not name.startswith((".", "scipy_jax_bridge", "__future__")):
                assert not any(part.startswith("_") for part in name.split(".")), f"{path.name}: {name}"
