"""What is measured of a study's cell: every metric as a value per item, so that arms are compared
item by item.
"""

from __future__ import annotations

import inspect
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


Task = Callable[[Subject], Measures]


def prepare(evaluations: Sequence[dict[str, Any]]) -> list[tuple[str, Task]]:
    """(name before those of its metrics, task whose data are read) of each evaluation.

    Args:
        evaluations: dicts with ``task`` (a name in TASKS), the arguments of its function, and
            optionally ``name``, which goes before the names of its metrics.

    Raises:
        ValueError: an unknown task or argument. ValueError, OSError: data that cannot be read.
    """
    found = []
    for evaluation in evaluations:
        spec = dict(evaluation)
        task, prefix = spec.pop("task"), spec.pop("name", None)
        if task not in TASKS:
            raise ValueError(f"study.evaluations: no task {task!r}{nearest(task, TASKS)}")
        known = inspect.signature(TASKS[task]).parameters
        for key in spec:
            if key not in known:
                raise ValueError(f"study.evaluations: {task} has no {key!r}{nearest(key, known)}")
        for key, parameter in known.items():
            if parameter.default is parameter.empty and key not in spec:
                raise ValueError(f"study.evaluations: {task} needs {key}=...")
        found.append((f"{prefix} " if prefix else "", TASKS[task](**spec)))
    return found


def measure(
    model: DualEncoder, objective: nn.Module, evaluations: Sequence[dict[str, Any]]
) -> Measures:
    """All metrics of a model that are asked for; evaluations and errors as in `prepare`.

    Raises:
        ValueError: two metrics of one name.
    """
    found: Measures = {}
    subject = Subject(model, objective)
    for prefix, task in prepare(evaluations):
        for name, value in task(subject).items():
            name = prefix + name
            if name in found:
                raise ValueError(f"study.evaluations: two metrics {name!r}: give one a name=...")
            found[name] = value
    return found


def retrieve(
    images: str, captions: str, split: str | None = None, ks: Sequence[int] = (1, 5)
) -> Task:
    """R@k both ways, read as the objective says and (``cosine``) by pooled cosine."""
    data = encode.CaptionedImages.read(images, captions, split)

    def of(subject: Subject) -> Measures:
        found: Measures = {}
        for name, similarity in subject.scores(data).items():
            reading = name.replace("pooled_", "cosine ")
            image_rank, text_rank = ranks(similarity, torch.tensor(data.image_of_text))
            for k in ks:
                found[f"{reading}i2t R@{k}"] = Measure.of(image_rank <= k)
                found[f"{reading}t2i R@{k}"] = Measure.of(text_rank <= k, data.image_of_text)
        return found

    return of


def precision(images: str, captions: str, split: str | None = None) -> Task:
    """K-Precision of the caption retrieved for each image, and that of nouns and adjectives."""
    data = encode.CaptionedImages.read(images, captions, split)

    def of(subject: Subject) -> Measures:
        scores = subject.scores(data)
        found = faithfulness.evaluate(subject.model, subject.objective, data, scores=scores)
        return _items(found, ("K_P", "K_Pna"))

    return of


def classify(
    images: str, labels: str | None = None, classes: str | None = None, templates: str = "label"
) -> Task:
    """Top-1 and top-5 of images by their class names: see `zeroshot.classification`."""
    data = classification.read_labelled(images, labels, classes)
    words = prompts.templates(templates)

    def of(subject: Subject) -> Measures:
        found = classification.evaluate(subject.model, subject.objective, data, words)
        return {f"class_{k}": m for k, m in _items(found, ("top1", "top5")).items()}

    return of


def segment(images: str, annotations: str, classes: str) -> Task:
    """Zero-shot segmentation of an ADE20K-like folder: mIoU the paper's way, per image."""
    data = label_maps.read_maps(images, annotations, prompts.read_classes(classes), "ade")

    def of(subject: Subject) -> Measures:
        reader = PatchReader.of(subject.objective)
        return _items(segmentation.evaluate(subject.model, data, reader=reader), ("paper_mIoU",))

    return of


def ground(images: str, phrases: str, limit: int | None = None) -> Task:
    """Pointing accuracy of phrases, by each of the readings of `zeroshot.grounding_run`."""
    data = read_phrases(images, phrases, limit)
    names = tuple(f"{reading}_pointing" for reading in grounding_run.READINGS)

    def of(subject: Subject) -> Measures:
        found = grounding_run.evaluate(subject.model, data, objective=subject.objective)
        return _items(found, names)

    return of


def classify_regions(images: str, annotations: str, limit: int | None = None) -> Task:
    """Top-1 and top-5 of ground-truth boxes by their class names."""
    data = regions.read_regions(images, annotations, limit)

    def of(subject: Subject) -> Measures:
        reader = PatchReader.of(subject.objective)
        return _items(regions.evaluate(subject.model, data, reader=reader), ("top1", "top5"))

    return of


def _items(outcome: Outcome, names: Iterable[str]) -> Measures:
    return {name: Measure.of(outcome.items[name], outcome.owners) for name in names}


TASKS: dict[str, Callable[..., Task]] = {
    "retrieval": retrieve,
    "faithfulness": precision,
    "classification": classify,
    "segmentation": segment,
    "grounding": ground,
    "regions": classify_regions,
}
