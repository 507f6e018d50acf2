"""Pictures of label maps: every name whole, apart from the others, inside its class."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import torch
from mmengine.structures import PixelData

from transfer.run import class_drawing
from transfer.run.hooks import legible_labels

CLASSES = ("water", "a rather long name", "boat", "gear", "speck")
PALETTE = [(0, 0, 200), (200, 0, 0), (0, 200, 0), (250, 250, 0), (9, 9, 9)]


def label_map() -> torch.Tensor:
    labels = torch.zeros(1, 320, 320, dtype=torch.long)
    labels[0, 100:200, 290:] = 1  # narrower than its name, at the edge
    labels[0, 20:38, 20:148], labels[0, 38:56, 20:148] = 2, 3  # lower than names
    labels[0, 300:303, 5:8] = 4
    labels[0, :, 150:154] = 255
    return labels


def test_names_are_whole_apart_inside_and_of_what_can_be_seen(monkeypatch) -> None:
    said, boxes = [], []
    write, frame = cv2.putText, cv2.rectangle

    def put(image, text, *more):
        said.append(text)
        return write(image, text, *more)

    def draw(image, first, last, *more):
        boxes.append((*first, *last))
        return frame(image, first, last, *more)

    monkeypatch.setattr(cv2, "putText", put)
    monkeypatch.setattr(cv2, "rectangle", draw)
    photo = np.full((320, 320, 3), 77, np.uint8)
    canvas = SimpleNamespace(alpha=0.5, set_image=lambda image: None)
    labels = PixelData(data=label_map())
    drawn = class_drawing.draw_classes(canvas, photo, labels, CLASSES, PALETTE)
    assert set(said) == set(CLASSES) - {"speck"}
    boxes = boxes[::2]  # each is filled, then framed
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and top >= 0 and right <= 320 and bottom <= 320
        for other in boxes[:number]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    assert (drawn[:, 151][drawn[:, 151, 0] == 77]).size > 0 and (photo == 77).all()  # of no class
    assert (drawn[310, 310] == [38, 38, 138]).all()


def test_mmseg_draws_so_and_is_left_as_it_was() -> None:
    from mmseg.visualization import SegLocalVisualizer

    before = SegLocalVisualizer._draw_sem_seg
    with legible_labels():
        assert SegLocalVisualizer._draw_sem_seg is class_drawing.draw_classes
        canvas = SegLocalVisualizer(classes=CLASSES, palette=PALETTE, alpha=0.5)
        photo = np.full((320, 320, 3), 77, np.uint8)
        drawn = canvas._draw_sem_seg(photo, PixelData(data=label_map()), CLASSES, PALETTE)
        assert np.array_equal(canvas.get_image(), drawn)
    assert SegLocalVisualizer._draw_sem_seg is before
