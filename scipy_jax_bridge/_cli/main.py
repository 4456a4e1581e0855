"""The command line: fit a built-in model or the user's own objective with each backend, and compare the runs."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from .._compare.compare import Comparison, compare
from .._compare.runs import Entry
from .._core.options import Options, read_options
from .._minimize import BACKENDS
from .._render.table import Row, write_table
from ..models import MODELS, Model
from .commentary import comment_on, more_rows
from .parser import LIMITS, list_models, make_parser
from .target import TargetError, explain, load_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMMAND = "compare"
OPTIONS = {"digits": {"gtol": 1e-6, "ftol": 0.0}}
"""Options by model, where the defaults are too loose for what the commentary says of its minimum."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; None takes those of this process.

    Returns:
        The exit status: 0 if every run converged, 1 if not, 2 if the target is wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words[:1] == [COMMAND]
    parser = make_parser(command)
    wanted = parser.parse_args(words[1:] if command else words)
    if wanted.list:
        print(list_models())
        return 0
    if wanted.model is None:
        parser.error(f"what is to be compared? Name a model ({', '.join(MODELS)}) or path/to/file.py:objective")
    jax.config.update("jax_enable_x64", not wanted.float32)
    try:
        with _stdout_for_rows(wanted.json):
            model, settings = load_target(wanted.model)
    except ModuleNotFoundError as error:
        print(f"{error}\nThe model rosenbrock needs no data.", file=sys.stderr)
        return 1
    except TargetError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return _run(model, settings, wanted)


def _run(model: Model, settings: Entry, wanted: argparse.Namespace) -> int:
    """Compare, print and draw; return the exit status."""
    given = {name: getattr(wanted, name) for name in LIMITS if getattr(wanted, name) is not None}
    try:
        options = replace(_read_options(model, settings), **given)
        if not wanted.json:
            print(_describe(model, settings, options, wanted.repeats), end="\n\n", flush=True)
        with _stdout_for_rows(wanted.json):
            comparison = compare(
                model.fun,
                model.params,
                model.args,
                runs=_choose_runs(wanted),
                repeats=wanted.repeats,
                shares=True,
                **{**settings, "options": options},
            )
            rows = [*comparison.rows(), *more_rows(model, options, wanted.repeats)]
    except Exception as error:
        if model.name in MODELS and not isinstance(error, (TypeError, ValueError)):
            raise
        print(explain(error, model), file=sys.stderr)
        return 2
    converged = all(result.success for result in comparison.results.values())
    if wanted.json:
        print(json.dumps([_without_nan(row) for row in rows], indent=2, allow_nan=False))
    else:
        _print_table(rows, comparison, model, converged)
    written = _write_files(comparison, wanted, model.title)
    if written:
        print("", *written, sep="\n", file=sys.stderr if wanted.json else sys.stdout)
    return 0 if converged else 1


def _print_table(rows: list[Row], comparison: Comparison, model: Model, converged: bool) -> None:
    """Print the rows and what is to be said of them; with the model's note if a run did not converge."""
    print(write_table(rows, comparison.notes(), comparison._ends()))
    for lines in filter(None, (comment_on(model, comparison), [] if converged or not model.note else [model.note])):
        print("", *lines, sep="\n")


@contextmanager
def _stdout_for_rows(alone: bool) -> Iterator[None]:
    """With --json, send what the objective prints to stderr, so that stdout holds only the rows."""
    if not alone:
        yield
        return
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            jax.effects_barrier()  # jax.debug.print may print later than the value is ready


def _choose_runs(wanted: argparse.Namespace) -> dict[str, Entry]:
    """Return the backends with their default methods, and the methods asked for by name."""
    backends = wanted.backends or (() if wanted.methods else BACKENDS)
    return {**{name: {"backend": name} for name in backends}, **(wanted.methods or {})}


def _read_options(model: Model, settings: Entry) -> Options:
    """Return the options of the file or of the model; only those that every method has."""
    return read_options(settings.get("options", OPTIONS.get(model.name)), frozenset(), "L-BFGS-B")


def _describe(model: Model, settings: Entry, options: Options, repeats: int) -> str:
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(model.params))
    double = settings.get("precision") or jax.config.jax_enable_x64  # type: ignore[attr-defined]
    precision = "float64" if double else "float32"  # type: ignore[attr-defined]
    solves = f"{repeats} solves each, interleaved" if repeats > 1 else "1 solve each"
    asked = f"gtol {options.gtol:g}, ftol {options.ftol:.3g}"
    device = jax.devices()[0]
    title = model.title[:1].upper() + model.title[1:]
    return f"{title}\n{size} parameters, {precision} on {device.device_kind}, {asked}, {solves}"


def _without_nan(row: Row) -> Row:
    """Replace NaN and infinity, which JSON does not have, by null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _write_files(comparison: Comparison, wanted: argparse.Namespace, title: str) -> list[str]:
    """Write the files asked for; return a line for each that says where it is, or why it could not be written."""
    said = []
    plot, report = None if wanted.no_plot else wanted.plot, wanted.report
    if plot is not None:
        said.append(_attempt("picture", plot, lambda: comparison.plot(plot, title=title, dark=wanted.dark)))
    if report is not None:
        said.append(_attempt("report", report, lambda: comparison.report(report, title=title)))
    return said


def _attempt(what: str, path: str | Path, write: Callable[[], Figure | Path]) -> str:
    try:
        write()
    except (ModuleNotFoundError, OSError) as error:
        return f"No {what}: {error}"
    return f"{what.capitalize()}: {path}"


def run_quietly() -> int:
    """Run `main`; end without an error message when the reader of its output has gone, such as `head`."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at exit
        return 1
    return status


if __name__ == "__main__":
    sys.exit(run_quietly())
