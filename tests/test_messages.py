"""The words that people bring from other libraries get a sentence with the cure; tracebacks are the user's own."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import scipy_jax_bridge as sjb
from problems import BACKENDS

PACKAGE_ROOT = Path(sjb.__file__).parent


def bowl(x: Any) -> Any:
    return jnp.sum((x - 1.0) ** 2)


@pytest.mark.parametrize(
    ("word", "value", "cure"),
    [
        ("tol", 1e-8, "options={'gtol': ...}"),
        ("gtol", 1e-8, "write options={'gtol': ...}"),
        ("maxiter", 10, "write options={'maxiter': ...}"),
        ("max_iter", 10, "write options={'maxiter': ...}"),
        ("xtol", 10, "write options={'xtol': ...}"),
        ("jac", True, "JAX differentiates fun"),
        ("hess", None, "leave it out"),
        ("x0", np.zeros(2), "The start is the second argument, params."),
        ("constraints", (), "a penalty"),
        ("learning_rate", 0.1, "method=optax.adam(learning_rate)"),
        ("bound", (0, 1), "did you mean 'bounds'?"),
    ],
)
def test_words_of_other_libraries(word: str, value: Any, cure: str) -> None:
    for call in (sjb.minimize, sjb.compare, lambda fun, params, **more: sjb.Minimizer(fun, **more)):
        with pytest.raises(TypeError) as caught:
            call(bowl, np.zeros(2), **{word: value})
        assert cure in str(caught.value) and repr(word) in str(caught.value)


def test_x0_alone() -> None:
    with pytest.raises(TypeError, match="The start is the second argument"):
        sjb.minimize(bowl, x0=np.zeros(2))  # type: ignore[call-overload]  # pyright: ignore


def weigh(x: Any, data: Any) -> Any:
    return jnp.sum((jnp.asarray(data) @ x) ** 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_data_that_jax_does_not_take(backend: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame, matrix = pandas.DataFrame({"a": ["x", "y"]}), scipy.sparse.csr_matrix(np.eye(2))
    for data, words in (
        (frame, "args[0] is a DataFrame of pandas, which JAX cannot compute with: pass args[0].to_numpy()."),
        ({"m": matrix}, "args[0]['m'] is a csr_matrix of scipy.sparse, which JAX cannot compute with: pass"),
    ):
        with pytest.raises(Exception) as caught:
            sjb.minimize(weigh, np.zeros(2), (data,), backend=backend)
        assert [words in note for note in caught.value.__notes__].count(True) == 1


@pytest.fixture
def filtering() -> Iterator[None]:
    before = jax.config.jax_traceback_filtering  # type: ignore[attr-defined]
    yield
    jax.config.update("jax_traceback_filtering", before)


def fail(x: Any) -> Any:
    raise KeyError("mine")


def frames(mode: str, call: Any) -> list[str]:
    """The files of the traceback of a call that fails, without those of JAX."""
    jax.config.update("jax_traceback_filtering", mode)
    with pytest.raises((KeyError, TypeError, ValueError)) as caught:
        call()
    files = [Path(frame.filename) for frame in traceback.extract_tb(caught.value.__traceback__)]
    return ["package" if PACKAGE_ROOT in file.parents else file.name for file in files if "jax" not in file.parts]


@pytest.mark.usefixtures("filtering")
@pytest.mark.parametrize("backend", BACKENDS)
def test_tracebacks_show_the_callers_frames(backend: str) -> None:
    here = Path(__file__).name
    for call in (
        lambda: sjb.minimize(fail, np.zeros(2), backend=backend),
        lambda: sjb.Minimizer(fail, backend=backend)(np.zeros(2)),
        lambda: sjb.Minimizer(fail, backend=backend).compile(np.zeros(2)),
    ):
        assert frames("remove_frames", call) == [here, here, here]
        assert frames("off", call).count("package") > 1
    wrong = frames("remove_frames", lambda: sjb.minimize(bowl, np.zeros(2), backend=backend, options={"gtoll": 1}))
    assert wrong == [here, here]
    assert frames("remove_frames", lambda: sjb.minimize(bowl, np.zeros(2), tol=1e-3)) == [here, here]


def test_an_exception_keeps_its_cause_and_its_context() -> None:
    def chained(x: Any) -> Any:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904

    with pytest.raises(ValueError, match="second") as caught:
        sjb.minimize(chained, np.zeros(2))
    assert isinstance(caught.value.__context__, KeyError) and not caught.value.__suppress_context__
    assert caught.value.best_result is None  # type: ignore[attr-defined]


def test_exceptions_that_are_raised_are_public() -> None:
    with pytest.raises(sjb.NonfiniteStart):
        sjb.minimize(lambda x: jnp.log(x), -1.0)
    with pytest.raises(sjb.TracedCall):
        jax.jit(lambda x: sjb.minimize(bowl, x).params)(jnp.zeros(2))
    assert issubclass(sjb.NonfiniteStart, ValueError) and issubclass(sjb.TracedCall, RuntimeError)
    names = [name for name in dir(sjb) if not name.startswith("_")]
    assert not {"version", "PackageNotFoundError", "Any"} & set(names)


def test_a_solver_says_what_it_solves() -> None:
    assert repr(sjb.Minimizer(bowl)) == "Minimizer(bowl, backend='scipy', method='L-BFGS-B')"
    text = repr(sjb.Minimizer(bowl, backend="optax", fixed={"a": True}, options={"gtol": 1e-8}))
    assert "fixed={'a': True}" in text and "gtol=1e-08" in text


def test_scipys_own_display_reaches_scipy(capfd: pytest.CaptureFixture[str]) -> None:
    assert sjb.minimize(bowl, np.zeros(2), method="SLSQP", options={"disp": True}).success
    sjb.minimize(bowl, np.zeros(2), method="Nelder-Mead", options={"disp": True})
    assert "Optimization terminated successfully" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sjb.minimize(weigh, np.zeros(2), np.eye(2), np.ones(2)), "args is one tuple, as in (x, y)."),  # type: ignore[call-overload]
        (lambda: sjb.minimize(bowl, np.zeros(2), (), "optax"), "all else is named, as in backend='optax'"),  # type: ignore[call-overload]
        (lambda: sjb.Minimizer(bowl, "optax"), "Minimizer takes fun by position; all else is named"),  # type: ignore[call-overload]
        (lambda: sjb.Minimizer(bowl)(np.zeros(2), (), {}), "by position; all else is given to Minimizer when"),  # type: ignore[call-overload]
        (lambda: sjb.compare(bowl, np.zeros(2), runs=["scipy"]), "runs must be a dict of dicts"),  # type: ignore[arg-type]
        (lambda: sjb.compare(bowl, np.zeros(2), runs={"a": "BFGS"}), "{'bfgs': {'method': 'BFGS'}}"),  # type: ignore[dict-item]
        (lambda: jax.jit(lambda x: sjb.compare(bowl, x))(np.zeros(2)), "compare runs on the host"),
        (lambda: sjb.minimize(bowl, np.zeros(2), options={"tol": 1e-3}), "Write options={'gtol': ...}"),
        (lambda: sjb.minimize(bowl, np.zeros(2), options={"disp": True}), "progress=True"),
        (lambda: sjb.minimize(bowl, np.zeros(2), options={"history_size": 3}), "did you mean 'maxcor'?"),
        (lambda: sjb.minimize(bowl, {"a": 0.5}, bounds={"a": [0, 1]}), "not [0, 1]. Write (0, 1)."),
        (lambda: sjb.minimize(bowl, np.zeros(3), bounds=((0, 1), (0, 1), (0, 1))), "not a tuple of 3"),
        (
            lambda: sjb.minimize(lambda x, y: jnp.sum((x - y) ** 2), np.zeros(2), (np.array([1.0, np.nan]),)),
            "The cause may be in the data: args[0] is not finite everywhere.",
        ),
        (lambda: sjb.minimize(bowl, jax.vmap(lambda x: solve_of(x))(np.ones((2, 3)))), "the result of a batch"),
    ],
)
def test_the_cure_of_a_wrong_call_is_in_its_message(call: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError, sjb.TracedCall), match=re.escape(words)):
        call()


def solve_of(x: Any) -> Any:
    return sjb.minimize(bowl, x, backend="optax")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: sjb.minimize(lambda x, a, b: weigh(x, a), np.zeros(2), [np.eye(2), 1.0]),
            "args is a list, which is one argument of fun",
        ),
        (
            lambda: sjb.minimize(lambda p: jnp.sum(np.eye(2) @ p["a"]), {"a": [0.0, 1.0]}),
            "np.array(params['a']) is one",
        ),
        (lambda: sjb.minimize(lambda x, y: jnp.sum(x @ y), np.zeros(2), ([0.0, 1.0],)), "np.array(args[0]) is one"),
    ],
)
def test_a_list_is_told_from_an_array(call: Any, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    assert [words in note for note in caught.value.__notes__].count(True) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_objective_may_be_a_constant_and_have_constants_as_auxiliary_output(backend: str) -> None:
    result = sjb.minimize(lambda p: (1.0, {"n": 3, "a": p}), {"a": 0.5}, backend=backend, has_aux=True)
    assert (float(result.fun), int(result.aux["n"]), result.status) == (1.0, 3, sjb.Status.GTOL)
    assert "does not depend on params['a']" in str(result)


@pytest.mark.parametrize(
    ("fun", "cures"),
    [
        (
            lambda p, y: p["a"] if p["b"] > 0 else y,
            ["leaves[1] is params['b'].", "Write jnp.where or jax.lax.cond"],
        ),
        (lambda p, y: p["a"] * (1.0 if y > 0 else 2.0), ["data[1] is args[0].", "Write jnp.where or jax.lax.cond"]),
        (lambda p, y: float(p["a"]), ["Compute with jax.numpy"]),
        (lambda p, y: np.exp(p["a"]) + math.exp(y), ["Compute with jax.numpy"]),
    ],
)
def test_errors_of_jax_on_traced_values_get_the_path_and_the_cure(fun: Any, cures: list[str]) -> None:
    params = {"a": 1.0, "b": 2.0, "held": np.arange(3)}
    with pytest.raises(TypeError) as caught:
        sjb.minimize(fun, params, (3.0,), fixed={"held": True})
    for cure in cures:
        assert any(note.startswith(cure) for note in caught.value.__notes__), caught.value.__notes__
