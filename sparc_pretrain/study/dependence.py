"""Whether what words gather depends on the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.contrastive import token_contrast
from sparc_pretrain.objectives.grouping import group_patches
from sparc_pretrain.zeroshot import encode


def image_dependence(
    model: DualEncoder, files: Sequence[Path], texts: Sequence[str], scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Each caption held against its own image and against the next one, at 1/tau = `scale`.

    Returns:
        [B] L_f (SPARC, eq. 6) with the next image minus that with the own one, in nats; zero: the
        loss does not look. [B] the share of a caption's tokens, special ones apart, whose cosine
        with what they gather (eq. 5) in their own image is above that in the next; .5: no look.
    """
    patches = torch.cat([x.patches for x in encode.encode_images(model, files, ("patches",))])
    (text,) = encode.encode_texts(model, texts, ("tokens",), len(texts))
    losses, cosines = [], []
    for shown in (patches, patches.roll(1, dims=0)):
        grouped, _ = group_patches(text.tokens, shown)
        cosines.append(torch.cosine_similarity(text.tokens, grouped, dim=-1))
        parts = zip(grouped.split(1), text.tokens.split(1), text.mask.split(1), strict=True)
        losses.append(torch.stack([token_contrast(*part, scale) for part in parts]))
    words = text.mask & ~text.special
    nearer = (cosines[0] > cosines[1]) & words
    return losses[1] - losses[0], nearer.sum(dim=1) / words.sum(dim=1)
