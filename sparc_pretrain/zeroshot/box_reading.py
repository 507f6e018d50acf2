"""Grounding by a model that predicts boxes: where it says a phrase is, and where it looks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor
from torchvision.ops import box_iou
from tqdm import tqdm

from sparc_pretrain.data.images import eval_resize
from sparc_pretrain.data.sets.phrases import PhraseImage
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.types import ImageFeatures, TextFeatures
from sparc_pretrain.zeroshot import encode, grounding
from sparc_pretrain.zeroshot.given_boxes import Boxes, regions_of
from sparc_pretrain.zeroshot.outcome import Outcome

FORMULAS = {
    "box": "the box head's box of the phrase alone; pointing: its centre in any of the phrase's "
    "boxes; recall at IoU 0.5 with their union",
    "attention": "the last layer's cross-attention of the phrase's tokens, mean over tokens and "
    "heads, read as other heats are",
    "other_image": "the same box with the states of the next image: what is left is no sight",
}
METRICS = (
    Metric("box_box_recall", title="boxes predicted", words="found at IoU 0.5"),
    Metric("box_box_IoU", title="boxes predicted, mean IoU"),
    Metric("box_pointing", title="predicted boxes point", words="their centre is in the object"),
    Metric("attention_pointing", title="cross-attention points", words="where the words look"),
    Metric("other_image_*", higher_is_better=None, words="with the states of another image"),
)
CONSTANT = "constant_box_recall"  # by chance
CANDIDATES = 500  # training boxes tried as the constant one
PAIRS = 1 << 22  # of boxes compared at a time: a training split has hundreds of thousands


@torch.inference_mode()
def evaluate(
    model: DualEncoder,
    objective: Objective,
    data: Sequence[PhraseImage],
    size: int = 0,
    constant: Tensor | None = None,
    given: Boxes | None = None,
) -> dict[str, list[float]]:
    """Values per phrase, in the order of `data`, of the readings 'box' and 'other_image' of a model
    that predicts boxes, 'attention' of one that says where it looks, of the best constant box
    (x0 y0 x1 y1 in 0..1) when it is given, and of one of the `given` boxes of an image at random,
    of which models that read regions choose.
    """
    side = size or model.vision.img_size
    grid = (side // model.vision.patch,) * 2
    shown = [item for item in data if item.phrases]
    pictures = [_seen(model, objective, item, side, given) for item in shown]
    values: dict[str, list[float]] = defaultdict(list)
    for row, item in enumerate(tqdm(shown, desc="boxes", unit="image", disable=None)):
        texts = [phrase.text for phrase in item.phrases]
        text = model.text_features(*model.tokenize(texts))
        found: dict[str, Tensor] = {}
        if objective.ground is not None:
            for name, n in (("box", row), ("other_image", (row + 1) % len(shown))):
                boxes = objective.ground(_aligned(pictures[n], len(texts)), text)
                found[name] = boxes.double().cpu()
        looked = None
        if objective.look is not None:
            looked = _heats(objective, pictures[row], text).unflatten(1, grid).cpu()
        extent = (item.height, item.width)
        pixels = torch.tensor([item.width, item.height] * 2, dtype=torch.float64)
        for number, phrase in enumerate(item.phrases):
            for name, boxes in found.items():
                for key, value in _box_values(boxes[number] * pixels, phrase.boxes).items():
                    values[f"{name}_{key}"].append(value)
            if looked is not None:
                seen = grounding.phrase_values(looked[number], phrase.boxes, extent)
                for key, value in seen.items():
                    values[f"attention_{key}"].append(value)
            if pictures[row].regions is not None:
                drawn = [
                    _box_values(b.double() * pixels, phrase.boxes)
                    for b in pictures[row].regions.box[0]
                ]
                values["chance_given_box_recall"].append(fmean(d["box_recall"] for d in drawn))
            if constant is not None:
                fixed = _box_values(constant * pixels, phrase.boxes)
                values[f"chance_{CONSTANT}"].append(fixed["box_recall"])
    return dict(values)


@torch.inference_mode()
def predicted(
    model: DualEncoder, objective: Objective, image: Tensor, texts: Sequence[str]
) -> Tensor:
    """The box [N,4] (x0 y0 x1 y1, pixels) that an objective with `ground` predicts for each text
    in image [3,H,W] uint8.
    """
    seen = _read(model, objective, image, model.vision.img_size)
    text = model.text_features(*model.tokenize(texts))
    boxes = objective.ground(_aligned(seen, len(texts)), text).double().cpu()
    return boxes * torch.tensor([image.shape[-1], image.shape[-2]] * 2)


@torch.inference_mode()
def outcome(
    model: DualEncoder,
    objective: Objective,
    data: Sequence[PhraseImage],
    size: int = 0,
    constant: Tensor | None = None,
    given: Boxes | None = None,
) -> Outcome:
    """Of a model whose patches and texts share no space: what `evaluate` reads, and chance.

    Raises ValueError for one that neither predicts boxes nor says where it looks.
    """
    if objective.ground is None and objective.look is None:
        raise ValueError(
            f"{type(objective).__name__} neither predicts boxes nor tells where it looks"
        )
    side = size or model.vision.img_size
    grid = (side // model.vision.patch,) * 2
    values = evaluate(model, objective, data, size, constant, given)
    owners = []
    for row, item in enumerate(data):
        for phrase in item.phrases:
            owners.append(row)
            extent = (item.height, item.width)
            for key, value in grounding.chance_values(phrase.boxes, grid, extent).items():
                values.setdefault(key, []).append(value)
    protocol = {
        "images": len(data),
        "phrases": len(owners),
        "readings": FORMULAS,
        "read_by": objective.reading if given is None else "the given boxes, of which it takes one",
        "resize": "squash",
        "img_size": side,
        "patches": grid[0] * grid[1],
    }
    metrics = {key: fmean(found) for key, found in values.items()}
    return Outcome(metrics, protocol, values, owners, {}, METRICS)


def constant_box(data: Sequence[PhraseImage]) -> Tensor:
    """The one box [4] (0..1) that finds most phrases of a training split at IoU 0.5."""
    truth = torch.stack(
        [
            grounding.union_box(phrase.boxes) / torch.tensor([item.width, item.height] * 2)
            for item in data
            for phrase in item.phrases
        ]
    )
    drawn = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))[:CANDIDATES]
    tried = torch.cat([truth[drawn], truth.mean(dim=0, keepdim=True)])
    found = [
        (box_iou(part, truth) >= grounding.IOU).sum(dim=1)
        for part in tried.split(max(1, PAIRS // len(truth)))
    ]
    return tried[torch.cat(found).argmax()]


def _read(model: DualEncoder, objective: Objective, image: Tensor, side: int) -> ImageFeatures:
    """What is read of an image [3,H,W] uint8, one row."""
    pixels = eval_resize(image, side, "squash")[None]
    states = objective.read_images(model, pixels.to(model.mean.device)).patch_states
    return ImageFeatures(None, None, states)


def _seen(
    model: DualEncoder, objective: Objective, item: PhraseImage, side: int, given: Boxes | None
) -> ImageFeatures:
    """The same of a data set's image; its given boxes, where there are some, are its regions."""
    found = _read(model, objective, encode.open_image(item.file), side)
    if given is not None:
        regions = regions_of([item.file], [(item.height, item.width)], given, "squash")
        found.regions = regions.to(found.patch_states.device)
    return found


def _aligned(seen: ImageFeatures, count: int) -> ImageFeatures:
    """One image for `count` texts."""
    rows = torch.zeros(count, dtype=torch.long, device=seen.patch_states.device)
    regions = None if seen.regions is None else seen.regions.rows(rows)
    return ImageFeatures(None, None, seen.patch_states[rows], regions=regions)


def _heats(objective: Objective, seen: ImageFeatures, text: TextFeatures) -> Tensor:
    """[n,P]: where the words of each text look, begin and end left out."""
    weights = objective.look(_aligned(seen, len(text.mask)), text)
    words = (text.mask & ~text.special).to(weights.dtype)
    return (weights * words[..., None]).sum(dim=1) / words.sum(dim=1, keepdim=True).clamp(min=1)


def _box_values(box: Tensor, truth: Tensor) -> dict[str, float]:
    x, y = ((box[:2] + box[2:]) / 2).tolist()
    inside = (truth[:, 0] <= x) & (x < truth[:, 2]) & (truth[:, 1] <= y) & (y < truth[:, 3])
    share = grounding.box_iou(box, grounding.union_box(truth.double()))
    found = {"pointing": float(inside.any()), "box_recall": float(share >= grounding.IOU)}
    return found | {"box_IoU": share}
