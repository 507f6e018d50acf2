"""The members of a tar grouped to samples, as arrays."""

from __future__ import annotations

from itertools import chain

import numpy as np

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif")
KEY_BYTES = 200  # a longer key is cut in messages; samples are found by number, never by key
BLOCK = 512  # bytes of a header, and what data is padded to
BATCH = 1024  # rows that are kept as tuples
FEW = 64  # members that are not worth an array
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
        taken = self._alike(names, places, sizes) if len(names) >= FEW else 0
        found, kinds, before = self._found, KINDS, self._key
        rest = zip(names[taken:], places[taken:], sizes[taken:], strict=True)
        for name, place, size in rest:
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

    def _alike(self, names: list[bytes], places: list[int], sizes: list[int]) -> int:
        """Samples whose members are named alike, 000001.jpg, 000001.txt, 000002.jpg, grouped as
        arrays, at a tenth of the time. How many members were taken: all but the last sample's, or
        none where anything differs.
        """
        first = names[0]
        base = first.rfind(b"/") + 1
        dot = first.find(b".", base)
        if not base < dot <= KEY_BYTES:
            return 0
        period = next((n for n, name in enumerate(names) if name[:dot] != first[:dot]), len(names))
        count = len(names) // period - 1
        kinds = [_split(name)[1] for name in names[:period]]
        images = [n for n, kind in enumerate(kinds) if kind in PREFERENCE]
        if count < 1 or None in kinds or len(set(kinds)) < period or len(images) != 1:
            return 0
        keys = None
        for n in range(period):
            column, ending = names[n : count * period : period], names[n][dot:]
            width = dot + len(ending)
            if set(map(len, column)) != {width}:
                return 0
            letters = np.frombuffer(b"".join(column), np.uint8).reshape(count, width)
            keys = letters[:, :dot] if keys is None else keys
            same = letters[:, dot:] == np.frombuffer(ending, np.uint8)
            if not (same.all() and np.array_equal(letters[:, :dot], keys)):
                return 0
        folder = keys[:, :base] == np.frombuffer(first[:base], np.uint8)
        parted = (keys[:, base:] == ord(".")) | (keys[:, base:] == ord("/"))
        table = np.array([places, sizes], np.int64)[:, : count * period].reshape(2, count, period)
        if not folder.all() or parted.any() or (table[1] < 0).any():
            return 0
        if self._found:
            if self._key == first[:dot]:
                return 0
            self._close(self._key)
        if self._keys:
            self._pack()
        rows = np.zeros(count, row_type(dot))
        rows["key"] = np.ascontiguousarray(keys).view(f"S{dot}").ravel()
        text = kinds.index("txt" if "txt" in kinds else "json") if period > 1 else None
        for name, n in (("image", images[0]), ("text", text)):
            rows[name] = -1 if n is None else table[0, :, n] + BLOCK
            rows[f"{name}_size"] = -1 if n is None else table[1, :, n]
        rows["is_json"] = period > 1 and kinds[text] == "json"
        self._packed.append(rows)
        return count * period

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
