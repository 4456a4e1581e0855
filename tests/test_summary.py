"""What is shown of a result: in a terminal of 80 columns, in one line, and in a notebook."""

from __future__ import annotations

import copy
import html.parser
import pickle
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from problems import BACKENDS
from scipy_jax_bridge import Status


def pull(params: Any) -> Any:
    return sum(jnp.sum((leaf - 2.0) ** 2) for leaf in jax.tree.leaves(params))


def row(result: Any, path: str) -> list[str]:
    """The cells of the leaf's row."""
    line = next(line for line in str(result).splitlines() if line.startswith(f"    {path} "))
    return re.split(r"\s{2,}", line.strip())


@pytest.mark.parametrize("backend", BACKENDS)
def test_print_shows_each_leaf_its_change_and_its_bound(backend: str) -> None:
    start = {
        "kernel": {"variance": 1.5, "length": np.zeros(2)},
        "low": 3.0,
        "mask": jnp.zeros(4),
        "data": np.arange(9.0),
        "flag": True,
    }
    bounds = sjb.Bounds(
        {"kernel": None, "low": 2.5, "mask": np.array([0.0, -9, -9, -9]), "data": None},
        {"kernel": None, "low": 5.0, "mask": np.array([0.0, 1, 9, 1]), "data": None},
    )
    fixed = {"kernel": False, "low": False, "mask": False, "data": True}
    result = sjb.minimize(pull, start, backend=backend, bounds=bounds, fixed=fixed)
    assert str(result).startswith(f"converged ({result.status.name}) by {backend}, L-BFGS-B\n")
    assert row(result, "kernel.variance") == ["kernel.variance", "2", "0.5"]
    assert row(result, "kernel.length") == ["kernel.length", "(2,)", "2, 2", "2"]
    assert row(result, "low") == ["low", "2.5", "0.5", "at its lower bound"]
    assert row(result, "mask") == ["mask", "(4,)", "0, 1, 2, 1", "2", "1 held, 2 at its upper bound"]
    assert "  params    7 free, held: params['data'], params['flag']\n" in str(result)
    assert row(result, "flag") == ["flag", "True", "held"]
    assert row(result, "data") == ["data", "(9,)", "0 to 8, mean 4", "held"]
    assert max(map(len, str(result).splitlines())) <= 80
    assert "nothing" not in repr(result) and "\n" not in repr(result) and len(repr(result)) < 100


def test_a_copy_and_a_pickle_show_the_same() -> None:
    result = sjb.minimize(pull, {"a": 0.0, "b": np.ones(3)}, bounds=(None, 1.5))
    for again in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert str(again) == str(result) and "at its upper bound" in str(again)
    assert "origin" not in repr(jax.tree.structure(result)), "not part of the pytree"
    assert "moved" not in str(jax.tree.map(lambda leaf: leaf, result)), "unknown of a new result"


def test_a_start_that_the_caller_changes_later() -> None:
    start = np.zeros(3)
    result = sjb.minimize(pull, start)
    start[:] = 100.0
    assert row(result, "params")[-1] == "2"


def test_a_large_tree_is_cut_and_a_long_path_keeps_its_end() -> None:
    name = "a_name_that_is_much_longer_than_a_column"
    result = sjb.minimize(pull, {name: {f"layer{i}": jnp.zeros((2, 3)) for i in range(30)}}, backend="optax")
    text = str(result)
    assert "... and 18 more leaves" in text and "column.layer0 " in text and "all 2" in text
    assert len(text.splitlines()) < 24 and max(map(len, text.splitlines())) <= 80
    assert f"{name}.layer0" in result._repr_html_()


def test_a_batch_is_summarized_and_names_the_first_that_failed() -> None:
    given = {"backend": "optax", "method": optax.sgd(0.4)}
    solve = jax.vmap(lambda n: sjb.minimize(lambda x: jnp.sum((x - 1) ** 2), jnp.zeros(2), **given, options=n))
    batch = solve({"maxiter": jnp.array([100, 100, 1, 100])})
    text = str(batch)
    assert text.startswith("3 of 4 batched solves converged (") and "1 MAXITER" in text
    assert "jax.tree.map(lambda a: a[2], result)" in text and re.search(r"nit +1 to \d+, median", text)
    assert row(batch, "params")[:2] == ["params", "(2,)"] and "MAXITER" in repr(batch) and "\n" not in repr(batch)
    assert not jax.tree.map(lambda a: a[2], batch).success


def test_every_kind_of_result_can_be_shown() -> None:
    seen: list[str] = []

    def solve(c: Any) -> Any:
        result = sjb.minimize(lambda x: (x - c) ** 2, 0.0, backend="optax")
        seen.append(repr(result) + str(result))
        return result

    shapes = jax.eval_shape(solve, 1.0)
    assert "traced" in seen[0] and "without numbers" in str(shapes) and shapes._repr_html_() is None
    words = jax.tree.map(str, jax.jit(solve)(1.0))
    assert "Result" in repr(words) + str(words)


class Tags(html.parser.HTMLParser):
    """Fail where a tag is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("maxiter", [100, 1])
def test_a_notebook_shows_the_same_and_names_are_escaped(maxiter: int) -> None:
    result = sjb.minimize(pull, {"<b>": np.zeros(2)}, options={"maxiter": maxiter, "gtol": 1e-12})
    page = result._repr_html_()
    reader = Tags()
    reader.feed(page)
    assert not reader.open and "<b>:" not in page and "&lt;b&gt;" in page and "http" not in page
    words = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page))
    for word in ("converged", result.status.name, "grad_norm", "moved", "compiling"):
        assert word in words


def test_a_status_is_printed_by_its_name() -> None:
    assert str(Status.GTOL) == f"{Status.GTOL}" == f"{Status.GTOL:s}" == "GTOL" and f"{Status.FTOL:d}" == "1"
    assert f"{Status.GTOL:>6}" == "     0" and Status.GTOL == 0


def test_bfgs_is_suggested_after_a_long_solve_for_few_parameters() -> None:
    def valley(x: Any) -> Any:
        return jnp.sum(1e4 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    start, options = jnp.full(10, -1.2), {"ftol": 0.0, "gtol": 1e-9}
    for more, suggested in (({}, True), ({"method": "BFGS"}, False), ({"bounds": (-9, 9)}, False)):
        result = sjb.minimize(valley, start, options=options, **more)
        assert (result.nfev >= 300 or not suggested) and ("method='BFGS'" in str(result)) == suggested
