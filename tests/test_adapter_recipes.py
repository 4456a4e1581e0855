"""Every block of docs/adapter.md runs as it is written, and finds what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "adapter.md").read_text()
COMMON, *BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
(SCRIPT,) = [code for code in BLOCKS if "__main__" in code]
RECIPES = [code for code in BLOCKS if code != SCRIPT]
TRUTH = {"amplitude": 2.0, "frequency": 2.5, "phase": 0.4}


def run(code: str, space: dict[str, Any]) -> dict[str, Any]:
    exec(compile(code, "docs/adapter.md", "exec"), space)
    return space


def name_of(code: str) -> str:
    heading = re.findall(r"^## (.+)$", PAGE[: PAGE.index(code)], flags=re.MULTILINE)[-1]
    solver = re.search(r"scipy\.optimize\.(\w+)", code)
    return f"{heading} {solver[1] if solver else ''}".strip().replace(" ", "-")


def test_the_page_has_the_solvers_that_were_asked_for() -> None:
    assert len(re.findall(r"^```", PAGE, flags=re.MULTILINE)) == 2 * (1 + len(BLOCKS))  # none escapes the tests
    for name in ("basinhopping", "dual_annealing", "differential_evolution", "root", "iminuit", "emcee"):
        assert any(name in code for code in RECIPES), name


@pytest.mark.parametrize("code", RECIPES, ids=name_of)
def test_a_recipe_finds_the_best_point(code: str) -> None:
    for package in re.findall(r"^(?:import|from) (iminuit|emcee)", code, flags=re.MULTILINE):
        pytest.importorskip(package)
    space = run(code, run(COMMON, {}))
    assert space["best"].keys() == TRUTH.keys()
    for name, value in TRUTH.items():  # within what noise of 0.1 in 40 points leaves open
        assert float(space["best"][name]) == pytest.approx(value, abs=0.15), name
    if "errors" in space:
        problem, best = space["problem"], space["problem"].ravel(space["best"])
        expected = np.sqrt(np.diag(np.linalg.inv(problem.hess(best) / 2)))
        np.testing.assert_allclose(problem.ravel(space["errors"]), expected, rtol=0.02)
    if "spread" in space:
        assert space["spread"].keys() == TRUTH.keys() and all(0 < each < 0.1 for each in space["spread"].values())


def test_processes_that_are_started_anew(tmp_path: Path) -> None:
    (tmp_path / "fit.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "error", "fit.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    numbers = [float(each) for each in re.findall(r"-?\d+\.\d*(?:e-?\d+)?", done.stdout)]
    np.testing.assert_allclose(numbers, [0.0, 1.0, 2.0], atol=1e-3)
