"""The parts an open-vocabulary detector adds to the two towers (OWL-ViT, arXiv 2205.06230, sec.
3.2 and app. A1.3).

Legend: B images, P patches, C the vision tower's channels, D shared width, Q queries.
"""

from __future__ import annotations

import math

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

# Keeps the logarithm finite for a grid of one cell (a box as wide as the image).
EDGE = 1e-4


class PooledGate(nn.Module):
    """LayerNorm(patch state x pooled state).

    OWL-ViT multiplies its class token into every patch ('mul-ln'); a SPARC tower has none, its
    image is the mean over patches, which takes the token's part.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, states_BPC: Tensor) -> Tensor:
        """[B,P,C] -> [B,P,C]."""
        return self.norm(states_BPC * states_BPC.mean(dim=1, keepdim=True))


class ClassHead(nn.Module):
    """`(cos(W s_p, q) + shift(s_p)) * scale(s_p)`: each patch says how far it trusts its cosines.

    Args:
        channels C, width D.
        prior: the score of every patch for every query before training (arXiv 1708.02002, sec.
            4.1).
        scale: what cosines are multiplied with before training; OWL-ViT's is 1, which takes long
            schedules to grow.
    """

    def __init__(self, channels: int, width: int, prior: float = 0.01, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < prior < 1 or scale <= 0:
            raise ValueError(f"prior {prior} must be between 0 and 1, scale {scale} above 0")
        self.project = nn.Linear(channels, width)
        self.shift, self.scale = nn.Linear(channels, 1), nn.Linear(channels, 1)
        for layer in (self.shift, self.scale):
            nn.init.zeros_(layer.weight)
        nn.init.constant_(self.shift.bias, math.log(prior / (1 - prior)) / scale)
        nn.init.constant_(self.scale.bias, scale - 1 if scale >= 1 else math.log(scale))

    def forward(self, states_BPC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings [B,P,D], shift and scale [B,P,1]: all that does not need the queries."""
        unit_BPD = F.normalize(self.project(states_BPC), dim=-1)
        return unit_BPD, self.shift(states_BPC), F.elu(self.scale(states_BPC)) + 1


def class_logits(unit_PD: Tensor, shift_P1: Tensor, scale_P1: Tensor, query_QD: Tensor) -> Tensor:
    """[...,P,Q] from what `ClassHead` gives and unit query vectors [Q,D]; each query on its own."""
    return (unit_PD @ query_QD.to(unit_PD.dtype).mT + shift_P1) * scale_P1


class BoxHead(nn.Module):
    """Three layers; the box of a patch is read relative to the patch's own place and size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.Linear(channels, 4)
        nn.init.zeros_(last.weight)  # every patch starts with its own cell
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
            nn.GELU(),
            last,
        )

    def forward(self, states_BPC: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches of a grid of (rows, columns) -> boxes [B,P,4], float32."""
        raw_BP4 = self.layers(states_BPC).float()  # 8 bits are too coarse for coordinates
        return (raw_BP4 + grid_bias(*grid).to(raw_BP4)).sigmoid()


def grid_bias(rows: int, columns: int) -> Tensor:
    """[rows * columns, 4] float64: its sigmoid is the cell of each patch, as (centre x, centre y,
    width, height) in shares of the image, row by row.

    OWL-ViT's code biases to the lower right corner of the cell; the centre is what "the position of
    the token" means in its paper (app. A1.3).
    """
    y, x = torch.meshgrid(
        (torch.arange(rows, dtype=torch.float64) + 0.5) / rows,
        (torch.arange(columns, dtype=torch.float64) + 0.5) / columns,
        indexing="ij",
    )
    cell = torch.stack(
        [x, y, torch.full_like(x, 1 / columns), torch.full_like(x, 1 / rows)], dim=-1
    )
    return torch.logit(cell.clamp(EDGE, 1 - EDGE)).reshape(-1, 4)


def drop_text_blocks(net: nn.Module, rate: float) -> None:
    """Stochastic depth for a text tower of transformers, which has none: in training, layer i of n
    is skipped for a caption with probability `rate * i / (n - 1)`, else its update is divided by
    what is left (arXiv 1603.09382). The layers are those of the first ModuleList in `net`.
    """
    layers = next(module for module in net.modules() if isinstance(module, nn.ModuleList))
    for i, layer in enumerate(layers):
        drop = DropPath(rate * i / max(len(layers) - 1, 1))

        def skip(module: nn.Module, args: tuple, output: Tensor, drop: DropPath = drop) -> Tensor:
            if not module.training or not drop.drop_prob:
                return output
            return args[0] + drop(output - args[0])

        layer.register_forward_hook(skip)
