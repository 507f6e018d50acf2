"""How long it takes to fuse all pairs, said before it is done."""

from __future__ import annotations

import time

from mmengine.logging import print_log


class Pace:
    """Counts pairs; after the first block it says how many there are, how fast they go, and how
    long all of them take.
    """

    def __init__(self, pairs: int) -> None:
        self.pairs, self.done, self.started = pairs, 0, time.perf_counter()

    def count(self, pairs: int) -> None:
        """`pairs` more are fused."""
        self.done += pairs
        if self.done == pairs < self.pairs:  # the first block, and not all
            rate = pairs / max(time.perf_counter() - self.started, 1e-9)
            left = (self.pairs - pairs) / rate / 60
            print_log(
                f"{self.pairs:,} pairs to fuse, {rate:,.0f} a second: about {left:.1f} minutes; "
                "--limit N takes the first N images",
                "current",
            )
