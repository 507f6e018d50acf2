"""Retrieval as a study measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparc_pretrain.study.measure import Measure, Measures, Subject, Task
from sparc_pretrain.zeroshot import encode, reranking
from sparc_pretrain.zeroshot.given_boxes import read_boxes
from sparc_pretrain.zeroshot.retrieval import ranks


def retrieve(
    images: str,
    captions: str,
    split: str | None = None,
    ks: Sequence[int] = (1, 5),
    per_image: int | str | None = None,
    boxes: str | None = None,
    rerank: int = 0,
) -> Task:
    """R@k both ways, read as the objective says and (``cosine``) by pooled cosine; ``R@5`` is the
    mean of both ways, image by image. per_image: see `CaptionedImages.read`. boxes: a COCO file of
    them, for models that read regions. rerank: a query's best are judged again, pair by pair, by an
    objective that contrasts and matches (``reranked``), and with the contrast's logit added
    (``reranked by both``).
    """
    data = encode.CaptionedImages.read(images, captions, split, per_image)
    data = replace(data, boxes=read_boxes(boxes)) if boxes else data
    owner = torch.tensor(data.image_of_text)

    def of(subject: Subject) -> Measures:
        found: Measures = {}
        for name, similarity in subject.scores(data).items():
            reading = name.replace("pooled_", "cosine ")
            image_rank, text_rank = ranks(similarity, owner)
            for k in ks:
                found[f"{reading}i2t R@{k}"] = Measure.of(image_rank <= k)
                found[f"{reading}t2i R@{k}"] = Measure.of(text_rank <= k, data.image_of_text)
            if not name and 5 in ks:
                found["R@5"] = both_ways(image_rank <= 5, text_rank <= 5, data.image_of_text)
        objective = subject.objective
        if rerank and objective.shares_space and objective.match is not None:
            match = once(reranking.matcher(subject.model, objective, data))
            for by in reranking.BY:
                scale = reranking.scale_of(objective, by)
                ways = reranking.rerank(subject.scores(data)[""], match, rerank, scale)
                image_rank, text_rank = ranks(ways[0], owner)[0], ranks(ways[1], owner)[1]
                name = "reranked" if by == "match" else "reranked by both"
                for k in ks:
                    found[f"{name} i2t R@{k}"] = Measure.of(image_rank <= k)
                    found[f"{name} t2i R@{k}"] = Measure.of(text_rank <= k, data.image_of_text)
        return found

    return of


def once(match: reranking.Match) -> reranking.Match:
    """`match` of the same pairs, asked for more than once."""
    kept: list[Tensor] = []

    def again(images: Tensor, texts: Tensor) -> Tensor:
        if not kept:
            kept.append(match(images, texts))
        return kept[0]

    return again


def both_ways(image_hit: Tensor, text_hit: Tensor, image_of_text: Sequence[int]) -> Measure:
    """Of image_hit [I], text_hit [T] bool: per image the mean of its hit and its captions' one."""
    owner = torch.tensor(image_of_text)
    count = torch.bincount(owner, minlength=len(image_hit)).clamp(min=1)
    of_texts = torch.bincount(owner, text_hit.double(), minlength=len(image_hit)) / count
    blind = {"any five": 5 / len(image_hit)}
    return Measure.of((image_hit.double() + of_texts) / 2, blind=blind)
