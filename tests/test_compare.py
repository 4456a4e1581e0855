"""Runs side by side: what is measured and in which order, what is said of it, how it looks."""

import math
import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge import _compare, _show, _verdict
from scipy_jax_bridge._compare import Comparison, compare

LEAST = "Break-even: the least time, compilation included, is that of "
KEYS = {
    "run": str,
    "backend": str,
    "method": str,
    "fun": float,
    "grad_norm": float,
    "nit": int,
    "nfev": int,
    "compile_s": float,
    "solve_s": float,
    "solve_s_min": float,
    "solve_s_max": float,
    "status": str,
}
START = {"a": np.array([0.1]), "b": np.zeros(3)}


def bowl(params, center):
    return sum(jnp.sum(jnp.arange(1.0, leaf.size + 1) * (leaf - center) ** 2) for leaf in params.values())


def two_wells(params):
    """Minima at a = 1 and, 0.6 lower, near a = -1; a bowl in b."""
    a = params["a"][0]
    return (a**2 - 1) ** 2 + 0.3 * a + jnp.sum(params["b"] ** 2)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(bowl, START, (2.0,), repeats=3)


# What is measured


def test_rows_are_plain_and_agree_with_the_results(comparison):
    rows = comparison.rows()
    assert [row["run"] for row in rows] == ["scipy", "optax"] == list(comparison.results)
    for row in rows:
        assert {key: type(value) for key, value in row.items()} == KEYS
        result = comparison.results[row["run"]]
        assert (row["fun"], row["nit"], row["nfev"]) == (float(result.fun), result.nit, result.nfev)
        assert row["backend"] == result.backend == row["run"]
        assert row["grad_norm"] == pytest.approx(
            max(float(jnp.max(jnp.abs(leaf))) for leaf in result.jac.values()), rel=1e-6
        )
        assert row["status"] == "GTOL"
        assert 0 < row["solve_s_min"] <= row["solve_s"] <= row["solve_s_max"]
        assert len(comparison.solve_s[row["run"]]) == 3


def test_every_run_compiles_ahead_and_for_itself(comparison):
    again = compare(bowl, START, (2.0,), repeats=1, runs={"one": {}, "two": {}})
    for each in (comparison, again):
        assert all(seconds > 0 for seconds in each.compile_s.values())
        assert all(result.timing.compiles == 0 for result in each.results.values())


def test_compiles_first_then_solves_in_turns(monkeypatch):
    events = []

    class Recorder(sjb.Minimizer):
        def __init__(self, fun, *, backend, **settings):
            super().__init__(fun, backend=backend, **settings)
            self.backend = backend

        def compile(self, params, args=()):
            events.append(("compile", self.backend))
            return super().compile(params, args)

        def __call__(self, params, args=()):
            events.append(("solve", self.backend))
            return super().__call__(params, args)

    monkeypatch.setattr(_compare, "Minimizer", Recorder)
    compare(bowl, START, (2.0,), repeats=2)
    assert events == [(what, name) for what in ("compile", "solve", "solve") for name in ("scipy", "optax")]


def test_the_clock_waits_for_the_device_and_leaves_compilation_out(monkeypatch):
    clock = iter([10.0, 17.0])
    order = []
    timing = sjb.Timing(compile_s=2.0, solve_s=4.0, compiles=1)
    result = replace(compare(bowl, START, (2.0,), backends="scipy", repeats=1).results["scipy"], timing=timing)
    monkeypatch.setattr(_compare.time, "perf_counter", lambda: (order.append("clock"), next(clock))[1])
    monkeypatch.setattr(_compare.jax, "block_until_ready", lambda value: (order.append("ready"), value)[1])
    seconds, found = _compare._time_solve(lambda params, args: result, None, ())
    assert order == ["clock", "ready", "clock"] and found is result
    assert seconds == 5.0


def test_the_result_kept_is_that_of_the_median_solve(comparison):
    one, two = comparison.results.values()
    assert _compare._take_median([(3.0, one), (1.0, one), (2.0, two)]) is two
    assert _compare._take_median([(2.0, one), (1.0, two)]) is two


def test_runs_by_name_override_the_common_arguments():
    comparison = compare(
        bowl,
        START,
        (2.0,),
        repeats=1,
        options={"maxiter": 200},
        runs={
            "newton": {"method": "Newton-CG"},
            "adam": {"backend": "optax", "method": optax.adam(0.3)},
            "short": {"backend": "optax", "options": sjb.Options(maxiter=2)},
        },
    )
    rows = {row["run"]: row for row in comparison.rows()}
    assert rows["newton"]["method"] == "Newton-CG" and rows["newton"]["backend"] == "scipy"
    assert rows["adam"]["nit"] > 10
    assert rows["short"]["nit"] == 2 and rows["short"]["status"] == "MAXITER"
    assert "method" in str(comparison).splitlines()[0]


def test_bounds_aux_and_leaves_that_ride_along():
    def fun(params, target):
        return jnp.sum((params["x"] - target) ** 2), params["count"]

    params = {"x": np.zeros(2), "count": 3, "name": "a word"}
    upper = {"x": 0.5, "count": None, "name": None}
    comparison = compare(fun, params, (np.ones(2),), repeats=1, has_aux=True, bounds=(None, upper))
    for result in comparison.results.values():
        np.testing.assert_allclose(result.params["x"], 0.5)
        assert result.params["name"] == "a word" and result.aux == 3
    assert comparison.notes()[0].startswith("Same minimum")


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"backends": ()}, "nothing to compare"),
        ({"runs": {}}, "nothing to compare"),
        ({"backends": ("scipi",)}, "'scipi'; did you mean 'scipy'"),
        ({"options": {"gtoll": 1e-3}}, "'gtoll'.*did you mean 'gtol'"),
    ],
)
def test_bad_input_is_an_error_at_the_call(settings, match):
    with pytest.raises(ValueError, match=match):
        compare(bowl, START, (2.0,), **settings)


def test_one_backend_as_a_word_is_no_comparison_but_works():
    comparison = compare(bowl, START, (2.0,), backends="optax", repeats=1)
    assert list(comparison.results) == ["optax"] and comparison.notes() == []
    assert comparison.break_even() == [(1, "optax")]


# What is said of it


def test_same_minimum(comparison):
    note = comparison.notes()[0]
    assert note.startswith("Same minimum: objectives ")
    assert comparison.gaps()[next(iter(comparison.gaps()))].near


def test_same_run_agrees_to_the_last_bit():
    comparison = compare(bowl, START, (2.0,), repeats=1, runs={"one": {}, "two": {}})
    assert comparison.notes()[0] == "Same minimum: objectives and params agree to the last bit."


def test_different_minima_name_the_leaf_and_leave_the_break_even():
    start = {"a": np.array([0.0]), "b": np.zeros(3)}  # downhill to the left; the bound moves it to the right
    runs = {"free": {}, "kept": {"bounds": ({"a": 0.5, "b": None}, None)}}
    comparison = compare(two_wells, start, repeats=1, runs=runs)
    assert comparison.best == "free"
    gap = comparison.gaps()["kept"]
    assert gap.leaf == "params['a']" and 1.9 < gap.params < 2.1 and 0.5 < gap.fun < 0.7
    note, break_even = comparison.notes()
    assert note.startswith("Different minima: kept ends 0.6 above free") and "params['a']" in note
    assert break_even == "No break-even: free alone reached the best objective."
    assert comparison.break_even() == [(1, "free")]


def test_a_run_that_a_bound_holds_back_is_no_other_minimum():
    runs = {"free": {}, "held": {"bounds": (None, 1.0)}}
    comparison = compare(bowl, START, (2.0,), repeats=1, runs=runs)
    assert comparison.notes()[0].startswith("Held back: held ends 7 above free")


def test_equal_minima_apart():
    def wells(x):
        return jnp.sum((x**2 - 1) ** 2)

    runs = {"right": {"bounds": (0.5, None)}, "left": {"bounds": (None, -0.5)}}
    comparison = compare(wells, np.zeros(1), repeats=1, runs=runs, options=sjb.Options(gtol=1e-8))
    assert comparison.notes()[0].startswith("Same objective as") and "two minima?" in comparison.notes()[0]


def test_a_flat_valley_is_one_minimum():
    def valley(params):
        return (params["a"] + params["b"] - 1) ** 2

    runs = {"free": {}, "held": {"fixed": {"a": True, "b": False}}}
    comparison = compare(valley, {"a": 0.0, "b": 0.0}, repeats=1, runs=runs)
    note = comparison.notes()[0]
    assert note.startswith("Same minimum") and "flat between them" in note


def test_stopped_early():
    comparison = compare(bowl, START, (2.0,), repeats=1, runs={"full": {}, "short": {"options": {"maxiter": 1}}})
    assert comparison.notes()[0].startswith("Stopped early by MAXITER: short ends")


def test_no_finite_objective():
    comparison = compare(lambda x: jnp.sum(x) * jnp.nan, np.zeros(2), repeats=1)
    assert comparison.notes() == ["No run found a finite objective."]
    assert math.isnan(comparison.rows()[0]["fun"])
    assert "NONFINITE" in str(comparison)


def test_one_run_without_a_finite_objective():
    def fun(x):
        return jnp.sum(jnp.sqrt(x - 1.0))

    comparison = compare(fun, np.full(2, 0.5), repeats=1, runs={"bad": {}, "good": {"bounds": (2.0, None)}})
    assert comparison.best == "good"
    assert comparison.notes()[0] == "bad found no finite objective: NONFINITE."


def test_single_precision_is_allowed_its_rounding():
    comparison = compare(bowl, {"a": np.float32([0.1]), "b": np.zeros(3, np.float32)}, (2.0,), repeats=1)
    assert comparison.notes()[0].startswith("Same minimum")
    assert comparison.results["optax"].params["b"].dtype == jnp.float32


def test_break_even_is_the_cheapest_at_every_number_of_solves():
    generator = np.random.default_rng(0)
    for _ in range(200):
        costs = {f"run{index}": tuple(generator.uniform(0.01, 1.0, 2)) for index in range(4)}
        switches = _verdict.find_switches(costs)
        starts = [start for start, _ in switches]
        assert starts[0] == 1 and starts == sorted(set(starts))
        for solves in {1, 2, 3, 5, 8, 13, 100, *starts, *(start - 1 for start in starts[1:])}:
            chosen = [name for start, name in switches if start <= solves][-1]
            total = {name: first + solves * later for name, (first, later) in costs.items()}
            assert total[chosen] <= min(total.values()) * (1 + 1e-12)


@pytest.mark.parametrize(
    "switches, able, text",
    [
        ([(1, "scipy"), (48, "optax")], 2, LEAST + "scipy up to 47 solves, optax from 48 on."),
        ([(1, "a"), (2, "b"), (1001, "c")], 3, LEAST + "a up to 1 solve, b up to 1,000 solves, c from 1,001 on."),
        ([(1, "a")], 2, "No break-even: a takes the least time from the first solve on, compilation included."),
        ([(1, "a")], 1, "No break-even: a alone reached the best objective."),
    ],
)
def test_break_even_in_words(switches, able, text):
    assert _verdict.describe_switches(switches, able) == text


# How it looks


def test_table_is_aligned_and_ends_with_the_notes(comparison):
    text = str(comparison)
    head, rule, first, second, blank, *notes = text.splitlines()
    assert " ".join(head.split()) == (
        "run objective gradient iterations evaluations compile solve fastest slowest status"
    )
    ends = [position for position in range(len(rule)) if rule[position : position + 2] == "- "]
    assert all(line[end + 1 : end + 3] == "  " for line in (first, second) for end in ends)
    assert blank == "" and notes == comparison.notes()
    assert max(map(len, text.splitlines())) < 120
    assert repr(comparison) == text


def test_html_holds_the_table_and_escapes_names():
    comparison = compare(bowl, START, (2.0,), repeats=1, runs={"<a & b>": {}, "plain": {"backend": "optax"}})
    page = comparison._repr_html_()
    assert "&lt;a &amp; b&gt;" in page and "<a &" not in page
    assert page.count("<tr>") == 3 and page.count("<p>") == len(comparison.notes())


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0, "0.00 µs"),
        (4.2e-5, "42.0 µs"),
        (0.00099996, "1.00 ms"),
        (0.9996, "1.00 s"),
        (9.996, "10.0 s"),
        (99.97, "100 s"),
        (math.nan, "nan s"),
    ],
)
def test_seconds_have_three_digits_and_a_unit(seconds, text):
    assert _show.format_seconds(seconds) == text


def test_plot_draws_every_run_twice_and_its_compilation(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.png"
    figure = comparison.plot(path, title="a title")
    assert path.read_bytes().startswith(b"\x89PNG")
    times, counts, bars = figure.axes
    assert times.get_yscale() == "log"
    assert [line.get_label() for line in times.get_lines()] == ["scipy", "optax"]
    for line, result in zip(counts.get_lines(), comparison.results.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), result.trace.nfev)
        assert (line.get_ydata() > 0).all()
    assert [text.get_text() for text in bars.get_yticklabels()] == ["scipy", "optax"]
    assert bars.patches[0].get_width() == comparison.compile_s["scipy"] and bars.patches[0].get_hatch()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_plot_writes_svg_and_survives_what_is_not_finite(tmp_path):
    pytest.importorskip("matplotlib")
    comparison = compare(lambda x: jnp.sum(x) * jnp.nan, np.zeros(2), repeats=1)
    comparison.plot(tmp_path / "picture.svg")
    assert "<svg" in (tmp_path / "picture.svg").read_text()


def test_plot_without_matplotlib_names_the_extra(comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'scipy_jax_bridge\[plot\]'"):
        comparison.plot()


def test_heights_lie_above_zero_and_end_at_the_floor():
    high, low = _show._heights([np.array([5.0, 2.0, np.nan]), np.array([5.0, 1.5, 1.0])])
    np.testing.assert_allclose(high[:2], [4.0, 1.0])
    np.testing.assert_allclose(low, [4.0, 0.5, 0.15])
    assert np.isnan(high[2])
