"""PACL: patch-aligned contrast (Mukhoti et al., arXiv 2212.04994), as SPARC's comparison trains it:
from scratch, with a learned temperature.

Suffixes: I images, T captions, P patches, D shared width. `scale` = 1/tau.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparc_pretrain.distributed import gather
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import (
    Temperature,
    full_precision,
    score_nce,
    unit,
    without_autocast,
)
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures


@without_autocast
def patch_similarity(patches: Tensor, text: Tensor) -> Tensor:
    """PACL, eqs. 2-5: a caption's similarity to the patches it attends to.

        s_ijp = cos(v_ip, t_j);  a_ijp = softmax_p(s_ijp);  S_ij = (sum_p a_ijp v_ip) . t_j
              = sum_p a_ijp s_ijp

    with unit v and t; the pooled vector is not normalised again, so that the [I,T,P] similarity is
    all that is needed.

    Args:
        patches: [I,P,D], after the embedder. text: [T,D]; both un-normalised.

    Returns:
        [I,T].
    """
    cosine_ITP = torch.einsum("ipd,td->itp", unit(patches), unit(text))
    return (cosine_ITP.softmax(dim=-1) * cosine_ITP).sum(dim=-1)


class PatchEmbedder(nn.Module):
    """e_v: linear skip + linear, ReLU, linear, on each patch (PACL, sec. 3.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.skip = nn.Linear(width, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, patches: Tensor) -> Tensor:
        """patches [...,D] -> [...,D]."""
        return self.skip(patches) + self.body(patches)


@OBJECTIVES.register_module()
class Pacl(Objective):
    """InfoNCE of the patch-aligned similarity; there is no loss on the global image.

    Args:
        width: D of the shared space; the Pretrainer fills it in.
    """

    coupled_features = ("patches", "text")
    score_features = ("patches", "text")

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedder = PatchEmbedder(width)
        self.temperature = Temperature()

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The terms over all pairs of a batch."""
        scale = self.temperature()
        embedded = self.dense_patches(features.patches)
        logits = scale * patch_similarity(embedded, gather(features.text))
        return {"local_loss": score_nce(logits, logits), "scale": scale.detach()}

    @without_autocast
    def dense_patches(self, patches: Tensor) -> Tensor:
        """How dense tasks read patches [...,D] of the shared space: through the embedder, the only
        way they met a text in training.
        """
        return self.embedder(full_precision(patches))

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How the model is read: `patch_similarity` of embedded patches, [I,T]."""
        return patch_similarity(self.dense_patches(image.patches), text.text)
