"""Retrieval as a study measures it: the numbers of the retrieval task, item by item."""

from __future__ import annotations

import pytest
import torch

from sparc_pretrain.study.evaluate import measure
from sparc_pretrain.zeroshot import encode, retrieval
from tests.zeroshot.test_terms import run_folder_of, scenes  # noqa: F401  a fixture

WAYS = ("i2t", "t2i")


def asked(folder, **options) -> list[dict]:
    files = dict(images=f"{folder}/images/val", captions=f"{folder}/annotations/captions_val.json")
    return [dict(task="retrieval", **files, **options)]


def test_reranked_recall_is_that_of_the_task(scenes, tmp_path):  # noqa: F811
    torch.manual_seed(2)  # weights with which the two orders differ
    model, objective = encode.load(run_folder_of("Xvlm", {}, tmp_path / "w"))
    evaluation = asked(scenes, per_image=1, rerank=8)
    found = measure(model, objective, evaluation)
    spec = {k: v for k, v in evaluation[0].items() if k in ("images", "captions")}
    data = encode.CaptionedImages.read(spec["images"], spec["captions"], per_image=1)
    plain = retrieval.evaluate(model, objective, data).metrics
    again, both = (
        retrieval.evaluate(model, objective, data, best=8, by=by).metrics
        for by in ("match", "both")
    )
    for way in WAYS:
        for k in (1, 5):
            for name, metrics in (("", plain), ("reranked ", again), ("reranked by both ", both)):
                items = found[f"{name}{way} R@{k}"].items
                assert sum(items) / len(items) == pytest.approx(metrics[f"{way}_R@{k}"])
    for one in (plain, both):
        assert any(again[f"{way}_R@{k}"] != one[f"{way}_R@{k}"] for way in WAYS for k in (1, 5))


def test_boxes_reach_those_who_read_regions_and_only_they(scenes, tmp_path):  # noqa: F811
    boxes = f"{scenes}/annotations/instances_val.json"
    for kind, differs in (("Uniter", True), ("Xvlm", False)):
        options = dict(labels=["star", "house"]) if differs else {}
        model, objective = encode.load(run_folder_of(kind, options, tmp_path / kind))
        both = asked(scenes, per_image="longest") + asked(
            scenes, per_image="longest", boxes=boxes, name="given", rerank=2
        )
        found = measure(model, objective, both)
        same = all(found[k].items == found[f"given {k}"].items for k in ("t2i R@5", "i2t R@5"))
        assert same is not differs
        assert ("given reranked t2i R@1" in found) is not differs  # no space to choose from
