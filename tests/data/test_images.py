"""Images: bounded, told by their content, upright, 8-bit RGB; crops are the sample's own."""

from __future__ import annotations

import io
import multiprocessing
import struct
import zlib
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from sparc_pretrain.data import images
from sparc_pretrain.data.images import (
    BadImage,
    crop_box,
    decode,
    eval_resize,
    read_size,
    train_crop,
)


def picture(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    channels = [x * 255 // width, y * 255 // height, (x + y) % 200]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_pil_sees(data: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


FORMATS = {
    "jpeg": lambda: encode(picture(), "JPEG", quality=95),
    "progressive jpeg": lambda: encode(picture(), "JPEG", progressive=True),
    "grey jpeg": lambda: encode(picture().convert("L"), "JPEG"),
    "png": lambda: encode(picture(), "PNG"),
    "alpha png": lambda: encode(picture().convert("RGBA"), "PNG"),
    "grey alpha png": lambda: encode(picture().convert("LA"), "PNG"),
    "palette png": lambda: encode(picture().convert("P"), "PNG"),
    "1-bit png": lambda: encode(picture().convert("1"), "PNG"),
    "gif": lambda: encode(picture(), "GIF"),
    "webp": lambda: encode(picture(), "WEBP", lossless=True),
    "lossy webp": lambda: encode(picture(), "WEBP"),
    "alpha webp": lambda: encode(picture().convert("RGBA"), "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_accepted_kind_becomes_the_rgb_that_pil_sees(kind):
    data = FORMATS[kind]()
    assert read_size(data)[1:] == (60, 40)
    image = decode(data)
    assert image.shape == (3, 40, 60) and image.dtype == torch.uint8
    assert (image.int() - as_pil_sees(data).int()).abs().float().mean() < 2.5


def test_cmyk_is_converted():
    image = decode(encode(picture().convert("CMYK"), "JPEG", quality=95))
    want = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    assert (image.int() - want.int()).abs().float().mean() < 4


def test_sixteen_bit_png_keeps_the_upper_byte():
    values = (np.arange(2400).reshape(40, 60) * 27).astype(np.uint16)
    image = decode(encode(Image.fromarray(values), "PNG"))
    assert image.dtype == torch.uint8
    assert torch.equal(image[0], torch.from_numpy((values >> 8).astype(np.uint8)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_of_an_animation_is_used(kind):
    frames = [picture().rotate(90 * n) for n in range(1, 3)]
    data = encode(picture(), kind, save_all=True, append_images=frames)
    assert (decode(data).int() - as_pil_sees(data).int()).abs().float().mean() < 2


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x112] = 6
    turned = decode(encode(picture(), "JPEG", exif=exif, quality=95))
    assert turned.shape == (3, 60, 40)
    plain = decode(encode(picture(), "JPEG", quality=95))
    assert torch.equal(turned, plain.rot90(-1, (1, 2)))


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_the_exif_orientation_of_a_png_is_applied(mode):
    exif = Image.Exif()
    exif[0x112] = 6
    grey = np.arange(2400).reshape(40, 60) * 27
    image = picture() if mode == "RGB" else Image.fromarray(grey.astype(np.uint16))
    turned, plain = decode(encode(image, "PNG", exif=exif)), decode(encode(image, "PNG"))
    assert torch.equal(turned, plain.rot90(-1, (1, 2)))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG of sound chunks, whatever the compressed `pixels` are."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    end = png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", pixels) + end


def bomb(width: int, height: int) -> bytes:
    return png(width, height, b"")


def survives(broken: list[bytes]) -> list[str]:
    """What `decode` says of each, in a process of its own, which must not die of any."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_decode_all, args=(broken, there))
    child.start()
    there.close()
    told = []
    with suppress(EOFError):
        while len(told) < len(broken):
            told.append(here.recv())
    child.join()
    assert child.exitcode == 0, f"ended by {child.exitcode} at number {len(told)}"
    return told


def _decode_all(broken: list[bytes], there: Connection) -> None:
    for data in broken:
        try:
            decode(data)
            there.send("decoded")
        except BadImage as error:
            there.send(str(error))


def test_no_broken_png_kills_the_process_or_is_taken_for_a_sound_one():
    """torchvision's decoder ends the process with a segmentation fault on nearly all of these."""
    sound = encode(picture(96, 64), "PNG")
    generator = np.random.default_rng(0)
    broken = []
    for bit in generator.integers(8 * 8, 8 * len(sound), 150).tolist():
        one = bytearray(sound)
        one[bit // 8] ^= 1 << bit % 8
        broken.append(bytes(one))
    rows = b"".join(b"\0" + bytes(3 * 60) for _ in range(40))
    broken += [
        png(60, 40, zlib.compress(rows[: len(rows) // 2])),  # half of the rows
        png(
            60, 40, zlib.compress(rows.replace(b"\0" * 181, b"\x09" + b"\0" * 180))
        ),  # no such filter
        png(60, 40, zlib.compress(rows)[:-8] + bytes(8)),  # a tail of zeros
        png(60, 40, zlib.compress(rows)[:-4]),  # without its checksum
        sound[: len(sound) // 2],
    ]
    told = survives(broken)
    assert "decoded" not in told, [n for n, one in enumerate(told) if one == "decoded"]


@pytest.mark.parametrize("shape", [(8, 8), (9, 17), (33, 8), (40, 60)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_interlaced_pngs_of_every_size_are_whole(shape, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, channels)).astype(np.uint8)
    data = interlaced(pixels)
    assert torch.equal(decode(data), as_pil_sees(data))
    colours = pixels[..., :3] if channels > 1 else pixels.repeat(3, axis=-1)
    assert torch.equal(decode(data), torch.from_numpy(colours).permute(2, 0, 1))


def interlaced(pixels: np.ndarray) -> bytes:
    """An Adam7 PNG of [H,W,C] uint8; PIL writes none."""
    height, width, channels = pixels.shape
    colours = {1: 0, 3: 2, 4: 6}[channels]
    passes = ["0 0 8 8", "0 4 8 8", "4 0 8 4", "0 2 4 4", "2 0 4 2", "0 1 2 2", "1 0 2 1"]
    rows = b""
    for y, x, down, across in (map(int, one.split()) for one in passes):
        part = pixels[y::down, x::across]
        rows += b"".join(b"\0" + row.tobytes() for row in part) if part.shape[1] else b""
    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 1)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def test_a_png_with_a_damaged_remark_is_used():
    remark = png_chunk(b"tEXt", b"Comment\0no pixels")
    sound = FORMATS["png"]()
    damaged = sound[:33] + remark[:-1] + bytes([remark[-1] ^ 1]) + sound[33:]
    assert torch.equal(decode(damaged), decode(sound))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not an image"),
        (b"%PDF-1.7", "not an image"),
        (FORMATS["jpeg"]()[:400], "truncated|cannot be decoded"),
        (FORMATS["jpeg"]()[:20], "truncated"),
        (FORMATS["png"]()[:18], "truncated header"),
        (FORMATS["png"]()[:120], "png"),
        (FORMATS["gif"]()[:100], "cannot be decoded"),
        (FORMATS["webp"]()[:23], "truncated"),
        (FORMATS["lossy webp"]()[:200], "webp"),
        (b"\xff\xd8\xff\xd9", "broken header"),
        (b"RIFF\0\0\0\0WEBPjunk" + b"\0" * 20, "broken header"),
        (encode(picture(), "BMP"), "BMP and TIFF are not read"),
        (encode(picture(), "TIFF"), "BMP and TIFF are not read"),
        (encode(picture(1, 1), "PNG"), "too small"),
        (encode(picture(60, 7), "PNG"), "too small"),
        (encode(picture(1000, 9), "JPEG"), "long and thin"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_the_reason(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)


def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch):
    monkeypatch.setattr(images, "decode_image", None)  # nothing is decoded
    monkeypatch.setattr(images, "_by_pil", None)
    with pytest.raises(BadImage, match="too many pixels"):
        decode(bomb(16000, 16000))
    with pytest.raises(BadImage, match="too many pixels"):
        decode(b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0" * 20)


def test_the_limits_are_arguments():
    data = FORMATS["png"]()
    with pytest.raises(BadImage, match="too many"):
        decode(data, max_pixels=2399)
    assert decode(data, max_pixels=2400, min_side=40, max_aspect=1.5).shape == (3, 40, 60)
    with pytest.raises(BadImage, match="small"):
        decode(data, min_side=41)


def test_the_global_state_of_pil_is_left_alone():
    before = Image.MAX_IMAGE_PIXELS
    decode(FORMATS["gif"]())
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_training_crop_depends_on_its_generator_alone():
    image = decode(FORMATS["png"]())
    one, two, other = (
        train_crop(image, 32, (0.3, 1.0), generator=np.random.default_rng(s)) for s in (7, 7, 8)
    )
    assert one.shape == (3, 32, 32) and one.dtype == torch.uint8
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_no_global_random_state_is_read_or_changed():
    image = decode(FORMATS["png"]())
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    train_crop(image, 32, generator=np.random.default_rng(1))
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("size", [(40, 60), (300, 31), (10, 900)])
def test_crops_lie_inside_and_keep_to_area_and_aspect(size):
    generator = np.random.default_rng(0)
    height, width = size
    for _ in range(200):
        top, left, h, w = crop_box(height, width, (0.5, 1.0), (3 / 4, 4 / 3), generator)
        assert top >= 0 and left >= 0 and h > 0 and w > 0
        assert top + h <= height and left + w <= width
        assert 0.7 < w / h < 1.4
        if size == (40, 60):
            assert 0.45 < h * w / (height * width) <= 1


def test_the_aspect_of_crops_is_as_often_wide_as_high():
    """Uniform in its logarithm: uniform in w/h, crops would be 3 % too wide on average."""
    generator = np.random.default_rng(0)
    boxes = [crop_box(1000, 1000, (0.2, 0.5), images.RATIO, generator) for _ in range(3000)]
    logs = np.log([w / h for _, _, h, w in boxes])
    assert abs(logs.mean()) < 0.012
    assert logs.std() == pytest.approx(2 * np.log(4 / 3) / 12**0.5, rel=0.05)


@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_crops_are_spread_evenly_over_all_places(size):
    """Down and to the right as far as up and to the left, and as often."""
    generator = np.random.default_rng(0)
    boxes = [crop_box(*size, (0.2, 0.6), (3 / 4, 4 / 3), generator) for _ in range(400)]
    for begin, length, whole in ((0, 2, size[0]), (1, 3, size[1])):
        room = [(box[begin], whole - box[length]) for box in boxes if box[length] < whole]
        shares = np.array([at / free for at, free in room])
        assert shares.min() < 0.05 and shares.max() > 0.95
        assert abs(shares.mean() - 0.5) < 0.06


def test_where_no_crop_fits_it_is_the_largest_central_one():
    """A strip: none of ten tries keeps 90 % of its area at an aspect of at most 4/3."""
    strip = crop_box(30, 300, (0.9, 1.0), images.RATIO, np.random.default_rng(0))
    assert strip == (0, 130, 30, 40)
    assert crop_box(300, 30, (0.9, 1.0), images.RATIO, np.random.default_rng(0)) == (130, 0, 40, 30)


def test_the_training_crop_is_torchvision_s_antialiased_bicubic_one():
    """On noise, where every other filter gives another picture; PIL's is the same filter."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    top, left, h, w = crop_box(40, 60, (0.9, 1.0), images.RATIO, np.random.default_rng(3))
    got = train_crop(image, 24, generator=np.random.default_rng(3)).int()

    def resized(kind: v2.InterpolationMode, antialias: bool) -> torch.Tensor:
        where = (top, left, h, w, [24, 24])
        return v2.functional.resized_crop(image, *where, kind, antialias).int()

    modes = v2.InterpolationMode
    assert (got - resized(modes.BICUBIC, True)).abs().max() <= 1
    assert (got - resized(modes.BICUBIC, False)).abs().max() > 50
    assert (got - resized(modes.BILINEAR, True)).abs().max() > 20
    cut = Image.fromarray(pixels[top : top + h, left : left + w])
    by_pil = torch.from_numpy(np.array(cut.resize((24, 24), Image.Resampling.BICUBIC)))
    assert (got - by_pil.permute(2, 0, 1).int()).abs().max() <= 2


def test_evaluation_crops_the_centre_or_squashes():
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    image[:, :, :20] = 255  # the left quarter: cut off by a centre crop
    assert eval_resize(image, 16).max() < 40
    squashed = eval_resize(image, 16, "squash")
    assert squashed.shape == (3, 16, 16) and squashed[:, :, :3].min() > 200
    with pytest.raises(ValueError, match="how"):
        eval_resize(image, 16, "stretch")


def test_shrinking_keeps_the_aspect_and_never_enlarges():
    image = decode(FORMATS["png"]())
    assert images.shrink(image, 20).shape == (3, 20, 30)
    assert images.shrink(image, 100) is image
