"""Image-text retrieval: recall at k and median rank, several captions per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparc_pretrain import json_file
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.choices import PROTOCOLS
from sparc_pretrain.zeroshot.outcome import Outcome
from sparc_pretrain.zeroshot.reranking import matcher, rerank, scale_of

CAPTIONS_PER_IMAGE = 5
# "pooled_": by the cosine of pooled embeddings, whatever the objective
METRICS = (
    Metric(
        "t2i_R@5", headline=True, title="text→image R@5", words="its image is among the first 5"
    ),
    Metric("i2t_R@5", title="image→text R@5", words="a caption of it is among the first 5"),
    *(
        Metric(f"{way}_R@{k}", title=f"{words} R@{k}", words=f"right among the first {k}")
        for way, words in (("i2t", "image→text"), ("t2i", "text→image"))
        for k in (1, 10)
    ),
    Metric("i2t_median_rank", "rank", False, title="image→text median rank"),
    Metric("t2i_median_rank", "rank", False, title="text→image median rank"),
    *(
        Metric(f"pooled_{way}_R@{k}", title=f"{words} R@{k}, cosine")
        for way, words in (("i2t", "image→text"), ("t2i", "text→image"))
        for k in (1, 5, 10)
    ),
    Metric("itc_*_R@*", higher_is_better=None, words="before the best were judged again"),
    Metric("itc_*_median_rank", "rank", None, words="before the best were judged again"),
    Metric("pooled_*_median_rank", "rank", False, words="by cosine of pooled embeddings"),
)
EXAMPLES = 6  # queries shown in the report
SHOWN = 5  # answers per query


def ranks(similarity: Tensor, image_of_text: Tensor) -> tuple[Tensor, Tensor]:
    """The rank, from 1, of every query's right answer: image to text [I] and text to image [T].

    It is 1 + the number of wrong candidates that score **at least** as high: ties count against
    the model, so a constant similarity retrieves nothing. Image to text, an image's rank is that
    of its best caption, and its other captions are not wrong. Duplicated images or captions are
    different items, each wrong for the other.

    Args:
        similarity: [I,T], higher is closer. image_of_text: [T] long, the row of each caption's
            image.

    Raises:
        ValueError: shapes that do not match, a row out of range, an image without caption, or NaN.
    """
    images, texts = similarity.shape
    image_of_text = torch.as_tensor(image_of_text, device=similarity.device)
    if image_of_text.shape != (texts,):
        raise ValueError(f"image_of_text has shape {tuple(image_of_text.shape)}, not ({texts},)")
    if texts == 0 or image_of_text.min() < 0 or image_of_text.max() >= images:
        raise ValueError(f"image_of_text must hold rows from 0 to {images - 1}")
    missing = images - image_of_text.unique().numel()
    if missing:
        raise ValueError(f"{missing} of {images} images have no caption")
    if similarity.isnan().any():
        raise ValueError("similarity holds NaN")

    own = similarity[image_of_text, torch.arange(texts, device=similarity.device)]  # [T]
    text_to_image = (similarity >= own).sum(dim=0)  # the own image is one of them: rank from 1

    best = own.new_zeros(images).scatter_reduce(
        0, image_of_text.long(), own, "amax", include_self=False
    )
    above = (similarity >= best[:, None]).sum(dim=1)
    own_above = torch.zeros_like(above).scatter_add(
        0, image_of_text.long(), (own >= best[image_of_text]).to(above.dtype)
    )
    return above - own_above + 1, text_to_image


def recall(
    similarity: Tensor, image_of_text: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall at `ks` and median rank in both directions; ranks, ties and errors as in `ranks`.

    Args:
        similarity: [I,T], higher is closer. image_of_text: [T] long. ks: cut-offs.

    Returns:
        ``i2t_R@k``, ``t2i_R@k`` (fractions from 0 to 1), ``i2t_median_rank``, ``t2i_median_rank``.
    """
    image_to_text, text_to_image = ranks(similarity, image_of_text)
    result: dict[str, float] = {}
    for name, rank in (("i2t", image_to_text), ("t2i", text_to_image)):
        for k in ks:
            result[f"{name}_R@{k}"] = (rank <= k).double().mean().item()
        result[f"{name}_median_rank"] = rank.double().quantile(0.5).item()
    return result


def fold_recall(
    similarity: Tensor, image_of_text: Tensor, folds: int, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """`recall` within each of `folds` runs of as many images, averaged: COCO's "1k" is 5 of 5,000.

    Raises ValueError when the images do not divide into folds.
    """
    images = similarity.shape[0]
    if folds < 1 or images % folds:
        raise ValueError(f"{images} images do not divide into {folds} folds")
    size = images // folds
    owner = torch.as_tensor(image_of_text)
    parts = []
    for start in range(0, images, size):
        own = (owner >= start) & (owner < start + size)
        parts.append(recall(similarity[start : start + size][:, own], owner[own] - start, ks))
    return {key: sum(part[key] for part in parts) / folds for key in parts[0]}


def read_pairs(
    images: str | Path, captions: str | Path, split: str | None = None, protocol: str | None = None
) -> tuple[encode.CaptionedImages, int]:
    """The images and captions of a data set, and how many folds its protocol has.

    Args: protocol: a name in PROTOCOLS: split 'test' of a Karpathy file, five captions per image.

    Raises:
        FileNotFoundError: no such file, or an image. ValueError: an unknown protocol, a file of
            another kind, or with another number of images.
    """
    if protocol is None:
        return encode.CaptionedImages.read(images, captions, split), 1
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r}: use one of {', '.join(PROTOCOLS)}")
    count, folds = PROTOCOLS[protocol]
    split = split or "test"
    is_json = Path(captions).suffix.lower() == ".json"
    if not is_json or '"sentences"' not in json_file.read_text(captions):
        raise ValueError(f"{captions} is no Karpathy file, which protocol {protocol} needs")
    data = encode.CaptionedImages.read(images, captions, split, CAPTIONS_PER_IMAGE)
    if len(data.files) != count:
        raise ValueError(
            f"{captions}: split {split!r} has {len(data.files)} images, {protocol} has {count}"
        )
    return data, folds


def evaluate(
    model: DualEncoder,
    objective: Objective,
    data: encode.CaptionedImages,
    folds: int = 1,
    resize: str = "crop",
    batch_size: int = 64,
    best: int = 0,
    by: str = "match",
) -> Outcome:
    """Recall at 1, 5, 10 and median rank, read as the objective says and by pooled cosine.

    Args: best: how many of a query's best are judged again by the objective's `match` (papers: 256
        of COCO, 128 of Flickr); what they were before is written as `itc_`. 0 = none. by: 'match'
        or 'both', see `reranking.scale_of`.

    Raises ValueError for an objective without `match`.
    """
    match = matcher(model, objective, data, resize, batch_size) if best else None
    readers = encode.readers(objective)
    scores = encode.read_all(model, readers, data, resize, batch_size)
    owner = torch.tensor(data.image_of_text)
    metrics = {
        name + key: value
        for name, similarity in scores.items()
        for key, value in fold_recall(similarity, owner, folds).items()
    }
    protocol = {
        "images": len(data.files),
        "captions": len(data.captions),
        "chance_R@5": min(1.0, 5 * folds / len(data.files)),
        "folds": folds,
        "resize": resize,
        "img_size": model.vision.img_size,
        "read_by": encode.read_by(objective),
        "ties": "count against the model",
    }
    if match is not None:
        judged: list[int] = []

        def counted(images: Tensor, texts: Tensor) -> Tensor:
            judged.append(len(images))
            return match(images, texts)

        ways = rerank(scores[""], counted, best, scale_of(objective, by))
        again = [fold_recall(one, owner, folds) for one in ways]
        metrics |= {f"itc_{key}": metrics[key] for key in again[0]}
        metrics |= {k: again[k.startswith("t2i")][k] for k in again[0]}
        protocol |= {"rerank": best, "rerank_by": by, "fused_pairs": sum(judged)}
        scores[""] = ways[1]
    return Outcome(
        metrics, protocol, extra={"retrieval": examples(scores[""], data)}, declared=METRICS
    )


def examples(scores: Tensor, data: encode.CaptionedImages) -> dict[str, Any]:
    """A few text queries with the images that answer them best, for the report."""
    step = max(1, len(data.captions) // EXAMPLES)
    picked = [
        {
            "query": data.captions[t],
            "answers": scores[:, t].topk(min(SHOWN, len(data.files))).indices.tolist(),
            "correct": data.image_of_text[t],
        }
        for t in list(range(0, len(data.captions), step))[:EXAMPLES]
    ]
    return {
        "images": [str(file) for file in data.files],
        "captions": data.captions,
        "image_of_text": data.image_of_text,
        "examples": picked,
    }
