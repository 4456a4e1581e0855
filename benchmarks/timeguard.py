"""A worker process that answers calls one by one and is replaced when a call takes too long."""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

START_SECONDS = 600.0  # a fresh worker imports everything before it answers


class CallFailed(RuntimeError):
    """The call raised, took too long, or took the worker down with it."""


class Worker:
    """Runs module-level functions in a child process, each under a limit of wall-clock seconds.

    Args:
        initialize: called first in every fresh child.
    """

    def __init__(self, initialize: Callable[[], None]) -> None:
        self._initialize = initialize
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def call(self, function: Callable[..., Any], *args: Any, limit: float = START_SECONDS) -> Any:
        """Returns `function(*args)`, computed in the child.

        Raises:
            CallFailed: with the reason; the next call gets a fresh child where this one is lost.
        """
        if self._process is None:
            self._start()
        self._pipe.send((function, args))
        done, answer = self._wait(limit)
        if not done:
            raise CallFailed(answer)
        return answer

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._initialize), daemon=True)
        self._process.start()
        theirs.close()
        ready, reason = self._wait(START_SECONDS)
        if not ready:
            raise CallFailed(reason)

    def _wait(self, limit: float) -> tuple[bool, Any]:
        try:
            if self._pipe.poll(limit):
                return self._pipe.recv()
            reason = f"over the limit of {limit:g} s"
        except (EOFError, ConnectionError):
            reason = "the worker process died"
        self._stop()
        return False, reason

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process = self._pipe = None


def _serve(pipe: Connection, initialize: Callable[[], None]) -> None:
    """The child: says it is ready, then answers until the pipe closes."""
    initialize()
    pipe.send((True, None))
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, function(*args))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}"[:300])
        pipe.send(answer)
