"""Where each word of a caption looked: the weights of its gated cross-attention over the latents,
times those of the resampler over the patches.

Shapes: W words, T tokens, L latents, P patches of a map of h x w, F frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from transfer.captioning.model.bridges import CrossAttentionBridge
from transfer.captioning.model.flamingo import FlamingoCaptioner

PANEL = 224  # pixels of a picture of a word
LABEL = 18  # pixels above it, for the word


@dataclass(frozen=True)
class Explanation:
    """`caption`, its `words` [W], and `maps` [W,h,w], each of which sums to 1."""

    caption: str
    words: list[str]
    maps: Tensor


def patch_weights(layers_NLS: list[Tensor], patches: int) -> Tensor:
    """What each latent took from each patch, mean over the resampler's layers: [N,L,patches].

    The part of a latent's attention that went to other latents is left out; rows sum to 1.
    """
    taken = torch.stack([weights[..., :patches] for weights in layers_NLS]).mean(0)
    return taken / taken.sum(-1, keepdim=True)


def latent_weights(blocks_BTL: list[Tensor], gates: Tensor) -> Tensor:
    """What each token took from each latent, mean over blocks weighted by |tanh(gate)|: [B,T,L].

    A block whose gate is closed changes nothing, so it says nothing; all closed: the plain mean.
    """
    weight = gates.tanh().abs() + 1e-12
    return torch.einsum("k,kbtl->btl", weight / weight.sum(), torch.stack(blocks_BTL))


@torch.no_grad()
def explain(model: FlamingoCaptioner, image_3HW: Tensor, caption: str | None = None) -> Explanation:
    """Where each word of `caption` (None = the model's own) looked in an image (normalised).

    With crops, the map is that of the whole image.

    Raises ValueError for a captioner without cross-attention.
    """
    if not (
        isinstance(model, FlamingoCaptioner) and isinstance(model.bridge, CrossAttentionBridge)
    ):
        raise ValueError("--explain needs a captioner with bridge.kind='cross_attention'")
    if caption is None:
        (caption,) = model.generate(image_3HW[None])
    rows = model.chunks.training([[caption]]).to(image_3HW.device)
    in_resampler: list[Tensor] = []
    in_blocks: list[Tensor] = []
    media = model.media(image_3HW[None], in_resampler)
    model.logits(media, rows, seen=in_blocks)
    gates = torch.cat([block.attention_gate for block in model.bridge.blocks])
    shape = model.backbone(model.frames(image_3HW[None])[:, 0])[-1].shape[-2:]
    patches = shape[0] * shape[1]
    from_patches = patch_weights(in_resampler, patches)[0]
    looked_TP = latent_weights(in_blocks, gates)[0] @ from_patches
    words, owner = _words(model, rows.ids[0], rows.scored[0])
    maps = torch.zeros(len(words), patches, device=looked_TP.device)
    for token, word in owner.items():
        maps[word] += looked_TP[token - 1]  # the place from which the token was said
    maps = maps / maps.sum(-1, keepdim=True).clamp(min=1e-12)
    return Explanation(caption, words, maps.unflatten(-1, shape).cpu())


def _words(
    model: FlamingoCaptioner, ids_T: Tensor, scored_T: Tensor
) -> tuple[list[str], dict[int, int]]:
    """The words of a sequence's caption, and the word of each of its tokens."""
    places = [t for t in scored_T.nonzero()[:, 0].tolist() if ids_T[t] != model.chunks.end_id]
    owner: dict[int, int] = {}
    words: list[str] = []
    for end, place in enumerate(places, start=1):
        words = model.chunks.decode(ids_T[places[:end]].tolist()).split()
        if words:
            owner[place] = len(words) - 1
    return words, owner


def draw(picture: Image.Image, found: Explanation, columns: int = 5) -> Image.Image:
    """The picture, then one panel per word with what it looked at in red."""
    width = PANEL
    height = max(1, round(PANEL * picture.height / picture.width))
    small = picture.convert("RGB").resize((width, height))
    panels = [("", small)]
    for word, weights in zip(found.words, found.maps, strict=True):
        heat = (weights / weights.max().clamp(min=1e-12)).numpy()
        mask = Image.fromarray((heat * 255).astype(np.uint8)).resize((width, height))
        share = np.asarray(mask, dtype=float)[..., None] / 255 * 0.75
        pixels = np.asarray(small) * (1 - share) + np.array([255, 0, 0]) * share
        panels.append((word, Image.fromarray(pixels.astype(np.uint8))))
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * width, lines * (height + LABEL)), "white")
    pen = ImageDraw.Draw(sheet)
    for n, (word, panel) in enumerate(panels):
        left, top = n % columns * width, n // columns * (height + LABEL)
        pen.text((left + 4, top + 3), word, fill="black")
        sheet.paste(panel, (left, top + LABEL))
    return sheet
