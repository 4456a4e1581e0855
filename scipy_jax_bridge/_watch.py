"""Who may stop a solve from outside: the clock, the keyboard, the caller's callback."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ._beside import run_beside
from ._status import Status
from ._types import Params

SLOW_S = 0.1  # a wait of this length looks at the keyboard
AGAIN_S = 0.05  # between two tries to get an interrupt through


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

    def __getstate__(self) -> dict[str, Any]:
        """With params made, since a pickle cannot hold how they are made."""
        return vars(self) | {"_params": self.params}

    def __setstate__(self, state: dict[str, Any]) -> None:
        params = state["_params"]
        vars(self).update(state, _params=lambda: params)


@dataclass
class Watch:
    """One solve's clock, keyboard and callback; a context that lasts until the result is made.

    Inside, Ctrl-C ends a solve that has begun and is an ordinary KeyboardInterrupt before that, while the
    programs are compiled. A second one is a KeyboardInterrupt in any case.

    Arguments:
        timeout: seconds; None for no limit.
        callback: called with a Progress; StopIteration stops the solve.
        found: what the solve would hand back now, set by who solves; for an exception to carry along.
    """

    timeout: float | None = None
    callback: Callable[[Progress], Any] | None = None
    found: Callable[[], Any] | None = None
    began: float | None = None
    interrupted: bool = False
    _handler: Any = None

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if handler is signal.default_int_handler:  # else the caller handles the keyboard
                self._handler = handler
                signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def begin(self) -> None:
        """The programs are compiled: start the clock."""
        self.began = time.perf_counter()
        if self.interrupted:  # raised before, but Python drops what is raised while it collects garbage
            raise KeyboardInterrupt

    @property
    def seconds(self) -> float:
        """Since the solve began."""
        return 0.0 if self.began is None else time.perf_counter() - self.began

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

    def wait(self, array: Any, expected_s: float | None) -> None:
        """Until the array is computed; the second Ctrl-C gets through while that takes long, or nobody knows (None)."""
        if (expected_s is None or expected_s >= SLOW_S) and self._handler is not None:
            run_beside(array.block_until_ready).exception()  # what went wrong, who reads the array is told

    def _on_interrupt(self, signum: int, frame: Any) -> None:
        first, self.interrupted = not self.interrupted, True
        if self.began is None:
            timer = threading.Timer(AGAIN_S, self._ring_again)
            timer.daemon = True
            timer.start()
        if self.began is None or not first:
            raise KeyboardInterrupt

    def _ring_again(self) -> None:
        """What is raised while Python collects garbage is dropped: until it gets through, the signal is repeated."""
        if self._handler is None or self.began is not None:
            return
        if hasattr(signal, "pthread_kill"):  # wakes the main thread even where it waits
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        else:
            signal.raise_signal(signal.SIGINT)
