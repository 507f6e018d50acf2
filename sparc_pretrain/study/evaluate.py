"""What is measured of a study's cell: every metric as a value per item, so that arms are compared
item by item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.engine.door import nearest
from sparc_pretrain.objectives.contrastive import unit
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.faithfulness import k_precision
from sparc_pretrain.zeroshot.retrieval import ranks


@dataclass(frozen=True)
class Measure:
    """A metric: the mean of `items`; `groups` are the sizes of runs of items of one image."""

    items: list[float]
    groups: list[int]

    @classmethod
    def of(cls, items: Tensor | Sequence[float], owners: Iterable[int] | None = None) -> Measure:
        """Items in the order of their images `owners` (None: each item is an image of its own)."""
        values = [round(float(v), 4) for v in items]
        owners = list(range(len(values)) if owners is None else owners)
        return cls(values, list(Counter(owners).values()))


Measures = dict[str, Measure]


class PooledCosine(nn.Module):
    """The plain reading of any model: cosine of its global embeddings."""

    reads = ("image", "text")

    def scores(self, image: Any, text: Any) -> Tensor:
        """[I,T]."""
        return unit(image.image) @ unit(text.text).T


def measure(
    model: DualEncoder, objective: nn.Module, evaluations: Sequence[dict[str, Any]]
) -> Measures:
    """All metrics of a model that are asked for.

    Args:
        evaluations: dicts with ``task`` (a name in TASKS), the arguments of its function, and
            optionally ``name``, which goes before the names of its metrics.

    Raises:
        ValueError: an unknown task, or two metrics of one name.
    """
    found: Measures = {}
    for evaluation in evaluations:
        spec = dict(evaluation)
        task, prefix = spec.pop("task"), spec.pop("name", None)
        if task not in TASKS:
            raise ValueError(f"study.evaluations: no task {task!r}{nearest(task, TASKS)}")
        for name, value in TASKS[task](model, objective, **spec).items():
            name = f"{prefix} {name}" if prefix else name
            if name in found:
                raise ValueError(f"study.evaluations: two metrics {name!r}: give one a name=...")
            found[name] = value
    return found


def retrieve(
    model: DualEncoder,
    objective: nn.Module,
    images: str,
    captions: str,
    split: str | None = None,
    ks: Sequence[int] = (1, 5),
    words: bool = True,
) -> Measures:
    """Retrieval, read as the objective says and by pooled cosine: R@k both ways; with `words`
    also K-Precision of the caption retrieved for each image, over all words and content words.
    """
    data = encode.CaptionedImages.read(images, captions, split)
    owners = torch.tensor(data.image_of_text)
    found: Measures = {}
    readings = {"": objective, " (cosine)": PooledCosine()}
    for reading, reader in readings.items():
        scores = encode.scores(model, reader, data)
        image_rank, text_rank = ranks(scores, owners)
        for k in ks:
            found[f"i2t R@{k}{reading}"] = Measure.of(image_rank <= k)
            found[f"t2i R@{k}{reading}"] = Measure.of(text_rank <= k, data.image_of_text)
        if words and not reading:
            found |= _faithfulness(scores, data)
    return found


def _faithfulness(scores: Tensor, data: encode.CaptionedImages) -> Measures:
    """K-Precision and K-Precision of nouns and adjectives of each image's best caption."""
    best = [data.captions[t] for t in scores.argmax(dim=1).tolist()]
    own: list[list[str]] = [[] for _ in data.files]
    for text, image in zip(data.captions, data.image_of_text, strict=True):
        own[image].append(text)
    pairs = list(zip(best, own, strict=True))
    return {
        "K-Precision": Measure.of([k_precision([c], [r]) for c, r in pairs]),
        "K-Precision content words": Measure.of([k_precision([c], [r], True) for c, r in pairs]),
    }


TASKS: dict[str, Callable[..., Measures]] = {"retrieval": retrieve}
