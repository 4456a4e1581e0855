"""The command line: what it prints of each model, what it writes, and what it says to a wrong word."""

import json
import math
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import compare
from scipy_jax_bridge._cli import main as command_line
from scipy_jax_bridge._cli.commentary import documented_loop
from scipy_jax_bridge._cli.main import main
from scipy_jax_bridge._cli.target import EXAMPLE
from scipy_jax_bridge._compare import compare as _compare
from scipy_jax_bridge.models import MODELS, Model, load


@pytest.fixture(autouse=True)
def own_folder_and_precision(tmp_path, monkeypatch):
    before = jax.config.jax_enable_x64
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(_compare, "LEAST", 0.0)  # a turn is one solve however short
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def hopeless(monkeypatch) -> str:
    """The name of a model that falls up to where it is NaN, known for the length of a test."""

    def build():
        return Model(
            name="hopeless",
            title="no minimum",
            fun=lambda x: jnp.where(x[0] > 1.5, jnp.nan, -x[0]) + x[1] ** 2,
            params=np.ones(2),
            note="never at rest",
        )

    monkeypatch.setitem(MODELS, "hopeless", build)
    return "hopeless"


# What it prints


@pytest.mark.slow
def test_digits_by_default_agree_with_scikit_learn(capsys, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    assert main(["--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "650 parameters, float64 on cpu" in printed
    assert "Same minimum" in printed
    assert "agrees with scikit-learn's own LogisticRegression(C=1.0) to 1e-6" in printed
    assert printed.count("98.4975%") == 3
    assert re.search(r"^leaf +scipy +optax +apart$", printed, re.MULTILINE) and re.search(
        "^weights ", printed, re.MULTILINE
    )
    assert max(map(len, printed.splitlines()[:-1])) <= 80  # the last line is a path
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_co2_tells_the_hyperparameters_and_which_are_at_a_bound(capsys, monkeypatch):
    """Of every sixth month; `test_models` solves the whole record."""
    pytest.importorskip("statsmodels")
    model = load("co2", every=6)
    monkeypatch.setitem(MODELS, "co2", lambda: model)
    assert main(["co2", "--repeats", "1", "--no-plot", "--backends", "scipy"]) == 0
    printed = capsys.readouterr().out
    result = sjb.minimize(model.fun, model.params, model.args, bounds=model.bounds)
    expected = [
        [term, name]
        for term, values in sorted(result.params.items())
        for name, value in sorted(values.items())
        if float(value) == model.bounds[1][term][name]
    ]
    held = [line.split()[:2] for line in printed.splitlines() if line.endswith("at its upper bound")]
    assert held == expected != []
    likelihood = model.metrics(result.params, model.args)["log_marginal_likelihood"]
    assert f"log marginal likelihood {likelihood:.4f}" in printed


def test_a_hopeless_model_is_no_success_and_shows_its_note(capsys, hopeless):
    assert main([hopeless, "--repeats", "1", "--no-plot", "--float32"]) == 1
    printed = capsys.readouterr().out
    assert "float32 on cpu" in printed and "NONFINITE" in printed
    assert printed.endswith("never at rest\n")


def test_a_start_that_is_not_finite_is_an_error(capsys, monkeypatch):
    def build():
        return Model(name="nan", title="", fun=lambda x: jnp.sum(x) * jnp.nan, params=np.ones(2), note="")

    monkeypatch.setitem(MODELS, "nan", build)
    assert main(["nan", "--repeats", "1", "--no-plot"]) == 2
    assert "no way down from this start: the objective is nan" in capsys.readouterr().err


def test_rosenbrock_sets_optax_own_loop_beside_ours(capsys):
    assert main(["rosenbrock", "--repeats", "1", "--backends", "scipy", "--no-plot"]) == 0
    printed = capsys.readouterr().out
    rows = {line[:20].strip(): line for line in printed.splitlines()}
    assert {"scipy", "Optax loop, naive", "Optax loop, compiled"} < rows.keys()
    assert "in solve" in rows["Optax loop, naive"]


def test_json_is_all_that_is_printed_and_has_no_nan(capsys, hopeless):
    assert main([hopeless, "--repeats", "1", "--no-plot", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [row["run"] for row in rows] == ["scipy", "optax"]
    assert [row["status"] for row in rows] == ["NONFINITE", "NONFINITE"]
    assert all(math.isfinite(row["fun"]) for row in rows)


@pytest.mark.slow
def test_json_rows_of_rosenbrock_time_the_naive_loop_honestly(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["rosenbrock", "--repeats", "1", "--json", "--plot", "picture.svg"]) == 0
    captured = capsys.readouterr()
    rows = {row["run"]: row for row in json.loads(captured.out)}
    naive, compiled = rows["Optax loop, naive"], rows["Optax loop, compiled"]
    assert [row["backend"] for row in rows.values()] == ["scipy", "optax", "optax", "optax"]
    assert naive["compile_s"] is None and naive["nit"] == compiled["nit"]
    assert naive["solve_s"] > 0 and compiled["solve_s"] > 0 and compiled["compile_s"] > 0
    assert all(row["fun"] < 1e-6 for row in rows.values())
    model = load("rosenbrock")
    result = sjb.minimize(model.fun, model.params)
    assert rows["scipy"]["nit"] == result.nit and rows["scipy"]["fun"] == float(result.fun)
    assert (tmp_path / "picture.svg").exists() and "picture.svg" in captured.err


def test_one_backend_alone(capsys, hopeless):
    assert main([hopeless, "--backends", "optax", "--repeats", "1", "--no-plot", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["backend"] for row in rows] == ["optax"]


def test_list_names_every_model(capsys):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(MODELS)


def test_documented_loop_reports_the_point_where_it_ends():
    model = load("rosenbrock", n=6)
    value, grad_norm, nit, nfev = documented_loop(model, sjb.Options())(jnp.asarray(model.params))
    assert value < 1e-9 and grad_norm <= 1e-5 and nfev > nit > 10
    _, _, some, _ = documented_loop(model, sjb.Options(maxiter=3))(jnp.asarray(model.params))
    assert some == 3


# What it says where something is missing or wrong


def test_without_matplotlib_it_says_how_to_get_the_picture_and_goes_on(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "scipy_jax_bridge._render.picture", raising=False)
    write(EXAMPLE)
    assert main(["compare", "fit.py", "--repeats", "1", "--backends", "scipy", "--plot", "comparison.png"]) == 0
    assert "No picture: plots need Matplotlib; install the extra" in capsys.readouterr().out
    assert not (tmp_path / "comparison.png").exists()


def test_without_the_data_it_says_how_to_get_them(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "pip install 'scipy_jax_bridge[data]'" in said and "rosenbrock needs no data" in said


@pytest.mark.parametrize(
    "words, text",
    [
        (["rosenbrok"], "unknown model 'rosenbrok'; did you mean 'rosenbrock'?"),
        (["--backends", "scipy,optx"], "unknown backend 'optx'; did you mean 'optax'?"),
        (["--repeats", "0"], "'0' is not a whole number that is at least 1"),
        (["--backends", "scipy", "--methods", "BFSG"], "unknown method of SciPy 'BFSG'; did you mean 'BFGS'?"),
        (["--methods", "adm=0.1"], "'adm=0.1' is no transformation of Optax; write for example adam=0.01."),
        (["--gtol", "-1"], "'-1' is not a number that is at least 0"),
        (["--maxiter", "2.5"], "'2.5' is not a whole number that is at least 0"),
        (["--timeout", "soon"], "'soon' is not a positive number of seconds"),
        (["--report", "page.pdf"], "'page.pdf' must end in one of .html"),
        (["compare"], "what is to be compared?"),
        (["compare", "rosenbrok"], "did you mean 'rosenbrock'?"),
        (["--plot", "picture"], "'picture' must end in one of .png"),
        (["--plot", "nowhere/picture.png"], "there is no folder 'nowhere'"),
        (["--plot", "a.png", "--no-plot"], "not allowed with"),
    ],
)
def test_wrong_words_are_errors_before_anything_runs(capsys, words, text):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert text in capsys.readouterr().err


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "scipy_jax_bridge", "--help"], capture_output=True, text=True, check=True, env=None
    )
    assert "usage: python -m scipy_jax_bridge" in done.stdout
    assert all(f"\n  {name}" in done.stdout for name in MODELS)


# An objective in a file


def write(text: str, name: str = "fit.py") -> str:
    Path(name).write_text(text)
    return name


def refuse(capsys, *words: str) -> str:
    """What it says to a wrong target."""
    with pytest.raises(SystemExit) as stop:
        main(["compare", *words])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


@pytest.mark.slow
def test_the_file_that_the_errors_show_works(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    target = write(EXAMPLE) + ":objective"
    words = ["compare", target, "--repeats", "1", "--json", "--plot", "fit.svg", "--report", "fit.html", "--dark"]
    assert main(words) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert [row["run"] for row in rows] == ["scipy", "optax"] and all(row["fun"] < 1e-9 for row in rows)
    assert captured.err.split() == ["Picture:", "fit.svg", "Report:", "fit.html"]
    page = (tmp_path / "fit.html").read_text()
    assert "upper: 10.0" in page and "float64[20]" in page and "target_fit.objective" in page


def test_the_name_may_be_left_out_and_nothing_is_written_unasked(capsys, tmp_path):
    write(EXAMPLE)
    assert main(["compare", "fit.py", "--repeats", "1", "--backends", "scipy"]) == 0
    assert "2 parameters, float64 on cpu" in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["fit.py"]


def test_methods_and_limits(capsys):
    write(EXAMPLE.replace("bounds =", "# bounds ="))
    words = [
        "compare",
        "./fit.py:objective",
        "--repeats",
        "1",
        "--methods",
        "bfgs,adam=0.1",
        "--maxiter",
        "7",
        "--json",
    ]
    assert main([*words, "--gtol", "1e-12", "--ftol", "0"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [(row["run"], row["method"]) for row in rows] == [("bfgs", "BFGS"), ("adam=0.1", "adam")]
    assert rows[1]["nit"] == 7 and rows[1]["status"] == "MAXITER"
    assert main([*words, "--backends", "scipy"]) == 1
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == ["scipy", "bfgs", "adam=0.1"]


def test_a_file_finds_its_neighbors_and_its_args_need_no_tuple(capsys):
    Path("place").mkdir()
    write("TARGET = 3.0\n", "place/neighbor_of_fit.py")
    text = """
        from dataclasses import dataclass
        import jax
        import jax.numpy as jnp
        from neighbor_of_fit import TARGET

        @jax.tree_util.register_dataclass
        @dataclass
        class Point:
            x: jax.Array

        def distance(point, scale):
            import neighbor_of_fit
            return scale * jnp.sum((point.x - neighbor_of_fit.TARGET) ** 2)

        params = Point(jnp.zeros(2))
        args = 2.0
    """
    write(textwrap.dedent(text), "place/jax_fit.py")
    assert main(["compare", "place/jax_fit.py:distance", "--repeats", "1", "--json"]) == 0
    assert all(row["fun"] < 1e-9 for row in json.loads(capsys.readouterr().out))


@pytest.mark.slow
def test_a_file_says_what_else_minimize_is_to_be_told(capsys, monkeypatch):
    """The settings that the example shows as comments, taken in."""
    aux = EXAMPLE.replace('x + params["offset"] - y) ** 2)', 'x + params["offset"] - y) ** 2), x')
    assert aux != EXAMPLE
    write(aux.replace("\n# fixed", "\nfixed").replace("\n# has_aux", "\nhas_aux").replace("\n# options", "\noptions"))
    results = []
    monkeypatch.setattr(
        command_line, "compare", lambda *args, **more: results.append(compare(*args, **more)) or results[-1]
    )
    words = ["compare", "fit.py", "--repeats", "1", "--json", "--ftol", "0"]
    assert main(words) == 0
    for result in results[0].results.values():
        assert float(result.params["offset"]) == 0.0 and result.aux.shape == (20,) and result.grad_norm <= 1e-8
    assert {run["gtol"] + run["ftol"] for run in results[0].setting.runs.values()} == {"1e-080.0"}
    assert main([*words, "--gtol", "1e-3"]) == 0
    assert {run["gtol"] for run in results[1].setting.runs.values()} == {"0.001"}


def test_a_file_may_ask_for_double_precision(capsys):
    write(EXAMPLE.replace("\n# precision", "\nprecision"))
    try:
        assert main(["compare", "fit.py", "--repeats", "1", "--float32"]) == 0
    finally:
        jax.config.update("jax_enable_x64", True)
    assert "2 parameters, float64" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, word, said",
    [
        (None, "fit.py:objective", "there is no file 'fit.py'. In that folder are: other.py."),
        (None, "./:objective", "is a folder"),
        (EXAMPLE, "fit.py:objektive", "unknown objective 'objektive' for fit.py; did you mean 'objective'?"),
        ("x = 1", "fit.py", "fit.py defines no function 'objective'"),
        (EXAMPLE, "fit.py:params", "'params' in fit.py is not a function of params but of type dict. Functions there"),
        (EXAMPLE.replace("params =", "start ="), "fit.py", "fit.py defines no `params`"),
        (EXAMPLE.replace("params = {", "def params(): return {"), "fit.py", "`params` in fit.py is a function"),
        ("import no_such_library", "fit.py", "at line 1 (import no_such_library): ModuleNotFoundError"),
        ("a = 1\nb = a / 0", "fit.py", "at line 2 (b = a / 0): ZeroDivisionError"),
        ("import sys; sys.exit(3)", "fit.py", "SystemExit"),
        ("def f(:", "fit.py", "fit.py is not valid Python: invalid syntax (line 1: def f(:)"),
    ],
)
def test_wrong_targets_are_told_what_is_wrong_and_shown_a_file_that_works(capsys, text, word, said):
    write("", "other.py")
    if text is not None:
        write(text)
    printed = refuse(capsys, word)
    assert said in printed
    assert printed.strip().endswith(EXAMPLE.strip())


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("return jnp.mean(", "return (", "fun must return a scalar"),
        ('params["offset"] - y', 'params["ofset"] - y', "KeyError: 'ofset'"),
        ("bounds = (None, 10.0)", "bounds = (20.0, 10.0)", "bounds"),
        ('{"slope": 0.0, "offset": 0.0}', '{"slope": 0, "offset": 0}', "no free parameters"),
        ("- y) ** 2)", "- y) ** 2), x", "If the rest is auxiliary, write has_aux = True in fit.py."),
        ("bounds =", 'options = {"gtoll": 1}\nbounds =', "did you mean 'gtol'?"),
    ],
)
def test_an_objective_that_cannot_be_minimized_is_told_with_its_line(capsys, old, new, said):
    assert old in EXAMPLE
    write(EXAMPLE.replace(old, new))
    assert main(["compare", "fit.py", "--repeats", "1"]) == 2
    printed = capsys.readouterr().err
    assert said in printed and "Traceback" not in printed
    assert ("line 5 of fit.py" in printed) == ("ofset" in new)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error():
    target = write(EXAMPLE)
    command = f"{sys.executable} -m scipy_jax_bridge compare {target} --backends scipy --repeats 1 --json | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "[\n" and done.stderr == ""
