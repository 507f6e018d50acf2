"""FusionEncoder: texts that look at images, by cross-attention or in one stream with them.

Suffixes: N texts, T tokens, I images, S image tokens, H width, Di the vision tower's width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.towers.regions import places_of

MODES = ("cross", "joint")
STD, BERT_WIDTH = 0.02, 768  # of weights at the start: narrower layers sum over less
WORDS, TAGS, IMAGE = range(3)  # types of the tokens of a joint sequence


class KeysValues(NamedTuple):
    """What one layer reads of the images: keys and values [I,heads,S,H/heads]."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """Multi-head attention of `width` over sources of `source_width`."""

    def __init__(self, width: int, heads: int, source_width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(source_width, width), nn.Linear(source_width, width)

    def read(self, source: Tensor) -> KeysValues:
        """source [I,S,·] -> its keys and values."""
        return KeysValues(self._split(self.key(source)), self._split(self.value(source)))

    def forward(
        self, x: Tensor, read: KeysValues, seen: Tensor, owner: Tensor | None = None
    ) -> Tensor:
        """x [N,T,H] -> [N,T,H].

        Args: seen: [N,S] or [N,T,S] bool, the keys that take part; where there is none, the
            result is 0. owner: [N] long, the row of `read` that each text sees; None = its own.
        """
        keys, values = read if owner is None else (one[owner] for one in read)
        seen = seen[:, None, None] if seen.ndim == 2 else seen[:, None]  # [N,1,1 or T,S]
        any_seen = seen.any(dim=-1, keepdim=True)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(x)),
            keys,
            values,
            (seen | ~any_seen).expand(-1, -1, x.shape[1], -1),
            dropout_p=self.dropout if self.training else 0.0,
        )
        mixed = self.out(attended.transpose(1, 2).flatten(2))
        return torch.where(any_seen[:, 0], mixed, 0)

    def weights(self, x: Tensor, read: KeysValues, seen: Tensor) -> Tensor:
        """Attention [N,T,S], the mean over heads; 0 where no key is seen. Args as of `forward`."""
        query = self._split(self.query(x))
        score = query @ read.keys.transpose(2, 3) / query.shape[-1] ** 0.5
        score = score.masked_fill(~seen[:, None, None], -torch.inf)
        return score.softmax(dim=-1).nan_to_num(0.0).mean(dim=1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm: self-attention, cross-attention when `image_width` is given, perceptron 4x."""

    def __init__(self, width: int, heads: int, image_width: int | None, dropout: float) -> None:
        super().__init__()
        self.norm_self, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, width, dropout)
        self.norm_cross = nn.LayerNorm(width) if image_width else None
        self.cross = Attention(width, heads, image_width, dropout) if image_width else None
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def attend(self, x: Tensor, seen: Tensor) -> Tensor:
        """The self-attention's part alone: x [N,T,H], seen [N,T] or [N,T,T] -> [N,T,H]."""
        normed = self.norm_self(x)
        return x + self.drop(self.attention(normed, self.attention.read(normed), seen))

    def forward(
        self,
        x: Tensor,
        seen: Tensor,
        image: KeysValues | None = None,
        image_seen: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> Tensor:
        """x [N,T,H] -> [N,T,H]; see `FusionEncoder`."""
        x = self.attend(x, seen)
        if self.cross is not None:
            x = x + self.drop(self.cross(self.norm_cross(x), image, image_seen, owner))
        return x + self.drop(self.mlp(self.norm_mlp(x)))


class FusionEncoder(nn.Module):
    """Pre-norm transformer over token states that reads patch states; a final norm.

    Trained from scratch: BERT's weights are post-norm and do not fit.

    Args:
        width: H of texts in and out; layers, heads: depth and attention heads.
        image_width: Di. mode: 'cross' = texts are queries, keys and values come straight from Di
            (X-VLM, ALBEF); 'joint' = one sequence of words, tags and image tokens, projected unless
            they come in the width H (Di None), with an embedding of their kind (UNITER, Oscar).
        dropout: of attention weights and of what each part adds.
        places: of 'cross': patches are read with the code of their place (`places_of`) added: of
            a tower that starts at random they hardly say where they are.

    Raises ValueError for another mode, or heads that do not divide the width.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        image_width: int | None,
        mode: str = "cross",
        dropout: float = 0.1,
        places: bool = False,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"fusion mode {mode!r}: use one of {MODES}")
        if places and mode != "cross":
            raise ValueError(
                "fusion: places are of mode 'cross'; image tokens of 'joint' have theirs"
            )
        if width % heads:
            raise ValueError(f"fusion: {heads} heads do not divide the width {width}")
        self.width, self.mode, self.places = width, mode, places
        seen_width = image_width if mode == "cross" else None
        self.blocks = nn.ModuleList(Block(width, heads, seen_width, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        if mode == "joint":
            self.project = nn.Identity()
            if image_width:
                self.project = nn.Sequential(nn.Linear(image_width, width), nn.LayerNorm(width))
            self.kind = nn.Embedding(3, width)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.trunc_normal_(module.weight, std=STD * (BERT_WIDTH / width) ** 0.5)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def read(self, image: Tensor) -> list[KeysValues]:
        """image [I,S,Di] -> keys and values of each layer, which all texts of an image share."""
        image = image + places_of(image) if self.places else image
        return [block.cross.read(image) for block in self.blocks]

    def forward(
        self,
        text: Tensor,
        text_mask: Tensor,
        image: Tensor | list[KeysValues],
        image_mask: Tensor,
        owner: Tensor | None = None,
        segment: Tensor | None = None,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(text states [N,T,H], image states [N,S,H] of 'joint' or None). What a mask hides has no
        influence; a text whose image tokens are all hidden is left to itself.

        Args:
            text: [N,T,H]; text_mask: [N,T] bool, True = real. image: [I,S,Di], or, of 'cross', what
                `read` made of it. image_mask: [N,S] bool, True = seen.
            owner: [N] long, the image of each text, of 'cross'; None = as many images as texts.
            segment: [N,T] long, WORDS or TAGS, of 'joint'; None = words.
            causal: words see the words before them only, and nothing else sees words (captioning).
        """
        if self.mode == "joint":
            return self._joint(text, text_mask, image, image_mask, segment, causal)
        layers = self.read(image) if isinstance(image, Tensor) else image
        seen = text_mask
        if causal:
            seen = text_mask[:, None] & _before(text.shape[1], text.device)
        for block, one in zip(self.blocks, layers, strict=True):
            text = block(text, seen, one, image_mask, owner)
        return self.norm(text), None

    def _joint(
        self,
        text: Tensor,
        text_mask: Tensor,
        image: Tensor,
        image_mask: Tensor,
        segment: Tensor | None,
        causal: bool,
    ) -> tuple[Tensor, Tensor]:
        length = text.shape[1]
        x, seen, kind = self._joined(text, text_mask, image, image_mask, segment)
        if causal:
            said = kind == WORDS
            order = _before(x.shape[1], x.device)
            seen = seen[:, None] & torch.where(said[:, None], said[:, :, None] & order, True)
        for block in self.blocks:
            x = block(x, seen)
        x = self.norm(x)
        return x[:, :length], x[:, length:]

    def _joined(
        self,
        text: Tensor,
        text_mask: Tensor,
        image: Tensor,
        image_mask: Tensor,
        segment: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One sequence of both sides: states [N,T+S,H], which are real, and their kinds."""
        if segment is None:
            segment = text_mask.new_zeros(text.shape[:2], dtype=torch.long)
        kind = torch.cat([segment, torch.full_like(image_mask, IMAGE, dtype=torch.long)], dim=1)
        x = torch.cat([text, self.project(image)], dim=1) + self.kind(kind)
        return x, torch.cat([text_mask, image_mask], dim=1), kind

    @torch.no_grad()
    def joint_weights(
        self, text: Tensor, text_mask: Tensor, image: Tensor, image_mask: Tensor
    ) -> Tensor:
        """How the texts look at the image tokens in the last layer of 'joint': [N,T,S], the mean
        over heads, the rest of each row's attention goes to words. Args as of `forward`.
        """
        x, seen, _ = self._joined(text, text_mask, image, image_mask, None)
        for block in self.blocks[:-1]:
            x = block(x, seen)
        last = self.blocks[-1]
        normed = last.norm_self(x)
        weights = last.attention.weights(normed, last.attention.read(normed), seen)
        return weights[:, : text.shape[1], text.shape[1] :]

    @torch.no_grad()
    def cross_weights(
        self, text: Tensor, text_mask: Tensor, image: Tensor, image_mask: Tensor
    ) -> Tensor:
        """What the last layer of 'cross' looks at: [N,T,S], the mean over heads. Args as of
        `forward`, one image per text.
        """
        layers = self.read(image)
        for block, one in zip(self.blocks[:-1], layers[:-1], strict=True):
            text = block(text, text_mask, one, image_mask)
        last = self.blocks[-1]
        text = last.norm_cross(last.attend(text, text_mask))
        return last.cross.weights(text, layers[-1], image_mask)


def _before(length: int, device: torch.device) -> Tensor:
    """[T,T] bool: key j is not after query i."""
    place = torch.arange(length, device=device)
    return place[:, None] >= place
