"""What type checkers say of calls: the types of a result, and an error at every wrong call, in pyright and in mypy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge._core.options import RULES
from scipy_jax_bridge._scipy.methods import METHODS
from scipy_jax_bridge._settings import ScipyMethod

CALLS = Path(__file__).parent / "typed" / "calls.py"
ROOT = Path(__file__).parents[1]
LINES = {number for number, line in enumerate(CALLS.read_text().splitlines(), 1) if "  # wrong: " in line}


def run(module: str, *arguments: str) -> str:
    pytest.importorskip(module)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)},
    )
    assert found.returncode in (0, 1), found.stdout + found.stderr
    return found.stdout


def pyright() -> Iterator[int]:
    report: dict[str, Any] = json.loads(run("pyright", "--pythonpath", sys.executable, "--outputjson", str(CALLS)))
    for each in report["generalDiagnostics"]:
        if each["severity"] == "error":
            yield each["range"]["start"]["line"] + 1


def mypy() -> Iterator[int]:
    for line in run("mypy", "--python-executable", sys.executable, str(CALLS)).splitlines():
        found = re.match(r".*calls\.py:(\d+): error", line)
        assert found or ": error" not in line, line
        if found:
            yield int(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("checker", [pyright, mypy], ids=["pyright", "mypy"])
def test_each_wrong_call_is_an_error_and_no_right_one(checker: Any) -> None:
    assert len(LINES) >= 8
    assert set(checker()) == LINES


@pytest.mark.slow
def test_every_public_name_has_a_type() -> None:
    text = run("pyright", "--verifytypes", "scipy_jax_bridge", "--ignoreexternal")
    score = re.search(r"Type completeness score: ([\d.]+)%", text)
    assert score and float(score[1]) >= 95, text


def test_the_types_name_every_method_and_option() -> None:
    names = {method.name for method in METHODS.values()}
    assert set(get_args(ScipyMethod)) >= names and {each.lower() for each in get_args(ScipyMethod)} == set(METHODS)
    native = frozenset().union(*(method.native for method in METHODS.values()))
    assert set(sjb.OptionsDict.__annotations__) == {*RULES, "native", "disp", *native}
