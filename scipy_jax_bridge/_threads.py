"""One thread for SciPy's own vectors, all threads for the objective.

SciPy's L-BFGS-B works on short runs of vectors through OpenBLAS, whose threads cost more than they bring there
(https://github.com/scipy/scipy/issues/23191). The objective may use the same library for real work, so its threads
are given back for every evaluation. Needs threadpoolctl; without it nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SMALLEST = 5_000  # OpenBLAS starts no threads for shorter vectors


class Solver:
    """A context in which SciPy's BLAS has one thread; `outside` gives a callable the threads it had."""

    def __init__(self, size: int) -> None:
        self._libraries: list[tuple[Any, int]] = []
        self._size = size

    def __enter__(self) -> Solver:
        if self._size >= SMALLEST:
            self._libraries = _blas_libraries()
        self._set(one=True)
        return self

    def __exit__(self, *_: Any) -> None:
        self._set(one=False)

    def outside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, run with all its threads."""
        if not self._libraries:
            return function

        def run(*args: Any) -> Any:
            self._set(one=False)
            try:
                return function(*args)
            finally:
                self._set(one=True)

        return run

    def _set(self, *, one: bool) -> None:
        for library, threads in self._libraries:
            library.set_num_threads(1 if one else threads)


def _blas_libraries() -> list[tuple[Any, int]]:
    """The BLAS libraries of this process that have more than one thread, with that number."""
    try:
        import threadpoolctl
    except ImportError:
        return []
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    return [(library, library.num_threads) for library in found if library.num_threads > 1]
