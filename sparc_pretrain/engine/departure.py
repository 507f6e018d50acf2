"""How several ranks leave: no one before the first, which alone saves and sends.

Who started them (torchrun, srun --kill-on-bad-exit) ends all soon after the first exit with a
code, so a rank that is done must not exit while rank 0 writes. Rank 0 waits for nobody: another may
be dead, or in a collective.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sparc_pretrain.distributed import rank, world_size
from sparc_pretrain.heartbeat import store, telling, until_done

SOON = 10.0  # seconds within which a signal that all ranks get is noticed by each
HEARD = 3.0  # seconds in which all that wait for rank 0 hear of its end
PAUSE = 0.02
PLACE, BEGUN, WORK, HEARS = "departure", "begun", "work", "hears"


@contextmanager
def behind_first() -> Iterator[None]:
    """The block ends on rank 0 first, however long that takes, and then on the others that are in
    it. No rank has to be. Raises TimeoutError, on the others, when rank 0 gives no sign of life.
    """
    if world_size() == 1:
        yield
        return
    place = store(PLACE)
    if rank():
        yield
        with suppress(RuntimeError):  # rank 0 holds the store, and has gone with it
            until_done(place, WORK)
            place.add(HEARS, 1)
        return
    with telling(place, WORK):
        yield
    # all exit at once then: srun gives the code of those that it ends itself, were they late
    until = time.monotonic() + HEARD
    while place.add(HEARS, 0) < world_size() - 1 and time.monotonic() < until:
        time.sleep(PAUSE)


class Departure:
    """Whether ranks that have been asked to stop leave without having agreed on it."""

    def __init__(self) -> None:
        self._until: float | None = None

    def begins(self) -> bool:
        """Rank 0 says that it leaves, with this call; the others look whether it has, and give it
        `SOON` seconds, once, to notice the signal that they have noticed. One that has got a signal
        alone goes on: it would wait for a rank 0 that waits for it in a collective.
        """
        if world_size() == 1:
            return True
        place = store(PLACE)
        if not rank():
            place.set(BEGUN, "1")
            return True
        if self._until is None:
            self._until = time.monotonic() + SOON
        while not (begun := place.check([BEGUN])) and time.monotonic() < self._until:
            time.sleep(PAUSE)
        return begun
