"""Who may stop a solve from outside: the clock, the keyboard, the caller's callback."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ._status import Status
from ._types import Params


@dataclass(frozen=True)
class Progress:
    """What a callback is told.

    Arguments:
        nit, nfev: iterations and evaluations so far.
        fun, grad_norm: objective and max abs of the projected gradient at the current iterate; NaN if not known.
        seconds: since the solve began.
        params: the current iterate; made when it is asked for.
    """

    nit: int
    nfev: int
    fun: float
    grad_norm: float
    seconds: float
    _params: Callable[[], Params] = field(repr=False)

    @property
    def params(self) -> Params:
        """The current iterate, with the tree of params."""
        return self._params()


@dataclass
class Watch:
    """One solve's clock, keyboard and callback.

    Arguments:
        timeout: seconds; None for no limit.
        callback: called with a Progress; StopIteration stops the solve.
    """

    timeout: float | None = None
    callback: Callable[[Progress], Any] | None = None
    began: float = 0.0
    interrupted: bool = False

    @contextmanager
    def solving(self) -> Iterator[None]:
        """Start the clock, and let the first Ctrl-C end the solve instead of the program."""
        self.began = time.perf_counter()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.getsignal(signal.SIGINT)
        if previous is not signal.default_int_handler:  # the caller handles the keyboard
            yield
            return
        signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    @property
    def seconds(self) -> float:
        """Since the solve began."""
        return time.perf_counter() - self.began

    @property
    def seconds_left(self) -> float:
        """Until the time limit; infinite without one."""
        return float("inf") if self.timeout is None else self.timeout - self.seconds

    def stop(self) -> Status | None:
        """Why the solve has to end now, if it has to."""
        if self.interrupted:
            return Status.INTERRUPTED
        if self.timeout is not None and self.seconds >= self.timeout:
            return Status.TIMEOUT
        return None

    def report(self, progress: Progress) -> Status | None:
        """Tell the callback; CALLBACK if it wants to stop."""
        if self.callback is None:
            return None
        try:
            self.callback(progress)
        except StopIteration:
            return Status.CALLBACK
        return None

    def _on_interrupt(self, signum: int, frame: Any) -> None:
        if self.interrupted:  # the second time: at once
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        self.interrupted = True
