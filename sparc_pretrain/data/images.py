"""Image bytes -> uint8 pixels: bounded, header first, and crops drawn from the sample's own
generator.

What is accepted: JPEG, PNG, GIF and WebP, told by their first bytes, whatever the file is called.
Everything becomes RGB with 8 bits: grey is repeated, CMYK and palettes are converted, 16-bit PNGs
keep their upper byte, transparency is dropped (as PIL's convert("RGB") does), of an animation the
first frame is used, and EXIF orientation is applied (JPEG, PNG). Truncated data is refused. Pixels
stay uint8; the model normalises.

PNGs are left to PIL: torchvision's `decode_png` ends the process (a segmentation fault) on any
error that libpng meets between the first row and the last, pytorch/vision issue 3613. So are
animations, of which torchvision would decode all frames.
"""

from __future__ import annotations

import io
import math
import struct

import numpy as np
import torch
from PIL import GifImagePlugin, Image, ImageOps, PngImagePlugin, WebPImagePlugin
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from sparc_pretrain.data import png

MAX_PIXELS = 50e6
MIN_SIDE = 8  # pixels; smaller ones are tracking dots and placeholders
MAX_ASPECT = 100.0
RATIO = (3 / 4, 4 / 3)
BY_PIL = {
    "png": PngImagePlugin.PngImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "webp animation": WebPImagePlugin.WebPImageFile,
}


class BadImage(ValueError):
    """These bytes are no image that can be used; the message is the reason, short and without
    names.
    """


def read_size(data: bytes) -> tuple[str, int, int]:
    """(format, width, height) from the header alone; format is jpeg, png, gif, webp or webp
    animation.

    Raises BadImage for other data and for a cut header.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return "jpeg", *_jpeg_size(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            if data[12:16] != b"IHDR":
                raise BadImage("broken header")
            return "png", *struct.unpack(">II", data[16:24])
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return "gif", *struct.unpack("<HH", data[6:10])
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except (struct.error, IndexError):
        raise BadImage("truncated header") from None
    if data[:2] == b"BM" or data[:4] in (b"II*\0", b"MM\0*"):
        raise BadImage("BMP and TIFF are not read")
    raise BadImage("not an image" if data else "empty file")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            raise IndexError
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # fill, or without a length
            at += 1
        elif marker in (0xD9, 0xDA):
            raise BadImage("broken header")
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def _webp_size(data: bytes) -> tuple[str, int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return "webp animation" if data[20] & 2 else "webp", width, height
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return "webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return "webp", width & 0x3FFF, height & 0x3FFF
    raise BadImage("broken header")


def decode(
    data: bytes,
    max_pixels: float = MAX_PIXELS,
    min_side: int = MIN_SIDE,
    max_aspect: float = MAX_ASPECT,
) -> Tensor:
    """Image bytes -> [3,H,W] uint8, upright. The size is read from the header before anything is
    decoded.

    Raises BadImage: not an image, truncated, more than `max_pixels`, a side below `min_side`
    pixels, or one side more than `max_aspect` times the other.
    """
    kind, width, height = read_size(data)
    check(width, height, max_pixels, min_side, max_aspect)
    if kind in BY_PIL:
        image = _by_pil(data, kind, max_pixels)
    else:
        try:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            image = decode_image(buffer, ImageReadMode.RGB, apply_exif_orientation=True)
        except RuntimeError as error:
            reason = "truncated" if "incomplete" in str(error) else "cannot be decoded"
            raise BadImage(f"{kind} {reason}") from None
    if image.shape[-2] * image.shape[-1] > max_pixels:  # the header lied
        raise BadImage("too many pixels")
    return image


def check(
    width: int,
    height: int,
    max_pixels: float = MAX_PIXELS,
    min_side: int = MIN_SIDE,
    max_aspect: float = MAX_ASPECT,
) -> None:
    """Raise BadImage for a size that `decode` refuses."""
    w, h = width, height
    if w * h > max_pixels:
        raise BadImage("too many pixels")
    if min(w, h) < max(min_side, 1):
        raise BadImage("too small")
    if max(w, h) > max_aspect * min(w, h):
        raise BadImage("too long and thin")


def _by_pil(data: bytes, kind: str, max_pixels: float) -> Tensor:
    """The (first) frame as [3,H,W] uint8, upright. Raises BadImage."""
    try:
        data = png.only_pixels(data) if kind == "png" else data
    except ValueError as error:
        raise BadImage(f"png {error}") from None
    try:
        # not Image.open, which has a limit of its own on pixels
        with BY_PIL[kind](io.BytesIO(data)) as image:
            if image.width * image.height > max_pixels:
                raise BadImage("too many pixels")
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I;16"):  # grey; of colours PIL itself keeps the upper byte
                image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
            pixels = np.array(image.convert("RGB"))
    except BadImage:
        raise
    except Exception as error:  # PIL's decoders raise almost anything on damaged data
        raise BadImage(f"{kind} cannot be decoded ({type(error).__name__})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def crop_box(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: np.random.Generator,
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop: area share in `scale`, aspect in `ratio`
    (log-uniform).

    The rule of torchvision's RandomResizedCrop: ten tries, then the largest central crop within
    `ratio`.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(generator.integers(height - h + 1))
            left = int(generator.integers(width - w + 1))
            return top, left, h, w
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w


def train_crop(
    image: Tensor,
    size: int,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = RATIO,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """A random crop of [3,H,W] uint8, resized (bicubic, antialiased) to [3,size,size] uint8."""
    generator = generator or np.random.default_rng()
    return cut(image, crop_box(*image.shape[-2:], scale, ratio, generator), size)


def cut(image: Tensor, crop: tuple[int, int, int, int], size: int) -> Tensor:
    """The crop (top, left, height, width) of [3,H,W] uint8, squashed to [3,size,size] uint8."""
    top, left, h, w = crop
    return _resize(image[..., top : top + h, left : left + w], [size, size])


def eval_crop(height: int, width: int, how: str = "crop") -> tuple[int, int, int, int]:
    """The part of an image that `eval_resize` shows: (top, left, height, width).

    Raises ValueError for another `how`.
    """
    if how == "squash":
        return 0, 0, height, width
    if how != "crop":
        raise ValueError(f"how must be 'crop' or 'squash', not {how!r}")
    short = min(height, width)
    return (height - short) // 2, (width - short) // 2, short, short


def eval_resize(image: Tensor, size: int, how: str = "crop") -> Tensor:
    """[3,H,W] uint8 -> [3,size,size] uint8, bicubic, antialiased, nothing random.

    how='crop': shorter side to `size`, then the centre; how='squash': both sides to `size`, all
    content kept. Raises ValueError for another `how`.
    """
    # cut first, without resizing what is thrown away: resize-then-crop to within half a pixel
    return cut(image, eval_crop(*image.shape[-2:], how), size)


def shrink(image: Tensor, shorter: int) -> Tensor:
    """[3,H,W] uint8 with its shorter side brought down to `shorter`; a smaller image is left as it
    is.
    """
    height, width = image.shape[-2:]
    if min(height, width) <= shorter:
        return image
    factor = shorter / min(height, width)
    return _resize(image, [max(1, round(height * factor)), max(1, round(width * factor))])


def _resize(image: Tensor, size: list[int]) -> Tensor:
    return F.resize(image, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
