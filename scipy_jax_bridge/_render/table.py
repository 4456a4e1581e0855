"""Write a comparison's rows as tables: text for a terminal, HTML for a notebook."""

from __future__ import annotations

import html
import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]  # of `Comparison.rows`: strings and numbers by column


def format_seconds(seconds: float) -> str:
    """Write seconds with three digits and a unit.

    Examples:
        >>> [format_seconds(value) for value in (93.0, 1.5, 0.0123, 4.2e-5)]
        ['93.0 s', '1.50 s', '12.3 ms', '42.0 µs']
    """
    if not math.isfinite(seconds):
        return f"{seconds} s"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * scale or unit == "µs":
            break
    value = seconds / scale
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f} {unit}"


Column = tuple[str, Callable[[Row], str]]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # headings and lines

FOUND: tuple[Column, ...] = (
    ("run", lambda row: row["run"]),
    ("method", lambda row: row["method"]),
    ("status", lambda row: row["status"]),
    ("objective", lambda row: f"{row['fun']:.9g}"),
    ("gradient", lambda row: "-" if math.isnan(row["grad_norm"]) else f"{row['grad_norm']:.1e}"),
    ("nit", lambda row: f"{row['nit']}"),
    ("nfev", lambda row: f"{row['nfev']}"),
)
TIMES: tuple[Column, ...] = (
    ("time", lambda row: row["run"]),
    ("compile", lambda row: "in solve" if row["compile_s"] is None else format_seconds(row["compile_s"])),
    ("solve", lambda row: format_seconds(row["solve_s"])),
    ("fastest", lambda row: format_seconds(row["solve_s_min"])),
    ("slowest", lambda row: format_seconds(row["solve_s_max"])),
)
SHARES: tuple[Column, ...] = (
    ("share of a solve", lambda row: row["run"]),
    ("objective", lambda row: format_share(row["objective_share"])),
    ("transfers", lambda row: format_share(row["transfer_share"])),
    ("solver", lambda row: format_share(row["solver_share"])),
)
LINE = 80  # characters of a terminal
NARROW = 8  # characters to which a column may shrink
TEXT_COLUMNS = ("run", "method", "status", "time", "share of a solve", "leaf")  # aligned at the left


def format_share(share: float) -> str:
    """Write a fraction in percent; a dash if it is NaN.

    Examples:
        >>> [format_share(value) for value in (0.5, 0.0004, float("nan"))]
        ['50 %', '< 1 %', '-']
    """
    if math.isnan(share):
        return "-"
    return "< 1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")


def write_table(rows: Sequence[Row], notes: Sequence[str] = (), more: Sequence[Table] = ()) -> str:
    """Return text of at most 80 columns: what the runs found, their times, more tables, and the notes."""
    blocks = [
        align(names, lines, [place for place, name in enumerate(names) if name not in TEXT_COLUMNS], width=LINE)
        for names, lines in [*_tables(rows), *more]
    ]
    lines = [line for block in blocks for line in [*block, ""]]
    below = [textwrap.fill(note, LINE, subsequent_indent="  ", break_on_hyphens=False) for note in notes]
    return "\n".join([*lines[:-1], *([""] if below else []), *below])


def align(
    names: Sequence[str],
    lines: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    *,
    rule: bool = True,
    width: int | None = None,
) -> list[str]:
    """Return headings, a rule and lines in columns of equal width.

    Args:
        names, lines: headings and cells.
        right: the columns that are aligned at the right.
        rule: whether to draw a rule below the headings.
        width: of the table at most; cells that are too long for it go on below. None for any width.
    """
    cells = [names, *lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        _shrink(widths, cells, width)
    heading, *body = (
        _join(
            [textwrap.wrap(cell, max(width, 1)) or [""] for cell, width in zip(line, widths, strict=True)],
            widths,
            right,
        )
        for line in cells
    )
    below = ["  ".join("-" * each for each in widths)] if rule else []
    return [*heading, *below, *(line for part in body for line in part)]


def _shrink(widths: list[int], cells: Sequence[Sequence[str]], width: int) -> None:
    """Make the widest columns narrower until the table fits: by spaces, then inside words, but not inside numbers."""
    words = [max(len(word) for cell in column for word in ["", *cell.split()]) for column in zip(*cells, strict=True)]
    broken = [NARROW if name in TEXT_COLUMNS else least for name, least in zip(cells[0], words, strict=True)]
    for least in (words, broken):
        while sum(widths) + 2 * (len(widths) - 1) > width:
            wide = [place for place, each in enumerate(widths) if each > max(least[place], NARROW)]
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1


def _join(parts: Sequence[Sequence[str]], widths: Sequence[int], right: Sequence[int]) -> list[str]:
    """Return the lines of one row, whose cells may have several."""
    return [
        "  ".join(
            part.rjust(width) if place in right else part.ljust(width)
            for place, (part, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in itertools.zip_longest(*parts, fillvalue="")
    ]


def write_html(rows: Sequence[Row], notes: Sequence[str] = (), more: Sequence[Table] = ()) -> str:
    """Return the tables and notes as HTML without colors, which suits light and dark pages."""
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    tables = [*write_html_tables(rows), *(html_table(*table) for table in more)]
    boxes = (f'<div style="overflow-x:auto;margin:8px 0">{table}</div>' for table in tables)
    return f"<div>{''.join(boxes)}{below}</div>"


def write_html_tables(rows: Sequence[Row]) -> list[str]:
    """Return the tables as HTML."""
    return [html_table(names, lines) for names, lines in _tables(rows)]


def html_table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return one table as HTML, with numbers aligned at the right. Only names may go on below."""
    styles = [
        ("text-align:left;" if name in TEXT_COLUMNS else "text-align:right;")
        + ("overflow-wrap:anywhere;min-width:7em;" if name in TEXT_COLUMNS and name != "status" else "{}")
        + "padding:2px 12px 2px 0;vertical-align:top"
        for name in names
    ]

    def line(tag: str, cells: Sequence[str]) -> str:
        wrap = "white-space:nowrap;" if tag == "td" else ""
        parts = (
            f'<{tag} style="{style.format(wrap)}">{html.escape(cell)}</{tag}>'
            for style, cell in zip(styles, cells, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line("td", cells) for cells in lines)
    return f"<table><thead>{line('th', names)}</thead><tbody>{body}</tbody></table>"


def has_shares(rows: Sequence[Row]) -> bool:
    """Whether the shares of the time are known of a row."""
    return any(not math.isnan(row.get("objective_share", math.nan)) for row in rows)


def _tables(rows: Sequence[Row]) -> list[Table]:
    """Return what the runs found, without methods if all are equal; their times; and the shares of those if known."""
    alike = len({row["method"] for row in rows}) < 2
    found = [column for column in FOUND if not (alike and column[0] == "method")]
    known = [row for row in rows if has_shares([row])]
    return [_fill(found, rows), _fill(TIMES, rows), *([_fill(SHARES, known)] if known else [])]


def _fill(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    return [name for name, _ in columns], [[write(row) for _, write in columns] for row in rows]
