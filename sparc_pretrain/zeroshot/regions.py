"""Regions: ground-truth boxes (COCO, LVIS) classified by class texts, from dense features.

Suffixes: N boxes, K classes, D shared width, Dv the vision tower's width.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from tqdm import tqdm

from sparc_pretrain.data.coco_file import CocoFile, read_coco
from sparc_pretrain.data.images import eval_resize
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.contrastive import unit
from sparc_pretrain.towers import regions as towers
from sparc_pretrain.zeroshot import dense, encode, prompts
from sparc_pretrain.zeroshot.classification import TIES, class_ranks, warn_of_repeats
from sparc_pretrain.zeroshot.outcome import Outcome
from sparc_pretrain.zeroshot.patch_reader import PAPER, PatchReader

METRICS = (
    Metric("top1", headline=True, title="box top-1", words="the box's class comes first"),
    Metric("top5", title="box top-5", words="among the first five"),
    Metric("mean_per_class*", words="top-1 averaged over classes"),
    Metric("AP*", words="average precision of the true boxes with every class"),
)
GROUPS = {"r": "rare", "c": "common", "f": "frequent"}
SCALE = 100.0  # 1/tau of the softmax that makes scores comparable between boxes: CLIP's bound
LVIS_PER_IMAGE = 300  # detections that LVIS counts per image

Json = dict[str, Any]


@dataclass(frozen=True)
class RegionImage:
    """An image of `size` (H, W) and its boxes [N,4] (x0 y0 x1 y1, pixels), with the class row of
    each.
    """

    image_id: int | str
    file: Path
    size: tuple[int, int]
    boxes: Tensor
    labels: list[int]


@dataclass(frozen=True)
class Regions:
    """Boxes of a COCO or LVIS file: `ids` and `names` of its categories by class row; `groups` of
    LVIS (r, c, f), else empty.
    """

    images: list[RegionImage]
    ids: list[int]
    names: list[str]
    groups: list[str]


def read_regions(
    images: str | Path, file: str | Path | CocoFile, limit: int | None = None
) -> Regions:
    """The boxes of a COCO or LVIS file, crowds and empty boxes left out.

    An image is IMAGES/file_name, or, of LVIS v1, IMAGES/ the last two or the last part of its
    `coco_url`. Images without boxes are left out. `limit`: of images. Boxes of images that the file
    does not list are left out with a warning.

    Raises:
        FileNotFoundError: the file, or an image. ValueError: another kind of file, a row of it that
            cannot be used, or no boxes.
    """
    data = file if isinstance(file, CocoFile) else read_coco(file)
    if data.unlisted:
        total = len(data.annotations) + len(data.unlisted)
        print_log(
            f"{len(data.unlisted)} of {total} boxes of {data.path} are of images that it does not "
            "list; they are left out",
            "current",
            logging.WARNING,
        )
    categories = sorted(data.categories, key=lambda c: (isinstance(c["id"], str), c["id"]))
    row = {category["id"]: k for k, category in enumerate(categories)}
    boxes: dict[Any, list[tuple[list[float], int]]] = {}
    for annotation in data.annotations:
        x, y, w, h = annotation["bbox"]
        if annotation.get("iscrowd") or w <= 0 or h <= 0:
            continue
        found = ([x, y, x + w, y + h], row[annotation["category_id"]])
        boxes.setdefault(annotation["image_id"], []).append(found)
    listed = [image for image in data.images if image["id"] in boxes][:limit]
    if not listed:
        raise ValueError(f"{data.path} holds no boxes")
    return Regions(
        [_image(image, boxes[image["id"]], Path(images), data.path) for image in listed],
        [category["id"] for category in categories],
        [category["name"] for category in categories],
        [c["frequency"] for c in categories] if data.is_lvis else [],
    )


def _image(
    image: Json, boxes: list[tuple[list[float], int]], root: Path, file: Path
) -> RegionImage:
    parts = str(image.get("coco_url", "")).split("/")
    names = [image.get("file_name"), "/".join(parts[-2:]), parts[-1]]
    paths = [root / name for name in names if name]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{paths[0] if paths else root} is missing; {file} names it")
    corners = torch.tensor([box for box, _ in boxes], dtype=torch.float32)
    size = tuple(image.get(side) for side in ("height", "width"))
    if not all(isinstance(side, int) for side in size):
        raise ValueError(f"{file}: image {image['id']!r} has no height and width in pixels")
    height, width = size
    inside = (corners[:, 2:] > 0).all(1) & (
        corners[:, :2] < corners.new_tensor([width, height])
    ).all(1)
    if not inside.all():  # its states would be 0, and the box counted as wrong
        box = boxes[inside.int().argmin()][0]
        raise ValueError(f"{file}: the box {box} lies outside of image {image['id']!r}")
    return RegionImage(image["id"], path, size, corners, [label for _, label in boxes])


def region_states(state_DHW: Tensor, boxes: Tensor) -> Tensor:
    """Mean state [N,Dv] of boxes [N,4] (x0 y0 x1 y1 in patches) on a map [Dv,h,w], see
    `towers.regions.region_states`.
    """
    h, w = state_DHW.shape[1:]
    share = boxes.to(state_DHW.device) / boxes.new_tensor([w, h, w, h]).to(state_DHW.device)
    return towers.region_states(state_DHW.flatten(1).T[None], share[None], (h, w))[0]


@torch.inference_mode()
def region_embeddings(
    model: DualEncoder,
    image: Tensor,
    boxes: Tensor,
    size: int,
    reader: PatchReader = PAPER,
) -> Tensor:
    """Unit embeddings [N,D] of boxes of an image.

    Args:
        image: [3,H,W] uint8, squashed to `size`. boxes: [N,4] in its pixels. reader: of the
            mean of a box's patch states; the default is the way of whole images, g_v after h_v.
    """
    height, width = image.shape[-2:]
    pixels = eval_resize(image, size, "squash")[None].to(model.mean.device)
    states = model.image_features(pixels).patch_states
    side = size // model.vision.patch
    state_DHW = states[0].T.unflatten(1, (side, side))
    per_patch = torch.tensor([side / width, side / height] * 2)
    pooled = region_states(state_DHW, boxes * per_patch)
    return unit(reader(model, pooled))


def evaluate(
    model: DualEncoder,
    data: Regions,
    templates: Sequence[str] = (prompts.LABEL,),
    size: int = 0,
    reader: PatchReader = PAPER,
) -> Outcome:
    """Top-1 and top-5 of boxes, mean per class, and top-1 by LVIS's frequency group.

    `extra["results"]` are detections for a COCO or LVIS evaluator: every box with every class (with
    LVIS's limit per image), its score the softmax over classes of 100 cos;
    `extra["chance_results"]` the same with random scores, since the places are given.

    Raises ValueError: `size` no multiple of the patch, or an image of another size than its boxes.
    """
    size = size or model.vision.img_size
    if size % model.vision.patch:
        raise ValueError(f"--size {size} is no multiple of the patch, {model.vision.patch}")
    said = prompts.spoken_apart(data.names)
    names = [[name] for name in said]
    texts, _ = dense.class_texts(model, names, templates)
    ranks, labels, owners, results, chance = [], [], [], [], []
    random = torch.Generator().manual_seed(0)
    for row, item in enumerate(tqdm(data.images, desc="images", unit="image", disable=None)):
        image = encode.open_image(item.file)
        if tuple(image.shape[-2:]) != item.size:
            raise ValueError(
                f"{item.file} has (H, W) = {tuple(image.shape[-2:])}, its boxes {item.size}"
            )
        cosine = (region_embeddings(model, image, item.boxes, size, reader) @ texts.T).float().cpu()
        ranks.append(class_ranks(cosine, torch.tensor(item.labels), said))
        labels += item.labels
        owners += [row] * len(item.labels)
        limit = LVIS_PER_IMAGE if data.groups else None
        results += detections(item, cosine, data.ids, limit)
        drawn = torch.rand(cosine.shape, generator=random) / SCALE
        chance += detections(item, drawn, data.ids, limit)
    rank, label = torch.cat(ranks), torch.tensor(labels)
    metrics = region_metrics(rank, label, data.groups)
    count = torch.bincount(label)
    protocol = {
        "images": len(data.images),
        "boxes": len(labels),
        "classes": len(data.names),
        "classes_with_boxes": int((count > 0).sum()),
        "chance_top1": 1 / len(data.names),
        "most_frequent_class": count.max().item() / len(labels),
        "boxes_of": "the ground truth, crowds left out",
        "region": "RoIAlign (one bin) on patch states, then the head",
        "head": reader.formula("region"),
        "read_by": "cosine of regions and class texts, whatever the objective",
        "score": f"softmax over classes of {SCALE:g} cos",
        "resize": "squash",
        "img_size": size,
        "templates": len(templates),
        "first_template": templates[0],
        "ties": TIES,
        "classes_of_one_text": warn_of_repeats(said),
    }
    items = {f"top{k}": (rank <= k).double().tolist() for k in (1, 5)}
    extra = {"results": results, "chance_results": chance}
    return Outcome(metrics, protocol, items, owners, extra, METRICS)


def region_metrics(ranks: Tensor, labels: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """``top1``, ``top5`` of boxes; ``mean_per_class`` = top-1 averaged over the classes that have
    boxes; with LVIS's groups also ``mean_per_class_rare`` (_common, _frequent) over their classes.
    """
    found = {f"top{k}": (ranks <= k).double().mean().item() for k in (1, 5)}
    count = Counter(labels.tolist())
    right = Counter(labels[ranks <= 1].tolist())
    share = {k: right[k] / count[k] for k in count}
    found["mean_per_class"] = sum(share.values()) / len(share)
    for letter, name in GROUPS.items() if groups else ():
        of_group = [value for k, value in share.items() if groups[k] == letter]
        if of_group:
            found[f"mean_per_class_{name}"] = sum(of_group) / len(of_group)
    return found


def detections(
    item: RegionImage, cosine: Tensor, ids: Sequence[int], limit: int | None = None
) -> list[Json]:
    """Every box with every class as COCO results, the `limit` best of the image (None: all).

    Args: cosine: [N,K]. ids: category id of each class.
    """
    score_NK = (SCALE * cosine.double()).softmax(dim=1)
    flat = score_NK.flatten()
    best = flat.topk(min(limit or len(flat), len(flat))).indices.tolist()
    rows = []
    for place in best:
        box, k = divmod(place, score_NK.shape[1])
        x0, y0, x1, y1 = item.boxes[box].tolist()
        rows.append(
            {
                "image_id": item.image_id,
                "category_id": ids[k],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": flat[place].item(),
            }
        )
    return rows
