"""SigLIP: a sigmoid per pair instead of a softmax per row (Zhai et al., arXiv 2303.15343), the
coarse anchor people train today.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.distributed import gather, own_rows
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import (
    BLOCK,
    Temperature,
    over_columns,
    unit,
    without_autocast,
)
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features


@without_autocast
def sigmoid_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    block: int = BLOCK,
) -> Tensor:
    """SigLIP, eq. 1, over the whole global batch.

        -(1/B) sum_i sum_j log sigmoid(z_ij (scale cos(v_i,t_j) + bias)),  z = 1 on the diagonal,
        -1 elsewhere

    Args:
        image, text: [b,D] un-normalised, this rank's rows; row i belongs to row i. block: see
            `info_nce`.

    Returns:
        scalar: the mean over this rank's images; its mean over ranks is the loss of the whole
        batch.
    """
    image, text = unit(image), unit(text)
    every_text = gather(text)
    if len(image) * len(every_text) > block:  # -log sigmoid(x) = softplus(-x) = softplus(x) - x

        def negatives(columns: Tensor, rows: Tensor) -> tuple[Tensor]:
            return (F.softplus(scale * rows @ columns.T + bias).sum(dim=1)[None],)

        own = scale * (image * text).sum(dim=-1) + bias
        return (over_columns(negatives, image, every_text, block).sum(dim=0) - own).mean()
    logits = scale * image @ every_text.T + bias
    every = torch.arange(logits.shape[1], device=image.device)
    pair = own_rows(len(image), image.device)[:, None] == every
    return -F.logsigmoid((2 * pair - 1) * logits).sum(dim=1).mean()


@OBJECTIVES.register_module()
class Siglip(Objective):
    """The sigmoid loss with learned scale and bias, from 10 and -10 (sec. 3.2)."""

    coupled_features = ("image", "text")

    def __init__(self) -> None:
        super().__init__()
        self.temperature = Temperature(tau=0.1, most=1000.0)  # SigLIP's models end above 100
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The terms over all pairs of a batch."""
        scale = self.temperature()
        loss = sigmoid_loss(features.image, features.text, scale, self.bias)
        return {"global_loss": loss, "scale": scale.detach(), "bias": self.bias.detach()}
