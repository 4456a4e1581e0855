"""Draw docs/way.svg, the way of params through both backends: `python docs/draw_way.py`."""

from __future__ import annotations

from pathlib import Path

PICTURE = Path(__file__).parent / "way.svg"
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 640" role="img" aria-label="The way of params">
<style>
text { font: 13px sans-serif; fill: #222; text-anchor: middle } .name { font-weight: 600 }
rect { fill: #eef3fa; stroke: #5b7db1 }
.host { fill: #fdf1e3; stroke: #c98a3a } .device { fill: #e6f4ee; stroke: #3f8f6b }
path { fill: none; stroke: #8795a8; stroke-width: 1.5 } .small { font-size: 11px }
</style>
<rect x="0" y="0" width="720" height="640" style="fill: #ffffff; stroke: none" rx="6"/>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L8 4 L0 8" style="fill: #8795a8; stroke: none"/></marker></defs>
"""
LEFT, RIGHT, MIDDLE = 190, 530, 360
# Middle, top, width, kind, title, lines below it.
BOXES = [
    (
        MIDDLE,
        12,
        420,
        "",
        "params, args, fun",
        ["any tree; numbers and arrays that are floating-point are optimized"],
    ),
    (
        MIDDLE,
        92,
        420,
        "",
        "prepare",
        [
            "one flat vector x; bounds and masks flat too",
            "fun is traced: a program with args and closures as inputs",
        ],
    ),
    (
        MIDDLE,
        190,
        420,
        "",
        "cache",
        ["a program is found by what it computes; else it is compiled"],
    ),
    (
        LEFT,
        282,
        300,
        "host",
        'backend="scipy": the host drives',
        ["scipy.optimize.minimize, float64"],
    ),
    (LEFT, 372, 300, "device", "one evaluation", ["x in; value and gradient out, as one array"]),
    (LEFT, 452, 300, "host", "record", ["row of the trace, best point, gtol, ftol, limits"]),
    (
        RIGHT,
        282,
        300,
        "device",
        'backend="optax": the device drives',
        ["one compiled while loop"],
    ),
    (
        RIGHT,
        372,
        300,
        "device",
        "one turn of the loop",
        ["trial, value, gradient, search, pairs, row, tests"],
    ),
    (RIGHT, 452, 300, "host", "ten times a second", ["clock, Ctrl-C, callback"]),
    (
        MIDDLE,
        552,
        420,
        "",
        "finish, the one exit",
        [
            "x to the tree of params; one rule for success",
            "Result: params, fun, jac, status, trace, timing",
        ],
    ),
]
ARROWS = [
    f"M{MIDDLE} 62 V90",
    f"M{MIDDLE} 160 V188",
    f"M{MIDDLE - 60} 240 C{MIDDLE - 60} 262 {LEFT} 258 {LEFT} 280",
    f"M{MIDDLE + 60} 240 C{MIDDLE + 60} 262 {RIGHT} 258 {RIGHT} 280",
    f"M{LEFT} 332 V370",
    f"M{LEFT} 422 V450",
    "M40 477 H20 V307 H38",
    f"M{RIGHT} 332 V370",
    "M680 407 H700 V387 H682",
    f"M{RIGHT} 422 V450",
    f"M{LEFT} 502 C{LEFT} 530 {MIDDLE - 60} 526 {MIDDLE - 60} 550",
    f"M{RIGHT} 502 C{RIGHT} 530 {MIDDLE + 60} 526 {MIDDLE + 60} 550",
]


def draw() -> str:
    """The picture as text."""
    lines = [HEAD]
    for middle, top, width, kind, title, below in BOXES:
        height = 34 + 18 * len(below)
        lines.append(
            f'<rect class="{kind}" x="{middle - width / 2:g}" y="{top}" width="{width}" height="{height}" rx="5"/>'
        )
        lines.append(
            f'<text class="name" x="{middle}" y="{top + 22}">{title.replace(chr(34), "&quot;")}</text>'
        )
        for row, text in enumerate(below):
            lines.append(
                f'<text class="small" x="{middle}" y="{top + 40 + 17 * row}">{text}</text>'
            )
    lines += [f'<path d="{arrow}" marker-end="url(#tip)"/>' for arrow in ARROWS]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
