"""Folders import downward only, one backend works without the other, and others' private modules stay theirs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scipy_jax_bridge

PACKAGE_ROOT = Path(scipy_jax_bridge.__file__).parent
LAYERS = [
    "_core _render",
    "_problem",
    "_settings _summary",
    "_result",
    "_backend",
    "_scipy _optax _lbfgsb",
    "_autodiff",
    "_preparation",
    "_minimizer _adapt",
]
LAYERS += ["_minimize", "_compare", "models _pickles", "_cli __init__", "__main__"]
LAYER = {name: height for height, names in enumerate(LAYERS) for name in names.split()}


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, as a dotted name from the root; of this package without the package."""
    package = path.relative_to(PACKAGE_ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (f"/{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join((*package[: len(package) + 1 - node.level], *filter(None, [node.module])))
            yield from [base] if node.module else [".".join(filter(None, [base, alias.name])) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            yield f"/{node.module}"


def test_folders_import_strictly_downward() -> None:
    for path in PACKAGE_ROOT.rglob("*.py"):
        here = path.relative_to(PACKAGE_ROOT).with_suffix("").parts[0]
        others = {name.split(".")[0] for name in imports(path) if not name.startswith("/")} - {here, ""}
        upward = {other for other in others if LAYER[other] >= LAYER[here]}
        assert not upward, f"{path.relative_to(PACKAGE_ROOT)} imports {upward}"


@pytest.mark.slow
@pytest.mark.parametrize(("blocked", "other"), [("_optax", "scipy"), ("_scipy", "optax")])
def test_a_backend_works_without_the_other(blocked: str, other: str) -> None:
    program = (
        f"import sys; sys.modules['scipy_jax_bridge.{blocked}'] = None\n"
        "import jax.numpy as jnp, scipy_jax_bridge as sjb\n"
        f"solve = lambda center: sjb.minimize(lambda x, c: jnp.sum((x - c) ** 2), jnp.zeros(3), (center,), "
        f"backend={other!r})\n"
        "assert solve(2.0).success\n"
        "import jax; print(float(jax.grad(lambda center: solve(center).params.sum())(2.0)))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) == pytest.approx(3.0, rel=1e-5)


def test_only_public_modules_of_others() -> None:
    for path in PACKAGE_ROOT.rglob("*.py"):
        for name in imports(path):
            if name.startswith("/") and not name.startswith(("/__future__", "/scipy_jax_bridge")):
                assert not any(part.startswith("_") for part in name[1:].split(".")), f"{path.name}: {name[1:]}"
