"""Bad samples of a run: counted, listed, limited."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparc_pretrain.data.captions import BadCaption, stored_captions
from sparc_pretrain.data.remote import Lost
from sparc_pretrain.data.shards import ShardSet, read_in_turn
from sparc_pretrain.types import BadSample

MOST_LISTED = 1_000_000  # bad samples that are listed; more are only counted
LOOKED_AT = 100  # tars of which `unusable_captions` reads one
MOST_LOST = 10  # reads in a row that no try could save: not a sample is bad, the store is down
FIRST_LOOK = 1000  # samples before the share of bad ones is judged, and tries before we give up


class TooManyBadSamples(ValueError):
    """More samples or shards are unusable than allowed; the message says which and why."""


class ReadHealth:
    """Tells a bad sample from a store that is down."""

    def __init__(self) -> None:
        self.lost = 0  # reads in a row

    def worked(self) -> None:
        """A sample was read."""
        self.lost = 0

    def failed(self, error: OSError) -> None:
        """It could not be. Raises TooManyBadSamples at the `MOST_LOST`th that was lost in a row."""
        self.lost = self.lost + 1 if isinstance(error, Lost) else 0
        if self.lost == MOST_LOST:
            raise TooManyBadSamples(
                f"{error}; the last {MOST_LOST} reads were lost like this: when the store and the "
                "network are well again, run the same command with --resume auto"
            ) from None


class DataHealth:
    """What a run has met of bad samples: counted per reason, listed, limited.

    Each bad sample is listed once in `file` (JSON lines: shard, key, reason), up to `MOST_LISTED`.
    From 1,000 samples on, `update` raises TooManyBadSamples when more than `max_bad` of the samples
    read were bad; an unusable replacement was read too.
    """

    def __init__(self, file: str | Path | None = None, max_bad: float = 0.01) -> None:
        self.file = Path(file) if file else None
        self.max_bad = max_bad
        self.seen = 0
        self.reasons: Counter[str] = Counter()
        self._listed: set[int] = set()  # hashes: of a long run these are many

    @property
    def bad(self) -> int:
        """How many of the samples read were bad."""
        return sum(self.reasons.values())

    def note_shards(self, bad_shards: Sequence[BadSample], write: bool = True) -> None:
        """List damaged tars; they do not count as samples."""
        self._list(bad_shards, write)

    def update(self, skipped: Sequence[BadSample], seen: int, write: bool = True) -> None:
        """Count `seen` good samples and the `skipped` ones met with them; list these if `write`.

        Raises TooManyBadSamples above the limit.
        """
        self.seen += seen + len(skipped)
        self.reasons += count(skipped)
        self._list(skipped, write)
        if self.seen >= FIRST_LOOK and self.bad > self.max_bad * self.seen:
            listed = f", listed in {self.file}" if self.file else ""
            raise TooManyBadSamples(
                f"{self.bad} of {self.seen} samples are bad ({self.summary()}){listed}; "
                f"clean the shards or raise max_bad, now {self.max_bad:g}"
            )

    def summary(self) -> str:
        """The reasons, most frequent first, in one line."""
        return ", ".join(f"{why}: {n}" for why, n in self.reasons.most_common()) or "none bad"

    def _list(self, bad: Sequence[BadSample], write: bool) -> None:
        if not write or not self.file or len(self._listed) >= MOST_LISTED:
            return
        new = [one for one in dict.fromkeys(bad) if hash(one) not in self._listed]
        self._listed.update(map(hash, new))
        if new:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as file:
                for one in new:
                    line = dict(shard=one.shard, key=one.key, reason=one.reason)
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def count(bad: Sequence[BadSample]) -> Counter[str]:
    """How often each reason occurs."""
    return Counter(one.reason for one in bad)


def unusable_captions(shards: ShardSet) -> tuple[Counter[str], int]:
    """(why the captions of the first samples of the first tars cannot be used, as training reads
    them, how many were looked at); those that are missing are counted elsewhere.
    """
    found: Counter[str] = Counter()
    looked_at = 0
    starts = np.cumsum(shards.sizes) - shards.sizes
    first = starts[shards.sizes > 0][:LOOKED_AT].tolist()
    for read in read_in_turn(((shards, start) for start in first), image=False):
        raw = read()
        if raw.text is None or (raw.is_json and b'"elems"' in raw.text):
            continue  # boxes with words need no caption
        looked_at += 1
        try:
            stored_captions(raw)
        except BadCaption as error:
            found[str(error)] += 1
    return found, looked_at
