"""Leaves that are not optimized are named: by a warning where one looks like a parameter, and in the printed result."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb


def loss(params: Any) -> Any:
    a = params["a"] if jnp.ndim(params["a"]) == 0 and not isinstance(params["a"], str) else 0.0
    return (jnp.asarray(a, float) - 2.0) ** 2 + (params["b"] - 3.0) ** 2


@pytest.mark.usefixtures("no_programs")
@pytest.mark.parametrize(("backend", "zero"), [("scipy", 0), ("scipy", np.int64(0)), ("optax", np.int64(0))])
def test_an_integer_is_named_once_a_structure(backend: str, zero: Any) -> None:
    solve = sjb.Minimizer(lambda p: loss(p), backend=backend)
    with pytest.warns(sjb.HeldLeafWarning, match=r"params\['a'\] is an integer and stays 0; write 0.0") as caught:
        result = solve({"a": zero, "b": 0.0})
    assert len(caught) == 1
    assert "1 free, held: params['a']" in str(result)
    solve({"a": zero, "b": 1.0})  # warnings are errors here
    assert solve({"a": 0.0, "b": 1.0}).fun < 1e-8


def test_many_are_named_briefly() -> None:
    params = {"b": 0.0, **{f"n{i}": i for i in range(9)}}
    with pytest.warns(sjb.HeldLeafWarning) as caught:
        result = sjb.minimize(lambda p: (p["b"] - 1.0) ** 2, params)
    assert "and 4 more" in str(caught[0].message)
    lines = str(result).splitlines()
    assert "1 free, held: " in str(result) and "and 5 more" in str(result) and max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    "quiet", [True, np.bool_(True), jnp.array(0), np.array(0), jnp.arange(3), "word", jax.random.key(0), jnp.sin]
)
def test_what_is_no_parameter_by_its_look_does_not_warn(quiet: Any) -> None:
    result = sjb.minimize(lambda p: (p["b"] - 3.0) ** 2, {"a": quiet, "b": 0.0})
    named = "params['a']" in str(result)
    assert named == (not isinstance(quiet, str) and not callable(quiet))


def test_fixed_silences() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = sjb.minimize(lambda p: loss(p), {"a": 0, "b": 0.0}, fixed={"a": True, "b": False})
    assert "1 free, held: params['a']" in str(result)


def test_all_free_says_so() -> None:
    result = sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), np.zeros(4))
    assert "4 free\n" in str(result)
    batch = jax.vmap(
        lambda c: sjb.minimize(lambda x: jnp.sum((x - c) ** 2), jnp.zeros(2), backend="optax", method=optax.sgd(0.1))
    )(jnp.ones(2))
    assert "2 free\n" in str(jax.tree.map(lambda leaf: leaf[0], batch))


def test_the_warning_points_to_the_line_of_the_user(tmp_path: Path) -> None:
    """In a process of its own: the tests' type checks put frames between."""
    script = tmp_path / "fit.py"
    script.write_text(
        "import scipy_jax_bridge as sjb\nsjb.minimize(lambda p: (p['b'] - p['a']) ** 2, {'a': 0, 'b': 1.0})\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert f"{script}:2: HeldLeafWarning: params['a'] is an integer" in done.stderr
