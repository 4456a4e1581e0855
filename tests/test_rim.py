"""The rim: classes that check their arrays, exceptions without attributes, names that are formulas, pickles."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge._cli.main import main
from scipy_jax_bridge._problem import precision as _rounding


@jax.tree_util.register_pytree_node_class
class Dataset:
    """Checks its arrays, as gpjax.Dataset does."""

    def __init__(self, x: Any, y: Any) -> None:
        if x.ndim != 2 or y.ndim != 2:
            raise ValueError("x and y must be matrices")
        self.x, self.y = x, y

    def tree_flatten(self) -> Any:
        return (self.x, self.y), None

    @classmethod
    def tree_unflatten(cls, _: Any, children: Any) -> Dataset:
        return cls(*children)


DATA = Dataset(np.ones((3, 2)), np.ones((3, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_a_class_that_checks_its_arrays_may_be_args_and_params(backend: str) -> None:
    fit = sjb.minimize(lambda w, d: jnp.mean((d.x @ w - d.y) ** 2), jnp.zeros((2, 1)), DATA, backend=backend)
    assert fit.success
    held = sjb.minimize(lambda d: jnp.mean((d.x @ jnp.ones((2, 1)) - d.y) ** 2), DATA, backend=backend)
    assert held.success and isinstance(held.params, Dataset) and isinstance(held.jac, Dataset)
    mixed = sjb.minimize(
        lambda d: jnp.sum((d.x - d.y) ** 2), Dataset(jnp.zeros((2, 1)), jnp.ones((2, 1), int)), backend=backend
    )
    assert [leaf.shape for leaf in jax.tree.leaves(mixed.jac)] == [(2, 1)]


ADAM = optax.adam(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"backend": "scipy"},
        {"backend": "scipy", "method": "trust-exact"},
        {"backend": "optax"},
        {"backend": "optax", "method": ADAM},
    ],
    ids=["scipy", "hessian", "optax", "adam"],
)
def test_a_class_that_checks_its_arrays_may_be_aux_and_lie_in_the_state_of_a_solver(given: dict[str, Any]) -> None:
    def loss(params: Dataset, data: Dataset) -> tuple[jax.Array, Dataset]:
        gap = params.x - data.x
        return jnp.mean(gap**2) + jnp.mean((params.y - data.y) ** 2), Dataset(gap, data.y)

    solve = sjb.Minimizer(loss, has_aux=True, **given)
    start = Dataset(jnp.zeros((3, 2)), jnp.zeros((3, 1)))
    fit = solve(start, DATA)
    assert fit.success and isinstance(fit.params, Dataset) and isinstance(fit.aux, Dataset)
    stopped = sjb.Minimizer(loss, has_aux=True, options={"maxiter": 1, "gtol": 0.0, "ftol": 0.0}, **given)(start, DATA)
    assert solve(stopped, DATA).success
    if given["backend"] == "optax":
        assert isinstance(jax.jit(solve)(start, DATA).aux, Dataset)


class Closed(Exception):
    """Takes no attributes but Python's own."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            return super().__setattr__(name, value)
        raise AttributeError(f"{name} cannot be set")


@pytest.mark.parametrize("backend", ["scipy", "optax"])
def test_an_exception_that_takes_no_attributes_comes_through(backend: str) -> None:
    def callback(_: sjb.Progress) -> None:
        raise Closed("mine")

    with pytest.raises(Closed, match="mine"):
        sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), np.zeros(2), backend=backend, callback=callback)


def test_progress_can_be_pickled() -> None:
    told: list[sjb.Progress] = []
    sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), np.zeros(2), callback=told.append)
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(told[0]))))
    assert (again.nit, again.fun) == (told[0].nit, told[0].fun)
    np.testing.assert_array_equal(again.params, told[0].params)


def test_a_name_that_is_a_wrong_formula_is_drawn_and_a_figure_can_be_pickled() -> None:
    runs = {r"$\frac{1}$": {"backend": "scipy"}, "b $": {"backend": "scipy", "method": "BFGS"}}
    comparison = sjb.compare(
        lambda p: jnp.sum((p[r"$\frac{1}$"] - 1.0) ** 2),
        {r"$\frac{1}$": np.zeros(2)},
        runs=runs,
        repeats=1,
        shares=False,
    )
    figure = comparison.plot()
    figure.canvas.draw()
    assert pickle.loads(pickle.dumps(figure)).get_size_inches().tolist() == figure.get_size_inches().tolist()


def test_json_stands_alone_when_the_objective_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "loud.py"
    path.write_text(
        "import jax, jax.numpy as jnp\nprint('loading')\n"
        "def objective(x):\n    print('tracing')\n    jax.debug.print('evaluating {}', x[0])\n"
        "    return jnp.sum((x - 1.0) ** 2)\nparams = jnp.zeros(2)\n"
    )
    assert main(["compare", f"{path}:objective", "--json", "--repeats", "1", "--backend", "scipy"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["status"] == "GTOL"
    assert "loading" in err and "tracing" in err


def test_other_names_inside_jax_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coarsest type is a diagnosis: a JAX that renames its parameters must not end a solve."""

    def renamed(*_: Any) -> Any:
        raise KeyError("body_jaxpr")

    def loop(x: Any) -> Any:
        return jax.lax.fori_loop(0, 3, lambda _, a: a + jnp.sum((x - 1.0) ** 2), 0.0)

    monkeypatch.setattr(_rounding._Dataflow, "_apply", renamed)
    assert sjb.minimize(loop, np.zeros(2)).success
