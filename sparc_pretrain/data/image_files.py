"""Image files on their way into a shard: found by name, never outside of a folder; checked, and
made smaller when asked.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from torchvision.io import encode_jpeg
from tqdm import tqdm

from sparc_pretrain.data.images import BadImage, check, decode, read_size, shrink
from sparc_pretrain.data.shards import Pair

JPEG_QUALITY = 95
AT_A_TIME = 16  # images of each thread that are held in memory
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
        except (OSError, ValueError, RuntimeError):
            continue  # a name that no file can have (too long, with a NUL), a link to itself
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


def shuffled(captions: Mapping[str, list[str]], seed: int) -> dict[str, list[str]]:
    """The same in another order: neighbours in a caption file are alike, and training reads tar by
    tar.
    """
    names = list(captions)
    random.Random(seed).shuffle(names)
    return {name: captions[name] for name in names}


def pairs(
    images: Path,
    captions: Mapping[str, list[str]],
    resize: int | None,
    skipped: Counter[str],
    show: bool = False,
    jobs: int = 1,
) -> Iterator[Pair]:
    """What `write_shards` takes, from a folder of images; counts in `skipped` what cannot be used.

    An image whose shorter side is above `resize` is made smaller; any other keeps its bytes. With
    `show`, a bar of the progress. jobs: threads that read and shrink images; the pairs and their
    order are the same for any number.
    """
    folder = images.resolve()
    used: set[str] = set()
    keys = {name: key_of_name(name, used) for name in sorted(captions)}  # whatever the order
    # a last part that several images have is no name of any of them
    last_parts = Counter(Path(name).name for name in captions)

    def read(name: str) -> tuple[bytes, str] | str:
        if not captions[name]:
            return "no caption"
        path = find(folder, name, by_last_part=last_parts[Path(name).name] == 1)
        if path is None:
            return "image file missing or outside of the folder"
        try:
            return stored(path.read_bytes(), resize)
        except BadImage as error:
            return str(error)

    names = iter(tqdm(captions, unit=" images", disable=not show))
    with ThreadPoolExecutor(jobs) as pool:
        while some := list(islice(names, AT_A_TIME * jobs)):
            for name, made in zip(some, pool.map(read, some), strict=True):
                if isinstance(made, str):
                    skipped[made] += 1
                else:
                    yield keys[name], *made, captions[name]
