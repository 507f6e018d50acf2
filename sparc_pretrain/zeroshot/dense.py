"""Dense scores: patches of an image of any size against class texts, by sliding windows.

Suffixes: K classes, C texts (synonyms of all classes), P patches, h w the patch grid, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as resizing

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.contrastive import unit
from sparc_pretrain.zeroshot import prompts
from sparc_pretrain.zeroshot.choices import UPSAMPLING
from sparc_pretrain.zeroshot.patch_reader import PAPER, PatchReader

CLASSES_AT_ONCE = 16  # maps of that many classes are held in the size of the photo


@dataclass(frozen=True)
class View:
    """How an image is shown to the tower.

    mode: 'slide' = windows of the training size over the image at shorter side `size`; 'squash' =
    both sides to `size`; 'whole' = shorter side `size`, aspect kept, in one piece. size: pixels; 0
    = the training size. stride: of windows, pixels; 0 = half a window. upsample: 'labels' = the
    best class per patch, enlarged (SPARC, App. D.7), 'scores' = scores enlarged bilinearly first.
    """

    mode: str = "slide"
    size: int = 0
    stride: int = 0
    upsample: str = "labels"

    def __post_init__(self) -> None:
        if self.mode not in ("slide", "squash", "whole"):
            raise ValueError(f"view {self.mode!r}: use 'slide', 'squash' or 'whole'")
        if self.upsample not in UPSAMPLING:
            raise ValueError(f"upsample {self.upsample!r}: use 'labels' or 'scores'")
        if self.size < 0 or self.stride < 0:
            raise ValueError("size and stride must not be negative")


@torch.inference_mode()
def class_texts(
    model: DualEncoder, names: Sequence[Sequence[str]], templates: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Unit embeddings [C,D] of every name of every class, and the class [C] of each.

    A name's embedding is the unit mean of its prompts' unit embeddings.
    """
    flat = [name for of_class in names for name in of_class]
    owner = [k for k, of_class in enumerate(names) for _ in of_class]
    rows = []
    for name in flat:
        prompted = [prompts.fill(template, name) for template in templates]
        rows.append(unit(unit(model.encode_text(prompted)).mean(dim=0)))
    embeddings = torch.stack(rows)
    return embeddings, torch.tensor(owner, device=embeddings.device)


def best_of_class(score_C: Tensor, owner: Tensor, classes: int) -> Tensor:
    """Scores [C,...] of names -> [K,...], the best of each class's names."""
    if classes == len(owner):
        return score_C
    index = owner.view(-1, *[1] * (score_C.ndim - 1)).expand_as(score_C)
    empty = score_C.new_full((classes, *score_C.shape[1:]), -torch.inf)
    return empty.scatter_reduce(0, index, score_C, "amax")


def windows(height: int, width: int, side: int, stride: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, left, height, width) of windows that cover an image, as mmseg slides them.

    They are `stride` apart; the last of a row or column is moved back to end with the image.
    """
    rows = max(height - side + stride - 1, 0) // stride + 1
    columns = max(width - side + stride - 1, 0) // stride + 1
    for r in range(rows):
        for c in range(columns):
            top = max(min(r * stride, height - side), 0)
            left = max(min(c * stride, width - side), 0)
            yield top, left, min(side, height), min(side, width)


def shown(image: Tensor, view: View, train_size: int, patch: int) -> Tensor:
    """[3,H,W] uint8 -> the pixels that the tower sees, sides multiples of `patch`."""
    size = view.size or train_size
    if view.mode == "squash":
        height = width = size
    else:
        height, width = image.shape[-2:]
        factor = size / min(height, width)
        height, width = height * factor, width * factor
    height, width = (max(patch, round(x / patch) * patch) for x in (height, width))
    return resizing.resize(
        image, [height, width], interpolation=InterpolationMode.BICUBIC, antialias=True
    )


@torch.inference_mode()
def score_map(
    model: DualEncoder,
    image: Tensor,
    texts: Tensor,
    owner: Tensor,
    classes: int,
    view: View,
    reader: PatchReader = PAPER,
) -> Tensor:
    """Cosine of every place of an image to every class -> [K,h,w].

    Without windows h, w is the patch grid. With windows it is the pixels shown: the scores of a
    window are enlarged as `view.upsample` says, and averaged where windows overlap.

    Args:
        image: [3,H,W] uint8. texts, owner: see `class_texts`. reader: of patches; the default is
            the paper's, g_v after h_v per patch.
    """
    patch, train_size = model.vision.patch, model.vision.img_size
    pixels = shown(image, view, train_size, patch).to(model.mean.device)
    height, width = pixels.shape[-2:]
    if view.mode != "slide" or max(height, width) <= train_size:
        return _patch_scores(model, pixels, texts, owner, classes, reader)
    if view.stride > train_size:
        raise ValueError(f"stride {view.stride} leaves gaps between windows of {train_size} pixels")
    total = torch.zeros(classes, height, width, device=pixels.device)
    count = torch.zeros(height, width, device=pixels.device)
    for top, left, h, w in windows(height, width, train_size, view.stride or train_size // 2):
        part = pixels[:, top : top + h, left : left + w]
        scores = _patch_scores(model, part, texts, owner, classes, reader)
        spot = (slice(top, top + h), slice(left, left + w))
        total[:, *spot] += enlarge(scores, h, w, view.upsample)
        count[spot] += 1
    return total / count


def _patch_scores(
    model: DualEncoder,
    pixels: Tensor,
    texts: Tensor,
    owner: Tensor,
    classes: int,
    reader: PatchReader,
) -> Tensor:
    patch_PD = unit(reader.patches(model, pixels[None])[0])
    h, w = (side // model.vision.patch for side in pixels.shape[-2:])
    return best_of_class(texts @ patch_PD.T, owner, classes).unflatten(1, (h, w))


def enlarge(score_Khw: Tensor, height: int, width: int, upsample: str) -> Tensor:
    """[K,h,w] -> [K,height,width], 'labels' by the nearest patch, 'scores' bilinearly."""
    mode = UPSAMPLING[upsample]
    corners = None if mode == "nearest" else False
    # exact: 'nearest' itself rounds down and so shifts by up to a pixel
    mode = "nearest-exact" if mode == "nearest" else mode
    return F.interpolate(score_Khw[None], (height, width), mode=mode, align_corners=corners)[0]


def labels_at(score_Khw: Tensor, height: int, width: int, upsample: str) -> tuple[Tensor, Tensor]:
    """The best class of every pixel [height,width] long, and its score; of equals the first.

    Classes are enlarged a few at a time, so that a large photo with many classes fits.
    """
    best = score_Khw.new_full((height, width), -torch.inf)
    label = torch.zeros(height, width, dtype=torch.long, device=score_Khw.device)
    for start in range(0, len(score_Khw), CLASSES_AT_ONCE):
        part = enlarge(score_Khw[start : start + CLASSES_AT_ONCE], height, width, upsample)
        value, index = part.max(dim=0)
        higher = value > best
        label = torch.where(higher, index + start, label)
        best = torch.where(higher, value, best)
    return label, best
