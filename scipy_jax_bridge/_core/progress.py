"""A progress bar with iteration, objective, gradient norm, evaluations per second and time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from .agreement import EveryProcess
from .monitor import Callback, Progress, SolveMonitor
from .options import Options


@contextmanager
def monitor_solve(options: Options, callback: Callback | None, progress: bool) -> Iterator[SolveMonitor]:
    """Make the monitor of one solve, with a progress bar if `progress` is set."""
    with SolveMonitor(options.timeout, callback) as monitor:
        if not progress:
            yield monitor
            return
        with show_progress(monitor, options):
            yield monitor


@contextmanager
def show_progress(monitor: SolveMonitor, options: Options) -> Iterator[None]:
    """Show a progress bar, updated before each call of the callback.

    Raises:
        ImportError: tqdm is missing. The message names the extra that installs it.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm: pip install 'scipy_jax_bridge[progress]', or leave progress out."
        ) from error
    callback = monitor.callback
    late = jax.process_index() and 0.01  # in other processes than the first the bar appears with a report, if any comes
    with tqdm(unit=" iterations", delay=late) as bar:

        def show(progress: Progress) -> None:
            if monitor.is_first:
                update(progress)
            if callback is not None and monitor.calls(callback):
                callback(progress)

        def update(progress: Progress) -> None:
            bar.update(progress.nit - bar.n)
            rate = progress.nfev / max(progress.seconds, 1e-9)
            facts = {"fun": f"{progress.fun:.6g}", "grad_norm": f"{progress.grad_norm:.2e}", "evals/s": f"{rate:.0f}"}
            if options.timeout is not None:
                facts["left"] = f"{max(options.timeout - progress.seconds, 0):.0f}s"
            bar.set_postfix(facts)

        monitor.callback = EveryProcess(show)
        yield
