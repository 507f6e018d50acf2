"""Data and plain-float arithmetic that the oracles of several objectives use."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparc_pretrain.types import Batch, Features

Vector = list[float]


def pairs(batch=3, tokens=4, patches=5, width=3, seed=0) -> tuple[Tensor, Tensor, Tensor]:
    """Random float64 patches [B,P,D], tokens [B,T,D] and a mask of uneven lengths."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(batch, patches, width, generator=generator, dtype=torch.float64)
    t = torch.randn(batch, tokens, width, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([tokens, max(2, tokens - 2), 1, 2][:batch])
    return v, t, torch.arange(tokens) < lengths[:, None]


def globals_(batch=3, width=3, seed=1) -> tuple[Tensor, Tensor]:
    """Random float64 image and text [B,D]."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    return image, torch.randn(batch, width, generator=generator, dtype=torch.float64)


def features(batch=3, **sizes) -> tuple[Features, Batch]:
    """Both as a dual encoder would give them, float64."""
    patches, tokens, mask = pairs(batch, **sizes)
    image, text = globals_(batch, patches.shape[2])
    special = torch.zeros_like(mask)
    empty = torch.zeros(batch, 0)
    made = Features(
        image=image,
        patches=patches,
        patch_states=empty,
        text=text,
        tokens=tokens,
        mask=mask,
        special=special,
        token_states=empty,
    )
    made.words = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2)).double()
    ids = (torch.arange(mask.numel()).reshape(mask.shape) + 3) * mask
    return made, Batch(empty, ids, mask, special, [f"s:{i}" for i in range(batch)])


def padded(tokens: Tensor, mask: Tensor, more: int = 3) -> tuple[Tensor, Tensor]:
    """The same captions with `more` columns of padding that hold large numbers."""
    b, _, d = tokens.shape
    rubbish = torch.full((b, more, d), 1e3, dtype=tokens.dtype)
    return torch.cat([tokens, rubbish], 1), torch.cat([mask, mask.new_zeros(b, more)], 1)


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: Vector, b: Vector) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def softmax(x: Vector) -> Vector:
    total = sum(math.exp(v) for v in x)
    return [math.exp(v) / total for v in x]


def mix(weights: Vector, vectors: list[Vector]) -> Vector:
    """sum_i weights_i vectors_i"""
    return [dot(weights, column) for column in zip(*vectors, strict=True)]


def surprise(logits: Vector, target: int) -> float:
    """-log softmax(logits)[target]"""
    return math.log(sum(math.exp(x) for x in logits)) - logits[target]


def nce(rows: list[Vector], columns_of: list[Vector]) -> float:
    """1/2 [CE of the rows of the first + CE of the columns of the second], both [images][texts]."""
    n = len(rows)
    columns = [list(c) for c in zip(*columns_of, strict=True)]
    return sum(surprise(rows[i], i) + surprise(columns[i], i) for i in range(n)) / (2 * n)


def real(tokens: Tensor, mask: Tensor) -> list[list[Vector]]:
    """The real tokens of each caption as lists of floats."""
    return [t[m].tolist() for t, m in zip(tokens, mask, strict=True)]


def slopes(function, value: Tensor, places: list[tuple[int, ...]], step: float = 1e-6) -> Vector:
    """Central differences of `function(value) -> float` at a few places."""
    found = []
    for place in places:
        ends = []
        for sign in (1, -1):
            moved = value.detach().clone()
            moved[place] += sign * step
            ends.append(function(moved))
        found.append((ends[0] - ends[1]) / (2 * step))
    return found


def kept_sizes(function) -> list[int]:
    """How many numbers each tensor holds that `function()` keeps for its backward pass."""
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.numel()) or x, lambda x: x
    ):
        function()
    return sizes
