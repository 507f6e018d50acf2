"""Symmetric InfoNCE over gathered negatives, and the learned temperature: what the objectives
share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.distributed import gather, own_rows


class Temperature(nn.Module):
    """One learned log-scale; calling it gives scale = 1/tau as a scalar tensor, never above `most`.

    Starts at tau = 0.07 as in CLIP (arXiv 2103.00020, sec. 2.5). The parameter itself is held below
    log(most), so that its gradient never dies at the bound.
    """

    def __init__(self, tau: float = 0.07, most: float = 100.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / tau)))
        self.most = most

    def forward(self) -> Tensor:
        """scale = 1/tau, scalar."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(self.most))
        return self.log_scale.exp()


def unit(x: Tensor) -> Tensor:
    """x [...,D] -> unit vectors in at least float32; a zero vector stays zero, without gradient."""
    x = full_precision(x)
    square = (x * x).sum(dim=-1, keepdim=True)
    positive = square > 0
    return torch.where(positive, x * torch.where(positive, square, 1).rsqrt(), 0)


def full_precision(x: Tensor) -> Tensor:
    """Half precision -> float32; float32 and float64 stay. Losses are never summed in half
    precision.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def info_nce(image: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
    """L_g of SPARC, eq. 1 (CLIP's loss): symmetric cross-entropy of cosines over the whole global
    batch.

        -(1/2B) sum_i [ log softmax_j(scale cos(v_i,t_j))_i + log softmax_j(scale cos(t_i,v_j))_i ]

    Args:
        image, text: [b,D] un-normalised, this rank's rows; row i belongs to row i. scale: 1/tau.

    Returns:
        scalar: the mean over this rank's rows; its mean over ranks is the loss of the whole batch.
    """
    image, text = unit(image), unit(text)
    target = own_rows(len(image), image.device)
    image_to_text = scale * image @ gather(text).T
    text_to_image = scale * text @ gather(image).T
    return (F.cross_entropy(image_to_text, target) + F.cross_entropy(text_to_image, target)) / 2
