"""The keyboard while others work: through to a long wait at once, and to what must not be torn a moment later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any


def run_beside(work: Callable[[], Any]) -> Future[Any]:
    """The result to be: compiled code does not look at the keyboard, so the main thread waits beside it.

    Another thread, to which no signal comes, does the work itself.
    """
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # all of it belongs to who waits
            future.set_exception(error)

    if threading.current_thread() is threading.main_thread():
        threading.Thread(target=run, name="scipy_jax_bridge").start()
    else:
        run()
    return future


@contextmanager
def untorn() -> Iterator[None]:
    """Ctrl-C comes through afterwards: the first lowering imports modules that register themselves, once."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    noted: list[tuple[Any, Any]] = []
    signal.signal(signal.SIGINT, lambda *signaled: noted.append(signaled))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if noted:
            handler(*noted[-1])
