"""CLIP: the global contrast alone (Radford et al., arXiv 2103.00020), SPARC's like-for-like
baseline.
"""

from __future__ import annotations

from torch import Tensor

from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import Temperature, info_nce
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features


@OBJECTIVES.register_module()
class Clip(Objective):
    """Symmetric InfoNCE over the batch with a learned temperature."""

    coupled_features = ("image", "text")

    def __init__(self) -> None:
        super().__init__()
        self.temperature = Temperature()

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The terms over all pairs of a batch."""
        scale = self.temperature()
        loss = info_nce(features.image, features.text, scale)
        return {"global_loss": loss, "scale": scale.detach()}
