"""What objectives of one stream (UNITER, Oscar, Kaleido-BERT) share: words and image tokens go
through one encoder, heads read its states.

Suffixes: B images, T tokens, S image tokens, H width of texts and fusion, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparc_pretrain import chance
from sparc_pretrain.distributed import gather
from sparc_pretrain.objectives.base import Writer
from sparc_pretrain.objectives.masked import MaskedObjective
from sparc_pretrain.objectives.matching import draw_negatives, strangers
from sparc_pretrain.towers.fusion import FusionEncoder
from sparc_pretrain.types import ImageFeatures, TextFeatures

Match = Callable[[ImageFeatures, TextFeatures], Tensor]

CELLS = "regions are 4 x 4 cells unless boxes are given"
GRID = 4  # cells a side that stand in for boxes where an image has none


class WordHead(nn.Module):
    """Fused states [M,H] -> logits [M,V]: Linear, GELU, norm, tied to the embeddings, bias."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.project = transform(width)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, states: Tensor, word_table: Tensor) -> Tensor:
        """states [M,H], word_table [V,H] -> [M,V]."""
        return self.project(states) @ word_table.T.to(states.dtype) + self.bias


class PooledHead(nn.Module):
    """Fused begin states [n,H] -> logits [n,out]: Linear, tanh (BERT's pooler), Linear."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.pool, self.out = nn.Linear(width, width), nn.Linear(width, out)

    def forward(self, states: Tensor) -> Tensor:
        """[n,H] -> [n,out]."""
        return self.out(self.pool(states).tanh())


def transform(width: int) -> nn.Sequential:
    """BERT's head before its last layer: Linear, GELU, norm."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))


def grid_cells(like: Tensor, count: int) -> Tensor:
    """The boxes [count,GRID^2,4] of 4 x 4 cells, row by row, x0 y0 x1 y1 in 0..1."""
    side = torch.arange(GRID, device=like.device, dtype=torch.float32) / GRID
    y, x = torch.meshgrid(side, side, indexing="ij")
    low = torch.stack([x, y], dim=-1).flatten(0, 1)
    return torch.cat([low, low + 1 / GRID], dim=1).expand(count, -1, -1)


def taken(x: Tensor, others: Tensor, donor: Tensor) -> Tensor:
    """x [n,...] with the rows whose donor is not -1 replaced by rows `donor` [n] of others
    [N,...].
    """
    replaced = (donor >= 0).view(-1, *[1] * (x.ndim - 1))
    return torch.where(replaced, others[donor.clamp(min=0)].to(x.dtype), x)


def fuse_rows(
    fusion: FusionEncoder,
    text: Tensor,
    text_mask: Tensor,
    image: Tensor,
    image_mask: Tensor,
    segment: Tensor | None = None,
    block: int = 256,
) -> tuple[Tensor, Tensor]:
    """Fused states of aligned rows by a 'joint' encoder: texts [n,T,H], image tokens [n,S,H].

    More than `block` rows are run block by block, each of which is computed again in the backward
    pass: memory does not grow with their number. Args as of `FusionEncoder.forward`.
    """
    if segment is None:
        segment = torch.zeros_like(text_mask, dtype=torch.long)
    given = (text, text_mask, image, image_mask)

    def run(which: slice, *given: Tensor) -> tuple[Tensor, Tensor]:
        text, text_mask, image, image_mask = (x[which] for x in given)
        return fusion(text, text_mask, image, image_mask, segment=segment[which])

    blocks = [slice(start, start + block) for start in range(0, len(text), block)]
    if len(blocks) > 1 and torch.is_grad_enabled():
        done = [checkpoint(run, which, *given, use_reentrant=False) for which in blocks]
    else:
        done = [run(which, *given) for which in blocks or [slice(0, 0)]]
    texts, images = zip(*done, strict=True)
    return torch.cat(texts), torch.cat(images)


def all_pairs(match: Match, image: ImageFeatures, text: TextFeatures, block: int) -> Tensor:
    """`match` of every image with every text [I,T], `block` pairs at a time, of their patch and
    token states.
    """
    images, texts = len(image.patch_states), len(text.token_states)
    device = text.mask.device
    pairs = torch.cartesian_prod(torch.arange(images), torch.arange(texts)).to(device)
    found = []
    for i, t in (rows.unbind(dim=1) for rows in pairs.split(block)):
        regions = None if image.regions is None else image.regions.rows(i)
        one = ImageFeatures(None, None, image.patch_states[i], regions=regions)
        other = TextFeatures(None, None, text.mask[t], text.special[t], text.token_states[t])
        found.append(match(one, other))
    return torch.cat(found).unflatten(0, (images, texts))


def draw_partners(
    image: Tensor,
    key: Tensor,
    moment: tuple[int, int],
    stream: chance.Stream,
    group: Tensor | None = None,
) -> Tensor:
    """For each own row a row of the global batch with another image [n] (and another group), all
    such rows alike -> [n] long, -1 where there is none.

    Args: image, key, group: [n] long. moment: (seed, step).
    """
    others = (gather(image), None if group is None else gather(group))
    allowed = strangers(image, others[0], group, others[1])
    noise = chance.pairs(*moment, key, gather(key), stream)
    # draws in proportion to equal weights
    return draw_negatives(torch.zeros_like(noise), allowed, noise)


class SingleStream(MaskedObjective):
    """An objective whose words and image tokens go through one encoder.

    Args:
        text_width, vocab_size: of the Pretrainer.
        fusion: `layers`, `heads` (and `dropout`, not a function of the step) of the FusionEncoder.
        shared: see `MaskedObjective`.
    """

    score_features = ("patch_states", "token_states")

    def __init__(
        self,
        text_width: int,
        vocab_size: int,
        fusion: Mapping[str, Any] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        options = dict(layers=12, heads=12) | dict(fusion or {})
        # image tokens come in the width of the texts
        self.fusion = FusionEncoder(width=text_width, image_width=None, mode="joint", **options)
        self.word_head = WordHead(text_width, vocab_size)

    def fuse(self, *rows: Tensor) -> tuple[Tensor, Tensor]:
        """Fused states of aligned rows, see `fuse_rows`."""
        return fuse_rows(self.fusion, *rows, block=self.block)

    def image_tokens(self, image: ImageFeatures) -> tuple[Tensor, Tensor]:
        """What the fusion encoder takes of images: tokens [B,S,H], which are real [B,S]."""
        raise NotImplementedError

    def begin(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """The fused begin state [n,H] of row i of the images and row i of the texts."""
        return self.fuse(text.token_states, text.mask, *self.image_tokens(image))[0][:, 0]

    def writer(self, image: ImageFeatures) -> Writer:
        """By the mask of sequence to sequence: words see the image and the words before them."""
        tokens, real = self.image_tokens(image)

        def fused(states: Tensor, mask: Tensor, owner: Tensor) -> Tensor:
            return self.fusion(states, mask, tokens[owner], real[owner], causal=True)[0]

        return fused

    def word_logits(self, states: Tensor, word_table: Tensor) -> Tensor:
        """Fused states [M,H] -> logits [M,V] of the vocabulary, tied to its embeddings [V,H]."""
        return self.word_head(states, word_table)

    def match(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How well they match: log-odds [n]."""
        no, yes = self.match_head(self.begin(image, text)).unbind(dim=1)
        return yes - no

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Log-odds [I,T] that they match, `block` pairs at a time."""
        return all_pairs(self.match, image, text, self.block)
