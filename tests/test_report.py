"""The page that a comparison writes: what is in it, that it needs nothing beside it, and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scipy_jax_bridge as sjb
from scipy_jax_bridge._compare import provenance as _setting
from scipy_jax_bridge._render import panels as _panels

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
MEASURE = """<script>top.document.title = JSON.stringify({
  page: document.documentElement.scrollWidth, window: document.documentElement.clientWidth,
  plots: [...document.querySelectorAll("figure svg")].map(each => each.getBoundingClientRect().width),
  tables: [...document.querySelectorAll(".wide")].map(each => each.getBoundingClientRect().right),
  labels: [...document.querySelectorAll("figure")].map(each => Math.max(...[...each.querySelectorAll("text")].map(
    text => Math.max(text.getBoundingClientRect().right - each.getBoundingClientRect().right,
      each.getBoundingClientRect().left - text.getBoundingClientRect().left)))),
  sizes: [...document.querySelectorAll("figure svg")].map(each => 11 * each.getBoundingClientRect().width /
    parseFloat(each.getAttribute("width"))),
  scrolled: [...document.querySelectorAll("[style*=overflow-x]")].map(each => each.scrollWidth - each.clientWidth),
  loaded: performance.getEntriesByType("resource").map(each => each.name),
});</script></body>"""


def loss(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["w"] + params["b"]) - y) ** 2)


@pytest.fixture(scope="module")
def comparison() -> sjb.Comparison:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    y = np.tanh(x @ np.array([1.0, -1.0, 0.5]) + 0.3)
    return sjb.compare(
        loss,
        {"w": np.zeros(3), "b": 0.0},
        (x, y),
        repeats=2,
        bounds=(None, 2.0),
        runs={
            "<scipy & co>": {"options": {"gtol": 1e-7}},
            "optax": {"backend": "optax", "options": sjb.Options(maxiter=77)},
            "newton, and it has a long name": {"method": "trust-constr", "options": {"initial_tr_radius": 0.5}},
        },
    )


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory) -> Path:
    pytest.importorskip("matplotlib")
    path = tmp_path_factory.mktemp("report") / "comparison.html"
    assert comparison.report(path, title="a fit of <three> weights") == path
    return path


class Check(HTMLParser):
    """Every element that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


# What is in it


def test_the_page_is_whole_and_says_what_was_run(page, comparison):
    text = page.read_text(encoding="utf-8")
    check = Check()
    check.feed(text)
    assert not check.open
    said = " ".join(check.texts)
    assert "A fit of <three> weights" in said and "<scipy & co>" in said and "&lt;scipy &amp; co&gt;" in text
    assert all(note in said for note in comparison.notes())
    for word in (
        "1e-07",
        "77",
        "trust-constr",
        "initial_tr_radius",
        "0.5",
        "upper: 2.0",
        "float64 [0., 0., 0.]",
        "float64[40, 3]",
    ):
        assert word in said, word
    for name in ("jax", "scipy", "numpy", "optax"):
        assert f"{name} {_setting._version(name)}" in said
    assert text.count("<svg") == 5 and text.count('aria-label="') == 5


def test_the_page_needs_nothing_beside_it(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", text)
    assert links and all((one or other).startswith("#") for one, other in links)
    assert "<script" not in text and "@import" not in text and "@font-face" not in text
    anchors = re.findall(r'\bid="([^"]+)"', text)
    targets = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert {one or other for one, other in targets} <= set(anchors)


def test_the_plots_take_their_colors_from_the_page(page):
    text = page.read_text(encoding="utf-8")
    drawn = text[text.index("<svg") :].lower()
    assert not any(color in drawn for color in (*_panels.LIGHT.runs, _panels.LIGHT.ink, _panels.DARK.paper))
    assert "var(--run0)" in drawn and "var(--run2)" in drawn and "var(--ink)" in drawn
    style = text[: text.index("</style>")]
    assert "prefers-color-scheme: dark" in style and _panels.DARK.runs[0] in style and _panels.LIGHT.runs[0] in style


def test_one_run_without_a_finite_objective_still_has_a_page(tmp_path):
    pytest.importorskip("matplotlib")
    comparison = sjb.compare(lambda x: jnp.sum(x**2), np.zeros(2), repeats=1, backends="scipy")
    result = replace(comparison.results["scipy"], code=int(sjb.Status.NONFINITE), fun=jnp.asarray(jnp.nan))
    check = Check()
    check.feed(
        replace(comparison, results={"scipy": result}).report(str(tmp_path / "page.html")).read_text(encoding="utf-8")
    )
    assert not check.open and "NONFINITE" in check.texts


def test_without_matplotlib_the_error_names_the_extra(comparison, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "scipy_jax_bridge._render.picture", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"scipy_jax_bridge\[plot\]"):
        comparison.report(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_trees_are_told_leaf_by_leaf_and_briefly():
    tree = {"a": 1.5, "b": np.zeros((3, 4)), "c": np.array([1.0, 2.0])}
    assert _setting.describe_tree(tree, "params").splitlines() == [
        "params['a']: 1.5",
        "params['b']: float64[3, 4]",
        "params['c']: float64 [1., 2.]",
    ]
    assert _setting.describe_tree(list(range(20)), "x").splitlines()[-1] == "and 8 more leaves"


# How a browser shows it


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(BROWSERS)}")
    if subprocess.run([found, "--version"], capture_output=True, timeout=60).returncode != 0:
        pytest.skip(f"{found} is installed but does not start")
    return found


def run(browser: str, folder: Path, page: Path, width: int, *flags: str) -> str:
    profile = folder / "profile"
    words = [browser, *QUIET, f"--user-data-dir={profile}", f"--window-size={width},2400", *flags, page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def near(pixels: np.ndarray, color: str) -> int:
    wanted = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return int((np.abs(pixels - wanted).max(axis=-1) < 0.02).sum())


@pytest.mark.parametrize(("theme", "width"), [("light", 1400), ("dark", 400)])  # colors do not depend on the width
def test_screenshots_in_light_and_dark_narrow_and_wide(browser, page, tmp_path, width, theme):
    image = pytest.importorskip("matplotlib.image")
    shot = tmp_path / "shot.png"
    run(
        browser,
        tmp_path,
        page,
        width,
        f"--screenshot={shot}",
        f"--blink-settings=preferredColorScheme={theme == 'light':d}",
    )
    pixels = image.imread(shot)[..., :3]
    assert pixels.shape[1] == width
    ours, others = (_panels.LIGHT, _panels.DARK) if theme == "light" else (_panels.DARK, _panels.LIGHT)
    assert near(pixels, ours.paper) > 0.6 * pixels.shape[0] * width, "the page has the paper of its theme"
    for color, other in zip(ours.runs[:3], others.runs[:3], strict=True):
        assert near(pixels, color) > 50 and near(pixels, other) == 0, "the curves have the colors of the theme"


def measure(browser: str, folder: Path, text: str, width: int) -> dict[str, Any]:
    measured = folder / "measured.html"
    inner = html.escape(text.replace("</body>", MEASURE))
    frame = (
        f'<iframe width="{width}" height="2000" style="border:0" srcdoc="{inner}"></iframe>'  # no window is so narrow
    )
    measured.write_text(f"<!doctype html><meta charset=utf-8><title>no</title>{frame}", encoding="utf-8")
    dom = run(browser, folder, measured, 1600, "--dump-dom")
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None and title.group(1) != "no"
    return json.loads(html.unescape(title.group(1)))


@pytest.mark.parametrize("width", [390, 700, 1400])
def test_nothing_sticks_out_and_nothing_is_loaded(browser, page, tmp_path, width):
    seen = measure(browser, tmp_path, page.read_text(encoding="utf-8"), width)
    assert seen["window"] == width and seen["page"] <= width
    assert all(right <= width for right in seen["tables"])
    side_by_side = max(seen["plots"]) < width / 2
    assert len(seen["plots"]) == 5 and side_by_side == (width == 1400)
    assert max(seen["labels"]) <= 0, "a label sticks out of its figure"
    assert all(10 <= size <= 17 for size in seen["sizes"]), "the text of a plot is as large as that of the page"
    assert seen["loaded"] == []


def test_a_notebook_on_a_phone_shows_the_params_of_a_result_without_scrolling(browser, tmp_path):
    params = {"encoder": {"attention_weights_of_the_first_layer": np.full(3, -1e-5)}, "bias": -2.0}
    result = sjb.minimize(lambda p: sum(jnp.sum((x + 3.0) ** 2) for x in jax.tree.leaves(p)), params, bounds=(-2.5, 9))
    text = f"<!doctype html><meta charset=utf-8><body style='margin:8px'>{result._repr_html_()}</body>"
    seen = measure(browser, tmp_path, text, 390)
    assert seen["window"] == 390 and len(seen["scrolled"]) == 1 and max(seen["scrolled"]) <= 0
