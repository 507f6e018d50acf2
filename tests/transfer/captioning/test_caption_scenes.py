"""What a caption of a built-in scene says is compared with the scene exactly; and scores by domain
where images have one.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from mmengine.structures import BaseDataElement

from sparc_pretrain.data.scenes import (
    VAL_START,
    ObjectFact,
    Relation,
    SceneFacts,
    caption_facts,
    render_scene,
    write_scenes,
)
from sparc_pretrain.registry import DATASETS, METRICS
from transfer.captioning import metrics
from transfer.captioning.metrics import domains, intervals
from transfer.captioning.metrics.scene_facts import KINDS, SceneTruth, judge, parse, score

SCENES = 60
FACTS = SceneFacts(
    "grass",
    (
        ObjectFact("star", "small", "red", "plain", 90),
        ObjectFact("star", "large", "blue", "dotted", 400),
        ObjectFact("gear", "medium", "red", "wavy", 200),
    ),
    # the red star is left of the gear, the gear left of the blue star
    tuple(
        Relation(*one)
        for one in ((0, "left of", 2), (2, "right of", 0), (2, "left of", 1), (1, "right of", 2))
    ),
)


def false(caption: str, facts: SceneFacts = FACTS) -> list[tuple[str, str]]:
    return [(s.kind, s.text) for s in judge(parse(caption), facts) if not s.true]


@pytest.fixture(scope="module")
def scenes() -> tuple[list[list[str]], list[SceneFacts]]:
    """References and facts of some scenes of another seed than the data set's."""
    drawn = [render_scene(5, number, 64) for number in range(SCENES)]
    return [scene.captions for scene in drawn], [caption_facts(scene) for scene in drawn]


def test_every_reference_is_wholly_true_of_its_own_scene(
    scenes: tuple[list[list[str]], list[SceneFacts]],
) -> None:
    references, facts = scenes
    seen: set[str] = set()
    for number in range(5):
        found, judged = score([texts[number] for texts in references], references, facts)
        seen |= {statement.kind for row in judged for statement in row}
        for name in ("scene-captions", *(f"scene-{kind}" for kind in KINDS)):
            assert found[name] == 1 or math.isnan(found[name]), name
        assert found["scene-stray"] == 0
        if number == 2:  # the full list
            assert found["scene-recall"] == 1
    assert seen == set(KINDS)


def test_every_reference_is_mostly_false_of_another_scene(
    scenes: tuple[list[list[str]], list[SceneFacts]],
) -> None:
    references, facts = scenes
    long, _ = score([texts[4] for texts in references], references, facts)
    assert long["scene-objects_elsewhere"] < 0.5
    for name in ("captions", "colours", "phrases", "counts", "relations", "backgrounds"):
        assert long[f"scene-{name}_elsewhere"] < 0.3, name
    with pytest.raises(ValueError, match="are not of one data set"):
        score([texts[4] for texts in references], references, [*facts[1:], facts[0]])


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a red star left of a gear", []),
        ("a star is left of a gear and right of a gear on grass", []),  # two stars, each so
        ("on grass, two stars and a gear", []),
        ("three objects on grass: two stars and a red gear", []),
        ("a cat", [("objects", "a cat")]),
        ("a blue gear", [("colours", "a blue gear"), ("phrases", "a blue gear")]),
        ("a small blue star", [("phrases", "a small blue star")]),  # the blue one is large
        ("a striped star", [("phrases", "a striped star")]),
        ("a gear left of a red star", [("relations", "a gear left of a red star")]),
        ("a star above a gear", [("relations", "a star above a gear")]),
        ("a blue star left of a gear", [("relations", "a blue star left of a gear")]),
        ("three stars", [("counts", "three stars")]),
        ("two red stars", [("counts", "two red stars")]),
        ("four objects on grass", [("counts", "four objects")]),
        ("in the night sky, a star", [("backgrounds", "night sky")]),
        (
            "a red star is left of a gear and above a blue star",
            [("relations", "a red star above a blue star")],
        ),
    ],
)
def test_wrong_statements_are_caught_and_right_ones_are_not(
    caption: str, wrong: list[tuple[str, str]]
) -> None:
    assert false(caption) == wrong
    assert not parse(caption).stray


def test_a_relation_belongs_to_the_thing_before_it_unless_and_goes_before() -> None:
    found = parse("a star is left of a gear and a car is above a cup").relations
    assert [(a.category, name, b.category) for a, name, b in found] == [
        ("star", "left of", "gear"),
        ("car", "above", "cup"),
    ]
    found = parse("a star is left of a gear and behind a cup").relations
    assert [a.category for a, _, _ in found] == ["star", "star"]


@pytest.mark.parametrize(
    ("garbage", "stray"),
    [
        ("", 0),
        ("...", 0),
        ("left of left of above", 3),
        ("a red a red", 4),
        ("left of a star", 1),
        ("a star left of", 1),
        ("two people ride Bicycles; ½ 日本 \x00\n", 6),
        ("and and is the the", 2),
        ("star " * 3000, 0),
        ("red " * 3000, 3000),
    ],
)
def test_garbage_is_read_and_counted(garbage: str, stray: int) -> None:
    claims = parse(garbage)
    assert len(claims.stray) == stray
    judge(claims, FACTS)
    found, _ = score([garbage, "a star"], [["a star"]] * 2, [FACTS] * 2)
    assert found["scene-captions"] == (1 if garbage.startswith("star") else 0.5)


def test_numbers_by_hand() -> None:
    captions = ["a red star and a cat on sand", "two stars, a green gear", "hello"]
    found, judged = score(captions, [["a star", "a gear"]] * 3, [FACTS] * 3, resamples=50)
    # mentions: star, cat | stars, gear; coloured: red star | green gear
    assert found["scene-objects"] == pytest.approx(3 / 4)
    assert found["scene-colours"] == found["scene-phrases"] == pytest.approx(1 / 2)
    assert found["scene-counts"] == 1 and found["scene-backgrounds"] == 0
    assert found["scene-true"] == pytest.approx((3 + 1 + 1 + 0) / (4 + 2 + 1 + 1))
    assert math.isnan(found["scene-relations"]) and math.isnan(found["scene-relations_low"])
    assert found["scene-recall"] == pytest.approx((1 + 2 + 0) / 6)
    assert found["scene-captions"] == 0
    assert found["scene-statements"] == pytest.approx(len(judged[0] + judged[1]) / 3)
    assert found["scene-stray"] == pytest.approx(1 / 3)
    assert found["scene-objects_low"] <= 3 / 4 <= found["scene-objects_high"]
    assert found["scene-objects_elsewhere"] == found["scene-objects"]  # one scene, three times


def test_the_interval_of_a_ratio_is_that_of_loops() -> None:
    generator = np.random.default_rng(1)
    whole = generator.integers(0, 5, 40).astype(float)
    part = np.minimum(whole, generator.integers(0, 5, 40))
    found = intervals.ratio_interval(part, whole, resamples=300, seed=2)
    ratios = []
    for counts in intervals.resampled_counts(40, 300, 2):
        above = sum(int(n) * p for n, p in zip(counts, part, strict=True))
        below = sum(int(n) * w for n, w in zip(counts, whole, strict=True))
        ratios.append(above / below)
    assert found == pytest.approx(np.percentile(ratios, [2.5, 97.5]))
    assert found[0] < part.sum() / whole.sum() < found[1]
    # with one statement in each image it is the interval of a mean
    assert intervals.ratio_interval(part, np.ones(40), 300) == pytest.approx(
        intervals.mean_interval(part, 300)
    )


# ------------------------------------------------------------------ inside a Runner


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    write_scenes(folder, 3, 6, size=64, seed=1)
    return folder


def evaluated(metric: dict, data: Path, said: list[str] | None = None) -> dict[str, float]:
    """The metric of the validation scenes for captions, by default the full lists."""
    dataset = DATASETS.build(
        dict(
            type="sparc.CaptionDataset",
            data_root=str(data),
            ann_file="annotations/captions_val.json",
            data_prefix=dict(img="images/val"),
            test_mode=True,
        )
    )
    built = METRICS.build({"type": "sparc.CaptionMetric", **metric})
    built.dataset_meta = dataset.metainfo
    for number in range(len(dataset)):
        sample = dataset[number]["data_samples"]
        text = sample.references[2] if said is None else said[number]
        done = BaseDataElement(metainfo=dict(image=sample.image, references=sample.references))
        done.set_field(text, "prediction", dtype=str)
        built.process({}, [done.to_dict()])
    return built.evaluate(len(dataset))


def test_the_metric_checks_captions_of_scenes(data: Path, tmp_path: Path) -> None:
    option = dict(scenes=True, outfile_prefix=f"{tmp_path}/")
    found = evaluated({**option, "resamples": 20}, data)
    assert found["caption/scene-captions"] == found["caption/scene-recall"] == 1
    assert found["caption/scene-objects_low"] == 1 and found["caption/CIDEr_low"] > 0
    rows = json.loads((tmp_path / "captions.json").read_text())
    assert [row["false"] for row in rows] == [[]] * 6
    assert all(Path(row["file"]).is_file() for row in rows)

    evaluated(option, data, ["a striped unicorn and seven anchors"] * 6)
    rows = json.loads((tmp_path / "captions.json").read_text())
    assert all("seven anchors" in row["false"] for row in rows)


def test_other_scenes_are_refused(data: Path, tmp_path: Path) -> None:
    told = json.loads((data / "scenes.json").read_text())
    other = tmp_path / "scenes.json"
    told["arguments"]["seed"] = 2
    other.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="are not of one data set"):
        evaluated(dict(scenes=str(other)), data)
    truth = SceneTruth(data / "scenes.json")
    assert truth(f"{VAL_START}.jpg") == caption_facts(render_scene(1, VAL_START, 64))
    for name in (f"{VAL_START + 6}.jpg", "000003.jpg", "photo.jpg", "²³.jpg"):
        with pytest.raises(ValueError, match=f"{name} is none of the scenes of"):
            truth(name)
    told["arguments"]["version"] = 99
    other.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"scenes\.json is of version 99"):
        SceneTruth(other)
    other.write_text("[]")
    with pytest.raises(ValueError, match=r"is no scenes\.json"):
        SceneTruth(other)
    with pytest.raises(FileNotFoundError):
        SceneTruth(tmp_path / "nowhere.json")


# ------------------------------------------------------------------ domains


def test_the_domains_of_a_caption_file_are_scored_apart(data: Path, tmp_path: Path) -> None:
    plain = evaluated({}, data)
    assert not any("domain" in name for name in plain)
    path = data / "annotations/captions_val.json"
    content = json.loads(path.read_text())
    names = ["in-domain", "in-domain", "near-domain", "out-domain", "out-domain", None]
    for image, name in zip(content["images"], names, strict=True):
        if name:
            image["domain"] = name
    nocaps = data / "annotations/captions_nocaps.json"
    nocaps.write_text(json.dumps(content))
    known = domains.read_domains(nocaps)
    assert len(known) == 5 and domains.read_domains(tmp_path / "token.txt") == {}

    whole = path.read_text()
    path.write_text(nocaps.read_text())
    try:
        found = evaluated(dict(resamples=20), data)
    finally:
        path.write_text(whole)
    assert {k: found[k] for k in plain} == plain
    references = {image["id"]: [] for image in content["images"]}
    for one in content["annotations"]:
        references[one["image_id"]].append(one["caption"])
    texts = list(references.values())
    for name, rows in (("in-domain", (0, 1)), ("near-domain", (2,)), ("out-domain", (3, 4))):
        alone = metrics.score([texts[i][2] for i in rows], [texts[i] for i in rows])
        for score_name, value in alone.items():
            assert found[f"caption/{score_name}_{name}"] == value
        low, high = (found[f"caption/CIDEr_{name}{end}"] for end in ("_low", "_high"))
        assert low <= alone["CIDEr"] <= high
