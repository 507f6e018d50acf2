"""Frozen models that look on while another is trained: what they see of a batch goes to the views.
They are no part of the trained model: neither its checkpoints nor its run folder hold them.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.types import Batch

BLOCK = 64  # images at a time


class Teacher:
    """The vision tower that a training started from: its clean states are MRFR's targets."""

    def __init__(self, vision: VisionTower) -> None:
        self.vision = deepcopy(vision).eval().requires_grad_(False)

    @torch.no_grad()
    def states(self, encoder: DualEncoder, image: Tensor) -> Tensor:
        """Patch states [B,P,Dv] of images [B,3,H,W], normalised as `encoder` does."""
        self.vision.to(image.device)
        parts = [self.vision(encoder.normalize(part)) for part in image.split(BLOCK)]
        return torch.cat(parts)

    def drawn(self, encoder: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """What it adds to the views of a batch."""
        return {"teacher": self.states(encoder, batch.image)}
