"""Imports go strictly downward, the backends never meet, and others' private modules stay theirs."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import scipy_jax_bridge

HOUSE = Path(scipy_jax_bridge.__file__).parent
FLOORS = [
    "_errors _fingerprint _identity _kernel _linear _methods _picture _rounding _show _status _stopping _threads "
    "_types models",
    "_ending _linesearch _memory _options _panels _scope _target _trace _tree",
    "_arguments _beside _bounds _compact _decide _derivative _free _guard _nonfinite _plot _point _setting _transform",
    "_cache _cauchy _held _report _watch",
    "_bounded _problem _progress",
    "_engine _notes _programs _record",
    "_loop _result",
    "_chunks _scipy _verdict",
    "_comparison _resume",
    "_optax",
    "_backends",
    "_implicit",
    "_minimize",
    "_shares",
    "_compare",
    "__init__ _stories",
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
