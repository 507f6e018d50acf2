"""Where the samples of a tar at an address lie, and how they are read: as those of a tar on disk,
byte for byte, under the same identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sparc_pretrain.data import remote
from sparc_pretrain.data.address import Address
from sparc_pretrain.data.shard_index import (
    SUFFIX,
    RawSample,
    ShardIndex,
    described,
    identity,
    parsed,
    places,
    probe,
    read_index,
    write_index,
)
from sparc_pretrain.data.tar_scan import scan_handle

GAP = 1 << 16  # bytes between an image and its caption that are read with them: one request for two
Place = tuple[int, int]  # offset and size in bytes


class RemoteIndex(ShardIndex):
    """`ShardIndex` of a tar at an `Address`. The index is the one that lies beside the tar, if that
    is the tar's, else it is made by reading the tar once; it is kept in the user's cache.
    """

    path: Address

    @classmethod
    def open(cls, path: Address, verify: bool = False) -> RemoteIndex:
        """As `ShardIndex.open`. Same size, time and tag: a kept index is taken at once.

        Raises FileNotFoundError or another OSError when the tar cannot be read.
        """
        size, stamp = remote.stat(path)
        found = [] if verify else [(file, *read_index(file, size)) for file in places(path)]
        found = [one for one in found if one[1] is not None]
        for file, header, rows in found:
            if stamp is not None and header["mtime_ns"] == stamp:
                return cls(path, header, rows, file)
        probed = probe(lambda count, at: remote.read(path, at, count), size)
        kept = [(header, rows) for _, header, rows in found]
        for header, rows in kept if verify else [*kept, *_beside(path, size)]:
            if header["sha256"] == identity(probed, rows):
                header["mtime_ns"] = stamp
                return cls(path, header, rows, write_index(path, header, rows))
        scanned = scan_handle(remote.Pieces(path, size), size, remote.Pieces.pread)
        header, rows = described(scanned, size, stamp, probed)
        return cls(path, header, rows, write_index(path, header, rows))

    def later(self, i: int, image: bool = True) -> Callable[[], RawSample]:
        """How sample `i` is read, by any thread: as `read`, which asks for image and caption at
        once where they are neighbours.
        """
        row = self.rows[i]
        pixels = (int(row["image"]), int(row["image_size"])) if image else (0, 0)
        text = (int(row["text"]), int(row["text_size"])) if row["text"] >= 0 else None
        return partial(_fetch, self.path, self.key(i), pixels, text, bool(row["is_json"]))

    def read(self, i: int, image: bool = True) -> RawSample:
        """As `ShardIndex.read`. Raises OSError when the tar cannot be read any more."""
        return self.later(i, image)()

    def close(self) -> None:
        """Give the map back."""
        if not self.in_memory:
            self._rows = None


def open_index(tar: Path | Address) -> ShardIndex:
    """The index of a tar, wherever it is. Raises as `ShardIndex.open`."""
    return RemoteIndex.open(tar) if isinstance(tar, Address) else ShardIndex.open(tar)


def _beside(path: Address, size: int) -> list[tuple[dict, np.ndarray]]:
    """The index that lies beside the tar, if one does that can be used."""
    raw = remote.read_whole(path.beside(SUFFIX))
    if raw is None:
        return []
    header, rows = parsed(np.frombuffer(raw, np.uint8), size)
    return [] if header is None else [(header, rows)]


def _fetch(path: Address, key: str, pixels: Place, text: Place | None, is_json: bool) -> RawSample:
    image, caption = _read(path, [pixels, text or (0, 0)])
    return RawSample(key, image, None if text is None else caption, is_json)


def _read(path: Address, wanted: Sequence[Place]) -> list[bytes]:
    """The bytes of each place, in one request where they are near each other."""
    begin = min((at for at, size in wanted if size), default=0)
    end = max((at + size for at, size in wanted if size), default=0)
    if end - begin <= sum(size for _, size in wanted) + GAP:
        data = remote.read_exactly(path, begin, end - begin)
        return [data[at - begin : at - begin + size] if size else b"" for at, size in wanted]
    return [remote.read_exactly(path, *place) for place in wanted]
