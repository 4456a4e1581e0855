"""Runs side by side: what is measured and in which order, what is said of it, how it looks."""

import collections
import functools
import math
import pickle
import re
import sys
from contextlib import nullcontext
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scipy_jax_bridge as sjb
from helpers_calls import count_compiles
from scipy_jax_bridge._backend import Compiled
from scipy_jax_bridge._compare import (
    breakdown as _shares,
    compare as _compare,
    comparison as _comparison,
    verdict as _verdict,
)
from scipy_jax_bridge._compare.compare import Comparison, compare
from scipy_jax_bridge._compare.measured import limit_iterations
from scipy_jax_bridge._render import panels as _panels, table as _show

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
    "objective_share": float,
    "transfer_share": float,
    "solver_share": float,
    "status": str,
}
START = {"a": np.array([0.1]), "b": np.zeros(3)}


def bowl(params, center):
    return sum(jnp.sum(jnp.arange(1.0, leaf.size + 1) * (leaf - center) ** 2) for leaf in params.values())


def two_wells(params):
    """Minima at a = 1 and, 0.6 lower, near a = -1; a bowl in b."""
    a = params["a"][0]
    return (a**2 - 1) ** 2 + 0.3 * a + jnp.sum(params["b"] ** 2)


@pytest.fixture(scope="module", autouse=True)
def once():
    """A turn is one solve however short, so that a comparison is no longer than its compilations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_compare, "LEAST", 0.0)
        yield


@pytest.fixture(scope="module")
def comparison(once) -> Comparison:
    return compare(bowl, START, (2.0,), repeats=3, shares=True)


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
    monkeypatch.setattr(_compare, "LEAST", 0)
    compare(bowl, START, (2.0,), repeats=2)
    words = ("compile", "solve", "solve", "solve")  # the first solve of each warms up
    assert events == [(what, name) for what in words for name in ("scipy", "optax")]


def test_the_warm_up_is_one_iteration_and_tells_nobody():
    seen = []
    comparison = compare(bowl, START, (2.0,), repeats=1, backends="scipy", callback=lambda told: seen.append(told.nit))
    assert seen == list(range(1, comparison.results["scipy"].nit + 1))
    solve = sjb.Minimizer(bowl, options=sjb.Options(gtol=1e-9), callback=seen.append)
    assert solve(START, (2.0,)).nit > 1 and seen
    seen.clear()
    limited = limit_iterations(solve, 1)(START, (2.0,))
    assert limited.nit == 1 and limited.timing.compile_s == 0.0 and not seen


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


def test_short_solves_are_timed_several_in_a_row(monkeypatch):
    seen, time_solve = [], _compare._time_solve

    def spy(solve, params, args, in_a_row=1):
        seen.append(in_a_row)
        return time_solve(solve, params, args, in_a_row)

    monkeypatch.setattr(_compare, "_time_solve", spy)
    monkeypatch.setattr(_compare, "LEAST", 1e9)
    monkeypatch.setattr(_compare.math, "ceil", lambda count: 7)
    comparison = compare(bowl, START, (2.0,), repeats=2, backends="scipy", shares=False)
    assert seen == [1, 6, 7] and len(comparison.solve_s["scipy"]) == 2
    seen.clear()
    compare(bowl, START, (2.0,), repeats=2, backends="scipy", shares=False, callback=lambda told: None)
    assert seen == [1, 1]  # nobody is told of solves that were not asked for


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


@pytest.mark.filterwarnings("ignore::scipy_jax_bridge.HeldLeafWarning")  # integers that ride along
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
        ({"repeats": 0}, "repeats must be .* at least 1"),
        ({"repeats": True}, "repeats must be a whole number"),
        ({"backends": ("scipy",), "runs": {"one": {}}}, "either backends or runs"),
        ({"backends": ()}, "nothing to compare"),
        ({"runs": {}}, "nothing to compare"),
        ({"backends": ("scipi",)}, "'scipi'; did you mean 'scipy'"),
        ({"options": {"gtoll": 1e-3}}, "'gtoll'.*did you mean 'gtol'"),
    ],
)
def test_bad_input_is_an_error_at_the_call(settings, match):
    with pytest.raises(ValueError, match=match):
        compare(bowl, START, (2.0,), **settings)


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"repeat": 2}, "unknown keyword argument 'repeat' for compare; did you mean 'repeats'?"),
        ({"bound": (0, 1)}, "did you mean 'bounds'?"),
        ({"backend": "optax"}, r"backends=\('optax',\)"),
        ({"runs": {"one": {"metod": "BFGS"}}}, "'metod' for the run 'one'; did you mean 'method'?"),
        ({"runs": {"one": {"repeats": 2}}}, "'repeats' for the run 'one'"),
    ],
)
def test_a_wrong_keyword_is_an_error_at_the_call(settings, match):
    with count_compiles() as compiles, pytest.raises(TypeError, match=match):
        compare(bowl, START, (2.0,), **settings)
    assert not compiles


def test_a_result_is_a_start_and_no_more():
    """Its memory is not taken over: the runs would not start alike."""
    first = sjb.minimize(bowl, START, (2.0,), backend="optax", options={"maxiter": 2})
    comparison = compare(bowl, first, (2.0,), repeats=1)
    for backend, result in comparison.results.items():
        fresh = sjb.minimize(bowl, first.params, (2.0,), backend=backend)
        assert (result.nit, result.nfev, float(result.fun)) == (fresh.nit, fresh.nfev, float(fresh.fun))
        assert float(result.trace.fun[0]) == pytest.approx(float(first.fun), rel=1e-12)
    assert "Same" in str(comparison) and max(comparison.drifts()["scipy"].values()) > 0


@pytest.mark.parametrize("keys", [jax.random.key(0), jax.random.split(jax.random.key(0), 9)], ids=["one", "many"])
def test_random_keys_are_described(keys):
    comparison = compare(lambda x, key: jnp.sum((x - 1) ** 2), np.zeros(2), (keys,), repeats=1, backends="scipy")
    assert comparison.setting.problem["data"].startswith("args[0]: key<fry>[")
    assert "GTOL" in str(comparison)


def test_a_comparison_equals_itself_alone(comparison):
    assert comparison == comparison and comparison != replace(comparison) and len({comparison, comparison}) == 1


def test_one_backend_as_a_word_is_no_comparison_but_works():
    comparison = compare(bowl, START, (2.0,), backends="scipy", repeats=1)
    assert list(comparison.results) == ["scipy"] and comparison.notes() == []
    assert comparison.break_even() == [(1, "scipy")]


# Where the seconds go


def test_shares_sum_to_one(comparison):
    for shares in comparison.shares.values():
        assert sum(shares) == pytest.approx(1.0) and min(shares) >= 0.0


@pytest.mark.parametrize(
    ("on_host", "evaluation_s", "way_s", "expected"),
    [
        (True, 0.09, 1e-3, (0.9, 0.01, 0.09)),  # a heavy objective has nearly all
        (True, 1e-3, 5e-3, (0.01, 0.05, 0.94)),
        (False, 1e-3, 5e-3, (0.01, 0.055, 0.935)),  # a report every 0.1 s, and one at the end
        (True, 0.15, 0.05, (0.75, 0.25, 0.0)),  # more than the whole, by noise
    ],
)
def test_shares_of_a_solve(comparison, on_host, evaluation_s, way_s, expected):
    """Ten evaluations in a second, and what was measured of them."""
    evaluation = object.__new__(_shares.Evaluation)  # measured already
    evaluation._samples = [evaluation_s]
    compiled = Compiled((), 0.0, 0, evaluate=print if on_host else None, reports_per_s=10.0, report_shape=(2, 3))
    probe = _shares.Probe(nullcontext, evaluation, compiled, 0.0)
    result = replace(comparison.results["scipy"], nfev=10)
    assert probe.shares(1.0, result) is _comparison.UNKNOWN  # before anything is measured
    probe._ways = [way_s]
    assert probe.shares(1.0, result) == pytest.approx(expected)


def test_shares_of_every_kind_of_run():
    runs = {
        "bare": {"method": "Nelder-Mead", "options": {"maxiter": 40}},
        "product": {"method": "Newton-CG"},
        "adam": {"backend": "optax", "method": optax.adam(0.1), "options": {"maxiter": 40}},
        "wide": {"backend": "optax", "precision": "float64"},
    }
    comparison = compare(bowl, START, (2.0,), repeats=1, runs=runs, shares=True)
    known = {name for name, shares in comparison.shares.items() if not math.isnan(shares.objective)}
    assert known == {"bare", "adam", "wide"}  # products with the Hessian are not counted in nfev
    lines = str(comparison).partition("share of a solve")[2].splitlines()
    assert next(line for line in lines if line.startswith("adam")).count("%") == 3


def test_shares_in_single_precision_with_the_precision_of_the_call(x32):
    runs = {"narrow": {}, "wide": {"precision": "float64"}, "loop": {"backend": "optax", "precision": "float64"}}
    comparison = compare(bowl, {"a": np.float32([0.1])}, (2.0,), repeats=1, runs=runs, shares=True)
    assert all(sum(shares) == pytest.approx(1.0) for shares in comparison.shares.values())
    assert not jax.config.jax_enable_x64


def test_shares_that_would_cost_a_compilation_beside_short_solves_are_left_out_unless_asked_for():
    def count(**settings):
        with count_compiles() as compiled:
            comparison = compare(bowl, START, (2.0,), repeats=1, backends="scipy", **settings)
        return len(compiled), comparison

    (asked, _), (silent, comparison), (refused, _) = count(shares=True), count(), count(shares=False)
    assert asked == silent + 1 == refused + 1
    assert math.isnan(comparison.rows()[0]["objective_share"]) and "share" not in str(comparison)


def test_shares_of_a_long_evaluation_need_no_compilation(monkeypatch):
    monkeypatch.setattr(_shares, "LONG", 0.0)  # every evaluation is a long one
    with count_compiles() as without:
        compare(bowl, START, (2.0,), repeats=1, backends="scipy", shares=False)
    with count_compiles() as known:
        comparison = compare(bowl, START, (2.0,), repeats=1, backends="scipy")
    assert len(known) == len(without) and comparison.shares["scipy"].objective > 0


# What is said of it


def test_same_minimum(comparison):
    note = comparison.notes()[0]
    assert note.startswith("Same minimum: objectives ")
    assert comparison.gaps()[next(iter(comparison.gaps()))].same_point


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
    note, break_even, advice = comparison.notes()
    assert advice == "Recommended: free, for one solve and for many."
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


def test_a_start_that_is_not_finite_is_an_error_that_names_the_run():
    def fun(x):
        return jnp.sum(jnp.sqrt(x - 1.0))

    with pytest.raises(ValueError, match="no way down from this start") as caught:
        compare(fun, np.full(2, 0.5), repeats=1, runs={"good": {"bounds": (2.0, None)}, "bad": {}})
    assert caught.value.__notes__[-1] == "In the run 'bad' of the comparison."


def lost(comparison, *names):
    """The comparison as if these runs had found nothing finite, as inside a batch."""
    gone = {"code": int(sjb.Status.NONFINITE), "fun": jnp.asarray(jnp.nan)}
    results = {n: replace(r, **gone) if n in names else r for n, r in comparison.results.items()}
    return replace(comparison, results=results, between={})


def test_no_finite_objective(comparison):
    nothing = lost(comparison, *comparison.results)
    assert nothing.notes()[0] == "No run found a finite objective."
    assert math.isnan(nothing.rows()[0]["fun"])
    assert "NONFINITE" in str(nothing)


def test_one_run_without_a_finite_objective(comparison):
    first, *others = comparison.results
    partly = lost(comparison, first)
    assert partly.best in others
    assert f"{first} found no finite objective: NONFINITE." in partly.notes()


def test_single_precision_is_allowed_its_rounding():
    comparison = compare(bowl, {"a": np.float32([0.1]), "b": np.zeros(3, np.float32)}, (2.0,), repeats=1)
    assert comparison.notes()[0].startswith("Same minimum")
    assert comparison.results["optax"].params["b"].dtype == jnp.float32


def test_break_even_is_the_cheapest_at_every_number_of_solves():
    generator = np.random.default_rng(0)
    for _ in range(200):
        costs = {f"run{index}": tuple(generator.uniform(0.01, 1.0, 2)) for index in range(4)}
        switches = _verdict.find_break_even_points(costs)
        starts = [start for start, _ in switches]
        assert starts[0] == 1 and starts == sorted(set(starts))
        for solves in {1, 2, 3, 5, 8, 13, 100, *starts, *(start - 1 for start in starts[1:])}:
            chosen = [name for start, name in switches if start <= solves][-1]
            total = {name: first + solves * later for name, (first, later) in costs.items()}
            assert total[chosen] <= min(total.values()) * (1 + 1e-12)


@pytest.mark.parametrize(
    "switches, solve_s, text",
    [
        ([(1, "a")], {"a": (1.0,), "b": (2.0,)}, "Recommended: a, for one solve and for many."),
        (
            [(1, "a"), (48, "b")],
            {"a": (2.0, 2.1), "b": (1.0, 1.1)},
            "Recommended: a for up to 47 solves of this shape, b for more.",
        ),
        (
            [(1, "a"), (3, "b"), (1001, "c")],
            {"a": (3.0,), "b": (2.0,), "c": (1.0,)},
            "Recommended: a for up to 2 solves of this shape, b for 3 to about 1,000, c for more.",
        ),
        (
            [(1, "a"), (48, "b")],
            {"a": (1.0, 2.0, 3.0), "b": (0.9, 1.9, 2.9)},
            "Recommended: a. b may pay from 48 solves on, but the seconds of their solves overlap; "
            "more repeats would tell.",
        ),
    ],
)
def test_recommendation_in_words(switches, solve_s, text):
    assert _verdict.recommend(switches, solve_s) == text


def test_recommend_names_the_cheapest_for_so_many_solves(comparison):
    named = {comparison.recommend(start) for start, _ in comparison.break_even()}
    assert named == {name for _, name in comparison.break_even()}
    assert comparison.recommend() == comparison.break_even()[0][1]
    with pytest.raises(ValueError, match="at least 1"):
        comparison.recommend(0)


@pytest.mark.parametrize(
    "switches, able, text",
    [
        ([(1, "scipy"), (48, "optax")], 2, LEAST + "scipy up to 47 solves, optax from 48 on."),
        (
            [(1, "a"), (2, "b"), (1001, "c")],
            3,
            LEAST + "a up to 1 solve, b up to about 1,000 solves, c from about 1,000 on.",
        ),
        ([(1, "a"), (1019, "b")], 2, LEAST + "a up to about 1,000 solves, b from about 1,000 on."),
        ([(1, "a")], 2, "No break-even: a takes the least time from the first solve on, compilation included."),
        ([(1, "a")], 1, "No break-even: a alone reached the best objective."),
    ],
)
def test_break_even_in_words(switches, able, text):
    assert _verdict.describe_break_even(switches, able) == text


# How it looks


def test_table_is_aligned_and_ends_with_the_notes(comparison):
    text = str(comparison)
    found, times, shares, leaves, notes = (block.splitlines() for block in text.split("\n\n"))
    (head, rule, first, second), (seconds, *timed), (share, _, one, two), (leaf, _, a, b) = found, times, shares, leaves
    assert head.split() == ["run", "status", "objective", "gradient", "nit", "nfev"]
    assert seconds.split() == ["time", "compile", "solve", "fastest", "slowest"]
    assert [line.split()[0] for line in timed[1:]] == ["scipy", "optax"]
    ends = [position for position in range(len(rule)) if rule[position : position + 2] == "- "]
    assert all(line[end + 1 : end + 3] == "  " for line in (first, second) for end in ends)
    assert leaf.split() == ["leaf", "scipy", "optax", "apart"] and [a.split()[0], b.split()[0]] == ["a", "b"]
    assert " ".join(line.strip() for line in notes) == " ".join(comparison.notes())
    assert share.split() == ["share", "of", "a", "solve", "objective", "transfers", "solver"]
    assert [line.split()[0] for line in (one, two)] == ["scipy", "optax"] and one.count("%") == two.count("%") == 3
    assert max(map(len, text.splitlines())) <= 80
    assert repr(comparison) == text


def test_a_table_with_long_names_fits_a_terminal_and_keeps_every_word():
    names = ["L-BFGS of SciPy on the host", "trust-region Newton, of which the name is very long", "adam", "x" * 70]
    found = {"fun": -1.23456789e-100, "grad_norm": 1e-100, "nit": 15000, "nfev": 15000, "status": "NOISE_FLOOR"}
    times = {"compile_s": 1.0, "solve_s": 1e-5, "solve_s_min": 1.0, "solve_s_max": 99.0}
    shares = {"objective_share": 1.0, "transfer_share": 0.5, "solver_share": 0.1}
    rows = [{"run": name, "method": f"method of {name}", **found, **times, **shares} for name in names]
    value, leaf = "-1.234e-10 to 1e+10", "encoder.layers.0.attention.query.weight"
    ends = ["leaf", *names[:3], "apart"], [[leaf, value, value, value, "9"]]
    text = _show.write_table(rows, [], [ends])
    assert max(map(len, text.splitlines())) <= 80
    letters = collections.Counter(text)
    assert all(letters >= collections.Counter(3 * name.replace(" ", "")) for name in names)
    assert text.count("-1.23456789e-100") == 4 and text.count("NOISE_FLOOR") == 4


def test_long_notes_go_on_below_indented(comparison):
    long = " ".join(["word"] * 50)
    *_, notes = _show.write_table(comparison.rows(), [long, "Short."]).split("\n\n")
    first, *middle, short = notes.splitlines()
    assert short == "Short." and first.startswith("word") and len(middle) > 1
    assert all(line.startswith("  word") for line in middle)
    assert max(map(len, (first, *middle))) <= 80
    assert " ".join((first, *map(str.strip, middle))) == long


def test_html_holds_the_table_and_escapes_names():
    comparison = compare(
        bowl, START, (2.0,), repeats=1, shares=True, runs={"<a & b>": {}, "plain": {"options": {"gtol": 1e-3}}}
    )
    page = comparison._repr_html_()
    assert "&lt;a &amp; b&gt;" in page and "<a &" not in page
    assert page.count("<tr>") == 12 and page.count("<p>") == len(comparison.notes())


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


UNITS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6}


def test_plot_draws_every_run_twice_and_its_compilation(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.png"
    figure = comparison.plot(path, title="a title")
    assert path.read_bytes().startswith(b"\x89PNG")
    times, counts, bars, costs, drift = figure.axes
    assert times.get_yscale() == "log"
    assert [line.get_label() for line in times.get_lines()] == ["scipy", "optax"]
    for line, result in zip(counts.get_lines(), comparison.results.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), result.trace.nfev)
        assert (line.get_ydata() > 0).all()
    assert [text.get_text() for text in bars.get_yticklabels()] == ["scipy", "optax"]
    width = bars.patches[0].get_width() * UNITS[bars.get_xlabel().split()[0]]
    assert width == pytest.approx(comparison.compile_s["scipy"], rel=1e-12) and bars.patches[0].get_hatch()
    assert costs.get_xscale() == costs.get_yscale() == "log"
    for line, (compile_s, solve_s) in zip(costs.get_lines(), comparison._costs().values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), compile_s + solve_s * line.get_xdata())
    assert [text.get_text() for text in drift.get_yticklabels()] == ["params['a']", "params['b']"]
    for line, change in zip(drift.get_lines(), comparison.drifts().values(), strict=True):
        np.testing.assert_allclose(line.get_xdata(), list(change.values()))
        np.testing.assert_allclose(line.get_xdata(), [1.9, 2.0], rtol=1e-4)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_plot_writes_svg_and_survives_what_is_not_finite(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    lost(comparison, *comparison.results).plot(tmp_path / "picture.svg")
    assert "<svg" in (tmp_path / "picture.svg").read_text()


def test_plot_without_matplotlib_names_the_extra(comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "scipy_jax_bridge._render.picture", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'scipy_jax_bridge\[plot\]'"):
        comparison.plot()


def test_heights_lie_above_zero_and_end_at_the_floor():
    high, low = _panels._heights([np.array([5.0, 2.0, np.nan]), np.array([5.0, 1.5, 1.0])])
    np.testing.assert_allclose(high[:2], [4.0, 1.0])
    np.testing.assert_allclose(low, [4.0, 0.5, 0.15])
    assert np.isnan(high[2])


@pytest.mark.parametrize("theme", [_panels.LIGHT, _panels.DARK])
def test_colors_stand_out_from_the_page(theme):
    def luminance(color):
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    def contrast(one, two):
        low, high = sorted((luminance(one), luminance(two)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(theme.ink, theme.paper) >= 7.0
    assert min(contrast(color, theme.paper) for color in theme.runs) >= 3.0
    assert len(set(theme.runs)) == len(theme.runs) >= 6


def test_runs_differ_in_more_than_color(comparison):
    pytest.importorskip("matplotlib")
    styles = [(line.get_linestyle(), line.get_marker()) for line in comparison.plot().axes[0].get_lines()]
    assert len({dash for dash, _ in styles}) == len({marker for _, marker in styles}) == 2


def test_in_a_picture_nothing_covers_another(comparison):
    pytest.importorskip("matplotlib")
    long = "a run of which the name is very long"
    runs = [long, "scipy", "optax", "fourth"]
    results = dict.fromkeys(runs, comparison.results["scipy"])
    times = {each: 10.0**-place for place, each in enumerate(runs)}
    many = replace(comparison, results=results, compile_s=times, solve_s=dict.fromkeys(runs, (1e-05,)), between={})
    figure = many.plot()
    figure.draw_without_rendering()
    (legend,) = [part.legends[0] for part in figure.subfigs if part.legends]
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for place, box in enumerate(boxes):
        others = [*boxes[:place], legend.get_window_extent()]
        assert not any(box.overlaps(other) for other in others)
    bars = figure.axes[2]
    for text in bars.texts:
        box = text.get_window_extent()
        assert bars.bbox.x0 <= box.x0 and box.x1 <= bars.bbox.x1 and box.y1 <= bars.bbox.y1
        assert not any(box.overlaps(bar.get_window_extent()) for bar in bars.patches if bar.get_width())


def test_dark_plot_is_light_on_dark(comparison, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    for dark in (False, True):
        comparison.plot(tmp_path / "picture.png", dark=dark)
        pixels = image.imread(tmp_path / "picture.png")[..., :3].mean(axis=-1)
        assert (np.median(pixels) < 0.2) == dark and (pixels > 0.8).any() and (pixels < 0.2).any()


def test_drifts_of_many_leaves_show_the_largest_and_count_the_rest(tmp_path):
    pytest.importorskip("matplotlib")
    params = {f"leaf {index:02}": np.zeros(1) for index in range(14)} | {"held": np.array([2.0])}
    fixed = {name: name == "held" for name in params}
    comparison = compare(bowl, params, (2.0,), repeats=1, fixed=fixed, runs={"one": {}, "two": {}})
    drift = comparison.plot().axes[-1]
    assert len(drift.get_yticks()) == 10 and "5 more moved less" in drift.get_xlabel()


def test_plot_of_one_result(tmp_path, comparison):
    pytest.importorskip("matplotlib")
    result = comparison.results["optax"]
    figure = result.plot(tmp_path / "one.svg", dark=True)
    assert "<svg" in (tmp_path / "one.svg").read_text()
    values, norms, bars = figure.axes
    unit, line = values.get_xlabel().split()[0], values.get_lines()[0]
    np.testing.assert_allclose(line.get_xdata() * UNITS[unit], result.trace.seconds, rtol=1e-12)
    assert 1 <= max(line.get_xdata()) < 1000 or unit == "seconds", "tick labels are short"
    np.testing.assert_array_equal(norms.get_lines()[0].get_ydata(), result.trace.grad_norm)
    assert "compiled before" in bars.texts[0].get_text()
    bare = sjb.minimize(lambda x: jnp.sum((x - 1.0) ** 2), np.zeros(2), method="Nelder-Mead")
    bare.plot()  # knows no gradient


def test_a_picture_is_named_after_the_objective(comparison):
    pytest.importorskip("matplotlib")
    assert comparison.plot()._suptitle.get_text() == "bowl"
    for fun in (bowl, jax.jit(bowl), functools.partial(bowl, center=2.0)):
        result = sjb.minimize(fun, START, () if isinstance(fun, functools.partial) else (2.0,))
        for each in (result, pickle.loads(pickle.dumps(result)), replace(result, note="")):
            assert each.plot()._suptitle.get_text() == "Minimization of bowl: GTOL by scipy, L-BFGS-B"
    assert sjb.minimize(lambda x: x**2, 1.0).objective == "<lambda>"
    assert "bowl" not in str(jax.tree.structure(result)), "results of two objectives may be stacked"


def test_plot_of_a_batch_is_an_error(comparison):
    result = comparison.results["optax"]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), result, result)  # as vmap makes it
    with pytest.raises(ValueError, match="batch"):
        batch.plot()


def test_the_params_where_the_runs_ended_are_shown():
    runs = {name: {"options": {"maxiter": maxiter}} for name, maxiter in (("far", 1), ("near", 3), ("best", 100))}
    start = {"layers": [np.zeros(40), np.zeros(2)], "scale": 3.0, "steps": np.arange(2)}

    def fun(p):
        curves = [jnp.sum((1 + jnp.arange(each.size)) * (each - 2.0) ** 2) for each in p["layers"]]
        return sum(curves) + (p["scale"] - 1.0) ** 4

    comparison = compare(fun, start, repeats=1, runs=runs)
    text = str(comparison)
    assert re.search(r"^leaf +far +near +best +apart$", text, re.MULTILINE)
    line = next(line for line in text.splitlines() if line.startswith("scale")).split()
    ends = [float(comparison.results[name].params["scale"]) for name in runs]
    np.testing.assert_allclose([float(each) for each in line[1:4]], ends, rtol=1e-5)
    assert float(line[4]) == pytest.approx(max(abs(end - ends[2]) for end in ends), rel=0.06)
    assert "layers.0" in text and "steps" not in text and "layers.0" in comparison._repr_html_()
