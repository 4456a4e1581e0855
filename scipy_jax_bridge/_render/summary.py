"""Write the summary of a result: text for a terminal of 80 columns, HTML for a notebook."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .table import align

WIDTH = 80
LEAVES = 12  # rows of the table of params
PATH_WIDTH = 28
LISTED = 4  # an array of up to so many numbers is written out


@dataclass(frozen=True)
class LeafRow:
    """One leaf of params.

    Args:
        path: where it is, such as kernel.variance.
        shape: of one solve.
        value: its numbers, of a batch those of all solves; None if they cannot be read.
        moved: largest absolute change from the start; None if unknown.
        note: whether it is held or at a bound.
    """

    path: str
    shape: tuple[int, ...]
    value: np.ndarray | None
    moved: float | None
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """What a summary says, in this order.

    Args:
        verdict: the first words, such as "converged".
        success: whether all went well.
        details: the rest of the first line.
        message: why the solve ended, and the cure.
        caption: how many numbers are free, and what is held.
        leaves: the leaves of params that are numbers.
        facts: names and texts of the lines below.
    """

    verdict: str
    success: bool
    details: str
    message: str
    caption: str
    leaves: Sequence[LeafRow]
    facts: Sequence[tuple[str, str]]


def format_value(value: np.ndarray | None, *, short: bool = False) -> str:
    """Write numbers: a few are listed, of many the range and the mean, in short the range alone."""
    if value is None:
        return "unreadable"
    if value.size == 0:
        return "empty"
    if value.ndim == 0 and value.dtype == bool:
        return str(value)
    numbers = value.ravel().astype(np.float64)
    if value.ndim == 0:
        return f"{numbers[0]:.6g}"
    if numbers.size <= (LISTED // 2 if short else LISTED):
        return ", ".join(f"{number:.4g}" for number in numbers)
    if f"{numbers.min():.4g}" == f"{numbers.max():.4g}":
        return f"all {numbers[0]:.4g}"
    span = f"{numbers.min():.3g} to {numbers.max():.3g}"
    return span if short else f"{span}, mean {numbers.mean():.3g}"


def format_estimate(number: float) -> str:
    """Write a number with two significant digits.

    Examples:
        >>> [format_estimate(value) for value in (0.0, 0.1234, 98.7, 1019.0, 1e9)]
        ['0', '0.12', '99', '1000', '1e+09']
    """
    return f"{float(f'{number:.1e}'):g}"


def write_summary(summary: Summary) -> str:
    """Return the summary as lines of at most 80 columns."""
    first = f"{summary.verdict} {summary.details}"
    lines = [*textwrap.wrap(first, WIDTH, subsequent_indent="  "), *_wrap(summary.message, 2)]
    if summary.caption:
        lines += _wrap(f"params    {summary.caption}", 2, 10)
    if summary.leaves:
        names, rows = _cells(summary.leaves)
        lines += [f"    {line}" for line in align(names, rows, rule=False, width=WIDTH - 4)]
    if len(summary.leaves) > LEAVES:
        lines.append(f"    ... and {len(summary.leaves) - LEAVES} more leaves")
    lines += [line for name, text in summary.facts for line in _wrap(f"{name:<9} {text}", 2, 10)]
    return "\n".join(lines)


def write_summary_html(summary: Summary) -> str:
    """Return the summary as HTML. It takes colors from the page, and two that light and dark backgrounds suit."""
    color = "#2e8b57" if summary.success else "#cc5a1f"
    cell = "text-align:left;padding:1px 12px 1px 0;background:none;vertical-align:top;color:inherit"
    path = f"{cell};overflow-wrap:anywhere;min-width:6em"

    def row(tag: str, first: str, *rest: str) -> str:
        shown = "".join(f'<{tag} style="{cell}">{_unbroken(each)}</{tag}>' for each in rest)
        return f'<tr style="background:none"><{tag} style="{path}">{html.escape(first)}</{tag}>{shown}</tr>'

    def table(body: str) -> str:
        style = (
            "border-collapse:collapse;margin:4px 0;color:inherit;font-size:inherit;font-variant-numeric:tabular-nums"
        )
        return f'<table style="{style}">{body}</table>'

    parts = [f'<div><b style="color:{color}">{html.escape(summary.verdict)}</b> {html.escape(summary.details)}</div>']
    parts += [f'<div style="max-width:72ch">{html.escape(summary.message)}</div>'] if summary.message else []
    if summary.leaves:
        names, rows = _cells(summary.leaves, wide=True)
        more = len(summary.leaves) - LEAVES
        rows += [[f"... and {more} more leaves"]] if more > 0 else []
        scroll = "overflow-x:auto;margin:6px 0;border:solid rgba(128,128,128,.4);border-width:1px 0"
        parts.append(
            f'<div style="{scroll}">{table(row("th", *names) + "".join(row("td", *each) for each in rows))}</div>'
        )
    facts = [*([("params", summary.caption)] if summary.caption else []), *summary.facts]
    parts.append(table("".join(row("td", *each) for each in facts)))
    return f'<div style="color:inherit;max-width:100%">{"".join(parts)}</div>'


def _unbroken(text: str) -> str:
    """Return the text as HTML that is broken at spaces only, and not inside 1e-05."""
    return re.sub(r"\S*-\S*", r'<span style="white-space:nowrap">\g<0></span>', html.escape(text))


def _wrap(text: str, indent: int, hanging: int = 0) -> list[str]:
    first, rest = " " * indent, " " * (indent + hanging)
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def _cells(leaves: Sequence[LeafRow], *, wide: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the table of params. Columns without content are left out."""
    shown = leaves[:LEAVES]
    columns = {
        "leaf": [leaf.path if wide or len(leaf.path) <= PATH_WIDTH else _tail(leaf.path) for leaf in shown],
        "shape": [str(leaf.shape) if leaf.shape else "" for leaf in shown],
        "value": [format_value(leaf.value) for leaf in shown],
        "moved": ["" if leaf.moved is None else format_estimate(leaf.moved) for leaf in shown],
        "": [leaf.note for leaf in shown],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    return list(columns), [list(cells) for cells in zip(*columns.values(), strict=True)]


def _tail(path: str) -> str:
    """Shorten a path to its end, which tells leaves apart."""
    return "..." + path[3 - PATH_WIDTH :]
