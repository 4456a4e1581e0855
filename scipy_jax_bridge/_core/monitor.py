"""Who may stop a solve from outside: the clock, the keyboard, the caller's callback."""

from __future__ import annotations

import signal
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .context import is_debugging
from .interrupts import run_in_thread
from .status import Status
from .types import Params

SLOW_S = 0.1  # work of this length leaves the main thread free to receive signals
AGAIN_S = 0.05  # until an interrupt that did not get through is repeated


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


class _Mark:
    """Lives as long as the exception that holds it."""


@dataclass
class _Keyboard:
    """What Ctrl-C did to a solve and to those around it.

    Arguments:
        struck: whether it was pressed.
        raised: the mark of the KeyboardInterrupt that ends the preparations; None if none did, or if it got through.
    """

    struck: bool = False
    raised: Callable[[], _Mark | None] | None = None

    def interrupt(self) -> KeyboardInterrupt:
        """The exception to raise."""
        error, mark = KeyboardInterrupt(), _Mark()
        error.mark = mark  # type: ignore[attr-defined]
        self.raised = weakref.ref(mark)
        return error


_innermost: ContextVar[SolveMonitor | None] = ContextVar("innermost", default=None)


@dataclass
class SolveMonitor:
    """One solve's clock, keyboard and callback; a context that lasts until the result is made.

    Inside, Ctrl-C ends a solve that has begun, together with the solves around it, from whose callback or objective
    it was called. While one of them is being prepared, as by compilation, it is an ordinary KeyboardInterrupt. A
    second one is a KeyboardInterrupt in any case. A Watch that never begins makes every one a KeyboardInterrupt.

    Arguments:
        timeout: seconds; None for no limit.
        callback: called with a Progress; StopIteration stops the solve.
        best_so_far: what the solve would hand back now, set by who solves; for an exception to carry along.
    """

    timeout: float | None = None
    callback: Callable[[Progress], Any] | None = None
    best_so_far: Callable[[], Any] | None = None
    began: float | None = None
    _keyboard: _Keyboard = field(default_factory=_Keyboard)
    _outer: SolveMonitor | None = None
    _active: bool = False
    _handler: Any = None  # what this Watch installs
    _before: Any = None  # what was there
    _timer: threading.Timer | None = None

    def __enter__(self) -> SolveMonitor:
        outer = _innermost.get()
        if outer is not None and outer._active:
            self._outer, self._keyboard = outer, outer._keyboard
        _innermost.set(self)
        self._active = True
        if _in_main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if handler is signal.default_int_handler or isinstance(getattr(handler, "__self__", None), SolveMonitor):
                self._before, self._handler = handler, self._on_interrupt  # else the caller handles the keyboard
                signal.signal(signal.SIGINT, self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._active = False  # first of all: whatever comes now is not for this solve
        _innermost.set(self._outer)
        if self._timer is not None:
            self._timer.cancel()
        if self._handler is not None and signal.getsignal(signal.SIGINT) is self._handler:  # else the caller's stays
            signal.signal(signal.SIGINT, self._before)
        dropped, self._keyboard.raised = self._keyboard.raised is not None, None
        if kind is None and dropped:
            raise KeyboardInterrupt

    def begin(self) -> None:
        """The programs are compiled: start the clock."""
        self.began = time.perf_counter()
        if self._keyboard.raised is not None:  # Python drops what is raised while it collects garbage
            raise self._keyboard.interrupt()

    @property
    def seconds(self) -> float:
        """Since the solve began."""
        return 0.0 if self.began is None else time.perf_counter() - self.began

    @property
    def seconds_left(self) -> float:
        """Until the time limit; infinite without one."""
        return float("inf") if self.timeout is None else self.timeout - self.seconds

    def stop_status(self) -> Status | None:
        """Why the solve has to end now, if it has to."""
        if self._keyboard.struck:
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

    def compute(self, work: Callable[[], Any], expected_s: float | None) -> Any:
        """The value of `work`, which runs compiled code and returns when that has ended.

        Where it takes long, or nobody knows how long (None), it runs beside the main thread, so that Ctrl-C gets
        through at once.
        """
        if (expected_s is None or expected_s >= SLOW_S) and _in_main_thread() and not is_debugging():
            return run_in_thread(work).result()
        try:
            return work()
        except Exception as error:  # JAX makes its own error of what is raised in the objective's host callbacks
            if self._keyboard.raised is not None:
                raise self._keyboard.interrupt() from error
            raise

    @property
    def _preparing(self) -> bool:
        """Whether this solve or one around it has nothing to hand back yet."""
        return self.began is None or (self._outer is not None and self._outer._preparing)

    def _on_interrupt(self, signum: int, frame: Any) -> None:
        if not self._active:  # somebody kept the handler and put it back
            self._before(signum, frame)
            return
        first, self._keyboard.struck = not self._keyboard.struck, True
        if first and not self._preparing:
            return
        if self._preparing:
            self._timer = threading.Timer(AGAIN_S, self._ring_again)
            self._timer.daemon = True
            self._timer.start()
        raise self._keyboard.interrupt()

    def _ring_again(self) -> None:
        """Repeat the signal if its exception has died and this Watch lives on: Python has dropped it.

        It drops what is raised while it collects garbage.
        """
        raised = self._keyboard.raised
        if not self._active or not self._preparing or raised is None or raised() is not None:
            return
        if hasattr(signal, "pthread_kill"):  # wakes the main thread even where it waits
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        else:
            signal.raise_signal(signal.SIGINT)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
