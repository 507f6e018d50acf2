"""Zero-shot semantic segmentation: a pixel takes the class whose text its patch resembles most.

Patches go through h_v, then g_v (SPARC, App. D.7), or as the objective says. Two ways to average
IoU: per image over the foreground classes that are in it (the paper's, after PACL), and over
classes from one confusion matrix of the data set (mmseg's).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from sparc_pretrain.data.sets.label_maps import IGNORE, LabelledMaps, read_map
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.zeroshot import dense, encode, prompts
from sparc_pretrain.zeroshot.choices import BACKGROUNDS
from sparc_pretrain.zeroshot.outcome import Outcome
from sparc_pretrain.zeroshot.patch_reader import PAPER, PatchReader

METRICS = (
    Metric(
        "paper_mIoU", headline=True, title="mIoU per image", words="over the classes in the image"
    ),
    Metric("mmseg_mIoU", title="mIoU", words="over classes, of the whole data set"),
    Metric("mmseg_foreground_mIoU", title="mIoU, foreground", words="the same without background"),
    Metric("things_mIoU", title="mIoU of things", words="per image, over the things it shows"),
    Metric("stuff_mIoU", title="mIoU of stuff", words="the same of stuff"),
    Metric("mmseg_aAcc", title="pixel accuracy"),
    Metric("mmseg_mAcc", title="mean accuracy of classes"),
)
KINDS = ("things_mIoU", "stuff_mIoU")
WHOLE = "chance_whole_image_things_mIoU"


def confusion(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixel counts [K,K], rows truth, columns prediction; truth IGNORE does not count."""
    seen = truth != IGNORE
    index = truth[seen] * classes + prediction[seen]
    return torch.bincount(index, minlength=classes * classes).view(classes, classes)


def class_iou(matrix: Tensor) -> Tensor:
    """IoU [K] of a confusion matrix [K,K]; NaN for a class neither true nor predicted anywhere."""
    matrix = matrix.double()
    right = matrix.diagonal()
    return right / (matrix.sum(dim=0) + matrix.sum(dim=1) - right)


def image_iou(matrix: Tensor, background: bool) -> float:
    """The paper's number of one image: the mean IoU of the foreground classes in its truth.

    NaN for an image without any.
    """
    present = matrix.sum(dim=1) > 0
    if background:
        present[0] = False
    return class_iou(matrix)[present].mean().item()


def dataset_metrics(matrix: Tensor, background: bool) -> dict[str, float]:
    """mmseg's numbers of the whole data set's confusion matrix [K,K].

    ``mmseg_mIoU`` over all classes, ``mmseg_foreground_mIoU`` without the background,
    ``mmseg_aAcc`` of pixels, ``mmseg_mAcc`` of classes; undefined classes are left out of means.
    """
    iou = class_iou(matrix)
    right, truth = matrix.diagonal().double(), matrix.sum(dim=1).double()
    return {
        "mmseg_mIoU": iou.nanmean().item(),
        "mmseg_foreground_mIoU": iou[1 if background else 0 :].nanmean().item(),
        "mmseg_aAcc": (right.sum() / truth.sum()).item(),
        "mmseg_mAcc": (right / truth).nanmean().item(),
    }


def things_and_stuff(matrix: Tensor, things: int) -> dict[str, float]:
    """KINDS and WHOLE of one image's confusion matrix [K,K] (rows: truth), NaN without such a
    class: the mean IoU of the things, and of the stuff, that it shows; and that of the things when
    every pixel has the label of the largest of them.
    """
    truth, said = matrix.sum(dim=1).double(), matrix.sum(dim=0).double()
    right = matrix.diagonal().double()
    iou = torch.where(truth > 0, right / (truth + said - right), torch.nan)
    shown = (truth[:things] > 0).sum().item()
    largest = (truth[:things].max() / truth.sum()).item() if shown else 0.0
    return {
        KINDS[0]: iou[:things].nanmean().item(),
        KINDS[1]: iou[things:].nanmean().item(),
        WHOLE: largest / shown if shown else float("nan"),
    }


def random_matrix(matrix: Tensor) -> Tensor:
    """The confusion matrix [K,K] that a model drawing classes at random is expected to have."""
    return matrix.sum(dim=1, keepdim=True).double().expand_as(matrix) / len(matrix)


def names_of(data: LabelledMaps, background: str) -> list[list[str]]:
    """The names that stand for each class in `evaluate`; none for a thresholded background."""
    names = [prompts.synonyms(name) for name in data.classes]
    return names[1:] if data.convention.background and background != "class" else names


@torch.inference_mode()
def segment(
    model: DualEncoder,
    image: Tensor,
    texts: Tensor,
    owner: Tensor,
    classes: int,
    size: tuple[int, int],
    view: dense.View,
    reader: PatchReader = PAPER,
    threshold: float | None = None,
) -> Tensor:
    """Labels [H,W] long of an image [3,H,W] uint8, at `size`.

    With a threshold, label 0 is the background: pixels whose best cosine is below it; the classes
    follow from 1.
    """
    scores = dense.score_map(model, image, texts, owner, classes, view, reader)
    label, best = dense.labels_at(scores, *size, view.upsample)
    if threshold is not None:
        label = torch.where(best < threshold, 0, label + 1)
    return label.cpu()


def evaluate(
    model: DualEncoder,
    data: LabelledMaps,
    templates: Sequence[str] = (prompts.LABEL,),
    view: dense.View | None = None,
    reader: PatchReader = PAPER,
    background: str = "none",
    threshold: float = 0.0,
    things: int = 0,
) -> Outcome:
    """mIoU both ways.

    Args:
        reader: of patches; `PatchReader.of(objective)` reads them as they were trained.
        background: what is done about the background of a convention that has one. 'none' = no
            pixel of it counts, and it cannot be predicted; 'class' = its name is a text like any
            other; 'threshold' = it is where no class's cosine reaches `threshold`.
        things: how many classes, the first ones, are things; then mIoU is also given of the things
            and of the stuff of each image apart (where it has any), and for things what the label
            of the whole image gets: the largest of its things on every pixel. `apart` holds them
            per image.

    Raises:
        ValueError: a background option for a convention that has none, or a map that is not of its
            image's size.
    """
    view = view or dense.View()
    rule = data.convention
    if background not in BACKGROUNDS:
        raise ValueError(f"background {background!r}: use one of {', '.join(BACKGROUNDS)}")
    if background != "none" and not rule.background:
        raise ValueError(f"background {background!r}: this convention has no background label")
    has_background = rule.background and background != "none"
    names = names_of(data, background)
    classes = len(names) + (background == "threshold")
    texts, owner = dense.class_texts(model, names, templates)
    total = torch.zeros(classes, classes, dtype=torch.long)
    apart: dict[str, list[float]] = {name: [] for name in (*KINDS, WHOLE)} if things else {}
    per_image, chance, rows = [], [], []
    pairs = list(zip(data.files, data.maps, strict=True))
    for row, (file, map_file) in enumerate(tqdm(pairs, desc="images", disable=None)):
        truth = read_map(map_file, rule, len(data.classes))
        image = encode.open_image(file)
        if image.shape[-2:] != truth.shape:
            raise ValueError(
                f"{file} has {image.shape[-1]} x {image.shape[-2]} pixels upright, its map "
                f"{map_file} {truth.shape[1]} x {truth.shape[0]}"
            )
        if rule.background and background == "none":
            truth = torch.where((truth == 0) | (truth == IGNORE), IGNORE, truth - 1)
        label = segment(
            model,
            image,
            texts,
            owner,
            len(names),
            tuple(truth.shape),
            view,
            reader,
            threshold if background == "threshold" else None,
        )
        matrix = confusion(label, truth, classes)
        total += matrix
        if things:
            for name, value in things_and_stuff(matrix, things).items():
                apart[name].append(value)
        value = image_iou(matrix, has_background)
        if value == value:
            per_image.append(value)
            chance.append(image_iou(random_matrix(matrix), has_background))
            rows.append(row)
    if not per_image:
        raise ValueError("no image has a foreground pixel: is the --convention right?")
    truth_share = total.sum(dim=1).double() / total.sum()
    metrics = {"paper_mIoU": sum(per_image) / len(per_image)}
    metrics |= dataset_metrics(total, has_background)
    by_chance = dataset_metrics(random_matrix(total), has_background)
    metrics["chance_paper_mIoU"] = sum(chance) / len(chance)
    metrics["chance_mmseg_mIoU"] = by_chance["mmseg_mIoU"]
    seen = {name: torch.tensor(values).double() for name, values in apart.items()}
    metrics |= {name: values.nanmean().item() for name, values in seen.items()}
    protocol = {
        "images": len(data.files),
        "images_with_foreground": len(per_image),
        "candidates": len(names),
        "reduce_zero_label": rule.reduce_zero_label,
        "ignore_index": IGNORE,
        "background": background if rule.background else "no such label",
        "background_threshold": threshold if background == "threshold" else None,
        "paper_mIoU": "per image over its foreground classes, then over images",
        "mmseg_mIoU": "over classes, from one confusion matrix of the data set",
        "chance_": "a random class for every pixel",
        "chance_most_frequent_class_aAcc": truth_share.max().item(),
        "head": reader.formula(),
        "read_by": "cosine of patches and class texts, whatever the objective",
        "templates": len(templates),
        "first_template": templates[0],
        "synonyms": "the best of a class's names",
        **view_protocol(view, model),
    }
    table = class_table(total, data.classes if has_background else names)
    items = {"paper_mIoU": per_image}
    extra = {"classes": table}
    return Outcome(metrics, protocol, items, rows, extra, METRICS, apart)


def class_table(matrix: Tensor, names: Sequence) -> list[dict]:
    """One row per class: its name, IoU (null where undefined) and the share of true pixels."""
    share = matrix.sum(dim=1).double() / matrix.sum()
    return [
        {
            "class": name if isinstance(name, str) else name[0],
            "IoU": None if value != value else value,
            "share": part,
        }
        for name, value, part in zip(names, class_iou(matrix).tolist(), share.tolist(), strict=True)
    ]


def view_protocol(view: dense.View, model: DualEncoder) -> dict[str, object]:
    """How images were shown, for a protocol."""
    size = model.vision.img_size
    found = {"view": view.mode, "size": view.size or size, "upsample": view.upsample}
    if view.mode == "slide":
        found |= {"window": size, "stride": view.stride or size // 2}
    return found
