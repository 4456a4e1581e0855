"""One BLAS thread for SciPy's own vectors, all threads for the objective.

SciPy's L-BFGS-B works on short vectors through OpenBLAS, whose threads wait for one another. On a machine that has
other work, a solve takes many times as long with them as without
(https://github.com/scipy/scipy/issues/23191). The objective may use the same library for large matrices (JAX's
Cholesky factorization on the CPU does), so every evaluation gets its threads back.

`openblas_set_num_threads` is OpenBLAS's public call; SciPy's wheels prefix it. Where SciPy was built with another
library, none is found and nothing changes. threadpoolctl would do the same for MKL and BLIS, but it would be one more
package to depend on, for libraries that SciPy's wheels do not have.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import numpy as np
import scipy.linalg.cython_blas

NAMES = ("scipy_openblas_{}_num_threads", "openblas_{}_num_threads", "scipy_openblas_{}_num_threads64_")
Returned = TypeVar("Returned")


class _Library:
    """The OpenBLAS that SciPy has loaded, shared by all solves of the process."""

    def __init__(self, set_threads: Callable[[int], None], get_threads: Callable[[], int]) -> None:
        self.set_threads, self._get_threads = set_threads, get_threads
        self._lock = threading.Lock()
        self._solves = 0
        self.threads = 1

    def enter(self) -> None:
        with self._lock:
            if self._solves == 0:
                self.threads = self._get_threads()
            self._solves += 1
        self.set_threads(1)

    def leave(self) -> None:
        with self._lock:
            self._solves -= 1
            if self._solves == 0:
                self.set_threads(self.threads)


class SingleThreaded:
    """A context in which SciPy's BLAS has one thread; `outside` gives a function its threads back."""

    def __enter__(self) -> SingleThreaded:
        self._library = _openblas()
        if self._library is not None:
            self._library.enter()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._library is not None:
            self._library.leave()

    def outside(self, function: Callable[..., Returned]) -> Callable[..., Returned]:
        """Wrap the function to run with the threads that BLAS had before the context."""
        library = self._library
        if library is None or library.threads == 1:
            return function

        def run(*args: np.ndarray) -> Returned:
            library.set_threads(library.threads)
            try:
                return function(*args)
            finally:
                library.set_threads(1)

        return run


@functools.cache
def _openblas() -> _Library | None:
    """Find SciPy's OpenBLAS through a module of SciPy that is linked with it; None if it uses another library."""
    try:
        handle = ctypes.CDLL(scipy.linalg.cython_blas.__file__)
    except OSError:
        return None
    for name in NAMES:
        set_threads = getattr(handle, name.format("set"), None)
        get_threads = getattr(handle, name.format("get"), None)
        if set_threads is not None and get_threads is not None:
            return _Library(set_threads, get_threads)
    return None
