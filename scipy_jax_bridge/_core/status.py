"""Why a solve ended: an integer code that can live on the device, and its sentence."""

from __future__ import annotations

import enum

RUNNING = -1  # code of a solve that has not ended; never in a Result


class Status(enum.IntEnum):
    """Why a solve ended. GTOL and FTOL are success: the test of that name holds.

    NOISE_FLOOR is not success, however small the gradient. Set a gtol that the precision can reach, or continue in a
    higher precision.

    `status.sentence` explains the likely cause and the cure.

    Examples:
        >>> import scipy_jax_bridge as sjb
        >>> sjb.Status.FTOL.success, sjb.Status.MAXITER.success
        (True, False)
        >>> sjb.Status.MAXITER.sentence
        'Stopped at maxiter iterations. Raise maxiter, and pass the result as params to go on.'
    """

    sentence: str

    def __new__(cls, code: int, sentence: str) -> Status:
        member = int.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    GTOL = 0, "Converged: the largest absolute component of the projected gradient is at most gtol."
    FTOL = (
        1,
        (
            "Converged: the relative reduction of the objective in the last iteration is at most ftol. "
            "If the gradient is still too large for you, set a smaller ftol (0 disables this test)."
        ),
    )
    MAXITER = 2, "Stopped at maxiter iterations. Raise maxiter, and pass the result as params to go on."
    MAXFUN = 3, "Stopped at maxfun evaluations. Raise maxfun, and pass the result as params to go on."
    TIMEOUT = 4, "Stopped at the time limit. Raise timeout, or pass the result as params to go on."
    CALLBACK = 5, "Stopped because the callback raised StopIteration. Pass the result as params to go on."
    INTERRUPTED = 6, "Interrupted from the keyboard. This is the best point so far; pass the result as params to go on."
    LINESEARCH = (
        7,
        (
            "No step leads to a lower point although the gradient is not small. Likely causes, unless the method "
            "itself names one: the gradient is wrong or not continuous here, the objective is computed less "
            "accurately than its type, or the steps of an Optax transformation are zero, as after the end of a "
            "schedule. Check the gradient with jax.test_util.check_grads, and look for kinks and for float32 inside "
            "the objective."
        ),
    )
    NONFINITE = (
        8,
        (
            "The objective or its gradient is NaN or infinite and no finite decrease was found. Add bounds that keep "
            "the parameters where the objective is defined, or make it safe with jnp.where on the argument."
        ),
    )
    NOISE_FLOOR = (
        9,
        (
            "Rounding stopped the progress: the objective cannot be told apart from its neighbors any more although "
            "gtol does not hold. In float32, jax_enable_x64 or precision='float64' goes further; in float64, rescale "
            "the objective or accept a larger gtol."
        ),
    )

    ERROR = (
        10,
        (
            "An exception ended the solve; it carries this result, the best point so far. Mend the cause, and pass the "
            "result as params to go on."
        ),
    )
    UNBOUNDED = (
        11,
        (
            "The objective seems to have no minimum: it falls, as steeply as at first, along a step 1e10 times as long "
            "as a usual one. Look for a wrong sign, or for a term or bounds that are missing."
        ),
    )

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(
            f"{value!r} is no status that this version of scipy_jax_bridge knows. "
            "Update the package if the result was made by a newer one."
        )

    def __str__(self) -> str:
        return self.name

    def __format__(self, form: str) -> str:
        return format(self.name if form in ("", "s") else int(self), form)

    @property
    def success(self) -> bool:
        """Whether the solve converged."""
        return self <= Status.FTOL
