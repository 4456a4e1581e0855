"""Every block of docs/migration.md runs, and what was before and what is after find the same minimum."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "migration.md").read_text()
BLOCKS = re.findall(r'^```python title="(.+?)"\n(.*?)^```$', PAGE, flags=re.MULTILINE | re.DOTALL)
COMMON = [code for kind, code in BLOCKS if kind == "for all blocks"]


class Pair(NamedTuple):
    name: str
    needs: str | None  # the library of the old code, if it may be missing
    before: str
    after: str


def pairs() -> list[Pair]:
    steps = [(kind.split(", with "), code) for kind, code in BLOCKS if kind != "for all blocks"]
    found = []
    for ((word, *needs), before), ((then,), after) in zip(steps[::2], steps[1::2], strict=True):
        assert (word, then) == ("before", "after")
        heading = re.findall(r"^## (.+)$", PAGE[: PAGE.index(before)], flags=re.MULTILINE)[-1]
        name = f"{len(found)}-{re.sub('[^a-zA-Z]+', '-', heading).strip('-')}"
        found.append(Pair(name, needs[0] if needs else None, before, after))
    return found


def run(code: str) -> dict[str, Any]:
    space: dict[str, Any] = {}
    exec(compile(COMMON[0], "docs/migration.md", "exec"), space)
    exec(compile(code, "docs/migration.md", "exec"), space)
    return space


def test_the_page_has_what_users_come_from() -> None:
    assert len(COMMON) == 1 and len(pairs()) >= 6
    headings = " ".join(re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE))
    for name in ("scipy.optimize", "ScipyMinimize", "ScipyBoundedMinimize", "jaxopt.LBFGS", "jax.scipy", "optax.lbfgs"):
        assert name in headings
    assert len(re.findall(r"^```", PAGE, flags=re.MULTILINE)) == 2 * len(BLOCKS)  # none escapes the tests


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: pair.name)
def test_after(pair: Pair) -> None:
    after = run(pair.after)
    assert np.isfinite(float(after["minimum"]))
    if "result" in after:
        assert after["result"].success


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: pair.name)
def test_before_and_after_find_the_same_minimum(pair: Pair) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old libraries' own
        if pair.needs is not None:
            pytest.importorskip(pair.needs)
        before = run(pair.before)
    after = run(pair.after)
    assert float(after["minimum"]) == pytest.approx(float(before["minimum"]), rel=1e-6)
    for old, new in zip(jax.tree.leaves(before["params"]), jax.tree.leaves(after["params"]), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-4)
