"""Karpathy's protocols: five captions an image, folds, and the number of images they need."""

from __future__ import annotations

import json

import pytest
import torch

from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.zeroshot import encode, retrieval
from sparc_pretrain.zeroshot.retrieval import fold_recall, recall
from tests.zeroshot.oracle_model import NAMES, oracle, paint


def test_folds_are_searched_one_by_one_and_averaged():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(12, 30, generator=generator)
    owner = torch.cat([torch.arange(12), torch.randint(0, 12, (18,), generator=generator)])
    found = fold_recall(similarity, owner, folds=3, ks=(1, 2))
    parts = []
    for fold in range(3):
        rows = list(range(4 * fold, 4 * fold + 4))
        columns = [t for t in range(30) if owner[t].item() in rows]
        part = torch.tensor([[similarity[i, t] for t in columns] for i in rows])
        parts.append(recall(part, torch.tensor([rows.index(owner[t]) for t in columns]), (1, 2)))
    for key in found:
        assert found[key] == pytest.approx(sum(part[key] for part in parts) / 3)
    assert fold_recall(similarity, owner, folds=1, ks=(1, 2)) == recall(similarity, owner, (1, 2))
    with pytest.raises(ValueError, match="12 images do not divide into 5"):
        fold_recall(similarity, owner, folds=5)


@pytest.fixture()
def karpathy(tmp_path, monkeypatch):
    """A Karpathy file with six images in its test split, seven captions each, and one in train."""
    monkeypatch.setitem(retrieval.PROTOCOLS, "karpathy-1k", (6, 1))
    monkeypatch.setitem(retrieval.PROTOCOLS, "coco-1k", (6, 3))
    entries = []
    for k, name in enumerate([*NAMES, "dog"]):
        paint(tmp_path / "val2014" / f"{k}.png", torch.full((8, 8), k % 6).numpy())
        sentences = [{"raw": f"the {name} number {n}"} for n in range(7)]
        split = "test" if k < 6 else "train"
        entry = {"filepath": "val2014", "filename": f"{k}.png", "split": split}
        entries.append({**entry, "sentences": sentences})
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"images": entries}))
    return file


def test_a_protocol_takes_the_test_split_and_five_captions(karpathy):
    data, folds = retrieval.read_pairs(karpathy.parent, karpathy, None, "coco-1k")
    assert len(data.files) == 6 and len(data.captions) == 30 and folds == 3
    assert data.image_of_text == [i for i in range(6) for _ in range(5)]
    whole, folds = retrieval.read_pairs(karpathy.parent, karpathy, "test")
    assert len(whole.captions) == 42 and folds == 1


def test_another_number_of_images_than_the_protocols_is_refused(karpathy):
    with pytest.raises(ValueError, match="'test' has 6 images, karpathy-5k has 5000"):
        retrieval.read_pairs(karpathy.parent, karpathy, None, "karpathy-5k")
    with pytest.raises(ValueError, match="use one of"):
        retrieval.read_pairs(karpathy.parent, karpathy, None, "1k")


def test_both_readings_are_given_and_the_protocol_says_which(karpathy):
    class Reversed(Clip):
        def scores(self, image, text):
            return -super().scores(image, text)

    data, folds = retrieval.read_pairs(karpathy.parent, karpathy, None, "karpathy-1k")
    found = retrieval.evaluate(oracle(), Reversed(), data, folds)
    assert found.metrics["pooled_i2t_R@1"] == found.metrics["pooled_t2i_R@1"] == 1.0
    assert found.metrics["i2t_R@5"] == found.metrics["t2i_R@5"] == 0.0
    assert found.protocol["read_by"].startswith("Reversed.scores")
    assert set(found.extra["retrieval"]) >= {"images", "examples", "captions"}


def test_examples_name_the_best_answers_and_the_right_one(karpathy):
    data, _ = retrieval.read_pairs(karpathy.parent, karpathy, "test")
    scores = torch.zeros(len(data.files), len(data.captions))
    for text in range(len(data.captions)):
        order = [(text + n) % len(data.files) for n in range(len(data.files))]
        scores[order, text] = torch.arange(len(order), 0, -1.0)
    found = retrieval.examples(scores, data)["examples"]
    for example in found:
        text = data.captions.index(example["query"])
        best = [(text + n) % len(data.files) for n in range(len(example["answers"]))]
        assert example["answers"] == best
        assert example["correct"] == data.image_of_text[text]
    assert len(found) > 1


def test_scores_do_not_depend_on_the_batches_they_are_made_in(karpathy):
    data, _ = retrieval.read_pairs(karpathy.parent, karpathy, "test+train")
    model = oracle()
    one = encode.scores(model, Clip(), data, batch_size=1)
    assert one.shape == (7, 49)
    assert torch.allclose(one, encode.scores(model, Clip(), data), atol=1e-6)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.jpg: not an image"):
        encode.open_image(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"no image .*none\.jpg"):
        encode.open_image(tmp_path / "none.jpg")
