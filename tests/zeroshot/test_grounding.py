"""Pointing, boxes and word masks against slow loops; a model that knows all places."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sparc_pretrain.data.sets.phrases import Phrase, box_mask, read_phrases
from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.objectives.filip import Filip
from sparc_pretrain.objectives.sparc import Sparc
from sparc_pretrain.zeroshot import grounding, grounding_run
from sparc_pretrain.zeroshot.grounding import (
    box_iou,
    chance_values,
    covered_patches,
    hit_patches,
    mask_iou,
    peak_box,
    phrase_values,
    pointing,
    selected,
    union_box,
)
from tests.zeroshot.oracle_model import NAMES, WordTokenizer, oracle, paint, turned

BOXES = torch.tensor([[10.0, 4, 30, 20], [50, 30, 64, 48]], dtype=torch.float64)


def inside(x: float, y: float) -> bool:
    return any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in BOXES.tolist())


# -- pure functions -------------------------------------------------------------------------------


def test_patches_hit_when_their_centre_is_in_a_box():
    found = hit_patches(BOXES, (6, 8), (48, 64))
    wanted = [[inside((c + 0.5) * 8, (r + 0.5) * 8) for c in range(8)] for r in range(6)]
    assert found.tolist() == wanted and 0 < found.sum() < 48
    stretched = hit_patches(BOXES, (4, 4), (48, 64))
    wanted = [[inside((c + 0.5) * 16, (r + 0.5) * 12) for c in range(4)] for r in range(4)]
    assert stretched.tolist() == wanted


def test_a_mask_of_boxes_holds_the_pixels_whose_centres_are_inside():
    found = box_mask(BOXES, 48, 64)
    assert found.tolist() == [[inside(x + 0.5, y + 0.5) for x in range(64)] for y in range(48)]


def test_the_hottest_patch_points_and_ties_are_shared():
    hits = torch.tensor([[True, False], [False, False]])
    assert pointing(torch.tensor([[2.0, 1], [0, 1]]), hits) == 1
    assert pointing(torch.tensor([[1.0, 2], [0, 1]]), hits) == 0
    assert pointing(torch.tensor([[2.0, 2], [0, 1]]), hits) == 0.5
    assert pointing(torch.zeros(2, 2), hits) == 0.25  # a random patch's chance


def test_the_box_is_round_the_piece_with_the_peak():
    heat = torch.zeros(4, 6, dtype=torch.float64)
    heat[1, 1], heat[1, 2], heat[2, 2] = 0.6, 1.0, 0.5  # one piece
    heat[3, 3], heat[0, 5] = 0.9, 0.8  # at a corner of it, and far away: others
    assert peak_box(heat, (40, 60)).tolist() == [10, 10, 30, 30]
    assert peak_box(heat, (40, 60), level=0.95).tolist() == [20, 10, 30, 20]
    assert peak_box(torch.ones(4, 6), (40, 60)) is None


def test_what_is_selected_is_above_half_of_the_range_and_a_flat_heat_selects_nothing():
    assert selected(torch.tensor([[-3.0, -1.0, 0.9, 1.0]])).tolist() == [[False, True, True, True]]
    assert not selected(torch.full((3, 3), 7.0)).any()


def test_box_iou_equals_counting_pixels():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        corners = torch.randint(0, 20, (2, 2, 2), generator=generator).sort(dim=1).values
        boxes = corners.flatten(1).double()
        boxes[:, 2:] += 1
        one, other = (box_mask(box[None], 24, 24) for box in boxes)
        wanted = (one & other).sum().item() / (one | other).sum().item()
        assert box_iou(*boxes) == pytest.approx(wanted) == mask_iou(one, other)
    assert mask_iou(torch.zeros(2, 2).bool(), torch.zeros(2, 2).bool()) == 0


def test_patches_are_covered_when_half_of_them_is():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0:4, 0:2] = True  # half of the first patch of four
    mask[4:8, 4:5] = True  # a quarter of the last
    assert covered_patches(mask, (2, 2)).tolist() == [[True, False], [False, False]]
    mask[0:4, 0:2] = False
    assert covered_patches(mask, (2, 2)).tolist() == [[False, False], [False, True]]


def test_chance_is_counted_without_a_model():
    found = chance_values(BOXES, (6, 8), (48, 64))
    hits = [inside((c + 0.5) * 8, (r + 0.5) * 8) for c in range(8) for r in range(6)]
    pixels = [inside(x + 0.5, y + 0.5) for x in range(64) for y in range(48)]
    assert found["chance_centre_pointing"] == inside(32, 24) == 0
    assert found["chance_random_patch_pointing"] == pytest.approx(sum(hits) / 48)
    assert found["chance_box_area"] == pytest.approx(sum(pixels) / (48 * 64))
    assert union_box(BOXES).tolist() == [10, 4, 64, 48]
    assert found["chance_whole_image_box_IoU"] == pytest.approx(54 * 44 / (48 * 64))
    assert found["chance_whole_image_box_recall"] == 1
    middle = torch.tensor([[30.0, 20, 34, 28]])
    assert chance_values(middle, (6, 8), (48, 64))["chance_centre_pointing"] == 1


def test_a_flat_heat_has_a_random_patchs_chance_and_no_box():
    found = phrase_values(torch.zeros(6, 8), BOXES, (48, 64))
    chance = chance_values(BOXES, (6, 8), (48, 64))["chance_random_patch_pointing"]
    assert found == {"pointing": pytest.approx(chance), "box_recall": 0, "box_IoU": 0}


def test_words_are_told_from_articles_and_tokens_by_their_place():
    text = "a dog, the red-hot ball"
    phrase = Phrase(text, 7, len(text), BOXES, [], ("x",))
    assert phrase.text == "the red-hot ball"
    assert grounding_run.words_of(phrase) == [("red-hot", 11, 18), ("ball", 19, 23)]
    assert grounding_run.words_of(Phrase(text, 0, 1, BOXES, [], ()))[0][0] == "a"
    encoding = WordTokenizer().encode(text)
    assert grounding_run.token_positions(encoding, 7, len(text)) == [4, 5, 6]
    assert grounding_run.token_positions(encoding, 0, 1) == [1]


# -- files ----------------------------------------------------------------------------------------


def write(folder, masks: bool = True) -> list[dict]:
    """Three pictures of grass with three things as rectangles of cells of 16 x 12 pixels (a photo
    of 4:3, eight by eight cells), and their phrases.
    """
    places = {"dog": (1, 1, 3, 4), "ball": (5, 0, 7, 2), "car": (4, 4, 8, 8)}  # x0 y0 x1 y1
    records = []
    for number in range(3):
        labels = np.zeros((8, 8), int)
        moved = {n: (x0, y0, x1, y1) for n, (x0, y0, x1, y1) in places.items()}
        if number:
            moved["dog"] = (0, 5 - number, 2, 8 - number)
        for name, (x0, y0, x1, y1) in moved.items():
            labels[y0:y1, x0:x1] = NAMES.index(name)
        pixels = paint(folder / "images" / f"{number}.png", labels, cell=(12, 16))
        text = f"the dog {number}, a dog with a big ball and a car , cars"
        spans = {"dog": [10, 17], "ball": [23, 33], "car": [38, 43]}
        spans["dog"] = [text.index("a dog"), text.index("a dog") + 5]
        spans["ball"] = [text.index("a big"), text.index("ball") + 4]
        spans["car"] = [text.index("a car"), text.index("a car") + 5]
        phrases = [
            {"chain": NAMES.index(name), "types": ["thing"], "span": span}
            for name, span in spans.items()
        ]
        phrases.append({"chain": 0, "types": ["notvisual"], "span": [0, 3]})
        record = {"image_id": number, "file_name": f"{number}.png", "width": 128, "height": 96}
        record["sentences"] = [{"text": text, "phrases": phrases}]
        record["boxes"] = {
            str(NAMES.index(n)): [[16 * x0, 12 * y0, 16 * (x1 - x0), 12 * (y1 - y0)]]
            for n, (x0, y0, x1, y1) in moved.items()
        }
        if masks:
            record["masks"] = {chain: [rle(pixels == int(chain))] for chain in record["boxes"]}
        records.append(record)
    (folder / "phrases.json").write_text(json.dumps(records))
    return records


def rle(mask: np.ndarray) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


@pytest.mark.parametrize("masks", [True, False])
def test_a_model_that_knows_the_objects_grounds_without_a_mistake(tmp_path, masks):
    write(tmp_path, masks)
    data = read_phrases(tmp_path / "images", tmp_path / "phrases.json")
    assert [len(image.phrases) for image in data] == [3, 3, 3]
    found = grounding_run.evaluate(oracle(64), data)
    for reading in ("local", "grouping", "global", "phrase"):
        for metric in grounding.METRICS:
            assert found.metrics[f"{reading}_{metric}"] == pytest.approx(1.0), (reading, metric)
    words = found.extra["words"]
    for word in ("dog", "ball", "car"):
        assert words[word]["local_word_IoU"] == words[word]["global_word_IoU"] == 1.0
        assert words[word]["count"] == 3
    assert words["big"]["local_word_IoU"] == 0  # it says nothing to this model
    assert found.owners == [0, 0, 0, 1, 1, 1, 2, 2, 2] and len(found.items["local_pointing"]) == 9
    assert found.metrics["chance_box_area"] < 0.2
    assert found.protocol["masks"] == ("exact" if masks else "boxes")
    assert found.extra["types"]["thing"]["count"] == 9


def test_pacl_is_read_through_its_embedder(tmp_path):
    write(tmp_path)
    data = read_phrases(tmp_path / "images", tmp_path / "phrases.json")
    model, objective = turned()
    found = grounding_run.evaluate(model, data, objective=objective)
    for reading in ("local", "words", "grouping", "phrase_local", "trained"):
        assert found.metrics[f"{reading}_pointing"] == 1.0, reading
        assert "Pacl.dense_patches(g_v(patch))" in found.protocol["readings"][reading]
    assert found.metrics["phrase_pointing"] < 0.2  # through h_v, which PACL does not train
    assert found.protocol["readings"]["phrase"].endswith("g_v(h_v(patch))")
    plain = grounding_run.evaluate(model, data).metrics
    assert max(plain["local_pointing"], plain["trained_pointing"]) < 0.2


def test_the_trained_reading_takes_the_head_that_was_trained(tmp_path):
    """CLIP's and SPARC's is 'phrase'; FILIP's does not pass the h_v that it leaves untrained."""
    write(tmp_path)
    data = read_phrases(tmp_path / "images", tmp_path / "phrases.json")
    model = oracle(64)
    torch.nn.init.eye_(model.adapters.h_v[0].weight)
    model.adapters.h_v[0].weight.data = model.adapters.h_v[0].weight.roll(1, dims=0)  # misleads
    for objective in (Clip(), Sparc(), None):
        found = grounding_run.evaluate(model, data, objective=objective)
        assert found.items["trained_pointing"] == found.items["phrase_pointing"]
        assert found.metrics["trained_pointing"] < 0.2
        # the phrase on local patches, whatever the objective trains
        assert found.metrics["phrase_local_pointing"] == 1.0
    contrast = Sparc(image_contrast=1.0, token_context="both")
    found = grounding_run.evaluate(model, data, objective=contrast)
    assert found.items["trained_pointing"] == found.items["phrase_local_pointing"]
    assert found.protocol["readings"]["words"].startswith("cosine of context-free tokens and g_v(p")
    found = grounding_run.evaluate(model, data, objective=Filip())
    assert found.metrics["trained_pointing"] == 1.0 > 0.2 > found.metrics["phrase_pointing"]
    assert "g_v(patch)" in found.protocol["readings"]["trained"]


def test_a_finer_grid_is_asked_for_by_size(tmp_path):
    write(tmp_path)
    data = read_phrases(tmp_path / "images", tmp_path / "phrases.json", limit=2)
    found = grounding_run.evaluate(oracle(64), data, size=128)
    assert found.protocol["patches"] == 256 and found.metrics["local_pointing"] == 1.0
    with pytest.raises(ValueError, match="no multiple of the patch"):
        grounding_run.evaluate(oracle(64), data, size=100)


def test_a_model_without_preference_has_exactly_the_chance_of_a_random_patch(tmp_path):
    write(tmp_path)
    data = read_phrases(tmp_path / "images", tmp_path / "phrases.json")
    model = oracle(64)
    torch.nn.init.zeros_(model.adapters.g_v.weight)
    found = grounding_run.evaluate(model, data).metrics
    for reading in grounding_run.READINGS:
        assert found[f"{reading}_pointing"] == pytest.approx(found["chance_random_patch_pointing"])
        assert found[f"{reading}_box_recall"] == 0


def test_what_the_tower_cannot_read_is_missed_and_counted(tmp_path):
    write(tmp_path)
    data = read_phrases(tmp_path / "images", tmp_path / "phrases.json")
    found = grounding_run.evaluate(oracle(64, max_tokens=8), data)  # up to "a dog"
    assert found.protocol["phrases_cut_off"] == 6
    assert found.metrics["local_pointing"] == pytest.approx(1 / 3)


def test_masks_are_the_truth_of_words_where_there_are_any(tmp_path):
    records = write(tmp_path)
    for record in records:
        record["masks"] = {chain: [rle(np.eye(96, 128, dtype=int))] for chain in record["boxes"]}
    (tmp_path / "phrases.json").write_text(json.dumps(records))
    data = read_phrases(tmp_path / "images", tmp_path / "phrases.json")
    found = grounding_run.evaluate(oracle(64), data)
    assert (
        found.metrics["local_pointing"] == 1.0 and found.extra["words"]["dog"]["local_word_IoU"] < 1
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda r: r[0].update(file_name="none.png"), FileNotFoundError, "none.png is missing"),
        (lambda r: r[1].pop("boxes"), ValueError, "entry 1 has no 'boxes'"),
        (lambda r: r[0].update(boxes={"1": [[0, 0, float("nan"), 1]]}), ValueError, "finite"),
        (lambda r: [x.update(boxes={}) for x in r], ValueError, "no phrase with a box"),
        (lambda r: r[1].update(boxes={"1": [[0, 0, 1]]}), ValueError, "entry 1 .* four numbers"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, change, error, words):
    records = write(tmp_path)
    change(records)
    (tmp_path / "phrases.json").write_text(json.dumps(records))
    with pytest.raises(error, match=words):
        read_phrases(tmp_path / "images", tmp_path / "phrases.json")


def test_a_phrase_whose_chain_has_no_box_is_left_out(tmp_path):
    records = write(tmp_path)
    chain = next(iter(records[0]["boxes"]))
    records[0]["boxes"][chain] = []
    (tmp_path / "phrases.json").write_text(json.dumps(records))
    data = read_phrases(tmp_path / "images", tmp_path / "phrases.json")
    assert len(data[0].phrases) == len(data[1].phrases) - 1
    assert grounding_run.evaluate(oracle(64), data).metrics["local_pointing"] == 1.0


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no phrase file"):
        read_phrases(tmp_path, tmp_path / "none.json")
    for text, words in (("{", "not JSON"), ("{}", "not a list")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            read_phrases(tmp_path, tmp_path / "a.json")


def test_an_image_of_another_size_than_its_boxes_is_refused(tmp_path):
    records = write(tmp_path)
    records[0] |= {"width": 100, "masks": {}}
    (tmp_path / "phrases.json").write_text(json.dumps(records))
    data = read_phrases(tmp_path / "images", tmp_path / "phrases.json")
    with pytest.raises(ValueError, match=r"0\.png has 128 x 96 pixels, its boxes are of 100 x 96"):
        grounding_run.evaluate(oracle(64), data)
