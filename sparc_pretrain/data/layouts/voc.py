"""Pascal VOC's augmented training set: the Semantic Boundaries Dataset's (SBD) masks as PNG files
and as a list (Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sparc_pretrain.atomic_file import atomic_write

if TYPE_CHECKING:
    import numpy as np

SBD_URL = (
    "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    "benchmark.tgz"
)
SBD = "VOCaug/dataset"
SETS = "VOC2012/ImageSets/Segmentation"
MAPS = "VOC2012/SegmentationClassAug"


def names_in(file: Path) -> list[str]:
    """The names of a list, one per line."""
    return file.read_text("utf-8").split()


def convert(root: Path, force: bool = False) -> Iterator[str]:
    """``SegmentationClassAug/*.png`` (class index per pixel) and ``aug.txt``: SBD's photographs
    that are in neither train.txt nor val.txt of VOC 2012.

    Does nothing without SBD or VOC; keeps the maps and the list that are there unless `force`.

    Raises:
        ValueError: a mask that cannot be read.
    """
    from PIL import Image

    lists = [root / SBD / f"{split}.txt" for split in ("train", "val")]
    voc = [root / SETS / f"{split}.txt" for split in ("train", "val")]
    if not all(path.is_file() for path in (*lists, *voc)):
        return
    taken = {name for path in voc for name in names_in(path)}
    names = sorted({name for path in lists for name in names_in(path)} - taken)
    (root / MAPS).mkdir(exist_ok=True)
    made = 0
    for name in names:
        target = root / MAPS / f"{name}.png"
        if target.is_file() and not force:
            continue
        classes = read_mask(root / SBD / "cls" / f"{name}.mat")
        atomic_write(target, lambda file, c=classes: Image.fromarray(c).save(file, "PNG"))
        made += 1
    if made:
        yield f"{MAPS}: {made} of {len(names)} maps converted"
    listed = root / SETS / "aug.txt"
    if force or not listed.is_file():
        atomic_write(listed, lambda file: file.write("\n".join([*names, ""]).encode()))
        yield f"{listed.relative_to(root)}: {len(names)} names"


def read_mask(path: Path) -> np.ndarray:
    """[H,W] uint8 class indices of an SBD file, 0 = background.

    Raises:
        ValueError: not a MATLAB file with GTcls.Segmentation.
    """
    import numpy as np

    # mmdet brings scipy; pre-training machines need not have it
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        mask = loadmat(path)["GTcls"][0]["Segmentation"][0]
    except (OSError, MatReadError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is not one of SBD's masks ({error}): unpack it again") from None
    return np.ascontiguousarray(mask, dtype=np.uint8)
