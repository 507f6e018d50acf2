"""What objectives of regions share: how a region becomes a token, and the losses of hidden ones.

Suffixes: B images, R regions, P patches, F width of a region's vector, H width of texts and fusion,
M masked regions, C classes (0 = background).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.distributed import gather
from sparc_pretrain.objectives.concepts import mean_of
from sparc_pretrain.objectives.contrastive import full_precision, without_autocast
from sparc_pretrain.objectives.single_stream import grid_cells, taken, transform
from sparc_pretrain.towers.regions import box_cells, geometry, region_states
from sparc_pretrain.types import Regions

REDUCTIONS = ("released", "paper")
SMOOTHING = 0.1  # of class probabilities made of labels
GREY = 127  # a blank pixel of 8 bits; of normalised ones 0


class Seen(NamedTuple):
    """Regions: vectors [B,R,F], boxes [B,R,4] (x0 y0 x1 y1 in 0..1), which are real [B,R]."""

    state: Tensor
    box: Tensor
    valid: Tensor

    def of(self, donor: Tensor) -> Seen:
        """The same, of rows whose `donor` [B] is not -1 that row of the global batch."""
        valid = taken(self.valid, gather(self.valid.byte()), donor)
        return Seen(*(taken(x, gather(x), donor) for x in self[:2]), valid)

    def most(self, mass: Tensor, words: Tensor) -> Tensor:
        """The box [B,4] of the region that gets most of the mass [B,T,R] of the words [B,T] bool
        (of equal ones the first).
        """
        mass = torch.einsum("btr,bt->br", mass, words.to(mass)).masked_fill(~self.valid, -1)
        return self.box[torch.arange(len(mass)), mass.argmax(dim=1)].to(mass)

    def spread(self, mass: Tensor, patches: Tensor) -> Tensor:
        """Mass [B,T,R] on regions -> [B,T,P] on the patches [B,P,Dv] of a square image, evenly."""
        side = math.isqrt(patches.shape[1])
        cells = box_cells(torch.where(self.valid[..., None], self.box, 0), (side, side))
        return mass @ (cells / cells.sum(dim=-1, keepdim=True)).to(mass)


def seen_of(patches: Tensor | None, regions: Regions | None) -> Seen:
    """Regions of a square image's patch states [B,P,Dv] by RoIAlign; without boxes 4 x 4 cells;
    without states those that came with the sample.
    """
    if patches is None:
        return Seen(regions.state, regions.box, regions.valid)
    side = math.isqrt(patches.shape[1])
    if regions is None:
        box = grid_cells(patches, len(patches))
        valid = torch.ones_like(box[..., 0], dtype=torch.bool)
    else:
        valid = regions.valid
        box = torch.where(valid[..., None], regions.box, 0)
    return Seen(region_states(patches, box, (side, side)), box, valid)


def blanked(image: Tensor, boxes: Tensor, hidden: Tensor) -> Tensor:
    """Pixels [B,C,h,w] with the hidden [B,R] of the boxes [B,R,4] blank."""
    height, width = image.shape[-2:]
    cells = box_cells(boxes, (height, width)) & hidden[..., None]
    blank = cells.any(dim=1).unflatten(-1, (1, height, width))
    return image.masked_fill(blank, GREY if image.dtype == torch.uint8 else 0)


def smoothed(label: Tensor, logits: Tensor) -> Tensor:
    """Class probabilities of labels [M], as many as logits [M,C] are wide: one-hot, smoothed."""
    classes = logits.shape[1]
    one_hot = label[:, None] == torch.arange(classes, device=label.device)
    return one_hot.to(logits.dtype) * (1 - SMOOTHING) + SMOOTHING / classes


class RegionEmbedder(nn.Module):
    """LN(LN(W f) + LN(W geometry)) of vectors [B,R,F] and boxes -> tokens [B,R,H] (UNITER, sec.
    3.1). A hidden region's vector is 0 plus a learned one (released code); its geometry stays.
    """

    def __init__(self, region_width: int, width: int) -> None:
        super().__init__()
        self.project, self.place = nn.Linear(region_width, width), nn.Linear(7, width)
        self.norm_project, self.norm_place = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Parameter(torch.zeros(region_width))
        nn.init.normal_(self.hidden, std=0.02)

    def forward(self, state: Tensor, box: Tensor, hidden: Tensor | None = None) -> Tensor:
        """state [B,R,F], box [B,R,4], hidden [B,R] bool -> [B,R,H]."""
        if hidden is not None:
            state = torch.where(hidden[..., None], self.hidden.to(state.dtype), state)
        place = geometry(box).to(self.place.weight.dtype)
        said = self.norm_project(self.project(state.to(self.place.weight.dtype)))
        return self.norm(said + self.norm_place(self.place(place)))


class RegionHeads(nn.Module):
    """What a hidden region shows, and its class, from its fused state.

    Args: width H; region_width F; classes: C, 0 = none. mrfr, mrc_kl: see the losses.
    """

    def __init__(
        self,
        width: int,
        region_width: int,
        classes: int,
        mrfr: str = "released",
        mrc_kl: str = "paper",
    ) -> None:
        super().__init__()
        for reduction in (mrfr, mrc_kl):
            _reduced(torch.zeros(()), 1, 1, reduction, None)
        self.mrfr, self.mrc_kl = mrfr, mrc_kl
        self.regression, self.bias = transform(width), nn.Parameter(torch.zeros(region_width))
        self.classes = None
        if classes:
            self.classes = nn.Sequential(transform(width), nn.Linear(width, classes))

    def regress(
        self, states: Tensor, weight: Tensor, wanted: Tensor, count: Tensor
    ) -> dict[str, Tensor]:
        """MRFR of states [M,H] against wanted [M,F]; weight [H,F]: of the embedder, tied."""
        predicted = self.regression(states) @ weight.to(states.dtype) + self.bias
        return {"mrfr_loss": regression_loss(predicted, wanted, self.mrfr, count)}

    def classify(
        self,
        states: Tensor,
        label: Tensor,
        probs: Tensor | None,
        count: Tensor,
        terms: Sequence[str],
    ) -> dict[str, Tensor]:
        """MRC and MRC-kl (`terms`) of states [M,H] with probs [M,C]; None = made of the labels
        [M].
        """
        logits = self.classes(states)
        probs = smoothed(label, logits) if probs is None else probs
        found = {"mrc_accuracy": mean_of(logits.argmax(dim=1) == class_targets(probs))}
        if "mrc" in terms:
            found["mrc_loss"] = classification_loss(logits, probs, divisor=count)
        if "mrc_kl" in terms:
            found["mrc_kl_loss"] = divergence_loss(logits, probs, self.mrc_kl, count)
        return found


@without_autocast
def regression_loss(
    predicted: Tensor,
    wanted: Tensor,
    reduction: str = "released",
    divisor: Tensor | float | None = None,
) -> Tensor:
    """MRFR (sec. 3.2): squared error [M,F] over `divisor` (None: M, at least 1) regions, summed
    over channels ('paper'), or their mean ('released').
    """
    loss = (full_precision(predicted) - full_precision(wanted)).square().sum()
    return _reduced(loss, len(wanted), wanted.shape[-1], reduction, divisor)


def class_targets(probs: Tensor, background: int | None = 0) -> Tensor:
    """The most probable class [M] of probs [M,C], the background left out."""
    if background is not None:
        column = torch.arange(probs.shape[-1], device=probs.device) == background
        probs = probs.masked_fill(column, -torch.inf)
    return probs.argmax(dim=-1)


@without_autocast
def classification_loss(
    logits: Tensor,
    probs: Tensor,
    background: int | None = 0,
    divisor: Tensor | float | None = None,
) -> Tensor:
    """MRC (eq. 4): cross-entropy of logits [M,C] with the class of `class_targets`, over `divisor`
    (None: M, at least 1).
    """
    target = class_targets(probs, background)
    loss = F.cross_entropy(full_precision(logits), target, reduction="sum")
    return loss / (max(1, len(target)) if divisor is None else divisor)


@without_autocast
def divergence_loss(
    logits: Tensor, probs: Tensor, reduction: str = "paper", divisor: Tensor | float | None = None
) -> Tensor:
    """MRC-kl (eq. 5): KL of probs [M,C] from softmax(logits), over `divisor` (None: M, at least 1)
    regions ('paper'), and over the classes too ('released').
    """
    probs = full_precision(probs)
    loss = (torch.xlogy(probs, probs) - probs * full_precision(logits).log_softmax(dim=-1)).sum()
    return _reduced(loss, len(probs), probs.shape[-1], reduction, divisor)


def _reduced(
    loss: Tensor, count: int, channels: int, reduction: str, divisor: Tensor | float | None
) -> Tensor:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r}: use one of {REDUCTIONS}")
    loss = loss / (max(1, count) if divisor is None else divisor)
    return loss / max(1, channels) if reduction == "released" else loss
