"""A progress bar: iteration, objective, gradient norm, evaluations a second, time left to a limit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .monitor import Progress, SolveMonitor
from .options import Options


@contextmanager
def show_progress(monitor: SolveMonitor, options: Options) -> Iterator[None]:
    """Show how the solve goes, after whatever else the callback does.

    Errors:
        ImportError: tqdm is missing; with the extra that brings it.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm: pip install 'scipy_jax_bridge[progress]', or leave progress out."
        ) from error
    callback = monitor.callback
    with tqdm(unit=" iterations") as bar:

        def show(progress: Progress) -> Any:
            bar.update(progress.nit - bar.n)
            rate = progress.nfev / max(progress.seconds, 1e-9)
            facts = {"fun": f"{progress.fun:.6g}", "grad_norm": f"{progress.grad_norm:.2e}", "evals/s": f"{rate:.0f}"}
            if options.timeout is not None:
                facts["left"] = f"{max(options.timeout - progress.seconds, 0):.0f}s"
            bar.set_postfix(facts)
            return None if callback is None else callback(progress)

        monitor.callback = show
        yield
