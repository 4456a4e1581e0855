"""Keep Ctrl-C responsive during long waits; defer it while JAX lowers a program, which must not be interrupted."""

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
from typing import Any

from .context import carry_context


def run_in_thread(work: Callable[[], Any]) -> Future[Any]:
    """Run `work` in a helper thread and return its future; the main thread can receive signals while it waits.

    Python handles signals in the main thread alone, and not before compiled code returns there. Called from any other
    thread, `work` runs at once.
    """
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # whoever waits gets it
            future.set_exception(error)

    if threading.current_thread() is not threading.main_thread():
        run()
        return future
    scope, context = carry_context(), contextvars.copy_context()

    def run_in_scope() -> None:
        with scope():
            run()

    helper = threading.Thread(target=context.run, args=(run_in_scope,), name="scipy_jax_bridge", daemon=True)
    _helpers.add(helper)
    helper.start()
    return future


_helpers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _wait_for_helpers() -> None:
    """At exit, wait for what an interrupt left at work, or for another Ctrl-C, which then ends the process at once.

    Compiled code that returns to an interpreter that has gone aborts the process.
    """
    at_work = [helper for helper in _helpers if helper.is_alive()]
    if not at_work:
        return
    text = "scipy_jax_bridge: waiting for interrupted compiled code to end. Press Ctrl-C to leave at once."
    print(text, file=sys.stderr, flush=True)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for helper in at_work:
        helper.join()


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block: the first lowering imports modules that register themselves, once."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    noted: list[tuple[Any, Any]] = []

    def note(*signaled: Any) -> None:
        noted.append(signaled)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is note:  # else somebody took the keyboard meanwhile
            signal.signal(signal.SIGINT, handler)
        if noted:
            handler(*noted[-1])
