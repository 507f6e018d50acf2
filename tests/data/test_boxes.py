"""Boxes follow the crop and the mirror; elements are read, refused and written as they should."""

import base64
import json

import numpy as np
import pytest
import torch

from sparc_pretrain import chance
from sparc_pretrain.data import boxes
from sparc_pretrain.data.elements import (
    Elements,
    from_odvg,
    from_xvlm,
    parse,
    text_key,
    to_json,
    to_odvg,
    to_xvlm,
)


def some(count: int = 30, seed: int = 0) -> torch.Tensor:
    """[N,4] corners in an image of 100 x 80 (W, H)."""
    g = torch.Generator().manual_seed(seed)
    ends = torch.rand(count, 2, 2, generator=g, dtype=torch.float64).sort(dim=1).values
    return (ends * torch.tensor([100.0, 80.0])).flatten(1)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_move_with_the_crop_and_the_mirror(flip):
    crop = (10, 20, 50, 60)
    moved, visible = boxes.move(some(), crop, flip)
    for box, new, share in zip(some().tolist(), moved.tolist(), visible.tolist(), strict=True):
        x0, x1 = (min(max(v - 20, 0), 60) / 60 for v in (box[0], box[2]))
        y0, y1 = (min(max(v - 10, 0), 50) / 50 for v in (box[1], box[3]))
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert share == pytest.approx((x1 - x0) * 60 * (y1 - y0) * 50 / area, abs=1e-12)
        wanted = (1 - x1, y0, 1 - x0, y1) if flip else (x0, y0, x1, y1)
        assert new == pytest.approx(wanted, abs=1e-12)


def test_a_moved_box_holds_the_pixels_that_it_held():
    image = torch.zeros(80, 100)
    image[32:64, 40:70] = 1
    top, left, height, width = crop = (16, 20, 64, 60)
    seen = image[top : top + height, left : left + width].flip(-1)
    box = boxes.move(torch.tensor([[40.0, 32.0, 70.0, 64.0]]), crop, True)[0][0]
    x0, y0, x1, y1 = (box * torch.tensor([60, 64, 60, 64])).round().int().tolist()
    assert seen[y0:y1, x0:x1].all() and seen.sum() == (x1 - x0) * (y1 - y0)


def test_a_crop_round_a_box_holds_it_whole_and_every_edge_is_drawn_alike():
    g = np.random.default_rng(0)
    box = torch.tensor([3.5, 2.0, 7.2, 5.0])
    lefts, rights = np.zeros(4), np.zeros(5)
    for _ in range(4000):
        top, left, height, width = boxes.crop_round(box, 10, 12, g)
        assert 0 <= top <= 2 and 0 <= left <= 3 and 5 <= top + height <= 10
        lefts[left] += 1
        rights[left + width - 8] += 1
    assert np.allclose(lefts / 4000, 1 / 4, atol=0.03)
    assert np.allclose(rights / 4000, 1 / 5, atol=0.03)
    assert boxes.crop_round(torch.tensor([0.0, 0, 12, 10]), 10, 12, g) == (0, 0, 10, 12)


def test_left_and_right_are_found_as_words():
    for text in ("a dog left of a cat", "Right!", "the LEFTMOST cup", "his right-hand glove"):
        assert boxes.names_a_side(text), text
    for text in ("a bright leftover", "copyright", "righteous", "cleft", ""):
        assert not boxes.names_a_side(text), text


MEMBER = {
    "captions": ["a dog by a log"],
    "width": 50,
    "height": 40,
    "image_id": "coco/139",
    "product_id": "sku-7",
    "tags": ["dog", "log", "dog"],
    "saliency": [1, 2, 30, 20],
    "elems": [
        {"box": [0, 0, 20, 10], "text": ["a brown dog", "dog"], "label": "dog"},
        {"box": [-5, 30.5, 30, 30], "text": "a log"},
        {"box": [1, 1, 2, 2], "label": "ant"},
    ],
}


def test_a_stored_member_is_read_and_clipped_and_written_again():
    found = parse(json.dumps(MEMBER).encode(), 50, 40)
    assert found.captions == ["a dog by a log"] and found.image_id == "coco/139"
    assert found.boxes.tolist() == [[0, 0, 20, 10], [0, 30.5, 25, 40], [1, 1, 3, 3]]
    assert found.boxes.dtype == torch.float64 and found.saliency.tolist() == [1, 2, 31, 22]
    assert found.texts == [["a brown dog", "dog"], ["a log"], []]
    assert found.labels == ["dog", "", "ant"] and found.tag_list() == ["dog", "log", "dog"]
    again = parse(json.dumps(to_json(found, 50, 40)).encode(), 50, 40)
    for name, value in vars(found).items():
        other = getattr(again, name)
        assert torch.equal(value, other) if torch.is_tensor(value) else value == other


def test_what_may_be_missing_is():
    found = parse(b'{"caption": "one"}', 5, 5)
    assert found.captions == ["one"] and not len(found) and found.boxes.shape == (0, 4)
    assert found.image_id is found.product_id is found.saliency is None
    labels = [{"box": [0, 0, 1, 1], "label": "ant"}, {"box": [0, 0, 4, 4], "label": "dog"}]
    found = parse(json.dumps({"elems": [*labels, {"box": [0, 0, 2, 2]}]}).encode(), 5, 5)
    assert found.tag_list() == ["dog", "ant"] and found.captions == []


BAD = {
    "box 1 is [1, 2, 3], not four numbers": [[0, 0, 1, 1], [1, 2, 3]],
    "box 0 is [1, 2, 3, '4'], not four numbers": [[1, 2, 3, "4"]],
    "box 0 is [1, 2, nan, 4], which is not finite": [[1, 2, float("nan"), 4]],
    "box 0 is [1, 2, 0, 4], which has no area": [[1, 2, 0, 4]],
    "box 0 is [1, 2, 3, -4], which has no area": [[1, 2, 3, -4]],
    "box 0 is None, not four numbers": [None],
    "box 1 lies outside of the image of 50 x 40": [[0, 0, 1, 1], [50, 0, 9, 9]],
}


@pytest.mark.parametrize("reason, stored", BAD.items(), ids=list(BAD))
def test_a_box_that_cannot_be_used_is_named(reason, stored):
    raw = json.dumps({"captions": ["x"], "elems": [{"box": box} for box in stored]}).encode()
    with pytest.raises(ValueError) as refused:
        parse(raw, 50, 40)
    assert str(refused.value) == reason


def test_other_members_that_cannot_be_used_say_why():
    for raw, reason in (
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "not a JSON object"),
        (b'{"elems": {}}', "elems is not a list of objects"),
        (b'{"elems": [1]}', "elems is not a list of objects"),
        (b'{"captions": 3}', "captions is not a text or a list of texts"),
        (b'{"width": 500, "height": 375}', "boxes are of 500 x 375, the image has 50 x 40"),
    ):
        with pytest.raises(ValueError) as refused:
            parse(raw, 50, 40)
        assert str(refused.value) == reason


def test_a_line_of_xvlm_has_every_combination_of_attribute_and_caption():
    line = {
        "binary": base64.b64encode(b"pixels").decode(),
        "caption": "a yard",
        "elems": [
            {"bb": [1, 2, 3, 4], "caption": ["dog", "puppy"], "attributes": ["brown", "wet"]},
            {"bb": [0, 0, 5, 5], "caption": "grass"},
        ],
    }
    found = from_xvlm(json.dumps(line))
    assert found.file == b"pixels" and found.captions == ["a yard"]
    assert found.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 5, 5]]
    assert found.texts == [["brown dog", "brown puppy", "wet dog", "wet puppy"], ["grass"]]
    with pytest.raises(ValueError, match="binary is not base64"):
        from_xvlm({"binary": "é", "elems": []})
    with pytest.raises(ValueError, match="neither 'binary' nor 'image'"):
        from_xvlm({"elems": []})


def test_a_line_of_odvg_has_corners_and_several_boxes_of_a_phrase():
    regions = [{"phrase": "dogs", "bbox": [[1, 2, 3, 4], [5, 5, 9, 9]]}]
    regions += [{"phrase": "a cat", "bbox": [0, 0, 4, 4]}]
    line = {"filename": "x.jpg", "grounding": {"caption": "dogs and a cat", "regions": regions}}
    found = from_odvg(json.dumps(line))
    assert found.boxes.tolist() == [[1, 2, 3, 4], [5, 5, 9, 9], [0, 0, 4, 4]]
    assert found.texts == [["dogs"], ["dogs"], ["a cat"]] and found.captions == ["dogs and a cat"]
    instance = {"bbox": [1, 2, 3, 4], "label": 0, "category": "dog"}
    found = from_odvg({"filename": "x.jpg", "detection": {"instances": [instance]}})
    assert found.labels == ["dog"] and found.texts == [["dog"]]
    with pytest.raises(ValueError, match=r"box 0 is .* which has no area"):
        from_odvg(
            {"filename": "x", "grounding": {"regions": [{"phrase": "a", "bbox": [3, 3, 1, 1]}]}}
        )


def test_lines_of_both_kinds_round_trip():
    found = parse(json.dumps(MEMBER).encode(), 50, 40)
    again = from_xvlm(json.dumps(to_xvlm(found, "x.jpg")))
    assert again.boxes.tolist() == found.boxes[:2].tolist() and again.texts == found.texts[:2]
    grounding, detection = to_odvg(found, "x.jpg", 50, 40)
    again = from_odvg(json.dumps(grounding))
    said = sorted(
        (text, box)
        for texts, box in zip(again.texts, again.boxes.tolist(), strict=True)
        for text in texts
    )
    wanted = [
        (t, b) for texts, b in zip(found.texts, found.boxes.tolist(), strict=True) for t in texts
    ]
    assert said == sorted(wanted)
    again = from_odvg(json.dumps(detection))
    assert again.labels == ["dog", "ant"] and again.boxes.tolist() == found.boxes[[0, 2]].tolist()


def test_texts_are_equal_whatever_their_case_and_blanks():
    assert text_key(" A  red\nStar ") == chance.key_of("a red star") != text_key("a red stars")
    assert len(Elements()) == 0
