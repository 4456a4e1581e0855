"""Load what the command line compares: a built-in model by name, or an objective in the user's own file."""

from __future__ import annotations

import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType

from .._compare.runs import Entry
from .._core.errors import unknown_name
from .._core.types import Objective
from ..models import MODELS, Model, load

EXAMPLE = """\
# fit.py: everything at the top level of an ordinary Python file
import jax.numpy as jnp

def objective(params, x, y):  # a JAX function that returns one real number
    return jnp.mean((params["slope"] * x + params["offset"] - y) ** 2)

params = {"slope": 0.0, "offset": 0.0}  # where to start: any tree of arrays and numbers
x = jnp.linspace(0.0, 1.0, 20)
args = (x, 2.0 * x + 1.0)  # optional: further arguments of objective
bounds = (None, 10.0)  # optional: lower and upper, each None, a number or a tree like params
# fixed = {"slope": False, "offset": True}  # optional: what stays at its start
# has_aux = True  # optional: objective returns (value, aux)
# options = {"gtol": 1e-8}  # optional: when a solve ends; limits on the command line come first
# precision = "float64"  # optional: even with --float32
"""

SETTINGS = ("bounds", "fixed", "has_aux", "options", "precision")
"""Arguments of `minimize` that a file may define beside its objective, `params` and `args`."""


class TargetError(Exception):
    """A target that cannot be loaded; the message says why, and ends with a file that works."""

    def __init__(self, said: str, *, example: bool = True) -> None:
        super().__init__(f"{said}\n\nA file that works:\n\n{EXAMPLE}" if example else said)


def check_target(word: str) -> str:
    """Return the word if it names a built-in model or a file.

    Raises:
        TargetError: it names neither.
    """
    path, _ = split_target(word)
    if path is None and word not in MODELS:
        said = unknown_name("model", word, MODELS)
        raise TargetError(f"{said} For an objective of your own: path/to/file.py:objective")
    return word


def split_target(word: str) -> tuple[Path | None, str]:
    """Split a word into file and name. The file is None for a built-in model; the default name is "objective"."""
    path, colon, name = word.rpartition(":")
    if not colon or not (path.endswith(".py") or name.isidentifier()):  # the colon may belong to a drive letter
        path, name = word, "objective"
    own = path.endswith(".py") or "/" in path or "\\" in path or bool(colon)
    return (Path(path) if own else None), name


def load_target(word: str) -> tuple[Model, Entry]:
    """Return the model that the word names, and the arguments of `minimize` that come with it.

    Args:
        word: a key of MODELS, or "path/to/file.py:objective". The file defines the objective, `params`, and
            optionally `args` and any of SETTINGS.

    Raises:
        TargetError: no such file or name, an error in the file, no start.
        ModuleNotFoundError: the data of a built-in model are not installed.
    """
    path, name = split_target(check_target(word))
    if path is None:
        model = load(word)
        return model, {"bounds": model.bounds}
    module = _run_file(path)
    fun = _read_objective(module, name, path)
    if not hasattr(module, "params"):
        raise TargetError(f"{path} defines no `params`: the start, a tree of arrays and numbers.")
    params, args = module.params, getattr(module, "args", ())
    settings = {name: getattr(module, name) for name in SETTINGS if hasattr(module, name)}
    if inspect.isroutine(params):
        raise TargetError(f"`params` in {path} is a function. It must be the start itself: call it in the file.")
    model = Model(
        name=word,
        title=f"function {name} in {path}",
        fun=fun,
        params=params,
        args=args if isinstance(args, tuple) else (args,),
        bounds=settings.get("bounds"),
        note=(getattr(fun, "__doc__", None) or "").strip().partition("\n")[0],
    )
    return model, settings


def explain(error: Exception, model: Model) -> str:
    """Describe an error of the objective or of the call in two lines: what it was, and where in the user's file."""
    path = str(split_target(model.name)[0])
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == Path(path).resolve()]
    place = f" (line {own[-1].lineno} of {path}: {own[-1].line})" if own else ""
    said = str(error).strip().replace("pass has_aux=True", f"write has_aux = True in {path}")
    return f"{model.name} cannot be minimized{place}:\n{type(error).__name__}: {said}"


def _run_file(path: Path) -> ModuleType:
    """Run the file as a module, with its folder first in the search path, as `python file.py` does."""
    if path.is_dir():
        raise TargetError(f"{str(path)!r} is a folder. Name a file in it: {path}/file.py:objective")
    if not path.is_file():
        near = sorted(each.name for each in path.parent.glob("*.py")) if path.parent.is_dir() else []
        there = f" In that folder are: {', '.join(near[:8])}." if near else ""
        raise TargetError(f"there is no file {str(path)!r}.{there}")
    full = path.resolve()
    module = ModuleType(f"target_{full.stem}")  # so that no library which the file imports has this name
    module.__file__ = str(full)
    sys.path.insert(0, str(full.parent))
    sys.modules[module.__name__] = module  # dataclasses and pickles look the module up
    try:
        exec(compile(full.read_bytes(), str(full), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise TargetError(_explain_failure(error, path, full)) from error
    return module


def _explain_failure(error: BaseException, path: Path, full: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{path} is not valid Python: {error.msg} (line {error.lineno}: {(error.text or '').strip()})"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(full)]
    place = f" at line {own[-1].lineno} ({own[-1].line})" if own else ""
    return f"{path} could not be run{place}: {type(error).__name__}: {error}"


def _read_objective(module: ModuleType, name: str, path: Path) -> Objective:
    own = [
        each
        for each, value in vars(module).items()
        if callable(value) and not each.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    if not hasattr(module, name):
        said = unknown_name("objective", name, own, str(path))
        raise TargetError(
            f"{said} Write for example {path}:{own[0]}" if own else f"{path} defines no function {name!r}."
        )
    fun = getattr(module, name)
    if not callable(fun):
        raise TargetError(
            f"{name!r} in {path} is not a function of params but of type {type(fun).__name__}."
            + (f" Functions there: {', '.join(own)}." if own else "")
        )
    return fun
