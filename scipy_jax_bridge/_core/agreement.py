"""What the processes of one solve agree on: whether it goes on, for how many evaluations, and that they see the same.

In a program of several processes (`jax.distributed`) each makes the same calls. If data or params lie in more than
one, all of them must run the same programs in the same order, or they wait for one another forever. So before each
run every process tells what it has seen and whether it wants to stop, and all decide by the same rule.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import UInt32

from .interrupts import run_in_thread
from .status import Status

URGENCY = (Status.ERROR, Status.INTERRUPTED, Status.TIMEOUT, Status.CALLBACK)  # which wish counts if they differ
NONE = 2**32 - 1  # the word of no status
HEAD = 4096  # numbers of an array that a fingerprint reads with care

T = TypeVar("T")
Device = Any  # Device, which type checkers take for a variable
Votes = UInt32[np.ndarray, "processes words"]


@dataclass(frozen=True)
class EveryProcess:
    """A callback that every process of a solve over several calls; any other is called in the first process alone.

    It is for callbacks in which all processes have to take part, as a program over data that none holds whole, or a
    checkpoint of Orbax. In a solve of one process it changes nothing.

    Args:
        callback: as in `minimize`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import scipy_jax_bridge as sjb
        >>> seen = []
        >>> def note(progress):
        ...     seen.append(progress.fun)
        >>> result = sjb.minimize(lambda x: jnp.sum(x**2), jnp.ones(2), callback=sjb.EveryProcess(note))
        >>> len(seen) == result.nit
        True
    """

    callback: Callable[..., Any]

    def __call__(self, progress: Any) -> Any:
        """Call the callback."""
        return self.callback(progress)


class Vote(NamedTuple):
    """What a process says before it goes on.

    Args:
        nfev: evaluations so far.
        seen: a fingerprint of what it saw, see `fingerprint`.
        evaluations: how many it would make before the next vote.
        wish: why it wants to stop, or None.
        ended: the status if the solve has ended, or None.
    """

    nfev: int
    seen: int
    evaluations: int
    wish: Status | None
    ended: Status | None


class Agreement:
    """The processes of one solve.

    Attributes:
        is_first: whether this is the process that reports.
    """

    is_first: bool

    def __init__(self, devices: tuple[Device, ...]) -> None:
        """`devices`: one of each process."""
        self._numbers = [device.process_index for device in devices]
        self.is_first = jax.process_index() == self._numbers[0]
        self._mine = devices[self._numbers.index(jax.process_index())]
        self._parts, self._gather = _compile_gather(devices)
        self._votes_next = True  # else all run a program next, or the solve has ended
        self._run: Future[Any] | None = None  # the program that runs, or ran last

    def settle(self, vote: Vote) -> tuple[Status | None, int, int]:
        """Return why the solve stops now, or None; the evaluations until the next vote; and the process that asked.

        Raises:
            RuntimeError: the processes differ in what they have seen.
        """
        self._votes_next, self._run = False, None
        status = [NONE if each is None else int(each) for each in (vote.wish, vote.ended)]
        votes = self._exchange([vote.nfev, vote.seen & NONE, vote.seen >> 32, vote.evaluations, *status])
        if (votes[:, 4] != Status.ERROR).all():
            self._check(votes)
        for wish in URGENCY:
            asked = np.flatnonzero(votes[:, 4] == wish)
            if asked.size:
                self._votes_next = wish != Status.ERROR and vote.ended is None
                return wish, vote.evaluations, self._numbers[asked[0]]
        return None, int(votes[:, 3].min()), 0

    def run(self, work: Callable[[], T]) -> T:
        """Return the value of `work`, which all processes do now; Ctrl-C arrives meanwhile."""
        self._run = run_in_thread(work)
        return self._run.result()

    def leave(self) -> None:
        """Tell the others that this process ends the solve with an exception, if they will vote next or after a run.

        Otherwise it has said so, or a program failed and cannot be waited for.
        """
        if self._run is not None and self._run.exception() is None:
            self._votes_next = True
        if self._votes_next:
            self.settle(Vote(0, 0, 1, Status.ERROR, None))

    def _exchange(self, words: list[int]) -> Votes:
        mine = jax.device_put(np.array([words], np.uint32), self._mine)
        shape = (len(self._numbers), len(words))
        return np.asarray(self._gather(jax.make_array_from_single_device_arrays(shape, self._parts, [mine])))

    def _check(self, votes: Votes) -> None:
        facts = votes[:, [0, 1, 2, 5]]
        other = np.flatnonzero((facts != facts[0]).any(axis=1))
        if not other.size:
            return
        here, there = (f"process {self._numbers[place]}" for place in (0, other[0]))
        (nfev, *_, ended), (nfev_then, *_, ended_then) = facts[0], facts[other[0]]
        if nfev != nfev_then:
            what = f"{here} has made {nfev} evaluations and {there} {nfev_then}"
        elif ended != ended_then:
            what = f"{here} {_say(ended)} and {there} {_say(ended_then)}"
        else:
            what = f"{here} and {there} have other numbers: " + ("points or values" if nfev else "params or options")
        raise RuntimeError(
            f"the processes of this solve disagree at evaluation {min(nfev, nfev_then)}: {what}. Let each call it with "
            "the same objective, params, bounds and options (timeout and callback may differ), on the same kind of "
            "processor, with the same versions of NumPy, SciPy and JAX."
        )


def _say(ended: int) -> str:
    return "goes on" if ended == NONE else f"has ended with {Status(int(ended))}"


@functools.lru_cache(maxsize=8)
def _compile_gather(devices: tuple[Device, ...]) -> tuple[NamedSharding, Callable[..., jax.Array]]:
    """Return where the votes lie, a row in each process, and the program that gives all rows to all."""
    mesh = Mesh(np.array(devices), ("process",))
    parts, whole = (NamedSharding(mesh, spec) for spec in (PartitionSpec("process"), PartitionSpec()))
    rows = jax.ShapeDtypeStruct((len(devices), len(Vote._fields) + 1), np.uint32, sharding=parts)
    return parts, jax.jit(lambda votes: votes, out_shardings=whole).lower(rows).compile()


def agreement_over(arrays: Iterable[Any]) -> Agreement | None:
    """Return the agreement of the processes over which the arrays are spread; None if this one holds all of each."""
    if jax.process_count() == 1:
        return None
    spread = [each for each in arrays if isinstance(each, jax.Array) and not each.is_fully_addressable]
    devices = {device for each in spread for device in each.sharding.device_set}
    first: dict[int, Device] = {}
    for device in sorted(devices, key=lambda device: device.id):
        first.setdefault(device.process_index, device)
    if jax.process_index() not in first:  # JAX itself refuses to compute with them here
        return None
    return Agreement(tuple(first[number] for number in sorted(first)))


def fingerprint(*arrays: Any) -> int:
    """Return 64 bits that are as good as always others if a number is another. It reads each array once."""
    found = 0
    for each in arrays:
        words = np.ascontiguousarray(each, np.float64).ravel().view(np.uint64)  # exact for every narrower type
        head = zlib.crc32(words[:HEAD].tobytes())  # the sum alone is the same for many vectors of one number
        found = (31 * found + int(np.add.reduce(words)) + (head << 32)) % 2**64
    return found
