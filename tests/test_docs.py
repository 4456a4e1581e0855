"""Every Python block of the README and of every page runs as it is written, in order, and finds what the page says.

The blocks of a page share one namespace, as if they were pasted one after the other into a fresh session. A block with
`__main__` is a program of its own. What a `text` block shows must have been printed, numbers aside. A block whose
packages are not installed is left out, with the rest of its section. `.ci/full` sets `SJB_DOCS_ALL=1`, which leaves out
nothing and runs the long pages too.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib.util
import inspect
import io
import os
import re
import runpy
import subprocess
import sys
import textwrap
import tomllib
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md"))]
ALL = bool(os.environ.get("SJB_DOCS_ALL"))
FENCE = re.compile(r'^( *)```(python|text)(?: title="(.*?)")?\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)
LONG = ("docs/recipes/", "docs/programs.md")
MODULE = "page"  # classes of a block look for their module
ATOL = {"docs/adapter.md": 0.15}  # what noise of 0.1 in 40 points leaves open; else 1e-4


class Block(NamedTuple):
    line: int
    section: int  # how many headings stand above it
    language: str
    title: str
    code: str


def read_blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    blocks = []
    for match in FENCE.finditer(text):
        above = re.sub(r"```.*?```", "", text[: match.start()], flags=re.DOTALL)
        section = len(re.findall(r"^#", above, re.MULTILINE))
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(line, section, match[2], match[3] or "", textwrap.dedent(match[4])))
    return blocks


def is_missing(block: Block) -> bool:
    nodes = list(ast.walk(ast.parse(block.code)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return any(importlib.util.find_spec(name.split(".")[0]) is None for name in names)


class Session:
    """The blocks of one page as they run, with what they define and print."""

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.space = vars(sys.modules[MODULE])
        self.printed: set[str] = set()
        self.before: dict[str, Any] = {}
        self.skipped = -1  # the section that is left out

    def run(self, block: Block) -> None:
        if block.language == "text":
            if block.section != self.skipped:
                for line in block.code.splitlines():
                    shown = without_numbers(line)
                    assert shown in self.printed, f"{self.page}: {line!r} was not printed"
        elif is_missing(block) or (block.section == self.skipped and block.title != "after"):
            assert not ALL, f"a package is missing for {self.page}, line {block.line}"
            self.skipped, self.before = block.section, {}
        elif "__main__" in block.code:
            self.run_alone(block)
        else:
            self.space.pop("best", None)
            if block.title == "after":
                self.space.pop("result", None)
            program = compile("\n" * block.line + block.code, self.page, "exec")
            with contextlib.redirect_stdout(io.StringIO()) as output, warnings.catch_warnings():
                if block.title.startswith("before"):
                    warnings.simplefilter("ignore")  # the old library's own
                exec(program, self.space)
            self.printed |= {without_numbers(line) for line in output.getvalue().splitlines()}
            self.check(block)

    def run_alone(self, block: Block) -> None:
        (self.folder / "fit.py").write_text(block.code)
        command = [sys.executable, "-W", "error", "fit.py"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        self.printed |= {without_numbers(line) for line in done.stdout.splitlines()}

    def check(self, block: Block) -> None:
        """`best` is the page's `answer`; `same` equals it bit for bit; before and after find the same minimum."""
        if "best" in self.space and "answer" in self.space:
            compare_trees(self.space["best"], self.space["answer"], ATOL.get(self.page, 1e-4))
        if "best" in self.space and "same" in self.space:
            compare_trees(self.space["best"], self.space.pop("same"), 0.0)
        if block.title.startswith("before"):
            self.before = {name: self.space.pop(name) for name in ("params", "minimum")}
        elif block.title == "after":
            assert np.isfinite(float(self.space["minimum"]))
            assert "result" not in self.space or self.space["result"].success
            if self.before:
                assert float(self.space["minimum"]) == pytest.approx(float(self.before["minimum"]), rel=1e-6)
                compare_trees(self.space["params"], self.before["params"], 1e-4)


def without_numbers(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[-\d.]+(e[-+]?\d+)?( [mµ]?s\b)?", "#", line)).strip()


def compare_trees(found: Any, expected: Any, atol: float) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0.0, atol=atol)


@pytest.fixture
def session_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """JAX's default precision, an empty folder, and afterwards the settings as they were."""
    update, changed = jax.config.update, {"jax_enable_x64": True}

    def note_and_update(name: str, value: Any) -> None:
        if hasattr(jax.config, name):  # else it is read once, when JAX starts
            changed.setdefault(name, getattr(jax.config, name))
        update(name, value)

    monkeypatch.setattr(jax.config, "update", note_and_update)
    monkeypatch.setitem(sys.modules, MODULE, types.ModuleType(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    update("jax_enable_x64", False)
    yield
    for name, value in changed.items():
        update(name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("session_settings")
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    if page.startswith(LONG) and not ALL:
        pytest.skip("run by .ci/full")
    session = Session(page, tmp_path)
    for block in read_blocks(page):
        session.run(block)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_escapes(page: str) -> None:
    text = (ROOT / page).read_text()
    assert len(re.findall(r"^ *```py", text, re.MULTILINE)) == sum(b.language == "python" for b in read_blocks(page))
    assert set(re.findall(r"^ *```(\S+)", text, re.MULTILINE)) <= {"python", "text", "sh"}


def test_the_pages_have_what_was_asked_for() -> None:
    asked = {
        "docs/adapter.md": "basinhopping dual_annealing differential_evolution root iminuit emcee",
        "docs/lbfgsb.md": "nnx.Optimizer eqx. optax_to_numpyro MultiSteps optax.masked ocp.",
        "docs/host_objective.md": "jacfwd",
        "docs/migration.md": "scipy.optimize ScipyMinimize ScipyBoundedMinimize jaxopt.LBFGS jax.scipy optax.lbfgs "
        "optimistix.minimise",
    }
    for page, words in asked.items():
        code = "".join(block.code for block in read_blocks(page))
        for word in words.split():
            assert word in code, f"{word} in {page}"


PUBLIC = [name for name, each in vars(sjb).items() if not name.startswith("_") and not inspect.ismodule(each)]
PUBLIC.sort()


def test_the_reference_has_every_public_name() -> None:
    assert (
        sorted(re.findall(r"^::: scipy_jax_bridge\.(\w+)$", (DOCS / "reference.md").read_text(), re.MULTILINE))
        == PUBLIC
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_of_the_reference_run(name: str) -> None:
    thing = getattr(sjb, name)
    finder = doctest.DocTestFinder(recurse=inspect.isclass(thing))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in finder.find(thing, name, module=False):
        assert runner.run(test).failed == 0


@pytest.mark.slow
def test_the_value_of_the_last_microbatch_misleads_the_search() -> None:
    """What the page says of MultiSteps: with that value in place of the mean the search goes wrong or ends early."""
    space: dict[str, Any] = {}
    exec(read_blocks("docs/lbfgsb.md")[0].code, space)
    loss, start, x, y, answer = (space[name] for name in ("loss", "start", "x", "y", "answer"))

    opt = optax.MultiSteps(sjb.lbfgsb(), every_k_schedule=4)

    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any, total: Any, k: Any, is_mean: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, x, y)
        given = jnp.where(is_mean, (total + value) / (k + 1), value)
        updates, state = opt.update(grads, state, params, value=given)
        return optax.apply_updates(params, updates), state, total + value

    def end(is_mean: bool) -> float:
        params, state = start, opt.init(start)
        for _ in range(40):
            total = jnp.zeros(())
            for k in range(4):
                batch = slice(50 * k, 50 * (k + 1))
                params, state, total = step(params, state, x[batch], y[batch], total, float(k), is_mean)
        return float(loss(params, x, y)) - float(loss(answer, x, y))

    assert end(is_mean=True) < 1e-9 < 1e-4 < end(is_mean=False)


def read_literals() -> list[str]:
    """The texts in the package's source, with … for what is filled in."""
    texts = []
    for path in sorted((ROOT / "scipy_jax_bridge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_the_messages_in_troubleshooting_are_those_of_the_package() -> None:
    rows = re.findall(r"^\| (?:`([A-Z_]+)` \| )?`(.+?)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 45
    assert [name for name, _ in rows if name] == [status.name for status in sjb.Status]
    texts = read_literals()
    for name, quoted in rows:
        if name:
            assert quoted in sjb.Status[name].sentence, name
        else:
            pattern = re.compile(".*".join(re.escape(part) for part in quoted.split("…")))
            assert any(pattern.search(text) for text in texts), quoted


def test_what_tests_a_promise_is_there() -> None:
    named = re.findall(r"`((?:tests|benchmarks)/\w+\.py)`", (DOCS / "promises.md").read_text())
    assert len(named) > 20
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_way_of_params_is_as_its_script_draws_it() -> None:
    assert runpy.run_path(str(DOCS / "draw_way.py"))["draw"]() == (DOCS / "way.svg").read_text()


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    released = re.search(r"^## \[(\d.*?)\] - (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released is not None and released[1] == version
    assert f'date-released: "{released[2]}"' in (ROOT / "CITATION.cff").read_text()
