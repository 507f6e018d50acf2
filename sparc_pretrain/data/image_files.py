"""Image files on their way into a shard: found by name, never outside of a folder; checked, and
made smaller when asked.
"""

from __future__ import annotations

from pathlib import Path

from torchvision.io import encode_jpeg

from sparc_pretrain.data.images import check, decode, read_size, shrink

JPEG_QUALITY = 95
EXTENSION = {"jpeg": "jpg", "webp animation": "webp"}


def find(folder: Path, name: str, by_last_part: bool) -> Path | None:
    """The image, by its whole name or by its last part; never outside of `folder`, which is
    resolved.
    """
    names = (name, Path(name).name) if by_last_part else (name,)
    for candidate in (folder / one for one in names):
        try:
            path = candidate.resolve()
            if path.is_relative_to(folder) and path.is_file():
                return path
        except (OSError, ValueError):  # a name that no file can have: too long, or with a NUL
            continue
    return None


def stored(data: bytes, resize: int | None) -> tuple[bytes, str]:
    """(bytes, extension) to store: a shorter side above `resize` is brought down to it, any other
    image keeps its bytes. Raises BadImage.
    """
    kind, width, height = read_size(data)
    check(width, height)
    if resize is None or min(width, height) <= resize:
        return data, EXTENSION.get(kind, kind)
    image = shrink(decode(data), resize).contiguous()
    return encode_jpeg(image, quality=JPEG_QUALITY).numpy().tobytes(), "jpg"


def key_of_name(name: str, used: set[str]) -> str:
    """A sample's key of an image's name, unlike those in `used`, to which it is added."""
    key = Path(name).with_suffix("").as_posix().strip("/").replace("/", "_").replace(".", "_")
    while key in used:  # x.jpg and x.png
        key += "_"
    used.add(key)
    return key
