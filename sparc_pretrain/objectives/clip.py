"""CLIP: the global contrast alone (Radford et al., arXiv 2103.00020), SPARC's like-for-like
baseline.
"""

from __future__ import annotations

from torch import Tensor, nn

from sparc_pretrain.objectives.contrastive import Temperature, info_nce, unit
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures


@OBJECTIVES.register_module()
class Clip(nn.Module):
    """Symmetric InfoNCE over the batch with a learned temperature."""

    couples = ("image", "text")  # the features of which `coupled` takes gradients
    pairs = ()  # and `paired`
    reads = ("image", "text")  # the features that `scores` uses

    def __init__(self) -> None:
        super().__init__()
        self.temperature = Temperature()

    def forward(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """features of [b] pairs -> {"global_loss", "scale"}."""
        return self.coupled(features, batch)

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The terms over all pairs of a batch."""
        scale = self.temperature()
        loss = info_nce(features.image, features.text, scale)
        return {"global_loss": loss, "scale": scale.detach()}

    def paired(
        self, features: Features, batch: Batch, whole: Batch | None = None
    ) -> dict[str, Tensor]:
        """The terms that need one pair at a time: none."""
        return {}

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How the model is read: cosine of the global embeddings, [I,T]."""
        return unit(image.image) @ unit(text.text).T
