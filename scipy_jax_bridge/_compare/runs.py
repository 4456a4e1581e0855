"""Check which runs a comparison is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from .._core.boundary import explain_keyword
from .._minimize import BACKENDS, Minimizer

Entry = Mapping[str, Any]  # keyword arguments of Minimizer

OF_A_RUN = frozenset(inspect.signature(Minimizer).parameters) - {"fun"}
OF_ALL = frozenset({"backends", "runs", "repeats", "shares", "args"})


def check_runs(
    runs: Mapping[str, Entry] | None, backends: Sequence[str] | None, repeats: int, as_minimize: Entry
) -> dict[str, Entry]:
    """Return the keyword arguments of each run by name, those for all runs included.

    Raises:
        TypeError: `runs` is no dict of dicts, or a keyword argument is unknown; the error suggests the nearest name.
        ValueError: `repeats` is less than 1, or the runs are none or given twice.
    """
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats must be a whole number and at least 1, not {repeats!r}.")
    _check_names(as_minimize, OF_A_RUN | OF_ALL, "compare")
    if runs is not None and backends is not None:
        raise ValueError("give either backends or runs: an entry of runs names its own, as in {'backend': 'optax'}.")
    if runs is None:
        if "backend" in as_minimize:
            raise TypeError("compare runs several backends: pass backends, such as backends=('optax',), or runs.")
        backends = tuple(BACKENDS) if backends is None else [backends] if isinstance(backends, str) else backends
        runs = {name: {"backend": name} for name in backends}
    if not runs:
        raise ValueError('there is nothing to compare; name a backend at least, such as backends=("scipy", "optax").')
    if not isinstance(runs, Mapping) or not all(isinstance(entry, Mapping) for entry in runs.values()):
        raise TypeError(
            "runs must be a dict of dicts, the keyword arguments of each run by its name, as in "
            f"{{'bfgs': {{'method': 'BFGS'}}}}, not {runs!r}."
        )
    for name, entry in runs.items():
        _check_names(entry, OF_A_RUN, f"the run {name!r}")
    return {name: {**as_minimize, **entry} for name, entry in runs.items()}


def _check_names(given: Entry, known: frozenset[str], owner: str) -> None:
    for name in given:
        if name not in known:
            raise TypeError(explain_keyword(name, known, owner))
