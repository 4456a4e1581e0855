"""Draw docs/architecture.svg from the imports of the package: `python docs/draw_architecture.py`.

A box is a folder or a module at the top of the package. Boxes stand in rows, each above everything that it imports.
A line is an import; one that follows from others (a imports b, b imports c) is left out.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "scipy_jax_bridge"
PICTURE = HERE / "architecture.svg"
SAYS = {
    "__init__": "the public names",
    "_cli": "command line",
    "_compare": "runs side by side",
    "models": "problems on real data",
    "_minimize": "minimize, Minimizer",
    "_autodiff": "a solve inside a trace",
    "_scipy": "SciPy drives on the host",
    "_optax": "one loop on the device",
    "_backend": "what a backend is",
    "_result": "Result, the one exit",
    "_problem": "params and fun as one vector",
    "_core": "options, status, stopping",
    "_render": "tables, figures, pages",
}
PART_OF = {
    "_adapt": "_minimize",
    "_minimizer": "_minimize",
    "_preparation": "_minimize",
    "_settings": "_minimize",
    "_summary": "_result",
}  # modules drawn in one box with another
WIDTH, HEIGHT, GAP, RISE = 186, 44, 20, 40
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" role="img" aria-label="Imports between folders">
<style>
text {{ font: 12px sans-serif; fill: #222 }} .name {{ font-weight: 600 }}
rect {{ fill: #eef3fa; stroke: #5b7db1 }} path {{ fill: none; stroke: #8795a8 }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #ddd }} rect {{ fill: #223047 }} }}
</style>
"""


def read_imports() -> dict[str, set[str]]:
    """The names at the top of the package, each with those that it imports."""
    found: dict[str, set[str]] = {name: set() for name in SAYS}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        here = PART_OF.get(parts[0], parts[0])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if here in found and isinstance(node, ast.ImportFrom) and node.level:
                base = parts[: len(parts) - node.level]
                target = (
                    *base,
                    *filter(
                        None, [node.module, *([a.name for a in node.names] if not base else [])]
                    ),
                )
                name = target[0].split(".")[0]
                found[here] |= {PART_OF.get(name, name)} & found.keys() - {here}
    found["_minimize"] |= {"_scipy", "_optax"}  # by name, when asked for
    return found


def reduce_to_direct(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports without those that follow from others."""

    def reach(name: str) -> set[str]:
        return imports[name].union(*map(reach, imports[name]))

    return {name: others - set().union(*map(reach, others)) for name, others in imports.items()}


def find_rows(imports: dict[str, set[str]]) -> list[list[str]]:
    """Rows from the bottom. A name stands above all that it imports; one that imports nothing, close to its users."""

    def height(name: str) -> int:
        return 1 + max(map(height, imports[name]), default=-1)

    heights = {name: height(name) for name in imports}
    for name in [name for name in imports if not imports[name]]:
        heights[name] = min(heights[user] for user in imports if name in imports[user]) - 1
    return [
        [name for name in SAYS if heights[name] == row]
        for row in range(max(heights.values()) + 1)
    ]


def draw(imports: dict[str, set[str]]) -> str:
    """The picture as text."""
    rows = find_rows(imports)
    across = max(map(len, rows))
    width, height = across * (WIDTH + GAP) + GAP, len(rows) * (HEIGHT + RISE)
    place = {}
    for level, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + GAP) + GAP) / 2
        for column, name in enumerate(row):
            place[name] = (
                left + column * (WIDTH + GAP),
                height - (level + 1) * (HEIGHT + RISE) + RISE / 2,
            )
    lines = [HEAD.format(w=width, h=height)]
    for name, others in reduce_to_direct(imports).items():
        for other in sorted(others):
            (x0, y0), (x1, y1) = place[name], place[other]
            start, end = f"{x0 + WIDTH / 2:g} {y0 + HEIGHT:g}", f"{x1 + WIDTH / 2:g} {y1:g}"
            bend = f"{x0 + WIDTH / 2:g} {y0 + HEIGHT + RISE:g} {x1 + WIDTH / 2:g} {y1 - RISE:g}"
            lines.append(f'<path d="M{start} C{bend} {end}"/>')
    for name, (x, y) in place.items():
        label = name if name == "__init__" or (PACKAGE / f"{name}.py").exists() else f"{name}/"
        lines.append(f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>')
        lines.append(f'<text class="name" x="{x + 10:g}" y="{y + 18:g}">{label}</text>')
        lines.append(f'<text x="{x + 10:g}" y="{y + 35:g}">{SAYS[name]}</text>')
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    picture = draw(read_imports())
    if sys.argv[1:] == ["--check"]:
        sys.exit(PICTURE.read_text(encoding="utf-8") != picture)
    PICTURE.write_text(picture, encoding="utf-8")
