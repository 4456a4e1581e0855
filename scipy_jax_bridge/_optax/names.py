"""Name an Optax transformation by the functions that made it.

A transformation does not know its name. But its `update` is a function inside the one that made it, whose qualified
name says so; that of a chain closes over those of its parts. A chain of the parts of `optax.adam` is called adam,
another one `chain(clip, adam)`. Where the names do not tell, it is called by its type.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import optax

UNKNOWN = "GradientTransformation"
ALGORITHMS = (  # the functions of Optax that make chains; of two with equal parts the first gives the name
    *("sgd", "adam", "adamw", "adabelief", "adadelta", "adafactor", "adagrad", "adamax", "adamaxw", "adan", "amsgrad"),
    *("fromage", "lamb", "lars", "lbfgs", "lion", "novograd", "optimistic_gradient_descent", "optimistic_adam_v2"),
    *("polyak_sgd", "radam", "rmsprop", "rprop", "sign_sgd", "sm3", "yogi"),
)

Update = Callable[..., Any]
Known = Mapping[tuple[str, ...], str]  # names by the parts of a chain


def name_of_transformation(method: optax.GradientTransformation) -> str:
    """Return the name of a transformation.

    Examples:
        >>> import optax
        >>> name_of_transformation(optax.chain(optax.clip(1.0), optax.adam(0.1)))
        'chain(clip, adam)'
    """
    return _name(method.update, _known_chains())


def _name(update: Update, known: Known) -> str:
    maker, inside = _maker_of(update), _closed_over(update)
    if maker == "with_extra_args_support":
        wrapped = (each.update for each in inside if isinstance(each, optax.GradientTransformation))
        return next((_name(each, known) for each in wrapped), UNKNOWN)
    if maker == "inject_hyperparams":
        return next((each.__name__ for each in inside if _is_optaxs(each)), maker)
    parts = _parts_of(update, known)
    return maker if parts is None else known.get(_rule_of(parts), f"chain({', '.join(parts)})")


def _parts_of(update: Update, known: Known) -> tuple[str, ...] | None:
    """Return the names of the parts of a chain; None if it is none."""
    if _maker_of(update) != "chain":
        return None
    found = next((each for each in _closed_over(update) if isinstance(each, tuple)), None)
    return None if found is None else tuple(_name(each, known) for each in found)


@functools.cache
def _known_chains() -> Known:
    """Return the names of Optax's algorithms by their parts."""
    known: dict[tuple[str, ...], str] = {}
    made = [(name, getattr(optax, name)(0.1)) for name in ALGORITHMS if hasattr(optax, name)]
    for name, each in [("sgd", optax.sgd(0.1, momentum=0.9)), *made]:
        parts = _parts_of(each.update, known)
        if parts is not None:
            known.setdefault(_rule_of(parts), name)
    return known


def _rule_of(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts that matter: a schedule is a learning rate too."""
    return tuple("scale" if part == "scale_by_schedule" else part for part in parts if part != "identity")


def _maker_of(update: Update) -> str:
    """Return the name of the function that made an `update`: of Optax's its public one, else the innermost."""
    made = getattr(update, "__qualname__", "").rpartition(".")[0].split(".<locals>")
    names = [name.strip(".") for name in made if name]
    if not names:
        return UNKNOWN
    is_optaxs = getattr(update, "__module__", "").partition(".")[0] == optax.__name__
    return names[0] if is_optaxs else names[-1].rpartition(".")[2]


def _closed_over(update: Update) -> list[Any]:
    found = []
    for cell in getattr(update, "__closure__", None) or ():
        with suppress(ValueError):  # not filled yet
            found.append(cell.cell_contents)
    return found


def _is_optaxs(value: Any) -> bool:
    name = getattr(value, "__name__", None)
    return isinstance(name, str) and getattr(optax, name, None) is value
