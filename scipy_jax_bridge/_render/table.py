"""Write a comparison's rows as tables: text for a terminal, HTML for a notebook."""

from __future__ import annotations

import html
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


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("run", lambda row: row["run"]),
    ("method", lambda row: row["method"]),
    ("objective", lambda row: f"{row['fun']:.9g}"),
    ("gradient", lambda row: f"{row['grad_norm']:.1e}"),
    ("iterations", lambda row: f"{row['nit']}"),
    ("evaluations", lambda row: f"{row['nfev']}"),
    ("compile", lambda row: "in solve" if row["compile_s"] is None else format_seconds(row["compile_s"])),
    ("solve", lambda row: format_seconds(row["solve_s"])),
    ("fastest", lambda row: format_seconds(row["solve_s_min"])),
    ("slowest", lambda row: format_seconds(row["solve_s_max"])),
    ("status", lambda row: row["status"]),
)
LINE = 100  # characters after which a note is wrapped
TEXT_COLUMNS = ("run", "method", "status", "share of a solve", "leaf")  # aligned at the left

SHARES: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("share of a solve", lambda row: row["run"]),
    ("objective", lambda row: format_share(row["objective_share"])),
    ("transfers", lambda row: format_share(row["transfer_share"])),
    ("solver", lambda row: format_share(row["solver_share"])),
)


def format_share(share: float) -> str:
    """Write a fraction in percent; a dash if it is NaN.

    Examples:
        >>> [format_share(value) for value in (0.5, 0.0004, float("nan"))]
        ['50 %', '< 1 %', '-']
    """
    if math.isnan(share):
        return "-"
    return "< 1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")


Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # headings and lines


def write_table(rows: Sequence[Row], notes: Sequence[str] = (), more: Sequence[Table] = ()) -> str:
    """Return the rows as aligned text, then the shares of their time if known, more tables, and the notes."""
    blocks = [
        align(names, lines, [place for place, name in enumerate(names) if name not in TEXT_COLUMNS])
        for names, lines in [*_tables(rows), *more]
    ]
    lines = [line for block in blocks for line in [*block, ""]]
    below = [textwrap.fill(note, LINE, subsequent_indent="  ", break_on_hyphens=False) for note in notes]
    return "\n".join([*lines[:-1], *([""] if below else []), *below])


def align(
    names: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int] = (), *, rule: bool = True
) -> list[str]:
    """Return headings, a rule and lines in columns of equal width; the columns `right` are aligned at the right."""
    widths = [max(map(len, cells)) for cells in zip(names, *lines, strict=True)]
    below = [["-" * width for width in widths]] if rule else []
    return [
        "  ".join(
            cell.rjust(width) if position in right else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in (names, *below, *lines)
    ]


def write_html(rows: Sequence[Row], notes: Sequence[str] = (), more: Sequence[Table] = ()) -> str:
    """Return the tables and notes as HTML without colors, which suits light and dark pages."""
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    tables = [*write_html_tables(rows), *(html_table(*table) for table in more)]
    return f"<div>{''.join(tables)}{below}</div>"


def write_html_tables(rows: Sequence[Row]) -> list[str]:
    """Return the tables as HTML."""
    return [html_table(names, lines) for names, lines in _tables(rows)]


def html_table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return one table as HTML, with numbers aligned at the right."""
    sides = ["left" if name in TEXT_COLUMNS else "right" for name in names]

    def line(tag: str, cells: Sequence[str]) -> str:
        style = "text-align:{};white-space:nowrap"
        parts = (
            f'<{tag} style="{style.format(side)}">{html.escape(cell)}</{tag}>'
            for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    body = "".join(line("td", cells) for cells in lines)
    return f"<table><thead>{line('th', names)}</thead><tbody>{body}</tbody></table>"


def has_shares(rows: Sequence[Row]) -> bool:
    """Whether the shares of the time are known of a row."""
    return any(not math.isnan(row.get("objective_share", math.nan)) for row in rows)


def _tables(rows: Sequence[Row]) -> list[tuple[list[str], list[list[str]]]]:
    """Return headings and cells of the table of runs, and of the table of shares if any are known."""
    known = [row for row in rows if has_shares([row])]
    shares = [([name for name, _ in SHARES], [[write(row) for _, write in SHARES] for row in known])]
    return [_fill_cells(rows), *(shares if known else [])]


def _fill_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the table of runs; without methods if all are equal."""
    alike = len({row["method"] for row in rows}) < 2
    columns = [column for column in COLUMNS if not (alike and column[0] == "method")]
    return [name for name, _ in columns], [[write(row) for _, write in columns] for row in rows]
