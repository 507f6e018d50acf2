"""Waiting for another process for as long as it lives, at the store where all met at the start: no
collective, which would end after minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

BEAT, SILENCE = 10.0, 600.0  # seconds between two signs of life, and without one
SHORTEST_PAUSE = 0.01  # seconds until rank 0 is looked for again, doubled each time up to a second


def store(name: str) -> dist.Store:
    """The part of the store that ranks meet at in which they tell each other about `name`."""
    # torch has no public name for the store of the default group
    return dist.PrefixStore(f"sparc/{name}", dist.distributed_c10d._get_default_store())


@contextmanager
def telling(place: dist.Store, what: str) -> Iterator[None]:
    """Shows at `place` that this process lives, and at the end, good or bad, that it is done."""
    over = threading.Event()

    def live() -> None:
        while not over.wait(BEAT):
            place.add(f"{what}/beat", 1)

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        place.set(f"{what}/done", "1")


def until_done(place: dist.Store, what: str) -> None:
    """Wait for the end of rank 0's `telling`, for as long as it lives. Raises TimeoutError when it
    has not shown that for `SILENCE` seconds.
    """
    seen, since, pause = 0, time.monotonic(), SHORTEST_PAUSE
    while not place.check([f"{what}/done"]):
        beats = place.add(f"{what}/beat", 0)
        if beats != seen:
            seen, since = beats, time.monotonic()
        if time.monotonic() - since > SILENCE:
            raise TimeoutError(f"rank 0 has given no sign of life for {SILENCE:.0f} s")
        time.sleep(pause)
        pause = min(2 * pause, 1.0, BEAT)
