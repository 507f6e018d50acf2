"""Boxes that a model predicts or chooses: the given ones, and pictures of them beside the truth."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sparc_pretrain.data.sets.phrases import read_phrases
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.zeroshot import box_reading, encode, grounding
from sparc_pretrain.zeroshot.box_pictures import COLOURS, MARGIN, SIDE, picture
from sparc_pretrain.zeroshot.given_boxes import read_boxes
from tests.commands import ROOT, call
from tests.zeroshot.test_terms import run_folder_of, scenes  # noqa: F401  a fixture


def box_of(half: np.ndarray, colour: tuple) -> list[int]:
    """x0 y0 x1 y1 of the pixels of a colour above the text."""
    hit = (half[: SIDE + MARGIN] == np.array(colour)).all(axis=-1)
    rows, columns = np.nonzero(hit)
    return [columns.min(), rows.min(), columns.max(), rows.max()]


def test_the_truth_stands_on_the_left_and_what_was_predicted_on_the_right():
    image = torch.full((3, 32, 64), 200, dtype=torch.uint8)  # drawn five times as large
    truth = [torch.tensor([0.0, 0, 32, 16]), torch.tensor([32.0, 16, 60, 30])]
    boxes = torch.stack([truth[0], torch.tensor([4.0, 4, 20, 20])])
    drawn = picture(image, ["one", "other"], truth, boxes, ["+1.0  own: a", "-2.0  hard: b"])
    assert drawn.dtype == np.uint8 and drawn.shape[1] == 2 * (SIDE + 2 * MARGIN)
    left, right = np.split(drawn, 2, axis=1)
    for half, (first, second) in ((left, truth), (right, boxes)):
        for box, colour in ((first, COLOURS[0]), (second, COLOURS[1])):
            wanted = [MARGIN + 5 * value for value in box.tolist()]
            found = box_of(half[: MARGIN + 160], colour)
            assert np.abs(np.array(found) - np.array(wanted)).max() <= 1
    without = picture(image, ["one", "other"], truth, boxes, [])
    assert without.shape[0] < drawn.shape[0]  # room for what is said of captions


def test_the_command_draws_so_many_images_of_a_model_that_predicts_boxes(scenes, tmp_path):  # noqa: F811
    folder, out = run_folder_of("Xvlm", {}, tmp_path / "w"), tmp_path / "out" / "metrics.json"
    where = ("--images", scenes / "images/val")
    where += ("--phrases", scenes / "annotations/phrases_val.json")
    argv = ("grounding", *where, "--limit", "4", "--pictures", "2", "--out", out)
    code, said = call("zeroshot", folder, *argv)
    assert not code, said
    assert "box_box_recall" in json.loads(out.read_text())["metrics"]
    drawn = sorted((out.parent / "pictures").glob("*.png"))
    assert len(drawn) == 2
    with Image.open(drawn[0]) as one:
        assert one.width == 2 * (SIDE + 2 * MARGIN)
    code, said = call("zeroshot", ROOT / "assets/sparc-scenes-tiny", *argv)
    assert code == 2 and "Sparc predicts no boxes" in said


class Largest(Objective):
    """Says that everything is in the first, the largest, of the given boxes."""

    def ground(self, image, text):
        assert len(image.regions.box) == len(text.mask)
        return image.regions.box[:, 0]


def test_given_boxes_are_the_regions_of_a_reading_beside_one_of_them_at_random(scenes):  # noqa: F811
    model, _ = encode.load(ROOT / "assets/sparc-scenes-tiny")
    data = read_phrases(scenes / "images/val", scenes / "annotations/phrases_val.json")
    file = scenes / "annotations/instances_val.json"
    found = box_reading.evaluate(model, Largest(), data, given=read_boxes(file))
    told = json.loads(file.read_text())
    names = {row["id"]: row["file_name"] for row in told["images"]}
    hits, chance = [], []
    for item in data:
        own = [
            [x, y, x + w, y + h]
            for row in told["annotations"]
            if names[row["image_id"]] == item.file.name
            for x, y, w, h in [row["bbox"]]
        ]
        own.sort(key=lambda box: -(box[2] - box[0]) * (box[3] - box[1]))
        for phrase in item.phrases:
            union = grounding.union_box(phrase.boxes.double())
            right = [grounding.box_iou(torch.tensor(box).double(), union) >= 0.5 for box in own]
            hits.append(float(right[0]))
            chance.append(sum(right) / len(own))
    assert found["box_box_recall"] == hits and 0 < sum(hits) < len(hits)
    assert found["chance_given_box_recall"] == pytest.approx(chance)
