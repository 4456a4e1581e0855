"""The command line: fits a model with each backend, and shows the runs side by side."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ._compare import Comparison, compare
from ._errors import unknown_name
from ._options import Options
from ._show import write_table
from ._stories import more_rows, tell
from .models import MODELS, Model, load

BACKENDS = ("scipy", "optax")
PICTURE = "comparison.png"
FORMATS = (".png", ".svg", ".pdf", ".jpg")
OPTIONS = {"digits": Options(gtol=1e-6, ftol=0.0)}
"""Options by the name of the model, where the defaults are too loose for what is said of its minimum."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Arguments:
        arguments: the words after the program's name; None takes those of this process.

    Returns:
        The exit status: 0 if every run converged, else 1.
    """
    wanted = _make_parser().parse_args(arguments)
    if wanted.list:
        print(_list_models())
        return 0
    jax.config.update("jax_enable_x64", not wanted.float32)
    try:
        model = load(wanted.model)
    except ModuleNotFoundError as error:
        print(f"{error}\nThe model rosenbrock needs no data.", file=sys.stderr)
        return 1
    return _run(model, wanted)


def _run(model: Model, wanted: argparse.Namespace) -> int:
    """Compares, prints and draws; the exit status."""
    options = OPTIONS.get(model.name, Options())
    if not wanted.json:
        print(_describe(model, options, wanted.repeats), end="\n\n", flush=True)
    comparison = compare(
        model.fun,
        model.params,
        model.args,
        bounds=model.bounds,
        backends=wanted.backends,
        repeats=wanted.repeats,
        options=options,
    )
    converged = all(result.success for result in comparison.results.values())
    rows = [*comparison.rows(), *more_rows(model, options, wanted.repeats)]
    if wanted.json:
        print(json.dumps([_without_nan(row) for row in rows], indent=2, allow_nan=False))
    else:
        print(write_table(rows, comparison.notes()))
        print("", *tell(model, comparison), *([] if converged else ["", model.note]), sep="\n")
    if not wanted.no_plot:
        said = _write_picture(comparison, wanted.plot, model.title)
        print(f"\n{said}", file=sys.stderr if wanted.json else sys.stdout)
    return 0 if converged else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scipy_jax_bridge",
        description="Fits a model on real data with SciPy and with Optax, and shows both side by side: what they "
        "found, how long they compiled, how long they solved.",
        epilog=f"models:\n{_list_models()}\n\nexamples:\n  python -m scipy_jax_bridge\n"
        "  python -m scipy_jax_bridge co2 --repeats 3 --plot co2.svg\n"
        "  python -m scipy_jax_bridge rosenbrock --json --no-plot",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", default="digits", type=_one_of("model", MODELS), help="default: digits")
    add(
        "--backends",
        metavar="A,B",
        default=BACKENDS,
        type=_several_of("backend", BACKENDS),
        help=f"which to run, with commas between; default: {','.join(BACKENDS)}",
    )
    add("--repeats", metavar="N", default=5, type=_count, help="solves with each backend; default: 5")
    add("--json", action="store_true", help="print the rows of the table as JSON, and nothing else")
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument("--plot", metavar="FILE", default=PICTURE, type=_picture, help=f"default: {PICTURE}")
    picture.add_argument("--no-plot", action="store_true", help="write no picture")
    add("--float32", action="store_true", help="solve in single precision; co2 does not work in it")
    add("--list", action="store_true", help="list the models and end")
    return parser


def _list_models() -> str:
    titles = {name: (inspect.getdoc(build) or name).splitlines()[0] for name, build in MODELS.items()}
    return "\n".join(f"  {name:<12}{title}" for name, title in titles.items())


def _one_of(kind: str, names: Collection[str]) -> Callable[[str], str]:
    """A type for argparse whose error suggests the nearest name."""

    def check(word: str) -> str:
        if word not in names:
            raise argparse.ArgumentTypeError(unknown_name(kind, word, names))
        return word

    return check


def _several_of(kind: str, names: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    check = _one_of(kind, names)
    return lambda words: tuple(dict.fromkeys(check(word.strip()) for word in words.split(",")))


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number that is at least 1.")
    return int(word)


def _picture(word: str) -> Path:
    path = Path(word)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{word!r} must end in one of {', '.join(FORMATS)}.")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}.")
    return path


def _describe(model: Model, options: Options, repeats: int) -> str:
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(model.params))
    precision = "float64" if jax.config.jax_enable_x64 else "float32"  # type: ignore[attr-defined]
    solves = f"{repeats} solves each, interleaved" if repeats > 1 else "1 solve each"
    asked = f"gtol {options.gtol:g}, ftol {options.ftol:.3g}"
    device = jax.devices()[0]
    title = model.title[:1].upper() + model.title[1:]
    return f"{title}\n{size} parameters, {precision} on {device.device_kind}, {asked}, {solves}"


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: they become null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _write_picture(comparison: Comparison, path: str | Path, title: str) -> str:
    """Writes the picture, and says where it is or how to get it; the comparison stands without it."""
    try:
        comparison.plot(path, title=title)
    except (ModuleNotFoundError, OSError) as error:
        return f"No picture: {error}"
    return f"Picture: {path}"


if __name__ == "__main__":
    sys.exit(main())
