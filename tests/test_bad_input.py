"""Every wrong call is an error at the call that says what was wrong, where, and what to do."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from helpers_calls import Calls, count_compiles
from problems import BACKENDS

OTHERS_INTERNALS = (".py", "Traced", "PyTreeDef", "jaxlib", "beartype", "is not a mapping", "Known: .")


def import_as_users_do() -> Any:
    """A copy of the package without the tests' run-time type checks, which would speak before the package does."""
    hooked = list(sys.meta_path)
    modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "scipy_jax_bridge"}
    sys.meta_path[:] = [finder for finder in hooked if "jaxtyping" not in type(finder).__module__]
    try:
        package = importlib.import_module("scipy_jax_bridge")
        for backend in BACKENDS:
            package.Minimizer(len, backend=backend)  # a backend is imported at its first use
        return package
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "scipy_jax_bridge"]:
            del sys.modules[name]
        sys.modules.update(modules)
        sys.meta_path[:] = hooked


sjb = import_as_users_do()


def square(params: Any, *args: Any) -> Any:
    return sum(jnp.sum(jnp.asarray(leaf, float) ** 2) for leaf in jax.tree.leaves(params))


def tree() -> dict[str, Any]:
    return {"w": np.ones(3), "part": {"b": 2.0}}


@dataclass(frozen=True)
class Bad:
    """A wrong call: its name, what it passes instead of a good call's arguments, the error, words of the message."""

    name: str
    error: type[Exception]
    words: tuple[str, ...]
    call: dict[str, Any]
    backends: tuple[str, ...] = BACKENDS

    @property
    def fun(self) -> Any:
        return self.call.get("fun", square)


@dataclass
class Net:
    """What JAX takes for one leaf."""

    w: Any


class Plain:
    def __init__(self) -> None:
        self.w = np.ones(2)

    def __repr__(self) -> str:
        return "Plain()"


def bad(name: str, error: type[Exception], *words: str, only: str | None = None, **call: Any) -> Bad:
    return Bad(name, error, words, call, BACKENDS if only is None else (only,))


def option(name: str, error: type[Exception], *words: str, only: str | None = None, **options: Any) -> Bad:
    return bad(f"option-{name}", error, *words, only=only, options=options)


def side(name: str, error: type[Exception], *words: str, lower: Any = None, upper: Any = None) -> Bad:
    return bad(f"bounds-{name}", error, "bounds", *words, bounds=(lower, upper))


def objective(name: str, fun: Any, *words: str, **call: Any) -> Bad:
    return bad(f"fun-{name}", TypeError, "fun", *words, fun=fun, **call)


def start(name: str, params: Any, error: type[Exception], *words: str) -> Bad:
    return bad(f"params-{name}", error, *words, params=params)


NO_FREE = (ValueError, "no free parameters", "fixed", "floats")
NEAR_GTOL = (ValueError, "unknown option", "did you mean 'gtol'?")
TWO = np.zeros(2)

CALLS = [
    # which backend
    bad("backend-unknown", ValueError, "unknown backend 'both'", "optax, scipy", backend="both"),
    bad("backend-near", ValueError, "did you mean 'optax'?", backend="optx"),
    bad("backend-capital", ValueError, "did you mean 'scipy'?", backend="SciPy"),
    bad("backend-empty", ValueError, "unknown backend ''", backend=""),
    bad("backend-none", ValueError, "unknown backend None", "optax, scipy", backend=None),
    bad("backend-number", ValueError, "unknown backend 3", backend=3),
    bad("backend-list", ValueError, "unknown backend", "optax, scipy", backend=["scipy", "optax"]),
    # which method
    bad("method-unknown", ValueError, "unknown method 'gauss'", "L-BFGS-B", only="scipy", method="gauss"),
    bad("method-lbfgs", ValueError, "did you mean 'L-BFGS-B'?", only="scipy", method="LBFGS"),
    bad("method-lbfgsb", ValueError, "did you mean 'L-BFGS-B'?", only="scipy", method="lbfgsb"),
    bad("method-underscores", ValueError, "did you mean 'L-BFGS-B'?", only="scipy", method="L_BFGS_B"),
    bad("method-letter", ValueError, "did you mean 'SLSQP'?", only="scipy", method="SLQP"),
    bad("method-nelder", ValueError, "did you mean 'Nelder-Mead'?", only="scipy", method="neldermead"),
    bad("method-empty", ValueError, "unknown method ''", only="scipy", method=""),
    bad("method-number", TypeError, "int", "name of a method", only="scipy", method=3),
    bad("method-of-optax", TypeError, "backend='optax'", only="scipy", method=optax.adam(0.1)),
    bad("method-callable", TypeError, "function", "name of a method", only="scipy", method=square),
    bad("method-of-scipy", TypeError, "'BFGS'", "backend='scipy'", "optax.adam(1e-2)", only="optax", method="BFGS"),
    bad(
        "method-multi-steps",
        TypeError,
        ".gradient_transformation()",
        only="optax",
        method=optax.MultiSteps(optax.adam(0.1), 2),
    ),
    bad("method-not-called", TypeError, "GradientTransformation", "optax.adam(", only="optax", method=optax.adam),
    bad("method-tuple", TypeError, "GradientTransformation", "tuple", only="optax", method=(1, 2)),
    # options
    option("near", *NEAR_GTOL, gtoll=1.0),
    option("tol", *NEAR_GTOL, tol=1.0),
    option("capital", *NEAR_GTOL, GTOL=1.0),
    option("max_iter", ValueError, "did you mean 'maxiter'?", max_iter=3),
    option("disp", ValueError, "unknown option", "'disp'", "maxiter", disp=True),
    option("of-other-method", ValueError, "unknown option", "'xatol'", xatol=1.0),
    option("native-near", ValueError, "unknown native option 'xx'", native={"xx": 1}),
    option("native-number", TypeError, "'native'", "mapping", native=3),
    option("gtol-text", ValueError, "'gtol'", "number", "'small'", gtol="small"),
    option("gtol-none", ValueError, "'gtol'", "number", gtol=None),
    option("gtol-bool", ValueError, "'gtol'", "number", gtol=True),
    option("gtol-nan", ValueError, "'gtol'", "nan", gtol=float("nan")),
    option("gtol-negative", ValueError, "'gtol'", "at least 0", "-1", gtol=-1),
    option("gtol-complex", ValueError, "'gtol'", "number", gtol=1j),
    option("gtol-array", ValueError, "'gtol'", "number", gtol=TWO),
    option("ftol-negative", ValueError, "'ftol'", "0 disables", ftol=-1e-9),
    option("ftol-none", ValueError, "'ftol'", "0 disables", ftol=None),
    option("maxiter-part", ValueError, "'maxiter'", "whole", "1.5", maxiter=1.5),
    option("maxiter-negative", ValueError, "'maxiter'", "at least 0", maxiter=-1),
    option("maxiter-infinite", ValueError, "'maxiter'", "whole", maxiter=float("inf")),
    option("maxiter-none", ValueError, "'maxiter'", "whole", maxiter=None),
    option("maxfun-zero", ValueError, "'maxfun'", "at least 1", maxfun=0),
    option("maxls-zero", ValueError, "'maxls'", "at least 1", maxls=0),
    option("maxcor-zero", ValueError, "'maxcor'", "from 1 to 1000", maxcor=0),
    option("maxcor-text", ValueError, "'maxcor'", "whole", maxcor="10"),
    option("timeout-zero", ValueError, "'timeout'", "positive", timeout=0),
    option("timeout-negative", ValueError, "'timeout'", "positive", timeout=-1.0),
    option("timeout-text", ValueError, "'timeout'", "seconds", timeout="1s"),
    option("timeout-nan", ValueError, "'timeout'", "seconds", timeout=float("nan")),
    bad("options-number", TypeError, "options", "mapping", "int", options=5),
    bad("options-text", TypeError, "options", "mapping", "str", options="gtol=1e-8"),
    bad("options-pairs", TypeError, "options", "mapping", "list", options=[("gtol", 1e-8)]),
    bad("options-key", ValueError, "unknown option", "3", options={3: 4}),
    bad("options-tnc", ValueError, "did you mean 'eta'?", only="scipy", method="TNC", options={"etaa": 1}),
    # bounds
    bad("bounds-number", TypeError, "bounds", "sjb.Bounds(lower, upper)", "int", bounds=3),
    bad("bounds-dict", ValueError, "['parts']", "did you mean 'part'", bounds={"parts": (0, 1)}),
    bad("bounds-dict-number", TypeError, "bounds['w']", "a pair (lower, upper)", "3", bounds={"w": 3}),
    bad("bounds-dict-list", TypeError, "bounds['part']['b']", "a pair", "[0, 1]", bounds={"part": {"b": [0, 1]}}),
    bad("bounds-dict-twice", ValueError, "['part']['b'] twice", bounds={"part": (0, 1), "part.b": (0, 2)}),
    bad(
        "bounds-dict-two-ways",
        ValueError,
        "bounds['pair'] can be read in two ways",
        "{'pair.0': (0, 2), 'pair.1': (1, 3)} for the former",
        "{'pair.0': (0, 1), 'pair.1': (2, 3)} for the latter",
        params={"pair": (1.0, 2.0)},
        bounds={"pair": ((0, 1), (2, 3))},
    ),
    bad("bounds-triple", TypeError, "bounds", "sjb.Bounds(lower, upper)", bounds=(0, 1, 2)),
    bad("bounds-of-scipy", TypeError, "list", "Bounds(lower_array, upper_array)", bounds=[(0, 1)] * 4),
    bad("bounds-of-scipy-two", TypeError, "list", "Bounds(lower_array", bounds=[(0, 1)] * 2, params=np.ones(2)),
    bad(
        "bounds-missing-item",
        ValueError,
        "bounds.lower says nothing of params['part'][1]",
        "one value for all",
        params={"part": [1.0, 2.0]},
        bounds=({"part": [0.0]}, None),
    ),
    bad("bounds-pair-for-one-leaf", ValueError, "says nothing of params.", params=TWO, bounds=((None, None), None)),
    side("extra-key", ValueError, "['c']", "no counterpart", lower={"w": 0.0, "part": None, "c": 1.0}),
    side("extra-inner", ValueError, "['part']['c']", upper={"w": 0.0, "part": {"b": 1.0, "c": 1.0}}),
    side("too-deep", ValueError, "['w']['x']", "no counterpart", lower={"w": {"x": 0.0}, "part": None}),
    side("list-for-array", ValueError, "['w'][0]", "not lists", lower={"w": [0.0, 0.0, 0.0], "part": None}),
    side("list-for-dict", ValueError, "bounds.lower[0]", lower=[0.0, 0.0]),
    side("other-key-none", ValueError, "lower", "params", lower={"z": None}),
    side("shape", ValueError, "lower", "params['w']", "(2,)", "(3,)", "Give", lower={"w": TWO, "part": None}),
    side("too-many-axes", ValueError, "params['w']", "(3, 1)", lower={"w": np.zeros((3, 1)), "part": None}),
    side("array-for-tree", ValueError, "upper", "(4,)", upper=np.zeros(4)),
    side("crossed", ValueError, "params['part']['b']", "lower 1.0", "upper 0.0", "Swap", lower=1.0, upper=0.0),
    side(
        "crossed-at", ValueError, "params['w']", "component 2", lower=2.0, upper={"w": np.array([3, 3, 1]), "part": 3}
    ),
    side("crossed-inner", ValueError, "params['part']['b']", lower={"w": None, "part": 1.0}, upper=0.0),
    side("nan", ValueError, "lower", "params['part']['b']", "NaN", "None", lower=float("nan")),
    side("nan-at", ValueError, "upper", "NaN at 1", upper={"w": np.array([1, np.nan, 1]), "part": None}),
    side("infinite-lower", ValueError, "lower of params['part']['b'] is inf", "None or -inf", lower=np.inf),
    side("infinite-upper", ValueError, "upper of params['part']['b'] is -inf", "None or inf", upper=jnp.array(-np.inf)),
    side("infinite-both", ValueError, "bounds.lower", "no finite float64", lower=np.inf, upper=np.inf),
    side(
        "infinite-at",
        ValueError,
        "params['w'] is inf at component 2",
        lower={"w": np.array([0, -np.inf, np.inf]), "part": 0},
    ),
    bad(
        "bounds-beyond-the-type",
        ValueError,
        "lower of params is 1e+300 at component 0, which leaves no finite float32",
        bounds=(1e300, None),
        params=np.ones(2, np.float32),
    ),
    bad(
        "bounds-scipy",
        TypeError,
        "bounds=(bounds.lb, bounds.ub)",
        bounds=scipy.optimize.Bounds(np.zeros(2), np.ones(2)),
    ),
    side("text", TypeError, "params['part']['b']", "real number", "'0'", lower="0"),
    side("complex", TypeError, "params['part']['b']", "real number", upper=1j),
    side("objects", TypeError, "params['w']", "real number", upper={"w": np.array([None, 1, 1]), "part": None}),
    bad("bounds-bfgs", ValueError, "'BFGS' takes no bounds", "L-BFGS-B", only="scipy", method="BFGS", bounds=(0, 1)),
    bad(
        "bounds-newton", ValueError, "takes no bounds", "trust-constr", only="scipy", method="Newton-CG", bounds=(0, 1)
    ),
    bad(
        "bounds-adam",
        ValueError,
        "takes no bounds",
        "backend='scipy'",
        only="optax",
        method=optax.adam(1),
        bounds=(0, 1),
    ),
    # fixed
    bad("fixed-short-list", ValueError, "fixed", "says nothing of params[1]", params=[1.0, 2.0], fixed=[True]),
    bad("fixed-path", ValueError, "fixed['part.c']", "did you mean 'part", fixed={"part.c": True}),
    bad("fixed-twice", ValueError, "params['part']['b'] twice", fixed={"part": True, "part.b": False}),
    bad(
        "fixed-two-ways",
        ValueError,
        "fixed['a.b'] can be read in two ways: params['a']['b'] or params['a.b']",
        params={"a.b": 1.0, "a": {"b": 2.0}},
        fixed={"a.b": True},
    ),
    bad("fixed-list-of-names", TypeError, "Write fixed={'b': True, 'w': True}", fixed=["w", "b"]),
    bad("fixed-extra", ValueError, "fixed['c']", fixed={"w": True, "part": False, "c": True}),
    bad("fixed-list", ValueError, "fixed[0]", fixed=[True, False]),
    bad("fixed-number", TypeError, "fixed", "True or False", "1", fixed=1),
    bad("fixed-where", TypeError, "['w']", "True or False", fixed={"w": 1, "part": False}),
    bad("fixed-text", TypeError, "['part']", "True or False", "'b'", fixed={"w": False, "part": "b"}),
    bad("fixed-names", TypeError, "True or False", "Write fixed={'w': True}", fixed="w"),
    bad("fixed-mask-shape", ValueError, "fixed['w']", "(2,)", "(3,)", fixed={"w": np.array([True, False])}),
    bad("fixed-mask-type", TypeError, "fixed['w']", "array of booleans", "int64", fixed={"w": np.array([1, 0, 1])}),
    bad("fixed-all", *NO_FREE, fixed=True),
    bad("fixed-all-of-jax", ValueError, "something out of `fixed`", params=jnp.ones(2), fixed=True),
    bad("fixed-all-leaves", *NO_FREE, fixed={"w": True, "part": {"b": True}}),
    # the objective
    bad("fun-none", TypeError, "fun must be a function", "NoneType", fun=None),
    bad("fun-value", TypeError, "fun must be a function", "float", fun=2.0),
    bad("fun-name", TypeError, "fun must be a function", "str", fun="square"),
    objective("vector", lambda p: p["w"], "scalar", "(3,)", "Sum or average"),
    objective("one-element", lambda p: p["w"][:1], "scalar", "(1,)", ".squeeze()"),
    objective("integer", lambda p: jnp.int32(1), "floating-point", "int32"),
    objective("python-integer", lambda p: 1, "floating-point", "int"),
    objective("bool", lambda p: jnp.all(p["w"] > 0), "floating-point", "bool"),
    objective("complex", lambda p: jnp.sum(p["w"]) + 1j, "complex128", "real"),
    objective("nothing", lambda p: None, "None", "return"),
    objective("text", lambda p: "small", "must return", "str"),
    objective("dict", lambda p: {"loss": jnp.sum(p["w"])}, "real scalar", "dict"),
    objective("pair", lambda p: (jnp.sum(p["w"]), 1.0), "tuple", "has_aux=True"),
    objective("no-pair", lambda p: jnp.sum(p["w"]), "pair (value, aux)", has_aux=True),
    objective("triple", lambda p: (jnp.sum(p["w"]), 1, 2), "pair (value, aux)", has_aux=True),
    objective("list-pair", lambda p: [jnp.sum(p["w"]), 1], "pair (value, aux)", has_aux=True),
    objective("aux-first", lambda p: (p["w"], jnp.sum(p["w"])), "scalar", "(3,)", has_aux=True),
    objective("aux-text", lambda p: (jnp.sum(p["w"]), "note"), "aux", "str", has_aux=True),
    # params
    start("masked", np.ma.masked_array(np.ones(2), [0, 1]), TypeError, "params is a masked array", "filled"),
    bad("args-masked", TypeError, "args[0] is a masked array", "filled", args=(np.ma.masked_array(TWO, [0, 1]),)),
    bad(
        "fixed-nan",
        ValueError,
        "params is nan at component 1, which `fixed` holds",
        "leave the component out",
        params=np.array([0.0, np.nan]),
        fixed=np.array([False, True]),
    ),
    start("complex-array", {"w": np.ones(3), "z": [np.ones(2, complex)]}, TypeError, "params['z'][0]", "imaginary"),
    start("complex-number", {"w": 1j}, TypeError, "params['w'] is complex", "two real leaves"),
    start("complex-alone", np.ones(2, np.complex64), TypeError, "params is complex"),
    start("none", None, *NO_FREE),
    start("empty-dict", {}, *NO_FREE),
    start("integers", np.arange(3), *NO_FREE),
    start("python-integers", [1, 2], *NO_FREE),
    start("bools", {"a": True}, *NO_FREE),
    start("text", "abc", *NO_FREE),
    start("empty-array", np.ones(0), *NO_FREE),
    start("objects", np.array([1.0, None]), *NO_FREE),
    start("dates", {"t": np.zeros(2, "datetime64[s]")}, *NO_FREE),
    start("dataclass", {"net": Net(np.ones(2))}, *NO_FREE[:2], "params['net'] is a Net", "register_dataclass"),
    start("object", Plain(), *NO_FREE[:2], "params is a Plain", "a dict of its arrays", "register_pytree_node_class"),
    start(
        "longdouble", {"w": np.ones(2), "l": [np.ones(2, np.longdouble)]}, TypeError, "params['l'][0]", "astype(float)"
    ),
    start("longdouble-number", {"l": np.longdouble(1)}, TypeError, "params['l'] is of type", "astype(float)"),
    start(
        "records", {"w": np.ones(2), "r": np.zeros(2, "f8,f8")}, TypeError, "params['r']", "a dict of one array a field"
    ),
    bad("args-longdouble", TypeError, "args[1]['l']", "astype(float)", args=(1.0, {"l": np.ones(2, np.longdouble)})),
    # the rest
    bad("callback-number", TypeError, "callback must be a function", "int", callback=3),
    bad("callback-list", TypeError, "callback must be a function", "list", callback=[print]),
    bad("precision-32", ValueError, "precision", "None or 'float64'", "'float32'", precision="float32"),
    bad("precision-word", ValueError, "precision", "None or 'float64'", "'double'", precision="double"),
    bad("precision-type", ValueError, "precision", "None or 'float64'", precision=np.float64),
    bad("precision-bool", ValueError, "precision", "None or 'float64'", "True", precision=True),
    bad("has_aux-text", TypeError, "has_aux", "True or False", has_aux="no"),
    bad("has_aux-number", TypeError, "has_aux", "True or False", has_aux=2),
    bad("progress-text", TypeError, "progress", "True or False", progress="bar"),
]


def doors(call: dict[str, Any]) -> dict[str, Any]:
    """The ways in, each as a function of no argument."""
    call = {"fun": square, "params": tree(), **call}
    fun, params, args = call.pop("fun"), call.pop("params"), call.pop("args", ())
    return {
        "minimize": lambda: sjb.minimize(fun, params, args, **call),
        "Minimizer": lambda: sjb.Minimizer(fun, **call)(params, args),
        "compile": lambda: sjb.Minimizer(fun, **call).compile(params, args),
    }


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """A Python number becomes an array by a tiny program of JAX's own, compiled once a process."""
    jnp.asarray(1.0), jnp.asarray(1j)


def cases() -> list[Any]:
    return [pytest.param(each, name, id=f"{each.name}-{name}") for each in CALLS for name in each.backends]


@pytest.mark.parametrize("door", ["minimize", "Minimizer", "compile"])
@pytest.mark.parametrize(("case", "backend"), cases())
def test_bad_call_is_a_clear_error(case: Bad, backend: str, door: str) -> None:
    calls = Calls(case.fun)
    call = {"backend": backend, **case.call}
    if callable(case.fun):
        call["fun"] = calls
    before = repr({name: value for name, value in call.items() if name != "fun"})
    with count_compiles() as compiles, pytest.raises(case.error) as caught:
        doors(call)[door]()
    assert type(caught.value) is case.error
    assert caught.value.best_result is None  # type: ignore[attr-defined]  # what a handler asks for
    message = str(caught.value)
    assert not compiles
    assert calls.evaluated == 0 and calls.traced <= 1
    assert repr({name: value for name, value in call.items() if name != "fun"}) == before
    for word in case.words:
        assert word in message, f"{word!r} is not in: {message}"
    for internal in OTHERS_INTERNALS:
        assert internal not in message, f"{internal!r} is in: {message}"


@pytest.mark.parametrize("name", ["gtol", "maxiter", "timeout"])
def test_options_object_checks_at_birth(name: str) -> None:
    with pytest.raises(ValueError, match=f"option '{name}' must be .*, not -1"):
        sjb.Options(**{name: -1})


def test_unknown_option_of_the_object_is_an_error() -> None:
    with pytest.raises(TypeError, match="gtoll"):
        sjb.Options(gtoll=1.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_leaves_work(backend: str) -> None:
    params = {"empty": np.zeros((0, 2)), "x": np.ones(2), "int": np.zeros(0, int)}
    result = sjb.minimize(lambda p: jnp.sum((p["x"] - 3) ** 2) + jnp.sum(p["empty"]), params, backend=backend)
    assert result.success
    assert result.params["empty"].shape == (0, 2) and result.params["int"].shape == (0,)
    np.testing.assert_allclose(result.params["x"], 3, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_start_outside_its_bounds_is_clipped(backend: str) -> None:
    seen = []
    first = {"w": np.array([-9.0, 0.5, 9.0])}
    result = sjb.minimize(
        lambda p: jnp.sum((p["w"] - 0.25) ** 2),
        first,
        bounds=(0.0, 1.0),
        backend=backend,
        callback=lambda progress: seen.append(np.asarray(progress.params["w"])),
    )
    assert float(result.trace.fun[0]) == pytest.approx(0.25**2 + 0.25**2 + 0.75**2)
    assert all((each >= 0).all() and (each <= 1).all() for each in seen)
    np.testing.assert_array_equal(first["w"], [-9.0, 0.5, 9.0])
