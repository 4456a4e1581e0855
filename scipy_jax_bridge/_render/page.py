"""Write a comparison as one self-contained HTML page, without scripts, that follows the light or dark setting."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .figure import capitalize_title, render
from .panels import DARK, LIGHT, Curve, Drifts, Theme, make_panels
from .table import Row, Table, format_seconds, has_shares, html_table, write_html_tables

PANEL_WIDTH = 4.4  # inches: as wide as a phone, and three stand side by side on a wide page

STYLE = """
:root { color-scheme: light dark; %(light)s }
@media (prefers-color-scheme: dark) { :root { %(dark)s } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 1.2rem clamp(0.8rem, 3vw, 2.5rem) 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.4rem 0 0.6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.6rem; }
p { margin: 0.35rem 0; max-width: 95ch; overflow-wrap: anywhere; }
.quiet { opacity: 0.8; font-size: 0.9rem; }
.wide { overflow-x: auto; margin: 0.6rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%%; font-variant-numeric: tabular-nums; font-size: 0.92rem; }
th, td { padding: 0.35rem 0.75rem !important; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
th { font-weight: 600; }
.plots { display: grid; align-items: start; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%%, 350px), 1fr)); gap: 1.2rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: 0.7rem; min-width: 0; }
figcaption { font-weight: 600; font-size: 0.95rem; margin-bottom: 0.3rem; }
figure svg { display: block; width: 100%%; max-width: 460px; height: auto; margin: 0 auto; }
figure svg text { font-family: inherit !important; }
.settings td, .settings th { text-align: left; white-space: pre-line; }
.settings .differs { font-weight: 700; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) minmax(0, 1fr); gap: 0.15rem 1.2rem; margin: 0; }
dt { opacity: 0.8; }
dd { margin: 0; white-space: pre-line; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
@media (max-width: 480px) {
  th, td { padding: 0.3rem 0.4rem !important; }
  table { font-size: 0.8rem; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: 0.4rem; }
}
"""

METHOD = (
    "Every run starts at the same point, with the same data. Programs were compiled ahead, each run warmed up by one "
    "iteration, and the solves took turns; each had ended on its device before the clock stopped. The table shows the "
    "median solve, its fastest and its slowest."
)
SHARES = (
    "The parts of a solve are estimates: the objective is the time of one evaluation on the device, measured alone, "
    "times the number of evaluations; transfers are the way to the device and back, dispatch included; the solver is "
    "the rest."
)


@dataclass(frozen=True)
class PageText:
    """What the page says beside the tables and the plots.

    Attributes:
        title: the heading.
        notes: the sentences of the verdict.
        gaps: for each run but the best: distance of the objective, distance of the params, and the leaf of the latter.
        ends: the table of params where the runs ended.
        solve_s: seconds of each solve of each run.
        problem, machine: names and values.
        runs: for each run its settings.
    """

    title: str
    notes: Sequence[str]
    gaps: Mapping[str, tuple[float, float, str]]
    ends: Sequence[Table]
    solve_s: Mapping[str, Sequence[float]]
    problem: Mapping[str, str]
    runs: Mapping[str, Mapping[str, str]]
    machine: Mapping[str, str]


def write_page(path: str | Path, text: PageText, rows: Sequence[Row], curves: Sequence[Curve], drifts: Drifts) -> Path:
    """Write the page.

    Args:
        path: where to write it.
        text: its title, notes and settings.
        rows: of the table.
        curves: of the plots.
        drifts: for each run the change of each leaf from the start.

    Raises:
        ModuleNotFoundError: Matplotlib is not installed.
    """
    title = html.escape(capitalize_title(text.title))
    parts = [
        f"<h1>{title}</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in text.notes),
        *(f'<div class="wide">{table}</div>' for table in write_html_tables(rows)),
        *(f'<div class="wide">{html_table(*table)}</div>' for table in text.ends),
        f'<p class="quiet">{METHOD}</p>',
        *([f'<p class="quiet">{SHARES}</p>'] if has_shares(rows) else []),
        f'<div class="plots">{"".join(_figures(curves, drifts))}</div>',
        *_distances(text),
        "<h2>Settings of each run</h2>",
        _settings(text.runs),
        "<h2>Problem</h2>",
        _list(text.problem),
        "<h2>Versions and hardware</h2>",
        _list(text.machine),
        "<h2>Every solve</h2>",
        _list({name: ", ".join(map(format_seconds, seconds)) for name, seconds in text.solve_s.items()}),
    ]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE % {'light': _colors(LIGHT), 'dark': _colors(DARK)}}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )
    path = Path(path)
    path.write_text(page, encoding="utf-8")
    return path


def _figures(curves: Sequence[Curve], drifts: Drifts) -> Iterable[str]:
    for panel in make_panels(curves, drifts):
        caption = html.escape(panel.caption)
        picture = render(panel, PANEL_WIDTH, len(curves))
        picture = picture.replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1)
        yield f"<figure><figcaption>{caption}</figcaption>{picture}</figure>"


def _distances(text: PageText) -> list[str]:
    """Return the table of how far from the best run each other ended."""
    if not text.gaps:
        return []
    names = ("run", "objective above the best", "largest distance of params", "leaf")
    lines = [(name, f"{fun:.3g}", f"{params:.3g}", leaf) for name, (fun, params, leaf) in text.gaps.items()]
    return ["<h2>Distance of the ends</h2>", f'<div class="wide">{html_table(names, lines)}</div>']


def _settings(runs: Mapping[str, Mapping[str, str]]) -> str:
    """Return a table with one line for each setting and one column for each run; differences are bold."""
    names = dict.fromkeys(name for setting in runs.values() for name in setting)
    head = "".join(f"<th>{html.escape(each)}</th>" for each in ("setting", *runs))
    lines = []
    for name in names:
        values = [setting.get(name, "") for setting in runs.values()]
        mark = ' class="differs"' if len(set(values)) > 1 else ""
        cells = "".join(f"<td{mark}>{html.escape(value)}</td>" for value in values)
        lines.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    table = f'<table class="settings"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _list(entries: Mapping[str, str]) -> str:
    lines = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in entries.items())
    return f"<dl>{lines}</dl>"


def _colors(theme: Theme) -> str:
    runs = [f"--run{index}: {color};" for index, color in enumerate(theme.runs)]
    return " ".join([f"--paper: {theme.paper}; --ink: {theme.ink}; --line: {theme.line};", *runs])
