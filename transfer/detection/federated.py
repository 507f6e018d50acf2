"""FederatedLoss: sigmoid classification of boxes over a few classes per step (Zhou, Koltun,
Krähenbühl, "Probabilistic two-stage detection", arXiv 2103.07461, sec. 5), for LVIS-like data.

N boxes, C classes; label C is the background.
"""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain import json_file
from sparc_pretrain.registry import MODELS


def federated_classes(labels: Tensor, frequency: Tensor, size: int) -> Tensor:
    """The classes that a step trains: those of `labels`, and others drawn without replacement in
    proportion to `frequency` until there are `size`.

    Args:
        labels: [N] long, C = background. frequency: [C] float, not negative.

    Returns:
        [C] bool.
    """
    kept = torch.zeros(len(frequency) + 1, dtype=torch.bool, device=labels.device)
    kept[labels] = True
    kept = kept[:-1]
    rest = torch.where(kept, 0.0, frequency.to(labels.device))
    missing = min(size - int(kept.sum()), int((rest > 0).sum()))
    if missing > 0:
        kept[torch.multinomial(rest, missing)] = True
    return kept


def federated_loss(logits: Tensor, labels: Tensor, kept: Tensor, weights: Tensor) -> Tensor:
    """Sum over boxes and `kept` classes of the binary cross entropy.

    Args:
        logits: [N,C]. labels: [N] long, C = background. kept: [C] bool. weights: [N] float.
    """
    target = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * kept * weights[:, None]).sum()


@MODELS.register_module()
class FederatedLoss(BaseModule):
    """`loss_cls` of an mmdet box head: C independent sigmoids, `size` classes in each step.

    Absent classes of a federated data set are unknown, not negative; common ones appear as
    negatives more often than rare ones.

    Args:
        num_classes: C. ann_file: LVIS annotations, whose categories have `image_count`; read at
            the first step, so that a trained model needs none. size: classes per step.
        power: of the image count, in the probability to be drawn.

    Raises:
        FileNotFoundError: no such file. ValueError: its categories are not C, or have no counts.
    """

    # mmdet's box heads ask for these names before they call the methods below
    custom_cls_channels = custom_activation = custom_accuracy = True

    def __init__(
        self,
        num_classes: int,
        ann_file: str,
        size: int = 50,
        power: float = 0.5,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.ann_file = num_classes, ann_file
        self.size, self.power, self.loss_weight = size, power, loss_weight
        self._frequency: Tensor | None = None

    @property
    def frequency(self) -> Tensor:
        """[C] image counts to the power."""
        if self._frequency is None:
            path = Path(self.ann_file)
            content = json_file.read(path, what="annotation file")
            rows = content.get("categories") if isinstance(content, dict) else None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise ValueError(f"FederatedLoss: {path} has no list of categories")
            counts = [row.get("image_count") for row in rows]
            if len(counts) != self.num_classes or None in counts:
                raise ValueError(
                    f"FederatedLoss: {path} has {len(counts)} categories, {counts.count(None)} "
                    f"without image_count; the head has {self.num_classes}: give it LVIS training "
                    "annotations"
                )
            self._frequency = torch.tensor(counts, dtype=torch.float32) ** self.power
        return self._frequency

    def get_cls_channels(self, num_classes: int) -> int:
        """C: no channel for the background."""
        return num_classes

    def get_activation(self, logits: Tensor) -> Tensor:
        """[N,C] -> scores [N,C+1], the background's 0."""
        return F.pad(logits.sigmoid(), (0, 1))

    def get_accuracy(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Percentage of the foreground boxes whose best class is theirs (0 without any)."""
        found = labels < self.num_classes
        right = (logits[found].argmax(dim=1) == labels[found]).sum()
        return {"acc_classes": 100.0 * right / found.sum().clamp(min=1)}

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss [], over `avg_factor` (N when None). Raises ValueError for other reductions."""
        if reduction_override not in (None, "mean"):
            raise ValueError(f"FederatedLoss has no reduction {reduction_override!r}")
        weights = torch.ones_like(labels, dtype=logits.dtype) if weights is None else weights
        kept = federated_classes(labels, self.frequency, self.size)
        total = federated_loss(logits, labels, kept, weights.to(logits.dtype))
        return self.loss_weight * total / (avg_factor or max(len(labels), 1))
