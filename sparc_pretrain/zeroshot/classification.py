"""Zero-shot classification: class names become prompts, an image takes the best-scoring class."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor

from sparc_pretrain import json_file
from sparc_pretrain.data.image_folder import image_files, is_hidden
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.zeroshot import encode, prompts
from sparc_pretrain.zeroshot.outcome import Outcome

METRICS = (
    Metric("top1", headline=True, title="top-1", words="the image's class comes first"),
    Metric("top5", title="top-5", words="among the first five"),
    Metric("mean_per_class", title="mean per class", words="top-1 averaged over classes"),
    Metric("pooled_*", words="by cosine of pooled embeddings"),
)
TIES = "count against the model; of classes of one text the first counts"


@dataclass(frozen=True)
class LabelledImages:
    """Image files, the row of each one's class, the class names, and how many hidden images were
    left out.
    """

    files: list[Path]
    labels: list[int]
    classes: list[str]
    hidden: int = 0


def read_labelled(
    images: str | Path, table: str | Path | None = None, names: str | Path | None = None
) -> LabelledImages:
    """A folder with a folder per class, or a CSV of (image, label) whose images are in `images`.

    Hidden files and folders, such as ``.ipynb_checkpoints`` and ``__MACOSX``, are no classes and
    no images.

    Args:
        names: JSON object folder (or label) -> class name, e.g. of ImageNet's wnids; or a list of
            names in any format of `prompts.read_classes`, in the sorted order of folders, or of
            the numbers that the CSV's labels are.

    Raises:
        FileNotFoundError: a folder, file or image that is missing. ValueError: what cannot be
            read, naming file and line.
    """
    root, hidden = Path(images), 0
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    if table is None:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not is_hidden(p, root))
        rows = [(file, folder.name) for folder in folders for file in image_files(folder)[0]]
        hidden = image_files(root)[1]
        if not rows:
            raise ValueError(f"{root} has no folder per class with images; or give a CSV")
    else:
        rows = _read_table(Path(table), root)
    # a folder without images is a class all the same: one more that may be taken for another
    found = {label for _, label in rows} if table else {folder.name for folder in folders}
    found = sorted(found, key=_natural)
    keys, classes = _named(found, names, numbered=table is not None)
    row = {key: i for i, key in enumerate(keys)}
    for label in found:
        if label not in row:
            raise ValueError(f"{table or root}: class {label!r} has no name in {names}")
    labels = [row[label] for _, label in rows]
    return LabelledImages([file for file, _ in rows], labels, classes, hidden)


def _read_table(path: Path, root: Path) -> list[tuple[Path, str]]:
    columns, given = json_file.read_csv(path)
    if not {"image", "label"} <= set(columns):
        raise ValueError(f"{path}, line 1: needs the columns 'image' and 'label', has {columns}")
    rows = []
    for line, row in given:
        if not row["image"] or not row["label"]:
            raise ValueError(f"{path}, line {line}: no image or no label")
        image = root / row["image"].strip()
        if not image.is_file():
            raise FileNotFoundError(f"{image} is missing; {path} names it")
        rows.append((image, row["label"].strip()))
    if not rows:
        raise ValueError(f"{path} holds no images")
    return rows


def _natural(label: str) -> tuple[int, str]:
    """'2' before '10'."""
    return (int(label), "") if label.isdigit() else (-1, label)


def _named(
    found: list[str], names: str | Path | None, numbered: bool
) -> tuple[list[str], list[str]]:
    """(labels as the data write them, class names), both in the order of the classes.

    `numbered`: labels that are numbers are rows of the list, however many of them occur.
    """
    if names is None:
        return found, [label.replace("_", " ") for label in found]
    path = Path(names)
    if path.suffix.lower() == ".json" and path.is_file():
        data = json_file.read(path)
        if isinstance(data, dict) and data and all(isinstance(v, str) for v in data.values()):
            return list(data), list(data.values())
    classes = prompts.read_classes(path)
    if all(label.isdigit() for label in found) and (numbered or len(found) != len(classes)):
        return [str(i) for i in range(len(classes))], classes
    if set(found) <= set(classes):
        return classes, classes
    if len(found) != len(classes):
        missing = next(label for label in found if label not in classes)
        raise ValueError(
            f"{path} has {len(classes)} names for {len(found)} classes, and none is {missing!r}"
        )
    return found, classes


def class_ranks(scores: Tensor, labels: Tensor, texts: Sequence[str] = ()) -> Tensor:
    """The rank, from 1, of each image's class: scores [I,K], labels [I] -> [I] long.

    Classes that score **at least** as high stand before it: ties count against the model. Classes
    of one text, by the K `texts`, cannot be told apart by any model: the first of them stands
    before the others and not behind, as argmax takes them (ImageNet's "missile" and "sunglasses").

    Raises:
        ValueError: shapes that do not fit, a label out of range, or NaN.
    """
    if scores.isnan().any():
        raise ValueError("the scores hold NaN")
    labels = torch.as_tensor(labels)
    if labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(f"{tuple(labels.shape)} labels for scores {tuple(scores.shape)}")
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels must be 0 to {scores.shape[1] - 1}")
    before = scores >= scores.gather(1, labels[:, None])
    if len(set(texts)) < len(texts):
        number = {text: k for k, text in enumerate(texts)}
        text_K = torch.tensor([number[text] for text in texts], device=scores.device)
        place_K = torch.arange(len(texts), device=scores.device)
        same = text_K[labels][:, None] == text_K
        before = torch.where(same, place_K <= labels[:, None], before)
    return before.sum(dim=1)


def warn_of_repeats(texts: Sequence[str]) -> list[str]:
    """The texts that several classes have, after a warning that names them."""
    found = [text for text, times in Counter(texts).items() if times > 1]
    if found:
        print_log(
            f"{', '.join(map(repr, found[:5]))} ({len(found)} in all): several classes have this "
            "one text; the first of them takes every image, as argmax does",
            "current",
            logging.WARNING,
        )
    return found


def accuracy(ranks: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """``top1``, ``top5`` over images, and ``mean_per_class``: top-1 of each class that occurs,
    averaged over classes.
    """
    labels = torch.as_tensor(labels)
    found = {f"top{k}": (ranks <= k).double().mean().item() for k in ks}
    right = (ranks <= 1).double()
    count = torch.bincount(labels).double()
    sums = torch.zeros_like(count).index_add(0, labels, right)
    found["mean_per_class"] = (sums[count > 0] / count[count > 0]).mean().item()
    return found


def evaluate(
    model: DualEncoder,
    objective: Objective,
    data: LabelledImages,
    templates: Sequence[str] = (prompts.LABEL,),
    ensemble: str = "auto",
    resize: str = "crop",
    batch_size: int = 64,
) -> Outcome:
    """Top-1, top-5 and mean per class, read as the objective says, and by pooled cosine."""
    readers = encode.readers(objective)
    texts = prompts.ClassTexts(model, readers, data.classes, templates, ensemble)
    scores = encode.score_images(model, readers, data.files, texts.texts, resize, batch_size)
    labels = torch.tensor(data.labels)
    metrics: dict[str, float] = {}
    items: dict[str, list[float]] = {}
    for name, class_scores in texts.class_scores(scores).items():
        ranks = class_ranks(class_scores, labels, data.classes)
        metrics |= {name + key: value for key, value in accuracy(ranks, labels).items()}
        items |= {f"{name}top{k}": (ranks <= k).double().tolist() for k in (1, 5)}
    count = torch.bincount(labels)
    protocol = {
        "images": len(data.files),
        "classes": len(data.classes),
        "chance_top1": 1 / len(data.classes),
        "most_frequent_class": count.max().item() / len(labels),
        "templates": len(templates),
        "first_template": templates[0],
        "ensemble": {name + "top1": how for name, how in texts.merged.items()},
        "resize": resize,
        "img_size": model.vision.img_size,
        "read_by": encode.read_by(objective),
        "ties": TIES,
        "classes_of_one_text": warn_of_repeats(data.classes),
        "hidden_files_left_out": data.hidden,
    }
    owners = list(range(len(data.files)))
    return Outcome(metrics, protocol, items, owners, declared=METRICS)
