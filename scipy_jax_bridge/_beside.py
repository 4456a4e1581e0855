"""Long work beside the main thread, so that Ctrl-C gets through: compiled code does not look at the keyboard."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def run_beside(work: Callable[[], Any]) -> Future[Any]:
    """The result to be; another thread than the main one, to which no signal comes, does the work itself."""
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
