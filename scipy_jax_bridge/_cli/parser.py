"""The arguments of the command line, checked as they are parsed; an error suggests the nearest name."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path

import optax

from .._compare.runs import Entry
from .._core.errors import unknown_name
from .._core.options import RULES, Options
from .._minimize import BACKENDS
from .._scipy.methods import METHODS
from ..models import MODELS
from .target import EXAMPLE

PICTURE = "comparison.png"
FORMATS = (".png", ".svg", ".pdf", ".jpg")
PAGES = (".html", ".htm")
LIMITS: dict[str, type[int] | type[float]] = {
    each.name: int if isinstance(each.default, int) else float for each in fields(Options) if each.name != "native"
}


def make_parser(command: bool) -> argparse.ArgumentParser:
    """Return the parser.

    Args:
        command: whether it is that of `compare TARGET`, which needs a target and writes only the files asked for.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m scipy_jax_bridge{' compare' if command else ''}",
        description="Minimizes a built-in model, or an objective in a file of your own, with SciPy and with Optax, and "
        "shows both side by side: what they found, how long they compiled, how long they solved, and where the "
        "seconds went.",
        epilog=f"models:\n{list_models()}\n\nexamples:\n  python -m scipy_jax_bridge\n"
        "  python -m scipy_jax_bridge compare co2 --repeats 3 --plot co2.svg\n"
        "  python -m scipy_jax_bridge compare fit.py:objective --report fit.html\n"
        "  python -m scipy_jax_bridge compare rosenbrock --methods L-BFGS-B,BFGS,adam=0.05 --maxiter 2000 --json\n\n"
        f"a file of your own:\n\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    default = None if command else "digits"
    says = "" if command else "; default: digits"
    add("model", metavar="TARGET", nargs="?", default=default, help=f"a model, or path/to/file.py:objective{says}")
    _add_runs(parser)
    _add_outputs(parser, None if command else PICTURE)
    add("--float32", action="store_true", help="solve in single precision; co2 does not work in it")
    add("--list", action="store_true", help="list the models and end")
    return parser


def _add_runs(parser: argparse.ArgumentParser) -> None:
    """Add what to run, how often, and the limits of a solve."""
    add = parser.add_argument
    add(
        "--backends",
        metavar="A,B",
        type=_several_of("backend", BACKENDS),
        help=f"which to run, with commas between; default: {','.join(BACKENDS)}",
    )
    add(
        "--methods",
        metavar="A,B",
        type=_methods,
        help="methods to run: SciPy's by name, Optax's by name and learning rate, such as BFGS,trust-ncg,adam=0.01; "
        "the backends' own methods run beside them only where --backends says so",
    )
    add("--repeats", metavar="N", default=5, type=_count, help="solves with each; default: 5")
    for name, kind in LIMITS.items():
        default = next(each.default for each in fields(Options) if each.name == name)
        add(f"--{name}", metavar="N" if kind is int else "X", type=_limit(name, kind), help=f"default: {default}")


def _add_outputs(parser: argparse.ArgumentParser, picture_name: str | None) -> None:
    """Add what to write, and where to; `picture_name` is the file of the picture unless another is named."""
    add = parser.add_argument
    add("--json", action="store_true", help="print the rows of the table as JSON, and nothing else")
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument(
        "--plot",
        metavar="FILE",
        default=picture_name,
        type=_file("picture", FORMATS),
        help=f"write a picture, {', '.join(FORMATS)}; default: {picture_name or 'none'}",
    )
    picture.add_argument("--no-plot", action="store_true", help="write no picture")
    add("--dark", action="store_true", help="draw the picture light on dark")
    add("--report", metavar="FILE", type=_file("page", PAGES), help="write one HTML page with everything in it")


def list_models() -> str:
    """Return a line for each built-in model."""
    titles = {name: (inspect.getdoc(build) or name).splitlines()[0] for name, build in MODELS.items()}
    return "\n".join(f"  {name:<12}{title}" for name, title in titles.items())


def _one_of(kind: str, names: Collection[str]) -> Callable[[str], str]:
    """Return a type for argparse whose error suggests the nearest name."""

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


def _methods(words: str) -> dict[str, Entry]:
    """Return a run for each word: a method of SciPy, or a transformation of Optax and its learning rate."""
    runs: dict[str, Entry] = {}
    for word in filter(None, (word.strip() for word in words.split(","))):
        name, equals, rate = word.partition("=")
        if not equals:
            _one_of("method of SciPy", [method.name for method in METHODS.values()])(_spell(name))
            runs[word] = {"backend": "scipy", "method": name}
            continue
        make = getattr(optax, name, None)
        try:
            method = make(float(rate)) if make is not None else None
        except (TypeError, ValueError):
            method = None
        if not isinstance(method, optax.GradientTransformation):
            raise argparse.ArgumentTypeError(f"{word!r} is no transformation of Optax; write for example adam=0.01.")
        runs[word] = {"backend": "optax", "method": method}
    return runs


def _spell(name: str) -> str:
    """Return a method's name as SciPy spells it, whatever the case."""
    return METHODS[name.lower()].name if name.lower() in METHODS else name


def _limit(name: str, kind: type[int] | type[float]) -> Callable[[str], int | float]:
    """Return a type for argparse that checks the rule of the option."""
    meaning, holds = RULES[name]

    def check(word: str) -> int | float:
        try:
            value = kind(word)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"{word!r} is not {meaning.removeprefix('None or ')}.")
        return value

    return check


def _file(kind: str, endings: Collection[str]) -> Callable[[str], Path]:
    def check(word: str) -> Path:
        path = Path(word)
        if path.suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"{word!r} must end in one of {', '.join(endings)}, to be a {kind}.")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}.")
        return path

    return check
