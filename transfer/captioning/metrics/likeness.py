"""A CLIPScore-like number: how near a caption is to its image in the space of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sparc_pretrain.data.images import decode, eval_resize
from sparc_pretrain.dual_encoder import DualEncoder

WEIGHT = 2.5  # Hessel et al., EMNLP 2021 (arXiv 2104.08718), eq. 1


@torch.no_grad()
def clip_scores(
    run: str | Path,
    images: Sequence[Path],
    captions: Sequence[str],
    batch_size: int = 64,
    device: str = "cpu",
) -> list[float]:
    """`2.5 max(cos(image, caption), 0)` of each pair, from global embeddings.

    Comparable only between captions scored with the same run; not OpenAI's CLIP, so not CLIPScore.
    Raises as `DualEncoder.from_pretrained` does; ValueError for a run without a text tower,
    BadImage for a broken image.
    """
    model = DualEncoder.from_pretrained(run).to(device).eval()
    if model.text is None:
        raise ValueError(f"{run} has no text tower: captions cannot be scored with it")
    found: list[float] = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        size = model.vision.img_size
        pixels = [eval_resize(decode(path.read_bytes()), size, "squash") for path in images[part]]
        image_BD = model.encode_image(torch.stack(pixels).to(device), normalize=True)
        text_BD = model.encode_text(list(captions[part]), normalize=True)
        found += (WEIGHT * (image_BD * text_BD).sum(-1).clamp(min=0)).tolist()
    return found
