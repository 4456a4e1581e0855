"""What can stop a solve from outside: the time limit, Ctrl-C and the caller's callback."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .agreement import Agreement, EveryProcess, Vote
from .context import is_debugging
from .interrupts import SigintHandler, in_main_thread, run_in_thread
from .outcome import Outcome
from .status import Status
from .types import Params

SLOW_S = 0.1  # work that takes this many seconds runs in a helper thread

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """The argument of a callback.

    Attributes:
        nit: iterations so far.
        nfev: evaluations so far.
        fun: the objective at the current iterate; NaN if unknown.
        grad_norm: max abs of the projected gradient there; NaN if unknown.
        seconds: time since the solve began.
        params: the current iterate; made on first access.

    Examples:
        >>> import scipy_jax_bridge as sjb
        >>> def stop(progress):
        ...     if progress.nit == 2:
        ...         raise StopIteration
        >>> sjb.minimize(lambda x: (x - 1.0) ** 4, 3.0, callback=stop).nit
        2
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
        """Store params themselves, since the function that makes them cannot be pickled."""
        return vars(self) | {"_params": self.params}

    def __setstate__(self, state: dict[str, Any]) -> None:
        params = state["_params"]
        vars(self).update(state, _params=lambda: params)


Callback = Callable[[Progress], Any]  # the return value is ignored; StopIteration ends the solve


@dataclass
class SolveMonitor:
    """The clock, Ctrl-C and the callback of one solve; a context that lasts until the result is made.

    See `SigintHandler` for what Ctrl-C does. In a monitor that never begins it always raises KeyboardInterrupt.

    Args:
        timeout: limit in seconds; None for no limit.
        callback: called with a Progress; StopIteration ends the solve.
        best_so_far: returns the outcome of stopping now, or None; set by the backend, read if an exception ends the
            solve.
        started_at: time at which the solve began, in seconds of the performance counter.
        agreement: with the other processes of the solve; None if there are none.
        requested: CALLBACK once the callback has raised StopIteration.
    """

    timeout: float | None = None
    callback: Callback | None = None
    best_so_far: Callable[[], Outcome | None] | None = None
    started_at: float | None = None
    agreement: Agreement | None = None
    requested: Status | None = None
    _failure: BaseException | None = None  # what the callback raised, until all processes know
    _sigint: SigintHandler = field(default_factory=SigintHandler)

    def __enter__(self) -> SolveMonitor:
        self._sigint.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is not None and self.agreement is not None:
            with suppress(Exception):  # the processes may be gone
                run_in_thread(self.agreement.leave).result()
        self.best_so_far = None  # it refers to all of the solve, which refers to the monitor
        self._sigint.__exit__(kind, *details)

    def begin(self) -> None:
        """Start the clock, once the programs are compiled."""
        self.started_at = time.perf_counter()
        self._sigint.begin()

    def join(self, agreement: Agreement | None) -> None:
        """Solve together with other processes, or alone."""
        self.agreement = agreement
        if self.callback is not None and not self.calls(self.callback):
            self.callback = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reports."""
        return self.agreement is None or self.agreement.is_first

    def calls(self, callback: Callback) -> bool:
        """Whether this process calls the callback: the first one, or every one if it is made for that."""
        return self.is_first or isinstance(callback, EveryProcess)

    @property
    def seconds(self) -> float:
        """Time since the solve began."""
        return 0.0 if self.started_at is None else time.perf_counter() - self.started_at

    @property
    def seconds_left(self) -> float:
        """Time until the limit; infinite without one."""
        return float("inf") if self.timeout is None else self.timeout - self.seconds

    def stop_status(self) -> Status | None:
        """Return why the solve must stop now, or None."""
        if self._sigint.stop_requested:
            return Status.INTERRUPTED
        if self.timeout is not None and self.seconds >= self.timeout:
            return Status.TIMEOUT
        return self.requested

    def notify(self, progress: Progress) -> Status | None:
        """Call the callback; return CALLBACK if it raises StopIteration, unless other processes have to agree first."""
        if self.callback is None or self._failure is not None:
            return None
        try:
            self.callback(progress)
        except StopIteration:
            self.requested = Status.CALLBACK
        except BaseException as error:
            if self.agreement is None:
                raise
            self._failure = error
        return self.requested if self.agreement is None else None

    def agree(
        self, nfev: int, seen: int, evaluations: int = 1, ended: Status | None = None
    ) -> tuple[Status | None, int]:
        """Return why the solve must stop now, or None, and the evaluations until the next such question.

        Args: as in `Vote`.

        Raises:
            RuntimeError: another process ended the solve with an exception, or saw something else.
        """
        wish = self.stop_status() if self._failure is None else Status.ERROR
        if self.agreement is None:
            return wish, evaluations
        vote = Vote(nfev, seen, evaluations, wish, ended)
        status, evaluations, who = run_in_thread(functools.partial(self.agreement.settle, vote)).result()
        if status == Status.ERROR:
            raise self._failure or RuntimeError(f"process {who} ended this solve with an exception; see its output.")
        return status, evaluations

    def wait_interruptibly(self, work: Callable[[], T], expected_s: float | None) -> T:
        """Return the value of `work`, which runs compiled code and returns when that has ended.

        If it takes long, or for an unknown time (None), run it in a helper thread, so that Ctrl-C arrives at once.
        """
        if self.agreement is not None:  # other processes may be slow
            return self.agreement.run(work)
        if (expected_s is None or expected_s >= SLOW_S) and in_main_thread() and not is_debugging():
            return run_in_thread(work).result()
        try:
            return work()
        except Exception as error:
            self._sigint.raise_dropped(error)
            raise
