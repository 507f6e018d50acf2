"""How the label maps of known data sets are read: data alone, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """How label maps are to be read, as mmseg does it.

    reduce_zero_label: label 0 is ignored and the others move down by one. background: label 0 (of
    those left) is everything else, and no foreground class. classes: how many there must be, with
    the background; 0 = any number. suffix: of the map of an image.
    """

    reduce_zero_label: bool
    background: bool
    classes: int
    suffix: str = ".png"


CONVENTIONS = {
    "plain": Convention(False, False, 0),
    "ade": Convention(True, False, 0),  # any data set in ADE20K's layout, the scenes too
    "voc20": Convention(True, False, 20),
    "voc21": Convention(False, True, 21),
    "context59": Convention(True, False, 59),
    "context60": Convention(False, True, 60),
    "ade20k": Convention(True, False, 150),
    "coco-stuff": Convention(False, False, 171, "_labelTrainIds.png"),
}
