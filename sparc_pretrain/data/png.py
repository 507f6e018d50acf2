"""What of a PNG holds pixels, checked before a decoder sees it (PNG specification, 3rd edition)."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIECE = 1 << 18  # bytes that are inflated at once
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# first column and row, and the steps, of the passes of an interlaced image
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def only_pixels(data: bytes) -> bytes:
    """The PNG `data` without what is no pixel, palette or EXIF orientation, such as dates and
    texts, whose damage is worth no image.

    Raises ValueError, with a reason, for pixels that are not those that were stored: a decoder may
    look at no checksum, and fill missing rows with black (PIL), or end the process (torchvision).
    """
    view, at, kind = memoryview(data), len(SIGNATURE), b""
    pixels = _Inflated(_stored_bytes(data))
    kept = [SIGNATURE]
    while kind != b"IEND":
        size, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        chunk = view[at : at + 12 + size]
        if len(chunk) < 12 + size:
            raise ValueError("truncated")
        sound = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        needed = not kind[0] & 0x20  # a capital letter
        if needed and not sound:
            raise ValueError("cannot be decoded (checksum)")
        if needed or (kind == b"eXIf" and sound):
            kept.append(chunk)
        if kind == b"IDAT":
            pixels.add(chunk[8:-4])
        at += 12 + size
    pixels.check()
    return b"".join(kept)


def check(data: bytes, name: str | Path) -> None:
    """Raise ValueError, with the file's name, for a PNG that `only_pixels` refuses; other kinds of
    files are left to their decoders.
    """
    if data.startswith(SIGNATURE):
        try:
            only_pixels(data)
        except ValueError as error:
            raise ValueError(f"{name}: png {error}") from None


class _Inflated:
    """Counts what compressed pixels are when they are inflated, a little at a time."""

    def __init__(self, expected: int) -> None:
        self.expected, self.found = expected, 0
        self.stream = zlib.decompressobj()

    def add(self, body: memoryview) -> None:
        try:
            for start in range(0, len(body), PIECE):
                piece = body[start : start + PIECE]
                # a little more than the rows is ignored, as libpng does
                while piece and self.found <= self.expected + PIECE:
                    self.found += len(self.stream.decompress(piece, PIECE))
                    piece = self.stream.unconsumed_tail
        except zlib.error:
            raise ValueError("cannot be decoded (compression)") from None

    def check(self) -> None:
        # at its end the stream has been compared with its own checksum
        if self.found < self.expected or not self.stream.eof:
            raise ValueError("truncated")


def _stored_bytes(data: bytes) -> int:
    """How many bytes the rows have, with one for the filter of each, by the header."""
    try:
        width, height, depth, colours, *_, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    except struct.error:
        raise ValueError("truncated") from None
    bits = depth * CHANNELS.get(colours, 0)
    total = 0
    for x, y, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // across), -((y - height) // down)
        total += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return total
