"""The one reader of photographs: what training, testing and prediction see of a file."""

from __future__ import annotations

import io
import resource
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from tests.commands import ROOT
from transfer.mm import images


def photo(height: int = 40, width: int = 60) -> np.ndarray:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (height, 1))] * 3, -1).copy()
    pixels[: height // 4, :, 0] = 255
    return pixels


def saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, kind, **options)
    return file.getvalue()


def loaded(path: Path, **options: Any) -> np.ndarray:
    return LoadImageFromFile(**options)({"img_path": str(path)})["img"]


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, of a few kB per gigabyte."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + name + data + check

    size = side.to_bytes(4, "big")
    rows = zlib.compress(bytes(1000), 9)
    header = chunk(b"IHDR", size * 2 + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pixels_are_those_that_mmcv_reads(tmp_path: Path) -> None:
    for kind, options in (("png", {}), ("jpeg", {"quality": 95}), ("bmp", {}), ("tiff", {})):
        path = tmp_path / f"photo.{kind}"
        path.write_bytes(saved(kind, **options))
        found = loaded(path)
        expected = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        assert np.abs(found.astype(int) - expected).max() <= (2 if kind == "jpeg" else 0), kind
        assert (images.read(path) == found[..., ::-1]).all()


@pytest.mark.skipif(
    not (ROOT.parent / "shared/data/coco_subset/images").is_dir(), reason="no ../shared"
)
def test_photographs_are_those_that_opencv_reads() -> None:
    folder = ROOT.parent / "shared/data/coco_subset/images"
    for path in sorted(folder.rglob("*.jpg"))[:6]:
        expected = cv2.imread(str(path))
        assert np.abs(loaded(path).astype(int) - expected).mean() < 0.5


def test_a_turned_photograph_stands_upright_in_every_door(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / "turned.jpg"
    path.write_bytes(saved("jpeg", exif=exif))
    assert loaded(path).shape == (60, 40, 3) == images.read(path).shape


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(70_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (loaded, images.read):
        with pytest.raises(ValueError, match=r"bomb\.png: too many pixels.*SPARC_MAX_PIXELS"):
            read(path)
    for options in ({"color_type": "unchanged"}, {"imdecode_backend": "pillow"}):
        with pytest.raises(ValueError, match="too many pixels"):
            loaded(path, **options)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000  # kB


def test_the_limit_is_a_persons_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(saved("png"))
    monkeypatch.setenv("SPARC_MAX_PIXELS", "2399")
    with pytest.raises(ValueError, match=r"too many pixels \(more than 2,399"):
        loaded(path)
    monkeypatch.setenv("SPARC_MAX_PIXELS", "2.4e3")
    assert loaded(path).shape == (40, 60, 3)
    monkeypatch.setenv("SPARC_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="SPARC_MAX_PIXELS='many'"):
        loaded(path)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff"])
def test_what_cannot_be_read_is_told_in_one_line_with_its_name(kind: str, tmp_path: Path) -> None:
    whole = saved(kind)
    for name, data in {
        "half": whole[: len(whole) // 2],
        "header": whole[:12],
        "empty": b"",
        "text": b"not a picture at all",
    }.items():
        if (kind, name) == ("bmp", "half"):
            continue  # OpenCV fills what is missing
        path = tmp_path / f"{name}.{kind}"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}\.{kind}: ") as caught:
            loaded(path)
        assert "\n" not in str(caught.value)
        assert LoadImageFromFile(ignore_empty=True)({"img_path": str(path)}) is None
    with pytest.raises(FileNotFoundError, match="nowhere"):
        loaded(tmp_path / "nowhere.png")


def test_long_and_small_images_of_other_peoples_data_are_read(tmp_path: Path) -> None:
    for size in ((1, 1), (3, 900)):
        Image.new("RGB", size, (9, 8, 7)).save(tmp_path / "strip.png")
        assert loaded(tmp_path / "strip.png").shape == (size[1], size[0], 3)
        assert (loaded(tmp_path / "strip.png")[0, 0] == (7, 8, 9)).all()
