"""Scores beside BLEU, ROUGE-L and CIDEr: intervals, hallucination, likeness, METEOR, questions."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from PIL import Image

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.registry import DATASETS, METRICS
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.zeroshot.faithfulness import k_precision
from tests.models import TEXT, VISION
from transfer.captioning import vqa
from transfer.captioning.metrics import intervals, java_metrics, score
from transfer.captioning.metrics.hallucination import (
    ObjectWords,
    chair,
    read_objects,
    read_synonyms,
)
from transfer.captioning.metrics.likeness import clip_scores

REFERENCE = (
    Path(__file__).parents[4] / "shared/data/eval_refs/captions/coco_fakecap126_vs_refs.json"
)
real = pytest.mark.skipif(
    not REFERENCE.is_file(), reason="the reference scores in ../shared/data are not here"
)
CAPTIONS = ["a dog runs on grass", "two cats", "a red bus near a house", "the sky"]
REFERENCES = [
    ["a dog runs over the grass", "the dog is running"],
    ["two cats sleep", "some cats", "cats lie down"],
    ["a bus in front of a house"],
    ["a blue sky above the sea", "sky and sea", "the sky"],
]


# ------------------------------------------------------------------ intervals


def test_corpus_bleu_from_sums_is_that_of_pycocoevalcap() -> None:
    statistics = intervals.bleu_statistics(CAPTIONS, REFERENCES)
    found = intervals.corpus_bleu(statistics.sum(0))
    whole = score(CAPTIONS, REFERENCES, tokenized=True)
    assert found == pytest.approx([whole[f"BLEU-{n}"] for n in range(1, 5)], abs=1e-12)
    twice = intervals.corpus_bleu(statistics[[0, 0, 2]].sum(0))  # one resample, by hand
    rows = [0, 0, 2]
    again = score([CAPTIONS[i] for i in rows], [REFERENCES[i] for i in rows], tokenized=True)
    assert twice == pytest.approx([again[f"BLEU-{n}"] for n in range(1, 5)], abs=1e-12)


def test_intervals_hold_the_mean_shrink_with_images_and_are_repeatable() -> None:
    generator = np.random.default_rng(0)
    widths = []
    for count in (50, 800):
        values = generator.normal(1.0, 0.5, count)
        low, high = intervals.mean_interval(values)
        assert low < values.mean() < high
        assert intervals.mean_interval(values) == (low, high)
        # the normal approximation agrees
        assert high - low == pytest.approx(2 * 1.96 * values.std() / count**0.5, rel=0.15)
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5
    assert intervals.mean_interval([2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(ValueError, match="no values"):
        intervals.mean_interval([])


# ------------------------------------------------------------------ objects that are not there


def test_chair_counts_what_neither_boxes_nor_references_show() -> None:
    words = ObjectWords({"person": ["man", "woman"], "dog": ["puppy"], "hot dog": [], "bus": []})
    assert words("Two MEN eat hot dogs near a puppy") == ["person", "hot dog", "dog"]
    many = ObjectWords({"knife": [], "person": ["woman"], "mouse": [], "bus": [], "cow": []})
    text = "knives, people and women, mice on buses, cows"
    assert many(text) == ["knife", "person", "person", "mouse", "bus", "cow"]
    found, rows = chair(
        ["a man and a dog", "a dog on a bus", "nothing at all"],
        [["a person"], ["a puppy plays"], ["a bus"]],
        [{"person"}, {"bus"}, {"bus"}],
        words,
    )
    # the dog of the first caption is neither in the boxes nor in the references
    assert rows == [(1, 2), (0, 2), (0, 0)]
    assert found == pytest.approx({"CHAIR-i": 1 / 4, "CHAIR-s": 1 / 3, "object-recall": 2 / 3})


def write_instances(folder: Path) -> Path:
    path = folder / "instances.json"
    content = dict(
        images=[dict(id=i, file_name=f"{i}.png") for i in range(4)],
        categories=[dict(id=1, name="dog"), dict(id=2, name="bus")],
        annotations=[dict(image_id=0, category_id=1), dict(image_id=2, category_id=2)],
    )
    path.write_text(json.dumps(content))
    return path


def test_objects_and_their_words_are_read_from_files(tmp_path: Path) -> None:
    objects, categories = read_objects(write_instances(tmp_path))
    assert objects == {"0.png": {"dog"}, "1.png": set(), "2.png": {"bus"}, "3.png": set()}
    assert categories == ["dog", "bus"]
    (tmp_path / "synonyms.txt").write_text("dog, puppy, pup\n\nbus, coach\n")
    assert read_synonyms(tmp_path / "synonyms.txt") == {"dog": ["puppy", "pup"], "bus": ["coach"]}
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="has no line 'category"):
        read_synonyms(tmp_path / "empty.txt")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list\.json is no COCO or LVIS file"):
        read_objects(tmp_path / "list.json")


# ------------------------------------------------------------------ likeness


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(CAPTIONS, 300)
    text = TextTower(**{**TEXT, "vocab_size": tokenizer.vocab_size})
    model = DualEncoder(VisionTower(**VISION), text, 16, tokenizer=tokenizer)
    folder = tmp_path_factory.mktemp("run") / "run"
    model.save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int = 4) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path in paths:
        pixels = generator.integers(256, size=(40, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def test_likeness_is_the_cosine_in_the_space_of_the_run(run: Path, tmp_path: Path) -> None:
    paths = write_images(tmp_path)
    found = clip_scores(run, paths, CAPTIONS, batch_size=3)
    model = DualEncoder.from_pretrained(run).eval()
    from sparc_pretrain.data.images import decode, eval_resize

    for path, caption, value in zip(paths, CAPTIONS, found, strict=True):
        pixels = eval_resize(decode(path.read_bytes()), 32, "squash")[None]
        with torch.no_grad():
            image, text = model.encode_image(pixels)[0], model.encode_text([caption])[0]
        cosine = torch.nn.functional.cosine_similarity(image, text, dim=0).item()
        assert value == pytest.approx(max(2.5 * cosine, 0), abs=1e-5)


# ------------------------------------------------------------------ inside a Runner


def test_the_metric_gives_all_that_it_is_asked_for(run: Path, tmp_path: Path) -> None:
    write_images(tmp_path)
    metric = METRICS.build(
        dict(
            type="sparc.CaptionMetric", outfile_prefix=f"{tmp_path}/out/", k_precision=True,
            resamples=200, run=str(run), chair=dict(instances=str(write_instances(tmp_path))),
        )
    )  # fmt: skip
    metric.dataset_meta = {"folder": str(tmp_path)}
    for i, (caption, texts) in enumerate(zip(CAPTIONS, REFERENCES, strict=True)):
        sample = BaseDataElement(metainfo={"image": f"{i}.png", "references": texts})
        sample.set_field(caption, "prediction", dtype=str)
        metric.process({}, [sample.to_dict()])
    found = metric.evaluate(4)
    assert found["caption/K-Precision"] == pytest.approx(k_precision(CAPTIONS, REFERENCES))
    assert found["caption/K-Precision-na"] == pytest.approx(
        k_precision(CAPTIONS, REFERENCES, content_words=True)
    )
    for name in ("BLEU-4", "ROUGE-L", "CIDEr", "K-Precision", "CLIPScore-like"):
        low, value, high = (found[f"caption/{name}{end}"] for end in ("_low", "", "_high"))
        assert low <= value <= high and low < high, name
    assert found["caption/CHAIR-i"] == 0
    rows = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert set(rows[0]["scores"]) >= {"CIDEr", "K-Precision", "CLIPScore-like"}


def test_java_metrics_that_cannot_be_had_are_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(java_metrics.shutil, "which", lambda name: None)
    assert java_metrics.unavailable("METEOR") == "METEOR needs Java, which is not installed"
    metric = METRICS.build(dict(type="sparc.CaptionMetric", java=["METEOR", "SPICE"]))
    assert metric.java == []
    with pytest.raises(ValueError, match="METEOR needs Java"):
        java_metrics.java_score("METEOR", ["a"], [["a"]])
    with pytest.raises(ValueError, match="java_metrics are METEOR, SPICE, not 'BLEU'"):
        java_metrics.unavailable("BLEU")


@real
@pytest.mark.skipif("SPARC_JAVA" not in os.environ, reason="takes 40 s: set SPARC_JAVA=1")
def test_meteor_is_that_of_pycocoevalcap_and_its_interval_is_of_the_corpus() -> None:
    items = json.loads(REFERENCE.read_text())["items"][:12]
    ours, theirs = [item["cand_tok"] for item in items], [item["refs_tok"] for item in items]
    corpus, found, ends = java_metrics.java_score("METEOR", ours, theirs, 200)
    assert found == pytest.approx([item["scores"]["METEOR"] for item in items], abs=1e-6)
    assert corpus != pytest.approx(np.mean(found), abs=1e-3)
    # two resamples the slow way: METEOR of the sentences that were drawn
    drawn = []
    for counts in intervals.resampled_counts(len(items), 200, 0)[:2]:
        rows = np.repeat(np.arange(len(items)), counts)
        again = ([ours[i] for i in rows], [theirs[i] for i in rows])
        drawn.append(java_metrics.java_score("METEOR", *again)[0])
    first = java_metrics.java_score("METEOR", ours, theirs, 1)[2]
    assert first == pytest.approx((drawn[0], drawn[0]), abs=1e-6)
    assert drawn[0] != drawn[1] and ends[0] < corpus < ends[1]
    assert ends[0] < np.median(drawn) < ends[1]


# ------------------------------------------------------------------ questions


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("The dog.", "dog"), ("Two", "2"), ("dont know", "don't know"), ("10,000", "10000"),
        ("yes, it is", "yes it is"), ("3.5", "3.5"), ("t-shirt", "t shirt"),
        ("A  red\tcar!", "red car"),
    ],
)  # fmt: skip
def test_answers_are_compared_as_the_vqa_evaluation_does(written: str, compared: str) -> None:
    assert vqa.normalise(written) == compared


def test_vqa_accuracy_by_hand() -> None:
    people = ["dog"] * 2 + ["cat"] * 8
    # for each of the 8 who said cat: 2 others said dog; for each of the 2: 1 other
    assert vqa.accuracy("a dog", people) == pytest.approx((8 * 2 / 3 + 2 * 1 / 3) / 10)
    assert vqa.accuracy("cat", people) == 1
    assert vqa.accuracy("bus", people) == 0
    assert vqa.accuracy("dog", ["Dog"]) == 1 and vqa.accuracy("dog", ["cat"]) == 0


def write_vqa(folder: Path) -> None:
    write_images(folder)
    asked = [dict(question_id=10 + i, image_id=i, question=f"what {i}? ") for i in range(4)]
    said = [
        dict(question_id=10 + i, image_id=i, answers=[dict(answer=a) for a in answers])
        for i, answers in enumerate([["dog", "dog", "cat"], ["2"], [" "], ["yes"]])
    ]
    (folder / "questions.json").write_text(json.dumps({"questions": asked}))
    (folder / "answers.json").write_text(json.dumps({"annotations": said}))


def test_questions_become_prompts_and_unanswered_ones_are_left_out(tmp_path: Path) -> None:
    write_vqa(tmp_path)
    config = dict(
        type="sparc.VQADataset", ann_file="questions.json", answers="answers.json",
        data_prefix=dict(img=""), data_root=str(tmp_path), image_name="{}.png", size=32,
    )  # fmt: skip
    train, test = DATASETS.build(config), DATASETS.build({**config, "test_mode": True})
    assert len(train) == len(test) == 3  # the third has a blank answer only
    sample = train[0]["data_samples"]
    assert (sample.prompt, sample.caption) == ("Question: what 0? Answer:", "dog")
    assert test[0]["data_samples"].references == ["dog", "dog", "cat"]
    content = json.loads((tmp_path / "answers.json").read_text())
    content["annotations"][0]["question_id"] = 77
    (tmp_path / "answers.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"answers the question 77, not in .*questions\.json"):
        DATASETS.build(config)
    (tmp_path / "answers.json").write_text("{}")
    with pytest.raises(ValueError, match=r"answers\.json is not in the VQA format"):
        DATASETS.build(config)


def test_the_vqa_metric_is_the_mean_over_questions(tmp_path: Path) -> None:
    metric = METRICS.build(dict(type="sparc.VQAMetric", outfile_prefix=f"{tmp_path}/"))
    for said, truths in (("the dog", ["dog"] * 6 + ["cat"] * 4), ("3", ["two"] * 10)):
        sample = dict(image="1.png", prompt="what?", prediction=said, references=truths)
        metric.process({}, [sample])
    assert metric.evaluate(2) == {"vqa/accuracy": 0.5, "vqa/exact-match": 0.5}
    assert json.loads((tmp_path / "answers.json").read_text())[0]["accuracy"] == 1
