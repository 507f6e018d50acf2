"""What is measured of a study's cell: every metric as a value per item, so that arms are compared
item by item.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from sparc_pretrain import json_file
from sparc_pretrain.command.cli import nearest
from sparc_pretrain.data.scenes import CATEGORIES, COLOURS
from sparc_pretrain.data.sets import label_maps
from sparc_pretrain.data.sets.phrases import read_phrases
from sparc_pretrain.data.shards import expand
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.contrastive import Temperature
from sparc_pretrain.study.dependence import image_dependence
from sparc_pretrain.study.measure import Measure, Measures, Subject, Task
from sparc_pretrain.study.probe import probe
from sparc_pretrain.study.recall import retrieve
from sparc_pretrain.zeroshot import (
    classification,
    encode,
    faithfulness,
    grounding_run,
    prompts,
    regions,
    segmentation,
)
from sparc_pretrain.zeroshot.box_reading import CONSTANT, constant_box
from sparc_pretrain.zeroshot.outcome import Outcome
from sparc_pretrain.zeroshot.patch_reader import PatchReader
from sparc_pretrain.zeroshot.terms import run as terms
from sparc_pretrain.zeroshot.terms.readings import READINGS


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
    """All metrics of a model that are asked for, but for those of DENSE tasks of one that shares no
    space; evaluations and errors as in `prepare`. Raises ValueError for two metrics of one name.
    """
    found: Measures = {}
    subject = Subject(model, objective)
    for evaluation, (prefix, task) in zip(evaluations, prepare(evaluations), strict=True):
        if evaluation["task"] in DENSE and not objective.shares_space:
            continue
        for name, value in task(subject).items():
            name = prefix + name
            if name in found:
                raise ValueError(f"study.evaluations: two metrics {name!r}: give one a name=...")
            found[name] = value
    return found


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

    things = things_of(classes)

    def of(subject: Subject) -> Measures:
        reader = PatchReader.of(subject.objective)
        outcome = segmentation.evaluate(subject.model, data, reader=reader, things=things)
        found = _items(outcome, ("paper_mIoU",))
        for name in segmentation.KINDS if things else ():
            values = outcome.apart[name]
            shown = [row for row, value in enumerate(values) if value == value]
            whole = {"whole image's thing": outcome.metrics[segmentation.WHOLE]}
            blind = {"background alone": 0.0, **whole} if name == segmentation.KINDS[0] else None
            found[name] = Measure.of([values[row] for row in shown], shown, blind)
        return found

    return of


def things_of(classes: str) -> int:
    """How many of a class file's classes are things, as the json beside it says; 0 without one."""
    told = Path(classes).with_suffix(".json")
    return int(json_file.read_object(told).get("things", 0)) if told.is_file() else 0


def ground(
    images: str, phrases: str, limit: int | None = None, train_phrases: str | None = None
) -> Task:
    """Pointing accuracy of phrases, by each of the readings of `zeroshot.grounding_run`, and of
    single words, colours and scenes' categories apart; what a model that predicts boxes finds,
    beside the box of `train_phrases` that is best for all.
    """
    data = read_phrases(images, phrases, limit)
    constant = constant_box(read_phrases(None, train_phrases)) if train_phrases else None

    def of(subject: Subject) -> Measures:
        outcome = grounding_run.evaluate(
            subject.model, data, objective=subject.objective, constant=constant
        )
        blind = {
            "a random patch": outcome.metrics["chance_random_patch_pointing"],
            "the centre": outcome.metrics["chance_centre_pointing"],
        }
        found = {}
        for reading in grounding_run.READINGS:
            name = f"{reading}_pointing"
            found[name] = Measure.of(outcome.items[name], outcome.owners, blind)
        fixed = outcome.metrics.get(f"chance_{CONSTANT}")
        for name in (n for n in outcome.items if n.startswith(BOXED)):
            known = {"the best constant box": fixed} if name == "box_box_recall" and fixed else {}
            known = blind if name.endswith("pointing") else known
            found[name] = Measure.of(outcome.items[name], outcome.owners, known)
        for kind, words in {"word": None, "colour": COLOURS, "category": CATEGORIES}.items():
            spoken = outcome.apart["spoken"]
            said = [one for one in spoken if words is None or one[0] in words]
            if said:
                chance = {"a random patch": fmean(one[3] for one in said)}
                hits, owners = [one[2] for one in said], [one[1] for one in said]
                found[f"{kind}_pointing"] = Measure.of(hits, owners, chance)
        return found

    return of


def judge(
    shards: str,
    concepts: int = 5,
    regions: int = 12,
    tags: int = 12,
    visits: int = 4,
    caption: str = "longest",
) -> Task:
    """Each term's number and its controls, batch by batch: see `zeroshot.terms`; of hidden words
    the colours and categories of scenes count.
    """
    numbers = dict(concepts=concepts, regions=regions, tags=tags)
    expand(shards)

    def of(subject: Subject) -> Measures:
        if type(subject.objective) not in READINGS:
            return {}
        words = [*COLOURS, *CATEGORIES]
        given = (subject.model, subject.objective, shards, numbers, words, visits)
        outcome = terms.evaluate(*given, caption=caption)
        found = {}
        for name, value in outcome.metrics.items():
            items = outcome.items.get(name, [value])
            found[name] = Measure.of(items)
        return found

    return of


def depend(images: str, captions: str, limit: int = 100) -> Task:
    """Whether words look: see `image_dependence`, of the first captions of `limit` images."""
    data = encode.CaptionedImages.read(images, captions, per_image=1)

    def of(subject: Subject) -> Measures:
        temperature = getattr(subject.objective, "temperature", None)
        scale = temperature().detach() if isinstance(temperature, Temperature) else 1 / 0.07
        files, texts = data.files[:limit], data.captions[:limit]
        nats, own = image_dependence(subject.model, files, texts, scale)
        blind = {"a guess": 0.5}
        return {"image_dependence": Measure.of(nats), "own_image": Measure.of(own, None, blind)}

    return of


def classify_regions(images: str, annotations: str, limit: int | None = None) -> Task:
    """Top-1 and top-5 of ground-truth boxes by their class names."""
    data = regions.read_regions(images, annotations, limit)

    def of(subject: Subject) -> Measures:
        reader = PatchReader.of(subject.objective)
        outcome = regions.evaluate(subject.model, data, reader=reader)
        told = outcome.protocol
        guess = {"any class": told["chance_top1"], "commonest": told["most_frequent_class"]}
        return {
            name: Measure.of(outcome.items[name], outcome.owners, guess if name == "top1" else None)
            for name in ("top1", "top5")
        }

    return of


def _items(outcome: Outcome, names: Iterable[str]) -> Measures:
    return {name: Measure.of(outcome.items[name], outcome.owners) for name in names}


BOXED = ("box_", "attention_", "other_image_")  # of the readings of boxes
DENSE = ("segmentation", "grounding", "dependence", "regions")  # patches against texts
TASKS: dict[str, Callable[..., Task]] = {
    "retrieval": retrieve,
    "faithfulness": precision,
    "classification": classify,
    "segmentation": segment,
    "grounding": ground,
    "dependence": depend,
    "regions": classify_regions,
    "probe": probe,
    "terms": judge,
}
