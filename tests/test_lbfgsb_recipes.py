"""Every block of docs/lbfgsb.md and docs/host_objective.md runs as it is written, and finds what `minimize` finds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("lbfgsb", "host_objective")}
BLOCKS = {
    name: re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL) for name, text in PAGES.items()
}
COMMON = {name: blocks[0] for name, blocks in BLOCKS.items()}  # what the others begin with
RECIPES = [(name, code) for name, blocks in BLOCKS.items() for code in blocks[1:]]
PACKAGES = r"^ *(?:import|from) (flax|equinox|numpyro|orbax.checkpoint)"


def heading_of(recipe: tuple[str, str]) -> str:
    name, code = recipe
    text = PAGES[name]
    return re.findall(r"^#+ (.+)$", text[: text.index(code)], flags=re.MULTILINE)[-1].replace(" ", "-")


def run(name: str, code: str) -> dict[str, Any]:
    space: dict[str, Any] = {}
    for part in (COMMON[name], code):
        exec(compile(part, f"docs/{name}.md", "exec"), space)
    return space


def test_the_pages_have_the_loops_that_were_asked_for() -> None:
    for name, text in PAGES.items():
        assert len(re.findall(r"^```", text, flags=re.MULTILINE)) == 2 * len(BLOCKS[name])  # none escapes the tests
    for name in ("nnx.Optimizer", "eqx.", "optax_to_numpyro", "MultiSteps", "optax.masked", "ocp.", "jacfwd"):
        assert any(name in code for _, code in RECIPES), name


@pytest.mark.parametrize("recipe", RECIPES, ids=heading_of)
def test_a_recipe_finds_the_minimum(recipe: tuple[str, str]) -> None:
    name, code = recipe
    for package in re.findall(PACKAGES, code, flags=re.MULTILINE):
        pytest.importorskip(package)
    space = run(name, code)
    assert "best" in space or "frozen" in space
    for leaf, expected in space["answer"].items():
        if "best" in space:
            np.testing.assert_allclose(np.asarray(space["best"][leaf]), np.asarray(expected), atol=1e-4)
    if "same" in space:  # restored from a checkpoint: bit for bit
        for leaf in space["answer"]:
            np.testing.assert_array_equal(space["same"][leaf], space["best"][leaf])
    if "frozen" in space:
        assert space["frozen"]["b"] == 0.0
        same = sjb.minimize(space["loss"], space["start"], (space["x"], space["y"]), fixed={"b": True})
        np.testing.assert_allclose(space["frozen"]["w"], same.params["w"], atol=1e-4)


def test_the_value_of_the_last_microbatch_misleads_the_search() -> None:
    """What the page says of MultiSteps: with that value in place of the mean the search goes wrong or ends early."""
    space = run("lbfgsb", "")
    loss, start, x, y, answer = (space[name] for name in ("loss", "start", "x", "y", "answer"))

    def end(is_mean: bool) -> float:
        opt = optax.MultiSteps(sjb.lbfgsb(), every_k_schedule=4)
        params, state = start, opt.init(start)

        @jax.jit
        def step(params: Any, state: Any, x: Any, y: Any, total: Any, k: Any) -> Any:
            value, grads = jax.value_and_grad(loss)(params, x, y)
            given = (total + value) / (k + 1) if is_mean else value
            updates, state = opt.update(grads, state, params, value=given)
            return optax.apply_updates(params, updates), state, total + value

        for _ in range(40):
            total = jnp.zeros(())
            for k in range(4):
                batch = slice(50 * k, 50 * (k + 1))
                params, state, total = step(params, state, x[batch], y[batch], total, float(k))
        return float(loss(params, x, y)) - float(loss(answer, x, y))

    assert end(is_mean=True) < 1e-9 < 1e-4 < end(is_mean=False)
