"""Label maps as a segmentor is trained on them: what is loaded, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer import mm
from transfer.mm.label_maps import check_sample

mm.register("mmseg")

from mmseg.datasets import BaseSegDataset  # noqa: E402

CLASSES = ("sky", "road", "tree")


def dataset(folder: Path, maps: list[np.ndarray], **options) -> BaseSegDataset:
    """A data set of pictures of 8 x 12 pixels with `maps`."""
    (folder / "i").mkdir(parents=True)
    (folder / "m").mkdir()
    for index, labels in enumerate(maps):
        Image.new("RGB", (12, 8)).save(folder / "i" / f"{index}.jpg")
        Image.fromarray(labels).save(folder / "m" / f"{index}.png")
    return BaseSegDataset(
        data_root=str(folder),
        data_prefix=dict(img_path="i", seg_map_path="m"),
        metainfo=options.pop("metainfo", dict(classes=CLASSES)),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="mmseg.Resize", scale=(24, 16), keep_ratio=True),
            dict(type="mmseg.LoadAnnotations"),
        ],
        **options,
    )


def labels(*values: int, kind=np.uint8) -> np.ndarray:
    found = np.zeros((8, 12), kind)
    found[0, : len(values)] = values
    return found


def test_labels_of_classes_and_of_nothing_are_loaded_as_they_are(tmp_path: Path) -> None:
    data = dataset(tmp_path, [labels(0, 1, 2, 255)])
    assert data[0]["gt_seg_map"][0, :4].tolist() == [0, 1, 2, 255]
    check_sample(data)
    wide = dataset(tmp_path / "wide", [labels(0, 1, 2, 255, kind=np.uint16)])
    assert wide[0]["gt_seg_map"].dtype == np.uint8


def test_reduced_and_mapped_labels_are_mmsegs(tmp_path: Path) -> None:
    data = dataset(tmp_path, [labels(0, 1, 2, 3, 255)], reduce_zero_label=True)
    assert data[0]["gt_seg_map"][0, :5].tolist() == [255, 0, 1, 2, 255]
    data = dataset(tmp_path / "part", [labels(0, 1, 2, 255)])
    row = {**data.get_data_info(0), "label_map": {0: 0, 1: 255, 2: 1}, "num_classes": 2}
    for step in data.pipeline.transforms:
        row = step(row)
    assert row["gt_seg_map"][0, :4].tolist() == [0, 255, 1, 255]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (labels(0, 7, 7), r"1\.png holds the label 7 in 2 pixels, but there are 3 classes"),
        (labels(300, kind=np.uint16), r"1\.png holds the label 300"),
        (np.zeros((8, 12, 3), np.uint8), r"1\.png is a colour picture"),
        (np.zeros((4, 6), np.uint8), r"1\.png is of 4 x 6 pixels, its image \S+1\.jpg of 8 x 12"),
    ],
    ids=["label", "16 bits", "colour", "half the size"],
)
def test_a_map_that_no_model_can_learn_is_refused_by_name_at_the_start_and_when_it_is_loaded(
    wrong: np.ndarray, said: str, tmp_path: Path
) -> None:
    data = dataset(tmp_path, [labels(0), wrong, labels(1)])
    with pytest.raises(ValueError, match=said):
        data[1]
    with pytest.raises(ValueError, match=said):
        check_sample(data)
    assert data[2]["gt_seg_map"].shape == (8, 12)


def test_a_label_beyond_the_classes_of_a_reduced_map_is_told_as_it_stands_in_the_file(
    tmp_path: Path,
) -> None:
    data = dataset(tmp_path, [labels(4)], reduce_zero_label=True)
    with pytest.raises(ValueError, match=r"holds the label 4 .*\(1 to 3"):
        data[0]


def test_a_damaged_map_is_named(tmp_path: Path) -> None:
    data = dataset(tmp_path, [labels(0)])
    map_file = tmp_path / "m" / "0.png"
    sound = map_file.read_bytes()
    flipped = bytearray(sound)
    flipped[sound.index(b"IDAT") + 6] ^= 1
    for damaged, said in (
        (b"nothing", "the label map cannot be read"),
        (sound[:-20], "png truncated"),  # decoders fill missing rows with label 0
        (bytes(flipped), "png cannot be decoded"),
    ):
        map_file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"m/0\.png: {said}"):
            data[0]
