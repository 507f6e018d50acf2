"""Retrieval among a few: the right one among drawn others of the same category, the protocol of
Kaleido-BERT (arXiv 2103.16110, sec. 4.2: 1 of 101).

Suffixes: Q queries, which are pairs of a caption and its image; C others of each; I images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparc_pretrain import chance, json_file
from sparc_pretrain.chance import Stream
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.encode import CaptionedImages
from sparc_pretrain.zeroshot.outcome import Outcome
from sparc_pretrain.zeroshot.reranking import matcher

SEED = 0  # the candidates are the data set's, the same for every model
ROWS = 512  # queries at a time
Products = Mapping[str, tuple[str, str]]
METRICS = tuple(
    Metric(
        f"among_{way}_R@{k}",
        headline=way == "t2i" and k == 1,
        title=f"{words} R@{k}, few",
        words=f"right among the first {k} of the drawn candidates",
    )
    for way, words in (("i2t", "image→text"), ("t2i", "text→image"))
    for k in (1, 5, 10)
)


def read_products(file: str | Path) -> Products:
    """File name -> (product, category) of images: an object of products, or of [product, category]
    pairs, by file name, or the scenes' `elements_*.json`; a category that is not said is the
    product's name up to its first hyphen.

    Raises FileNotFoundError, and ValueError naming the file for another format.
    """
    read = json_file.read(file)
    try:
        if isinstance(read, list):
            read = {row["file_name"]: row["sample"]["product_id"] for row in read}
        pairs = {Path(name).name: _pair(told) for name, told in read.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{file}: no products of images, as {{FILE: PRODUCT}} or {{FILE: [PRODUCT, CATEGORY]}}:"
            f" {error!r}"
        ) from None
    if not pairs:
        raise ValueError(f"{file} names no image")
    return pairs


def _pair(told: Any) -> tuple[str, str]:
    product, category = (told, told.partition("-")[0]) if isinstance(told, str) else told
    return str(product), str(category)


def draw(data: CaptionedImages, count: int, products: Products | None) -> tuple[Tensor, Tensor]:
    """(images, captions) that each caption's pair is held against, [Q,count-1] long, -1 where the
    set has no more: of other products, those of the same category first, drawn by `chance`.

    Args: products: None = every image is a product, all of one category.

    Raises ValueError for a count below 2, and naming an image without a product.
    """
    if count < 2:
        raise ValueError(f"--candidates {count}: at least 2, the right one and another")
    names = [file.name for file in data.files]
    if products is None:
        products = {name: (name, "") for name in names}
    if missing := [name for name in names if name not in products]:
        raise ValueError(f"--products: {len(missing)} images have no product, {missing[0]} first")
    product, category = (
        torch.tensor([chance.key_of(products[name][part]) for name in names]) for part in range(2)
    )
    owner = torch.tensor(data.image_of_text)
    said = zip(data.image_of_text, data.captions, strict=True)
    texts = torch.tensor([chance.key_of(f"{names[i]}\n{text}") for i, text in said])
    images = torch.tensor([chance.key_of(name) for name in names])
    found = []
    for keys, rows, stream in (
        (images, torch.arange(len(names)), Stream.CANDIDATE_IMAGE),
        (texts, owner, Stream.CANDIDATE_TEXT),
    ):
        parts = []
        for at in torch.arange(len(owner)).split(ROWS):
            own = owner[at]
            cost = chance.pairs(SEED, 0, texts[at], keys, stream)
            cost = cost + (category[rows] != category[own][:, None])
            cost = cost.masked_fill(product[rows] == product[own][:, None], torch.inf)
            least, which = cost.topk(min(count - 1, len(rows)), dim=1, largest=False)
            parts.append(torch.where(least.isinf(), -1, which))
        found.append(torch.cat(parts))
    return found[0], found[1]


def among(
    data: CaptionedImages,
    score: Callable[[Tensor, Tensor], Tensor],
    others: tuple[Tensor, Tensor],
) -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways; a tie counts against the model.

    Args: score: (images [n] long, captions [n] long) -> [n], higher is closer. others: see `draw`.
    """
    owner = torch.tensor(data.image_of_text)
    queries = torch.arange(len(owner))
    images, texts = others
    asked = [(owner, queries)]
    for which, fixed in ((images, queries), (texts, owner)):
        row, column = (which >= 0).nonzero(as_tuple=True)
        drawn = which[row, column]
        asked.append((drawn, fixed[row]) if which is images else (fixed[row], drawn))
    pairs = [torch.cat(side) for side in zip(*asked, strict=True)]
    own, of_images, of_texts = score(*pairs).split([len(one) for one, _ in asked])
    metrics = {}
    for way, which, scores in (("i2t", texts, of_texts), ("t2i", images, of_images)):
        row = (which >= 0).nonzero(as_tuple=True)[0]
        above = torch.zeros(len(owner)).index_add(0, row, (scores >= own[row]).float())
        for k in (1, 5, 10):
            metrics[f"among_{way}_R@{k}"] = (above < k).double().mean().item()
    return metrics


def told(
    data: CaptionedImages, count: int, products: Products | None, others: tuple[Tensor, Tensor]
) -> dict[str, Any]:
    """What a protocol says of the candidates: how many, of how many the category is the same."""
    said: dict[str, Any] = {"candidates": count, "fewest_others": _fewest(others)}
    if products is not None:
        kind = torch.tensor([chance.key_of(products[file.name][1]) for file in data.files])
        owner = torch.tensor(data.image_of_text)
        same = [
            (kind[rows[which.clamp(min=0)]] == kind[owner][:, None])[which >= 0].double().mean()
            for which, rows in zip(others, (torch.arange(len(kind)), owner), strict=True)
        ]
        said["same_category"] = round(sum(one.item() for one in same) / 2, 4)
    return said


def _fewest(others: Sequence[Tensor]) -> int:
    return min(int((which >= 0).sum(dim=1).min()) for which in others)


def evaluate(
    model: DualEncoder,
    objective: Objective,
    data: CaptionedImages,
    count: int,
    products: Products | None = None,
    resize: str = "crop",
    batch_size: int = 64,
) -> Outcome:
    """Every caption's image and every image's caption among `count`: of models of one stream only
    those pairs are fused, the others are read by their scores.

    Raises as `draw`.
    """
    others = draw(data, count, products)
    how = (model, objective, data, resize, batch_size)
    if objective.shares_space:
        scores = encode.scores(*how)
        metrics = among(data, lambda images, texts: scores[images, texts], others)
    else:
        metrics = among(data, matcher(*how), others)
    fewest = 1 + _fewest(others)
    protocol = {
        "images": len(data.files),
        "captions": len(data.captions),
        **told(data, count, products, others),
        "chance_R@1": 1 / fewest,
        "resize": resize,
        "img_size": model.vision.img_size,
        "read_by": encode.read_by(objective),
        "ties": "count against the model",
    }
    return Outcome(metrics, protocol, declared=METRICS)
