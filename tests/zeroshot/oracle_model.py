"""A model whose features are one-hot by object: patches tell a flat colour, tokens a word.

Whatever is asked of it in the right way it answers without a mistake. Not a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.data.tokenizer import WORD, Encoding, pad
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.pacl import Pacl

COLOURS = {
    "grass": (40, 160, 40),
    "dog": (150, 80, 20),
    "ball": (230, 30, 30),
    "sky": (90, 170, 250),
    "car": (20, 20, 140),
    "sheep": (245, 245, 245),
}
NAMES = list(COLOURS)
PATCH = 8


class ColourTower(nn.Module):
    """Patches [B,P,K]: one-hot of the colour that a patch's mean is nearest to."""

    patch, prefix = PATCH, 0

    def __init__(self, img_size: int) -> None:
        super().__init__()
        self.img_size, self.width = img_size, len(NAMES)
        self.palette = torch.tensor([COLOURS[name] for name in NAMES]) / 255

    def forward(self, image: Tensor, prefix: bool = False) -> Tensor:
        colour = F.avg_pool2d(image, PATCH).flatten(2).transpose(1, 2)
        nearest = torch.cdist(colour, self.palette.expand(len(image), -1, -1)).argmin(dim=-1)
        return F.one_hot(nearest, self.width).float()

    def pool(self, states: Tensor) -> Tensor:
        return states.mean(dim=1)


class WordTower(nn.Module):
    """Tokens [B,T,K]: one-hot of the object that a word names, zero for any other word."""

    def __init__(self, max_tokens: int = 40) -> None:
        super().__init__()
        self.width, self.max_tokens = len(NAMES), max_tokens

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.embed(ids)

    def embed(self, ids: Tensor) -> Tensor:
        table = torch.cat([torch.zeros(4, self.width), torch.eye(self.width)])
        return table[ids]

    def pool(self, states: Tensor, mask: Tensor, ids: Tensor | None = None) -> Tensor:
        return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class WordTokenizer:
    """One token per word: 0 padding, 1 begin, 2 end, 3 unknown, then NAMES; plurals are known."""

    def encode(self, text: str, max_tokens: int = 40) -> Encoding:
        matches = list(WORD.finditer(text))[: max_tokens - 2]
        ids = [self._id(m.group().lower()) for m in matches]
        spans = [(0, 0), *(m.span() for m in matches), (0, 0)]
        words = [-1, *range(len(ids)), -1]
        return Encoding([1, *ids, 2], [True, *[False] * len(ids), True], spans, words)

    def batch(self, texts: Sequence[str], max_tokens: int = 40) -> tuple[Tensor, Tensor, Tensor]:
        found = [self.encode(text, max_tokens) for text in texts]
        return pad([e.ids for e in found], [e.special for e in found], 0)

    def _id(self, word: str) -> int:
        word = word if word in NAMES else word.removesuffix("s")
        return 4 + NAMES.index(word) if word in NAMES else 3


def oracle(img_size: int = 64, max_tokens: int = 40) -> DualEncoder:
    """The model, with identities for adapters; h_v is its GELU alone, which keeps the order."""
    model = DualEncoder(
        ColourTower(img_size),
        WordTower(max_tokens),
        len(NAMES),
        mean=(0, 0, 0),
        std=(1, 1, 1),
        tokenizer=WordTokenizer(),
    )
    for linear in (model.adapters.g_v, model.adapters.g_t, model.adapters.h_v[0]):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    return model.eval()


def turned(img_size: int = 64) -> tuple[DualEncoder, Pacl]:
    """The model with patches turned away from their words by g_v, and a PACL whose embedder turns
    them back: read without the embedder, every patch names the next object.
    """
    model, objective = oracle(img_size), Pacl(len(NAMES)).eval()
    away = torch.eye(len(NAMES)).roll(1, dims=0)
    with torch.no_grad():
        model.adapters.g_v.weight.copy_(away)
        objective.embedder.skip.weight.copy_(away.T)
        for part in (objective.embedder.skip.bias, *objective.embedder.body[-1].parameters()):
            part.zero_()
    return model, objective


def paint(file: Path, labels: np.ndarray, cell: tuple[int, int] = (PATCH, PATCH)) -> np.ndarray:
    """Write a picture whose cells (height, width in pixels) have the colours of labels [h,w]; the
    labels of its pixels.
    """
    pixels = np.kron(labels, np.ones(cell, dtype=int))
    colours = np.array([COLOURS[name] for name in NAMES], dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours[pixels]).save(file)
    return pixels
