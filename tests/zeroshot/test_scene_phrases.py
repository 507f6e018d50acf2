"""What the phrases of the built-in scenes mean: every object that they fit, and no other."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sparc_pretrain.data.scenes import CATEGORIES, VAL_START, render_scene, write_scenes
from sparc_pretrain.data.scenes.captions import NUMBERS
from sparc_pretrain.data.scenes.phrases import phrase_record, phrases_of
from sparc_pretrain.data.sets.phrases import read_phrases

SCENES = [render_scene(3, index, 64) for index in range(60)]


def test_every_category_that_a_caption_names_is_in_a_phrase():
    for scene in SCENES:
        for caption in scene.captions:
            spans = [range(start, end) for start, end, _ in phrases_of(caption, scene)]
            for match in re.finditer(rf"\b({'|'.join(CATEGORIES)})(e?s)?\b", caption):
                assert any(match.start() in span for span in spans), (match.group(), caption)


def test_a_phrase_means_the_objects_with_all_its_words():
    several = 0
    for scene in SCENES:
        for caption in scene.captions:
            for start, end, meant in phrases_of(caption, scene):
                words = caption[start:end].split()
                for number, thing in enumerate(scene.objects):
                    if words[0] in NUMBERS:
                        fits = words[1].startswith(thing.name[:3])  # leaves, butterflies
                    else:
                        own = {thing.name, thing.colour, thing.texture, thing.size, "a", "an"}
                        fits = set(words) <= own
                    assert fits == (number in meant), (caption[start:end], thing.name)
                if words[0] in NUMBERS:
                    assert len(meant) == NUMBERS.index(words[0])
                    several += 1
    assert several > 3


def test_a_caption_of_another_scene_is_refused():
    with pytest.raises(ValueError, match="no object of the scene"):
        phrases_of("a large pink wavy umbrella", SCENES[0])


def test_a_record_has_the_boxes_and_masks_of_its_objects():
    scene = SCENES[0]
    record = phrase_record(scene, 7, "000007.jpg")
    assert [s["text"] for s in record["sentences"]] == scene.captions
    assert record["boxes"].keys() == record["masks"].keys()
    boxes = {thing.box: thing.mask for thing in scene.objects}
    for chain, rows in record["boxes"].items():
        for box, rle in zip(rows, record["masks"][chain], strict=True):
            decoded = coco_mask.decode({**rle, "counts": rle["counts"].encode()})
            assert np.array_equal(np.asarray(decoded, bool), boxes[tuple(map(int, box))])


def test_phrases_are_added_to_scenes_written_before_there_were_any(tmp_path):
    write_scenes(tmp_path / "scenes", 3, 2, 48)
    files = [tmp_path / "scenes" / "annotations" / f"phrases_{s}.json" for s in ("train", "val")]
    before = [file.read_bytes() for file in files]
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "scenes" / "images").rglob("*.jpg")}
    for file in files:
        file.unlink()
    write_scenes(tmp_path / "scenes", 3, 2, 48)
    assert [file.read_bytes() for file in files] == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert [r["image_id"] for r in json.loads(before[1])] == [VAL_START, VAL_START + 1]
    data = read_phrases(tmp_path / "scenes" / "images" / "val", files[1])
    assert len(data) == 2 and all(phrase.masks for image in data for phrase in image.phrases)
