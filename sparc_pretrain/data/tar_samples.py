"""The members of a tar grouped to samples, as arrays."""

from __future__ import annotations

from itertools import chain

import numpy as np

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif")
KEY_BYTES = 200  # a longer key is cut in messages; samples are found by number, never by key
BLOCK = 512  # bytes of a header, and what data is padded to
BATCH = 1024  # rows that are kept as tuples
KINDS = {kind.encode(): kind for kind in (*IMAGE_EXTENSIONS, "txt", "json")}
PREFERENCE = {kind: n for n, kind in enumerate(IMAGE_EXTENSIONS)}
NOWHERE = (-1, -1)
PLACES = ("image", "image_size", "text", "text_size", "is_json")


def row_type(key_width: int) -> np.dtype:
    """A sample: key, places and sizes of its image and caption in bytes (-1: no caption), is the
    caption JSON.
    """
    places = ((name, "<i8") for name in PLACES[:4])
    return np.dtype([("key", f"S{max(key_width, 1)}"), *places, ("is_json", "?")])


def _split(name: bytes) -> tuple[bytes, str | None]:
    """The key of a member and its kind; None for a hidden file, and for what is no part of a
    sample.
    """
    base = name.rfind(b"/") + 1
    dot = name.find(b".", base)
    return name[:dot], KINDS.get(name[dot + 1 :].lower()) if dot > base else None


class Samples:
    """Members grouped: neighbours of one key are a sample; of several images the first of
    IMAGE_EXTENSIONS counts, as a mask `x.png` beside the photograph `x.jpg` is none.
    """

    def __init__(self) -> None:
        self.ignored = 0
        self._packed: list[np.ndarray] = []
        self._keys: list[bytes] = []
        self._places: list[tuple[int, int]] = []  # image, caption, image, caption ...
        self._is_json: list[bool] = []
        self._key: bytes | None = None
        self._found: dict[str, tuple[int, int]] = {}

    def add(self, names: list[bytes], places: list[int], sizes: list[int]) -> None:
        """Headers one after the other, see `tar_scan`."""
        found, kinds, before = self._found, KINDS, self._key
        for name, place, size in zip(names, places, sizes, strict=True):
            if size < 0:
                continue
            key, _, ending = name.partition(b".")
            kind = kinds.get(ending)
            if kind is None or not key or key[-1] == 0x2F:
                key, kind = _split(name)
                if kind is None:
                    self.ignored += 1
                    continue
            if key != before or kind in found:
                if found:
                    self._close(before)
                before = key
            found[kind] = (place + BLOCK, size)
        self._key = before
        if len(self._keys) >= BATCH:
            self._pack()

    def _close(self, key: bytes) -> None:
        """The members found are a sample, or none."""
        found = self._found
        text, data = found.pop("txt", None), found.pop("json", None)
        if len(found) == 1:
            image = found.popitem()[1]
        elif found:
            self.ignored += len(found) - 1
            image = found[min(found, key=PREFERENCE.__getitem__)]
            found.clear()
        else:
            self.ignored += bool(text or data)
            return
        self._keys.append(key[:KEY_BYTES])
        self._places += (image, text or data or NOWHERE)
        self._is_json.append(text is None and data is not None)

    def _pack(self) -> None:
        """Tuples would take several times the memory."""
        count = len(self._keys)
        rows = np.zeros(count, row_type(max(map(len, self._keys))))
        places = np.fromiter(chain.from_iterable(self._places), np.int64, 4 * count)
        rows["key"], rows["is_json"] = self._keys, self._is_json
        for name, column in zip(PLACES, places.reshape(-1, 4).T, strict=False):
            rows[name] = column
        self._packed.append(rows)
        for held in (self._keys, self._places, self._is_json):
            held.clear()

    def packed(self) -> np.ndarray:
        """All samples, see `row_type`."""
        if self._found:
            self._close(self._key)
        if self._keys:
            self._pack()
        return np.concatenate([np.zeros(0, row_type(1)), *self._packed])
