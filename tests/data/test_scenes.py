"""The built-in scenes: determinism, true masks and captions, files that public tools read."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sparc_pretrain.data.scenes import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    LEVELS,
    SEMANTIC_CLASSES,
    SIZES,
    TEXTURES,
    VAL_START,
    Scene,
    caption_facts,
    contact_sheet,
    encode_jpeg,
    files,
    render_scene,
    write_scenes,
)
from sparc_pretrain.data.scenes.annotations import frequency
from sparc_pretrain.data.scenes.phrases import phrase_record
from sparc_pretrain.data.scenes.shapes import draw_shape
from sparc_pretrain.data.scenes.typical import accent, typical_pattern

TRAIN, VAL, SIZE = 40, 8, 96
SPLITS = {
    "train": ("training", range(TRAIN)),
    "val": ("validation", range(VAL_START, VAL_START + VAL)),
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(3, index) for index in range(150)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    out = tmp_path_factory.mktemp("data") / "scenes"
    return out, write_scenes(out, TRAIN, VAL, SIZE, seed=5)


def fingerprint(scene: Scene) -> str:
    digest = hashlib.sha256(encode_jpeg(scene.image) + scene.image.tobytes())
    digest.update(scene.semantic.tobytes() + json.dumps(scene.captions).encode())
    for thing in scene.objects:
        digest.update(thing.mask.tobytes() + thing.silhouette.tobytes())
        digest.update(repr((thing.name, thing.colour, thing.texture, thing.box)).encode())
    return digest.hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- the scene ------------------------------------------------------------------------------------


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    first = [fingerprint(render_scene(3, i)) for i in (0, 1, 2)]
    assert [fingerprint(render_scene(3, i)) for i in (2, 0, 1)] == [first[2], first[0], first[1]]
    assert len({*first, fingerprint(render_scene(4, 0))}) == 4


def test_a_fresh_process_gives_the_same_bytes() -> None:
    program = (
        "import hashlib; from sparc_pretrain.data.scenes import render_scene, encode_jpeg;"
        "print(hashlib.sha256(encode_jpeg(render_scene(3, 17).image)).hexdigest())"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert said == hashlib.sha256(encode_jpeg(render_scene(3, 17).image)).hexdigest()


def test_there_are_many_categories_and_backgrounds() -> None:
    assert len(set(CATEGORIES)) == len(CATEGORIES) >= 24
    assert len(set(BACKGROUNDS)) == len(BACKGROUNDS) >= 6
    assert SEMANTIC_CLASSES == CATEGORIES + BACKGROUNDS
    words = [*CATEGORIES, *COLOURS, *TEXTURES, *SIZES]
    assert len(set(words)) == len(words), "a word must not name two things"


def test_no_two_categories_have_nearly_the_same_silhouette() -> None:
    shapes = []
    for name in CATEGORIES:
        _, alpha = draw_shape(name, 24, 0.0, False, 1.0, 1)
        canvas = np.zeros((40, 40), bool)
        y, x = (40 - alpha.shape[0]) // 2, (40 - alpha.shape[1]) // 2
        canvas[y : y + alpha.shape[0], x : x + alpha.shape[1]] = alpha >= 0.5
        shapes.append(canvas)
    for i, a in enumerate(shapes):
        for j, b in enumerate(shapes[:i]):
            overlap = (a & b).sum() / (a | b).sum()
            assert overlap < 0.9, (CATEGORIES[i], CATEGORIES[j], overlap)


def test_every_scene_has_two_to_seven_objects_of_the_promised_sizes(scenes: list[Scene]) -> None:
    assert {len(scene.objects) for scene in scenes} == {2, 3, 4, 5, 6, 7}
    for scene in scenes:
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
        for thing in scene.objects:
            rows, columns = thing.silhouette.any(1).sum(), thing.silhouette.any(0).sum()
            low, high = (128 * share for share in SIZES[thing.size])
            assert low - 3 <= max(rows, columns) <= high + 3
            assert thing.visible_fraction >= 0.5 and thing.mask.sum() >= 25


def test_attributes_are_all_used_and_categories_have_a_long_tail(scenes: list[Scene]) -> None:
    things = [thing for scene in scenes for thing in scene.objects]
    assert {t.colour for t in things} == set(COLOURS)
    assert {t.texture for t in things} == set(TEXTURES)
    assert {s.background for s in scenes} == set(BACKGROUNDS)
    count = Counter(t.category for t in things)
    assert sum(count[k] for k in range(6)) > 5 * sum(count[k] for k in range(18, 36)) > 0


def test_visible_masks_are_what_later_objects_leave(scenes: list[Scene]) -> None:
    occluded = 0
    for scene in scenes:
        covered = np.zeros((128, 128), bool)
        for thing in reversed(scene.objects):
            assert np.array_equal(thing.mask, thing.silhouette & ~covered)
            covered |= thing.silhouette
            occluded += not np.array_equal(thing.mask, thing.silhouette)
    assert occluded > 50, "occlusion should be common"


def test_boxes_are_the_extent_of_the_visible_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene.objects:
            ys, xs = np.nonzero(thing.mask)
            x, y, width, height = thing.box
            assert (x, y) == (xs.min(), ys.min())
            assert (x + width - 1, y + height - 1) == (xs.max(), ys.max())
            assert thing.centre == (x + width / 2, y + height / 2)


def test_the_semantic_map_agrees_with_the_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        free = np.ones((128, 128), bool)
        for thing in scene.objects:
            labels = scene.semantic[thing.mask]
            assert set(labels.tolist()) <= {0, thing.category + 1}
            assert (labels > 0).mean() > 0.5, thing.name
            free &= ~thing.mask
        stuff = len(CATEGORIES) + 1 + BACKGROUNDS.index(scene.background)
        assert set(scene.semantic[free].tolist()) <= {0, stuff}
        assert (scene.semantic == 0).mean() < 0.15


def test_an_object_looks_different_from_its_background(scenes: list[Scene]) -> None:
    """Rim against surroundings, the weakest contrast there is: an object must not vanish."""
    for scene in scenes:
        picture = scene.image.astype(float)
        outside = picture[scene.semantic > len(CATEGORIES)].mean(0)
        for thing in scene.objects:
            inside = picture[thing.mask]
            assert np.abs(inside - outside).sum(1).mean() > 25, (thing, scene.background)


@pytest.mark.parametrize("arguments", [(-1, 0), (0, -1), (0, 0, 10), (0, 0, 10_000)])
def test_arguments_out_of_range_are_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must"):
        render_scene(*arguments)


# -- levels ---------------------------------------------------------------------------------------


def test_the_hard_scenes_are_those_of_before_there_were_levels() -> None:
    """Pinned: what is in a scene of the old generator, where, and its captions."""
    scene = render_scene(3, 17)
    same = render_scene(3, 17, 128, "hard")
    assert fingerprint(scene) == fingerprint(same)
    told = json.dumps([[o.name, o.colour, o.texture, o.box] for o in scene.objects])
    told += scene.background + json.dumps(scene.captions)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "deb3ad6ddd6b2645"


@pytest.mark.parametrize("name", ["easy", "product", "default"])
def test_a_level_draws_what_it_promises(name: str) -> None:
    level = LEVELS[name]
    drawn = [render_scene(3, index, 64, name) for index in range(60)]
    assert {len(scene.objects) for scene in drawn} == set(level.counts)
    for scene in drawn:
        for thing in scene.objects:
            assert thing.name in level.categories and thing.size in level.sizes
            rows, columns = thing.silhouette.any(1).sum(), thing.silhouette.any(0).sum()
            low, high = (64 * share for share in level.sizes[thing.size])
            assert low - 3 <= max(rows, columns) <= high + 3
        stuff = len(level.categories) + 1 + BACKGROUNDS.index(scene.background)
        assert set(np.unique(scene.semantic)) <= {0, stuff} | {
            o.category + 1 for o in scene.objects
        }
        record = phrase_record(scene, 0, "000000.jpg")  # raises for a phrase that fits no object
        assert sum(len(s["phrases"]) for s in record["sentences"]) >= 5
        assert len(scene.captions) == 5
    count = Counter(o.name for scene in drawn for o in scene.objects)
    assert len(count) >= 10
    assert fingerprint(drawn[0]) != fingerprint(render_scene(3, 0, 64))
    with pytest.raises(ValueError, match="no level 'simple' of scenes: use one of easy, product"):
        render_scene(3, 0, 64, "simple")


def test_a_product_stands_alone_and_fills_its_picture() -> None:
    for index in range(40):
        (thing,) = render_scene(3, index, 64, "product").objects
        assert max(thing.silhouette.any(0).sum(), thing.silhouette.any(1).sum()) >= 0.5 * 64


def test_on_the_easy_level_the_pattern_tells_the_category_and_the_colour_does_not() -> None:
    """An accent of its own per category; every colour with every category."""
    accents = np.stack([accent(k) for k in range(24)])
    apart = np.abs(accents[:, None] - accents[None]).sum(-1) + 999 * np.eye(24)
    assert apart.min() > 40
    patterns = [typical_pattern(k, 24, 24, 6.0, 0.3) for k in range(12)]
    for i, a in enumerate(patterns):
        assert all(np.abs(a - b).mean() > 0.1 for b in patterns[:i]), i
    pairs = {(o.name, o.colour) for i in range(400) for o in render_scene(1, i, 48, "easy").objects}
    assert len(pairs) > 0.9 * 12 * len(COLOURS)


def test_the_files_of_a_level_hold_its_categories_and_say_which_it_is(tmp_path: Path) -> None:
    write_scenes(tmp_path / "easy", 3, 2, 48, level="easy")
    names = list(LEVELS["easy"].categories)
    for kind in ("instances", "lvis_v1"):
        told = json.loads((tmp_path / f"easy/annotations/{kind}_train.json").read_text())
        assert [c["name"] for c in told["categories"]] == names
    classes = (tmp_path / "easy/ade/classes.txt").read_text().split("\n")[:-1]
    assert classes == [*names, *BACKGROUNDS]
    assert json.loads((tmp_path / "easy/scenes.json").read_text())["arguments"]["level"] == "easy"
    assert write_scenes(tmp_path / "easy", 3, 2, 48, level="easy")["train"] == 3
    with pytest.raises(FileExistsError, match="other scenes"):
        write_scenes(tmp_path / "easy", 3, 2, 48)


# -- captions: a reader of its own, which knows only their grammar --------------------------------

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
SPATIAL = ("left of", "right of", "above", "below", "in front of", "behind")
RELATION = f"({'|'.join(SPATIAL)})"
IRREGULAR = {"fish": "fish", "leaves": "leaf", "butterflies": "butterfly"}


def singular(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    return word[:-2] if word[:-2] in CATEGORIES else word[:-1]


def place_words(background: str) -> str:
    return "in the night sky" if background == "night sky" else "on " + background


def fitting(scene: Scene, phrase: str) -> set[int]:
    """Which objects a phrase "a [size] [colour] [texture] category" describes."""
    pattern = (
        rf"(an?)(?: ({'|'.join(SIZES)}))?(?: ({'|'.join(COLOURS)}))?"
        rf"(?: ({'|'.join(TEXTURES)}))? ({'|'.join(CATEGORIES)})"
    )
    found = re.fullmatch(pattern, phrase)
    assert found, f"not a phrase: {phrase!r}"
    article, size, colour, texture, category = found.groups()
    assert (article == "an") == (phrase.split()[1][0] in "aeiou")
    return {
        number
        for number, o in enumerate(scene.objects)
        if o.name == category
        and size in (None, o.size)
        and colour in (None, o.colour)
        and texture in (None, o.texture)
    }


def holds(scene: Scene, i: int, relation: str, j: int) -> bool:
    a, b = scene.objects[i], scene.objects[j]
    margin = 0.1 * scene.image.shape[0]
    ax, ay, bx, by = (*a.centre, *b.centre)
    return (
        i != j
        and {
            "left of": bx - ax > margin,
            "right of": ax - bx > margin,
            "above": by - ay > margin,
            "below": ay - by > margin,
            "in front of": i > j and (a.mask & b.silhouette).sum() >= 0.1 * b.silhouette.sum(),
            "behind": i < j and (b.mask & a.silhouette).sum() >= 0.1 * a.silhouette.sum(),
        }[relation]
    )


def can_match(choices: list[set[int]]) -> bool:
    """Whether each item can be a different object."""
    if not choices:
        return True
    return any(can_match([rest - {one} for rest in choices[1:]]) for one in choices[0])


def check_list(scene: Scene, text: str) -> int:
    """A list of phrases and exact counts; returns how many objects it speaks of."""
    names = Counter(thing.name for thing in scene.objects)
    spoken, choices = 0, []
    for item in re.split(r", | and ", text):
        number, _, noun = item.partition(" ")
        if number in NUMBERS:
            assert names[singular(noun)] == NUMBERS.index(number) >= 2, item
            spoken += names[singular(noun)]
        else:
            choices.append(fitting(scene, item))
    assert can_match(choices), text
    return spoken + len(choices)


def check_caption(scene: Scene, caption: str) -> None:
    assert caption == caption.lower() and not re.search(r"[^a-z ,:]", caption)
    place = place_words(scene.background)
    if found := re.fullmatch(rf"(\w+) objects {place}: (.+)", caption):
        assert NUMBERS.index(found[1]) == len(scene.objects)
        assert check_list(scene, found[2]) == len(scene.objects)
        return
    double = rf"(.+) is {RELATION} (.+?) and (?:(.+) is )?{RELATION} (.+)"
    if found := re.fullmatch(double, caption):
        one, first, two, three, second, four = found.groups()
        ones = {
            i
            for i in fitting(scene, one)
            if any(holds(scene, i, first, j) for j in fitting(scene, two))
        }
        threes = ones if three is None else fitting(scene, three)
        assert ones, caption
        assert any(holds(scene, i, second, j) for i in threes for j in fitting(scene, four)), (
            caption
        )
        return
    caption = caption.removeprefix(place + ", ").removesuffix(" " + place)
    if found := re.fullmatch(rf"(.+) {RELATION} (.+)", caption):
        subjects, targets = fitting(scene, found[1]), fitting(scene, found[3])
        assert any(holds(scene, i, found[2], j) for i in subjects for j in targets), caption
        return
    assert 1 <= check_list(scene, caption) <= len(scene.objects)


def test_the_reader_of_captions_notices_lies(scenes: list[Scene]) -> None:
    """The oracle must be able to fail."""
    refused = 0
    for scene, other in pairwise(scenes):
        try:
            check_caption(scene, other.captions[2])
        except AssertionError:
            refused += 1
    assert refused == len(scenes) - 1
    turned = {"left of": "right of", "above": "below", "in front of": "behind"}
    lies = 0
    for scene in scenes:
        for relation in caption_facts(scene).relations:
            if relation.name in turned:
                lies += 1
                opposite = turned[relation.name]
                assert not holds(scene, relation.subject, opposite, relation.target)
    assert lies > 300


def test_captions_are_true_of_what_is_visible(scenes: list[Scene]) -> None:
    for scene in scenes:
        for caption in scene.captions:
            check_caption(scene, caption)


def test_captions_are_five_of_different_lengths(scenes: list[Scene]) -> None:
    for scene in scenes:
        lengths = [len(caption.split()) for caption in scene.captions]
        assert len(lengths) == 5 and len(set(lengths)) == 5, scene.captions
        assert max(lengths) == lengths[2] <= 45


def test_the_third_caption_names_every_object_with_all_attributes(scenes: list[Scene]) -> None:
    for scene in scenes:
        said = scene.captions[2].removesuffix(" " + place_words(scene.background))
        said = sorted(re.sub("^an? ", "", item) for item in re.split(r", | and ", said))
        truth = sorted(f"{o.size} {o.colour} {o.texture} {o.name}" for o in scene.objects)
        assert said == truth


def test_captions_use_every_relation_and_a_small_vocabulary(scenes: list[Scene]) -> None:
    texts = [caption for scene in scenes for caption in scene.captions]
    for relation in SPATIAL:
        assert sum(f" {relation} " in text for text in texts) >= 10, relation
    assert sum(bool(re.search(rf" is {RELATION} ", text)) for text in texts) >= 30
    assert len({word for text in texts for word in re.findall("[a-z]+", text)}) < 140


def test_caption_facts_list_each_object_and_each_relation_with_its_inverse(
    scenes: list[Scene],
) -> None:
    inverse = dict(
        zip(
            SPATIAL,
            (SPATIAL[1], SPATIAL[0], "below", "above", "behind", "in front of"),
            strict=True,
        )
    )
    for scene in scenes:
        facts = caption_facts(scene)
        assert facts.background == scene.background
        for fact, thing in zip(facts.objects, scene.objects, strict=True):
            assert (fact.category, fact.size, fact.colour, fact.texture, fact.area) == (
                *(thing.name, thing.size, thing.colour, thing.texture),
                thing.mask.sum(),
            )
        stated = {(r.subject, r.name, r.target) for r in facts.relations}
        assert len(stated) == len(facts.relations)
        for i, name, j in stated:
            assert (j, inverse[name], i) in stated
            assert holds(scene, i, name, j)


# -- the files ------------------------------------------------------------------------------------


def test_images_do_not_depend_on_how_many_are_written(
    written: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    write_scenes(tmp_path / "few", 4, 2, SIZE, seed=5)
    many, few = files_of(written[0]), files_of(tmp_path / "few")
    pictures = [name for name in few if name.endswith((".jpg", ".png"))]
    assert len(pictures) == 3 * 6
    assert all(few[name] == many[name] for name in pictures)
    for kind in ("instances", "captions"):
        part, whole = (json.loads(f[f"annotations/{kind}_val.json"]) for f in (few, many))
        assert part["annotations"] == whole["annotations"][: len(part["annotations"])]


def test_coco_instances_load_and_decode_to_the_masks(
    written: tuple[Path, dict[str, int]],
) -> None:
    out, counts = written
    for split, (_, indices) in SPLITS.items():
        coco = COCO(out / "annotations" / f"instances_{split}.json")
        assert coco.getImgIds() == list(indices)
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CATEGORIES)
        assert len(coco.anns) == counts[f"{split}_objects"] and 0 not in coco.anns
        for record in coco.loadImgs(list(indices)):
            with Image.open(out / "images" / split / record["file_name"]) as image:
                assert image.size == (record["width"], record["height"]) == (SIZE, SIZE)
            scene = render_scene(5, record["id"], SIZE)
            found = coco.loadAnns(coco.getAnnIds(imgIds=[record["id"]]))
            for annotation, thing in zip(found, scene.objects, strict=True):
                assert np.array_equal(coco.annToMask(annotation).astype(bool), thing.mask)
                assert annotation["category_id"] == thing.category + 1
                assert annotation["bbox"] == list(thing.box)
                assert annotation["area"] == thing.mask.sum() and annotation["iscrowd"] == 0


def test_coco_captions_hold_five_per_image(written: tuple[Path, dict[str, int]]) -> None:
    for split, (_, indices) in SPLITS.items():
        coco = COCO(written[0] / "annotations" / f"captions_{split}.json")
        assert len(coco.anns) == 5 * len(indices)
        for index in indices:
            texts = [a["caption"] for a in coco.imgToAnns[index]]
            assert texts == render_scene(5, index, SIZE).captions


def test_lvis_files_have_the_required_fields_and_name_existing_images(
    written: tuple[Path, dict[str, int]],
) -> None:
    out, _ = written
    for split in SPLITS:
        data = json.loads((out / "annotations" / f"lvis_v1_{split}.json").read_text())
        present: dict[int, set[int]] = {image["id"]: set() for image in data["images"]}
        for annotation in data["annotations"]:
            present[annotation["image_id"]].add(annotation["category_id"])
            assert {"id", "bbox", "area", "segmentation"} <= set(annotation)
        everything = {category["id"] for category in data["categories"]}
        for image in data["images"]:
            name = image["coco_url"].replace("http://images.cocodataset.org/", "")
            assert (out / "images" / name).is_file()
            assert image["height"] == image["width"] == SIZE
            negative = set(image["neg_category_ids"])
            assert negative == everything - present[image["id"]]
            assert image["not_exhaustive_category_ids"] == []


def test_lvis_frequency_groups_follow_the_training_counts_in_both_splits(
    written: tuple[Path, dict[str, int]],
) -> None:
    out, counts = written
    train, val = (
        json.loads((out / "annotations" / f"lvis_v1_{s}.json").read_text()) for s in SPLITS
    )
    assert train["categories"] == val["categories"]
    fields = ["id", "name", "synset", "synonyms", "def"]
    fields += ["frequency", "image_count", "instance_count"]
    for category in train["categories"]:
        assert list(category) == fields
        mine = [a for a in train["annotations"] if a["category_id"] == category["id"]]
        assert category["instance_count"] == len(mine)
        assert category["image_count"] == len({a["image_id"] for a in mine})
        assert category["frequency"] == frequency(category["image_count"])
    letters = Counter(category["frequency"] for category in train["categories"])
    assert [letters[k] for k in "rcf"] == [counts[k] for k in ("rare", "common", "frequent")]
    assert [frequency(n) for n in (0, 10, 11, 100, 101)] == ["r", "r", "c", "c", "f"]


def test_the_lvis_package_reads_the_file(written: tuple[Path, dict[str, int]]) -> None:
    lvis = pytest.importorskip("lvis")
    data = lvis.LVIS(str(written[0] / "annotations" / "lvis_v1_val.json"))
    for index in SPLITS["val"][1]:
        found = data.load_anns(data.get_ann_ids(img_ids=[index]))
        things = render_scene(5, index, SIZE).objects
        for annotation, thing in zip(found, things, strict=True):
            assert np.array_equal(data.ann_to_mask(annotation).astype(bool), thing.mask)


def test_the_ade_folder_has_a_map_for_each_image_with_zero_for_unlabelled(
    written: tuple[Path, dict[str, int]],
) -> None:
    ade = written[0] / "ade"
    assert (ade / "classes.txt").read_text().splitlines() == list(SEMANTIC_CLASSES)
    listed = json.loads((ade / "classes.json").read_text())
    assert listed["classes"] == list(SEMANTIC_CLASSES)
    assert listed["things"] + listed["stuff"] == len(SEMANTIC_CLASSES)
    assert len({tuple(colour) for colour in listed["palette"]}) == len(SEMANTIC_CLASSES)
    for split, (name, indices) in SPLITS.items():
        images = sorted((ade / "images" / name).iterdir())
        maps = sorted((ade / "annotations" / name).iterdir())
        assert [p.stem for p in images] == [p.stem for p in maps] == [f"{i:06d}" for i in indices]
        for image, path, index in zip(images, maps, indices, strict=True):
            assert image.samefile(written[0] / "images" / split / image.name)
            with Image.open(path) as opened:
                assert opened.mode == "L"
                labels = np.array(opened)
            assert np.array_equal(labels, render_scene(5, index, SIZE).semantic)
            assert labels.max() <= len(SEMANTIC_CLASSES) and (labels == 0).any()


def test_without_hard_links_the_ade_images_are_symlinks_and_without_those_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    write_scenes(tmp_path / "soft", 1, 1, SIZE)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    write_scenes(tmp_path / "copies", 1, 1, SIZE)
    name = "ade/images/training/000000.jpg"
    assert (tmp_path / "soft" / name).is_symlink() and not (tmp_path / "copies" / name).is_symlink()
    tmp_path = tmp_path.rename(tmp_path.with_name("moved"))  # relative links survive a move
    assert files_of(tmp_path / "soft") == files_of(tmp_path / "copies")


def test_writing_the_same_again_changes_nothing(written: tuple[Path, dict[str, int]]) -> None:
    out, counts = written
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    calls: list[tuple[int, int]] = []
    assert write_scenes(out, TRAIN, VAL, SIZE, 5, lambda *a: calls.append(a)) == counts
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before and not calls


def test_an_interrupted_or_damaged_data_set_is_written_again(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    steps: list[tuple[int, int]] = []
    write_scenes(whole, 3, 2, SIZE, progress=lambda *a: steps.append(a))
    assert steps == [(k, 5) for k in range(1, 6)]

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(torn, 3, 2, SIZE, progress=stop)
    assert not (torn / "scenes.json").exists()
    with pytest.raises(FileExistsError, match="torn"):
        write_scenes(torn, 4, 2, SIZE)
    write_scenes(torn, 3, 2, SIZE)
    assert files_of(torn) == files_of(whole)
    (torn / "images" / "val" / f"{VAL_START}.jpg").unlink()
    write_scenes(torn, 3, 2, SIZE)
    assert files_of(torn) == files_of(whole)


def test_a_folder_that_holds_something_else_is_left_alone(
    written: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="other files"):
        write_scenes(tmp_path, 2, 2)
    assert files_of(tmp_path) == {"photo.jpg": b"mine"}
    with pytest.raises(FileExistsError, match="is a file"):
        write_scenes(tmp_path / "photo.jpg", 2, 2)
    with pytest.raises(FileExistsError, match="other scenes"):
        write_scenes(written[0], TRAIN + 1, VAL, SIZE, 5)
    for text, error in (("[]", "other scenes"), ("{", "not JSON")):
        (tmp_path / "foreign").mkdir(exist_ok=True)
        (tmp_path / "foreign" / "scenes.json").write_text(text)
        with pytest.raises((FileExistsError, ValueError), match=error):
            write_scenes(tmp_path / "foreign", 2, 2)
        assert files_of(tmp_path / "foreign") == {"scenes.json": text.encode()}
    with pytest.raises(ValueError, match="train and val"):
        write_scenes(tmp_path / "none", 0, 2)
    with pytest.raises(ValueError, match="size"):
        write_scenes(tmp_path / "none", 2, 2, size=1)
    assert not (tmp_path / "none").exists()


def test_the_contact_sheet_is_a_png_with_all_scenes(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "sheet.png", rows=2, columns=3, size=80)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 240 and sheet.height > 160
        wide = np.asarray(sheet)
    first = render_scene(0, 0, 80).image
    corner = wide[: first.shape[0] + 40, : first.shape[1] + 40]
    windows = np.lib.stride_tricks.sliding_window_view(corner, first.shape)
    assert (windows == first).all((3, 4, 5)).any(), "the first scene is in the upper left corner"
    with pytest.raises(ValueError, match="at least 1"):
        contact_sheet(tmp_path / "none.png", rows=0)
