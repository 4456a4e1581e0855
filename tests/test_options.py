"""One vocabulary: each option means the same on both backends, and SciPy's own pass through."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import scipy_jax_bridge as sjb
from problems import BACKENDS, rosenbrock
from scipy_jax_bridge import Status
from scipy_jax_bridge._core.options import read_options
from scipy_jax_bridge._scipy.methods import METHODS

START = np.linspace(-1.0, 1.0, 8)
# maxls and maxcor change the path; for maxcor the device loop has to be compiled anew
DEFAULTS = {"gtol": 1e-5, "ftol": 2.220446049250313e-09, "maxiter": 15000, "maxfun": 15000, "maxls": 20, "maxcor": 10}


def solve(backend: str, **options: Any) -> sjb.Result:
    return sjb.minimize(rosenbrock, START, backend=backend, options=options)


def test_defaults_are_those_of_the_interface() -> None:
    given = vars(sjb.Options())
    assert {name: given[name] for name in DEFAULTS} == DEFAULTS and given["timeout"] is None


def test_options_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        sjb.Options().gtol = 1.0  # type: ignore[misc]


def test_native_options_are_a_copy() -> None:
    native = {"xtol": 1e-3}
    options = sjb.Options(native=native)
    native["xtol"] = 9
    assert options.native["xtol"] == 1e-3
    with pytest.raises(TypeError):
        options.native["xtol"] = 9  # type: ignore[index]


OPTIONS = sjb.Options(gtol=1e-3, native={"xtol": 1e-3, "scale": None})


@pytest.mark.parametrize(
    "again",
    [
        lambda options: pickle.loads(pickle.dumps(options)),
        copy.copy,
        copy.deepcopy,
        dataclasses.replace,
        lambda options: sjb.Options(**dataclasses.asdict(options)),
    ],
    ids=["pickle", "copy", "deepcopy", "replace", "asdict"],
)
def test_options_come_back_as_they_were(again: Callable[[sjb.Options], sjb.Options]) -> None:
    copied = again(OPTIONS)
    assert copied == OPTIONS and hash(copied) == hash(OPTIONS) and repr(copied) == repr(OPTIONS)
    assert dict(copied.native) == {"xtol": 1e-3, "scale": None}


def test_options_are_keys() -> None:
    assert len({OPTIONS, sjb.Options(), sjb.Options(gtol=1e-3, native={"scale": None, "xtol": 1e-3})}) == 2
    assert dataclasses.replace(OPTIONS, native={"xtol": 2e-3}) != OPTIONS


@pytest.mark.parametrize(("method", "name"), [("BFGS", "xrtol"), ("Nelder-Mead", "xatol"), ("TNC", "eta")])
def test_a_native_option_that_no_float_can_hold_is_refused(method: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"native option '{name}' must be a number that float64 can hold.*401 digits"):
        sjb.minimize(rosenbrock, START, method=method, options={name: 10**400})


@pytest.mark.parametrize("kind", [float, np.float64, np.int32, np.array, jnp.asarray], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["maxiter", "maxfun", "maxls", "maxcor"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_numbers_of_every_kind(backend: str, name: str, kind: Callable[[int], Any]) -> None:
    assert type(getattr(sjb.Options(**{name: kind(7)}), name)) is int
    result, same = solve(backend, **{name: kind(7)}), solve(backend, **{name: 7})
    assert (result.nit, result.nfev, result.status) == (same.nit, same.nfev, same.status)


def test_traced_limits_but_no_traced_memory() -> None:
    @functools.partial(jax.jit, static_argnums=2)
    def count(start: Any, number: Any, name: str) -> Any:
        return sjb.minimize(rosenbrock, start, backend="optax", options={name: number}).nit

    assert count(START, 3, "maxiter") == 3
    for name in ("maxcor", "timeout"):
        with pytest.raises(TypeError, match=f"option '{name}' must be known when .* static_argnames"):
            count(START, 3, name)


@pytest.mark.parametrize(
    "given", [{"gtol": 1e-3, "maxiter": 7}, sjb.Options(gtol=1e-3, maxiter=7)], ids=["dict", "Options"]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mapping_and_an_object_say_the_same(given: Any, backend: str) -> None:
    result = sjb.minimize(rosenbrock, START, backend=backend, options=given)
    assert result.nit == 7 and result.status == Status.MAXITER


@pytest.mark.parametrize("value", [3, 3.0, np.int32(3), np.float64(3), np.array(3), jnp.asarray(3)], ids=repr)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kind_of_number(value: Any, backend: str) -> None:
    assert solve(backend, maxiter=value).nit == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_gtol(backend: str) -> None:
    result = solve(backend, gtol=1e-2, ftol=0)
    norms = np.asarray(result.trace.grad_norm)
    assert result.status == Status.GTOL and norms[-1] <= 1e-2 and (norms[:-1] > 1e-2).all()
    assert float(jnp.abs(result.jac).max()) == pytest.approx(norms[-1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_ftol(backend: str) -> None:
    result = solve(backend, gtol=0, ftol=1e-2)
    fun = np.asarray(result.trace.fun)
    size = np.maximum(np.maximum(np.abs(fun[:-1]), np.abs(fun[1:])), 1)
    reduction = (fun[:-1] - fun[1:]) / size
    assert result.status == Status.FTOL and reduction[-1] <= 1e-2 and (reduction[:-1] > 1e-2).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_ftol_zero_disables_the_test(backend: str) -> None:
    assert solve(backend, gtol=1e-4, ftol=0).status == Status.GTOL


@pytest.mark.parametrize("backend", BACKENDS)
def test_maxls_limits_the_evaluations_of_an_iteration(backend: str) -> None:
    usual, short = solve(backend), solve(backend, maxls=1)
    assert np.diff(np.asarray(usual.trace.nfev)).max() > 1
    steps = np.diff(np.asarray(short.trace.nfev))
    assert short.status == Status.LINESEARCH and (steps[:-1] == 1).all()
    assert steps[-1] <= 3  # a search that fails starts again along the gradient


@pytest.mark.parametrize("backend", BACKENDS)
def test_maxcor_is_the_memory(backend: str) -> None:
    assert solve(backend, maxcor=1).nit != solve(backend).nit


@pytest.mark.parametrize("name", ["gtol", "ftol", "maxiter", "maxls", "maxcor"])
def test_scipy_is_given_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SciPy's own name, as a value and not as its `tol`, which sets two at once."""
    given: dict[str, Any] = {}
    minimize = scipy.optimize.minimize

    def spy(*args: Any, **kwargs: Any) -> Any:
        given.update(kwargs)
        return minimize(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    value = {"gtol": 1e-3, "ftol": 1e-4, "maxiter": 12, "maxls": 9, "maxcor": 4}[name]
    solve("scipy", **{name: value})
    assert given["options"][name] == value and "tol" not in given


@pytest.mark.parametrize(
    ("method", "native"),
    [("trust-constr", {"initial_tr_radius": 0.5}), ("Nelder-Mead", {"adaptive": True}), ("BFGS", {"norm": 2})],
)
@pytest.mark.parametrize("nested", [False, True])
def test_options_of_a_method_reach_scipy(
    method: str, native: dict[str, Any], nested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    minimize = scipy.optimize.minimize

    def spy(*args: Any, **kwargs: Any) -> Any:
        given.update(kwargs["options"])
        return minimize(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    options = sjb.Options(maxiter=3, native=native) if nested else {"maxiter": 3, **native}
    sjb.minimize(rosenbrock, START[:2], method=method, options=options)
    assert native.items() <= given.items()


@pytest.mark.parametrize("method", METHODS)
def test_scipy_knows_every_option_that_we_name(method: str) -> None:
    """SciPy only warns of an option it does not know; here warnings are errors, and none may be left over."""
    facts = METHODS[method]
    described = str(scipy.optimize.show_options("minimize", facts.name, disp=False))
    if facts.name in ("dogleg", "trust-ncg", "trust-krylov"):  # SciPy describes them elsewhere: try
        radii = {"initial_trust_radius": 1.0, "max_trust_radius": 100.0, "eta": 0.1, "inexact": True}
        native = {name: radii[name] for name in facts.native}
        assert sjb.minimize(rosenbrock, START[:2], method=facts.name, options=native).success
        return
    names = {*facts.option_names.values(), *facts.native}
    names -= {"maxiter"}  # SciPy 1.14 takes it and does not say so everywhere
    assert [name for name in names if name not in described] == []


def test_a_name_said_twice_is_taken_once() -> None:
    options = read_options({"xtol": 1.0, "native": {"eta": 2.0}}, frozenset({"xtol", "eta"}), "TNC")
    assert dict(options.native) == {"xtol": 1.0, "eta": 2.0}


@pytest.mark.parametrize(
    ("method", "options", "kind", "said"),
    [
        ("BFGS", {"c1": -1}, ValueError, "0 < c1 < c2 < 1"),
        ("TNC", {"eta": "a"}, TypeError, "must be real number"),
        ("Newton-CG", {"xtol": "a"}, TypeError, "greater"),  # NumPy's own kind of TypeError
        ("COBYQA", {"initial_tr_radius": -1}, ValueError, "must be positive"),
        ("Powell", {"direc": 0}, IndexError, "out of range"),
    ],
)
def test_what_scipy_refuses_names_the_option_and_the_method(
    method: str, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    (name,) = options
    with pytest.raises(kind, match=rf"{method} does not accept options=.*'{name}': .*{said}") as caught:
        sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), jnp.zeros(2), method=method, options=options)
    assert type(caught.value) is kind and caught.value.__cause__ is not None
    assert str(caught.value.__cause__) in str(caught.value)


def test_an_error_of_the_objective_is_not_blamed_on_an_option() -> None:
    def fail(progress: Any) -> None:
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine"):
        sjb.minimize(lambda x: jnp.sum(x**2), jnp.ones(2), method="BFGS", options={"c1": 1e-3}, callback=fail)
