"""Pairs of texts and images through a fusion encoder, each image read once.

Suffixes: N texts, T tokens, I images, S image tokens, n pairs, H width, Di of the vision tower's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sparc_pretrain.towers.fusion import FusionEncoder


def fuse(
    fusion: FusionEncoder,
    text: Tensor,
    text_mask: Tensor,
    image: Tensor,
    cells: Tensor,
    text_row: Tensor,
    image_row: Tensor,
    cell_row: Tensor,
    block: int,
) -> Tensor:
    """Fused text states [n,T,H] of n pairs, given as rows of tables, of a `cross` encoder.

    The pairs are run in the order of their images, so that an image is read once (or twice, at the
    edge of a block). More than `block` pairs are run block by block, each of which is computed
    again in the backward pass: memory does not grow with their number. To know how many images
    these have, a GPU is waited for once.

    Args: text: [N,T,H]; text_mask: [N,T]. image: [I,S,Di]. cells: [C,S] bool, what is seen of an
        image. text_row, image_row, cell_row: [n] long.
    """

    def run(which: Tensor, owner: Tensor, images: Tensor, text: Tensor, image: Tensor) -> Tensor:
        rows = text_row[which]
        read = fusion.read(image[images])
        return fusion(text[rows], text_mask[rows], read, cells[cell_row[which]], owner)[0]

    if not len(text_row):
        return text[:0]
    order = image_row.argsort(stable=True)
    given = zip(order.split(block), *_images_of(image_row[order], block, len(image)), strict=True)
    if len(text_row) > block and torch.is_grad_enabled():
        done = [checkpoint(run, *one, text, image, use_reentrant=False) for one in given]
    else:
        done = [run(*one, text, image) for one in given]
    return torch.cat(done)[order.argsort()]


def _images_of(rows: Tensor, block: int, every: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Of each block of ascending image rows [n]: which of its images [b] they are, and its images,
    of `every` one there is.
    """
    if every <= len(rows) <= block:  # as good as all of them: no need to count
        return [rows], [torch.arange(every, device=rows.device)]
    first = torch.ones_like(rows, dtype=torch.bool)
    first[1:] = rows[1:] != rows[:-1]
    first[::block] = True
    number = first.cumsum(dim=0) - 1
    begins = number[::block]
    *begun, count = torch.cat([begins, number[-1:] + 1]).tolist()
    images = rows[first.nonzero_static(size=count)[:, 0]]
    owner = number - begins.repeat_interleave(block)[: len(rows)]
    return owner.split(block), images.tensor_split(begun[1:])
