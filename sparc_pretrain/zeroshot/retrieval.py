"""Image-text retrieval: recall at k and median rank, several captions per image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def recall(
    similarity: Tensor, image_of_text: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall in both directions.

    The rank of an answer is 1 + the number of wrong candidates that score **at least** as high:
    ties count against the model, so a constant similarity retrieves nothing. Image to text, an
    image's rank is that of its
    best caption, and its other captions are not wrong. Duplicated images or captions are different
    items, each wrong for
    the other.

    Args:
        similarity: [I,T], higher is closer. image_of_text: [T] long, the row of each caption's
            image. ks: cut-offs.

    Returns:
        ``i2t_R@k``, ``t2i_R@k`` (fractions from 0 to 1), ``i2t_median_rank``, ``t2i_median_rank``.

    Raises:
        ValueError: shapes that do not match, a row out of range, an image without caption, or NaN.
    """
    images, texts = similarity.shape
    image_of_text = torch.as_tensor(image_of_text, device=similarity.device)
    if image_of_text.shape != (texts,):
        raise ValueError(f"image_of_text has shape {tuple(image_of_text.shape)}, not ({texts},)")
    if texts == 0 or image_of_text.min() < 0 or image_of_text.max() >= images:
        raise ValueError(f"image_of_text must hold rows from 0 to {images - 1}")
    missing = images - image_of_text.unique().numel()
    if missing:
        raise ValueError(f"{missing} of {images} images have no caption")
    if similarity.isnan().any():
        raise ValueError("similarity holds NaN")

    own = similarity[image_of_text, torch.arange(texts, device=similarity.device)]  # [T]
    text_to_image = (similarity >= own).sum(dim=0)  # the own image is one of them: rank from 1

    best = torch.full((images,), -torch.inf, device=similarity.device, dtype=similarity.dtype)
    best = best.scatter_reduce(0, image_of_text, own, "amax")
    above = (similarity >= best[:, None]).sum(dim=1)
    own_above = torch.zeros_like(above).scatter_add(
        0, image_of_text, (own >= best[image_of_text]).to(above.dtype)
    )
    image_to_text = above - own_above + 1

    result: dict[str, float] = {}
    for name, rank in (("i2t", image_to_text), ("t2i", text_to_image)):
        for k in ks:
            result[f"{name}_R@{k}"] = (rank <= k).double().mean().item()
        result[f"{name}_median_rank"] = rank.double().quantile(0.5).item()
    return result
