"""What is measured of a study's cell: every metric as a value per item, so that arms are compared
item by item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparc_pretrain.command.cli import nearest
from sparc_pretrain.data.sets import label_maps
from sparc_pretrain.data.sets.phrases import read_phrases
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.zeroshot import (
    classification,
    encode,
    faithfulness,
    grounding_run,
    prompts,
    regions,
    segmentation,
)
from sparc_pretrain.zeroshot.outcome import Outcome
from sparc_pretrain.zeroshot.patch_reader import PatchReader
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


@dataclass(frozen=True)
class Subject:
    """The model that is measured, and what tasks have already worked out of it."""

    model: DualEncoder
    objective: nn.Module
    known: dict[Any, dict[str, Tensor]] = field(default_factory=dict)

    def scores(self, data: encode.CaptionedImages) -> dict[str, Tensor]:
        """[I,T] by each of `encode.readers`: an objective that compares tokens takes minutes."""
        key = (tuple(data.files), tuple(data.captions))
        if key not in self.known:
            self.known[key] = encode.read_all(self.model, encode.readers(self.objective), data)
        return self.known[key]


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
    subject = Subject(model, objective)
    for evaluation in evaluations:
        spec = dict(evaluation)
        task, prefix = spec.pop("task"), spec.pop("name", None)
        if task not in TASKS:
            raise ValueError(f"study.evaluations: no task {task!r}{nearest(task, TASKS)}")
        for name, value in TASKS[task](subject, **spec).items():
            name = f"{prefix} {name}" if prefix else name
            if name in found:
                raise ValueError(f"study.evaluations: two metrics {name!r}: give one a name=...")
            found[name] = value
    return found


def retrieve(
    subject: Subject,
    images: str,
    captions: str,
    split: str | None = None,
    ks: Sequence[int] = (1, 5),
) -> Measures:
    """R@k both ways, read as the objective says and (``cosine``) by pooled cosine."""
    data = encode.CaptionedImages.read(images, captions, split)
    found: Measures = {}
    for name, similarity in subject.scores(data).items():
        reading = name.replace("pooled_", "cosine ")
        image_rank, text_rank = ranks(similarity, torch.tensor(data.image_of_text))
        for k in ks:
            found[f"{reading}i2t R@{k}"] = Measure.of(image_rank <= k)
            found[f"{reading}t2i R@{k}"] = Measure.of(text_rank <= k, data.image_of_text)
    return found


def precision(subject: Subject, images: str, captions: str, split: str | None = None) -> Measures:
    """K-Precision of the caption retrieved for each image, and that of nouns and adjectives."""
    data = encode.CaptionedImages.read(images, captions, split)
    return _items(
        faithfulness.evaluate(subject.model, subject.objective, data, scores=subject.scores(data)),
        ("K_P", "K_Pna"),
    )


def classify(
    subject: Subject,
    images: str,
    labels: str | None = None,
    classes: str | None = None,
    templates: str = "label",
) -> Measures:
    """Top-1 and top-5 of images by their class names: see `zeroshot.classification`."""
    data = classification.read_labelled(images, labels, classes)
    found = classification.evaluate(
        subject.model, subject.objective, data, prompts.templates(templates)
    )
    return {f"class_{k}": m for k, m in _items(found, ("top1", "top5")).items()}


def segment(subject: Subject, images: str, annotations: str, classes: str) -> Measures:
    """Zero-shot segmentation of an ADE20K-like folder: mIoU the paper's way, per image."""
    data = label_maps.read_maps(images, annotations, prompts.read_classes(classes), "ade")
    reader = PatchReader.of(subject.objective)
    return _items(segmentation.evaluate(subject.model, data, reader=reader), ("paper_mIoU",))


def ground(subject: Subject, images: str, phrases: str, limit: int | None = None) -> Measures:
    """Pointing accuracy of phrases, by each of the readings of `zeroshot.grounding_run`."""
    data = read_phrases(images, phrases, limit)
    names = tuple(f"{reading}_pointing" for reading in grounding_run.READINGS)
    return _items(grounding_run.evaluate(subject.model, data, objective=subject.objective), names)


def classify_regions(
    subject: Subject,
    images: str,
    annotations: str,
    limit: int | None = None,
) -> Measures:
    """Top-1 and top-5 of ground-truth boxes by their class names."""
    data = regions.read_regions(images, annotations, limit)
    reader = PatchReader.of(subject.objective)
    return _items(regions.evaluate(subject.model, data, reader=reader), ("top1", "top5"))


def _items(outcome: Outcome, names: Iterable[str]) -> Measures:
    return {name: Measure.of(outcome.items[name], outcome.owners) for name in names}


TASKS: dict[str, Callable[..., Measures]] = {
    "retrieval": retrieve,
    "faithfulness": precision,
    "classification": classify,
    "segmentation": segment,
    "grounding": ground,
    "regions": classify_regions,
}
