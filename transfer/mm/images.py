"""One reader of photographs for training, testing and prediction, that of pre-training: the size is
read from the header before anything is decoded, EXIF orientation is applied, and what cannot be
read is told in one line with the file's name.

Beside JPEG, PNG, GIF and WebP, BMP and TIFF are read here: other people's data sets are made of
them.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from PIL import Image

from sparc_pretrain.data import images
from sparc_pretrain.data.images import BadImage

LIMIT = "SPARC_MAX_PIXELS"  # an environment variable: loader workers have it too
BMP_OR_TIFF = (b"BM", b"II*\0", b"MM\0*")


def max_pixels() -> float:
    """How many pixels an image may have: 50 million, or ``SPARC_MAX_PIXELS``.

    Raises:
        ValueError: that is no number.
    """
    told = os.environ.get(LIMIT)
    try:
        return float(told) if told else images.MAX_PIXELS
    except ValueError:
        raise ValueError(f"{LIMIT}={told!r} is not a number of pixels") from None


def read(path: str | Path) -> np.ndarray:
    """[H,W,3] uint8 RGB of an image file, upright.

    Raises:
        FileNotFoundError: no such file. ValueError: it cannot be read; the line names it.
    """
    with naming(path):
        return decode(Path(path).read_bytes())[..., ::-1]


class naming:
    """Turns what is wrong with an image's bytes into a line with its name and the remedy."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, BadImage):
            many = "too many pixels" in str(error)
            remedy = f" (more than {max_pixels():,.0f}; {LIMIT} sets the limit)" if many else ""
            raise ValueError(f"{self.path}: {error}{remedy}") from None


def decode(data: bytes, flag: str = "color", backend: str = "cv2") -> np.ndarray:
    """Image bytes -> [H,W,3] uint8 BGR, upright, as mmcv's ``imfrombytes`` gives it. Another `flag`
    or `backend` than mmcv's usual one goes to mmcv, after the header was looked at.

    Raises:
        BadImage: not an image, damaged, or of more than `max_pixels`.
    """
    limit = max_pixels()
    old = data.startswith(BMP_OR_TIFF)
    if old:
        try:
            with Image.open(io.BytesIO(data), formats=["BMP", "TIFF"]) as image:
                size = image.size
        except Exception as error:  # PIL raises almost anything on damaged headers
            raise BadImage(f"cannot be decoded ({type(error).__name__})") from None
    else:
        size = images.read_size(data)[1:]
    images.check(*size, limit, 1, float("inf"))
    if not old and (flag, backend) == ("color", "cv2"):
        pixels = images.decode(data, limit, 1, float("inf"))
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()[..., ::-1])
    try:
        found = mmcv.imfrombytes(data, flag=flag, backend=backend)
    except (cv2.error, OSError, SyntaxError) as error:
        raise BadImage(f"cannot be decoded ({type(error).__name__})") from None
    if found is None:
        raise BadImage("cannot be decoded")
    return found


def load(loader: LoadImageFromFile, results: dict[str, Any]) -> dict[str, Any] | None:
    """Stands for mmcv's ``LoadImageFromFile.transform``: adds `img`, `img_shape`, `ori_shape`."""
    name = results["img_path"]
    try:
        if loader.file_client_args is not None:
            data = fileio.FileClient.infer_client(loader.file_client_args, name).get(name)
        else:
            data = fileio.get(name, backend_args=loader.backend_args)
        with naming(name):
            image = decode(data, loader.color_type, loader.imdecode_backend)
    except Exception:
        if loader.ignore_empty:
            return None
        raise
    if loader.to_float32:
        image = image.astype(np.float32)
    results["img"] = image
    results["img_shape"] = results["ori_shape"] = image.shape[:2]
    return results


def mend_loading() -> None:
    """Puts `load` under every pipeline that loads images, of mm's configs too. Idempotent.

    Reason: mmcv decodes whatever comes (a PNG of 729 kB asks for 14 GB), hands None on where
    OpenCV cannot, and names no file.
    Delete when: mmcv reads the header first.
    """
    LoadImageFromFile.transform = load
