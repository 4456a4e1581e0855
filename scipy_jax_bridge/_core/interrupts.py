"""Ctrl-C: keep it responsive during long waits, stop a solve with it, and defer it where it would do harm.

Python handles signals in the main thread only, and not before compiled code returns there. So long work runs in a
helper thread while the main thread waits. JAX's first lowering must not be interrupted: it imports modules that
register themselves once.
"""

from __future__ import annotations

import atexit
import contextvars
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from .context import carry_context

RAISE_AGAIN_S = 0.05  # seconds after which an interrupt that Python dropped is raised again

T = TypeVar("T")
Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None  # what signal.getsignal returns


def in_main_thread() -> bool:
    """Whether this is the main thread, the only one that receives signals."""
    return threading.current_thread() is threading.main_thread()


def run_in_thread(work: Callable[[], T]) -> Future[T]:
    """Run `work` in a helper thread and return its future; the main thread can receive signals while it waits.

    Called from any thread but the main one, run `work` at once.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised again by future.result()
            future.set_exception(error)

    if not in_main_thread():
        run()
        return future
    jax_context, context = carry_context(), contextvars.copy_context()

    def run_in_context() -> None:
        with jax_context():
            run()

    helper = threading.Thread(target=context.run, args=(run_in_context,), name="scipy_jax_bridge", daemon=True)
    _helpers.add(helper)
    helper.start()
    return future


_helpers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _wait_for_helpers() -> None:
    """At exit, wait for the helper threads that an interrupt left running. Another Ctrl-C ends the process at once.

    Compiled code that returns to a finalized interpreter would abort the process.
    """
    at_work = [helper for helper in _helpers if helper.is_alive()]
    if not at_work:
        return
    text = "scipy_jax_bridge: waiting for interrupted compiled code to end. Press Ctrl-C to leave at once."
    print(text, file=sys.stderr, flush=True)

    if in_main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for helper in at_work:
        helper.join()


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block."""
    handler = signal.getsignal(signal.SIGINT)
    if not in_main_thread() or not callable(handler):
        yield
        return
    received: list[tuple[int, FrameType | None]] = []

    def note(signum: int, frame: FrameType | None) -> None:
        received.append((signum, frame))

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is note:  # leave a handler that was installed meanwhile
            signal.signal(signal.SIGINT, handler)
        if received:
            handler(*received[-1])


class _Mark:
    """An attribute of an exception, alive as long as the exception."""


@dataclass
class _Interrupts:
    """What Ctrl-C has done to a solve and to the solves around it.

    Args:
        received: whether Ctrl-C was pressed.
        raised: reference to the mark of the KeyboardInterrupt raised last; None if none was raised or it has arrived.
    """

    received: bool = False
    raised: Callable[[], _Mark | None] | None = None

    def make_exception(self) -> KeyboardInterrupt:
        """Make the exception to raise, and remember it."""
        error, mark = KeyboardInterrupt(), _Mark()
        error.mark = mark  # type: ignore[attr-defined]
        self.raised = weakref.ref(mark)
        return error


_innermost: ContextVar[SigintHandler | None] = ContextVar("innermost", default=None)


class SigintHandler:
    """Turn Ctrl-C into a request to stop the solve; a context that lasts until the result is made.

    After `begin`, the first Ctrl-C asks this solve and the solves around it to stop. (A solve is around another if
    its callback or objective called the other.) While one of them is still being prepared, as by compilation, Ctrl-C
    raises KeyboardInterrupt. The second Ctrl-C always raises KeyboardInterrupt.

    A handler that the caller installed stays in place.
    """

    def __init__(self) -> None:
        self._interrupts = _Interrupts()
        self._outer: SigintHandler | None = None
        self._active = self._begun = False
        self._installed: Handler = None
        self._previous: Handler = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> SigintHandler:
        outer = _innermost.get()
        if outer is not None and outer._active:
            self._outer, self._interrupts = outer, outer._interrupts
        _innermost.set(self)
        self._active = True
        if in_main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if handler is signal.default_int_handler or isinstance(getattr(handler, "__self__", None), SigintHandler):
                self._previous, self._installed = handler, self._on_sigint
                signal.signal(signal.SIGINT, self._installed)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._active = False  # first: a signal from now on does not concern this solve
        _innermost.set(self._outer)
        if self._timer is not None:
            self._timer.cancel()
        if self._installed is not None:
            found = signal.signal(signal.SIGINT, self._previous)
            if found is not self._installed:  # a handler that was set during the solve stays
                signal.signal(signal.SIGINT, found)
            self._installed = None  # a method of this object
        dropped, self._interrupts.raised = self._interrupts.raised is not None, None
        if kind is None and dropped:
            raise KeyboardInterrupt

    @property
    def stop_requested(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._interrupts.received

    def begin(self) -> None:
        """End the preparations. Raise again a KeyboardInterrupt that Python dropped during garbage collection."""
        self._begun = True
        if self._interrupts.raised is not None:
            raise self._interrupts.make_exception()

    def raise_dropped(self, error: Exception) -> None:
        """Raise KeyboardInterrupt if one was raised before and JAX turned it into `error`, as in host callbacks."""
        if self._interrupts.raised is not None:
            raise self._interrupts.make_exception() from error

    @property
    def _is_preparing(self) -> bool:
        """Whether this solve or one around it has no point to return yet."""
        return not self._begun or (self._outer is not None and self._outer._is_preparing)

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        if not self._active:  # other code saved this handler and installed it again
            if callable(self._previous):
                self._previous(signum, frame)
            return
        is_first, self._interrupts.received = not self._interrupts.received, True
        if is_first and not self._is_preparing:
            return
        if self._is_preparing:
            self._timer = threading.Timer(RAISE_AGAIN_S, self._raise_again)
            self._timer.daemon = True
            self._timer.start()
        raise self._interrupts.make_exception()

    def _raise_again(self) -> None:
        """Repeat the signal if its exception is gone and this context still active: Python has dropped it.

        Python drops an exception that is raised during garbage collection.
        """
        raised = self._interrupts.raised
        if not self._active or not self._is_preparing or raised is None or raised() is not None:
            return
        main = threading.main_thread().ident
        if hasattr(signal, "pthread_kill") and main is not None:  # wakes the main thread even where it waits
            signal.pthread_kill(main, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)
