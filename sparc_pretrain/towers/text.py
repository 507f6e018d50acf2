"""TextTower: token ids -> token states. Pre-norm transformer encoders from transformers: SigLIP's
bidirectional text model, or CLIP's causal one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    CLIPTextConfig,
    CLIPTextModel,
    SiglipTextConfig,
    SiglipTextModel,
)
from transformers.activations import ACT2FN
from transformers.masking_utils import eager_mask

from sparc_pretrain.towers.lengths import caption_lengths, group_cost, length_groups

PLAIN = "sparc_plain"  # the name of `plain_attention` in transformers' registries
POOLS = ("mean", "first", "argmax", "eos", "last")
SIZES = ("vocab_size", "width", "layers", "heads", "max_tokens")
MOST, DEEPEST = 1 << 20, 1024  # of any size, of layers: far above all towers
STYLE = {  # what `TextStyle` holds
    "causal": bool,
    "pool": str,
    "act": str,
    "norm_eps": (int, float),
    "mlp_width": (int, NoneType),
    "eos_id": (int, NoneType),
    "pad_id": int,
}


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """softmax(q k^T scaling + mask) v by matrix products: query, key, value [B,H,T,d], mask
    [B,1,T,T], added -> [B,T,H,d]. transformers' own rounds float64 to float32.
    """
    scores = query * scaling @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(dim=-1), dropout, module.training)
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(PLAIN, plain_attention)
AttentionMaskInterface.register(PLAIN, eager_mask)


@dataclass(frozen=True)
class TextStyle:
    """How a text tower reads and pools; the defaults are what SPARC trains.

    causal: a token attends to itself and those before it (CLIP). pool: 'mean' over real tokens,
    'first' the begin token (X-VLM as released), 'argmax' the token with the highest id (CLIP's end
    token), 'eos' the first `eos_id`, 'last' the last position (SigLIP). act, norm_eps: of the
    layers. mlp_width: None = 4 * width. pad_id: fills captions up to `max_tokens` where padding is
    read (see `fixed_length`).
    """

    causal: bool = False
    pool: str = "mean"
    act: str = "gelu_pytorch_tanh"
    norm_eps: float = 1e-6
    mlp_width: int | None = None
    eos_id: int | None = None
    pad_id: int = 0

    def __post_init__(self) -> None:
        for name, kinds in STYLE.items():
            if not isinstance(getattr(self, name), kinds):
                raise ValueError(f"text.{name}={getattr(self, name)!r} is none of {kinds}")
        if self.pool not in POOLS:
            raise ValueError(f"text pool {self.pool!r}: use one of {POOLS}")
        if self.act not in ACT2FN:
            raise ValueError(f"text act {self.act!r}: transformers has no such activation")
        if self.pool == "eos" and self.eos_id is None:
            raise ValueError("text pool 'eos' needs eos_id")

    @property
    def fixed_length(self) -> bool:
        """Padding takes part, so every caption is padded to `max_tokens`: SigLIP. Neither a mean
        over masked states nor a causal state at the end token sees what follows.
        """
        return self.pool == "last" or (not self.causal and self.pool not in ("mean", "first"))


class TextTower(nn.Module):
    """Transformer encoder over tokens; as SPARC trains it, every real token attends to every real
    token and padding takes no part.

    Args:
        vocab_size: number of token ids.
        width: Dt; layers, heads: depth and attention heads (the paper's: 768, 12, 12).
        max_tokens: longest caption in tokens, special ones included (the paper's: 55).
        dropout: attention dropout.
        style: what a converted text tower does differently; a dict of the same in configs.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        max_tokens: int = 55,
        dropout: float = 0.0,
        style: TextStyle | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.style = style if isinstance(style, TextStyle) else TextStyle(**(style or {}))
        self.settings = dict(
            vocab_size=int(vocab_size),
            width=width,
            layers=layers,
            heads=heads,
            max_tokens=max_tokens,
            dropout=dropout,
        )
        options = dict(
            vocab_size=int(vocab_size),
            hidden_size=width,
            intermediate_size=self.style.mlp_width or 4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=max_tokens,
            attention_dropout=dropout,
            hidden_act=self.style.act,
            layer_norm_eps=self.style.norm_eps,
            pad_token_id=0,
            bos_token_id=None,
        )
        if self.style.causal:
            # its own pooling is not used, but 2 (argmax) is the one that needs no such token
            self.net = CLIPTextModel(CLIPTextConfig(**options, eos_token_id=2))
        else:
            self.net = SiglipTextModel(SiglipTextConfig(**options, eos_token_id=None))
            self.net.head = nn.Identity()  # its pooled output is not used, see `pool`
        for name, weight in self.net.named_parameters():
            if (
                "embedding" in name
            ):  # transformers draws them with a spread of 1, far above the layers' output
                nn.init.normal_(weight, std=0.02)

    @property
    def width(self) -> int:
        """Dt, the number of channels of a token state."""
        return self.settings["width"]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.settings["vocab_size"]

    @property
    def max_tokens(self) -> int:
        """Longest caption in tokens."""
        return self.settings["max_tokens"]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are no matrices, though they have two dimensions: the
        position embeddings (timm's convention; see `engine.optim`).
        """
        return {name for name, _ in self.named_parameters() if "position_embedding" in name}

    def config(self) -> dict[str, Any]:
        """What a run folder needs to build this tower again."""
        usual = asdict(TextStyle())
        style = asdict(self.style)
        special = {k: v for k, v in style.items() if k in ("causal", "pool") or v != usual[k]}
        return {**self.settings, **special}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TextTower:
        """Build the tower that `config()` described.

        Raises:
            ValueError: no description of a tower: an unknown or missing key, a size that is none,
                a pool or activation that this code does not know.
        """
        style = {k: v for k, v in config.items() if k in TextStyle.__dataclass_fields__}
        size = {k: v for k, v in config.items() if k not in style}
        unknown = [key for key in size if key not in SIZES and key != "dropout"]
        if unknown or "vocab_size" not in size:
            raise ValueError(f"text: unknown keys {unknown[:3]}, or no vocab_size")
        for key in SIZES:
            most = DEEPEST if key == "layers" else MOST
            least = 0 if key == "layers" else 1  # none: tokens and places alone
            if key in size and (type(size[key]) is not int or not least <= size[key] <= most):
                raise ValueError(f"text.{key}={size[key]!r} is no size")
        dropout = size.get("dropout", 0.0)
        if type(dropout) not in (int, float) or not 0 <= dropout < 1:
            raise ValueError(f"text.dropout={dropout!r} is no share")
        if size.get("width", 768) % size.get("heads", 12):
            raise ValueError(f"text.width={size['width']} is no multiple of its heads")
        return cls(**size, style=TextStyle(**style))

    def forward(self, ids: Tensor, mask: Tensor, causal: bool = False) -> Tensor:
        """ids [B,T] long, mask [B,T] bool (True = real) -> token states [B,T,Dt] after the final
        norm; [B,max_tokens,Dt] for a tower that reads its padding (`TextStyle.fixed_length`).
        causal: a token sees itself and those before it, whatever the tower was trained with.

        On a CPU captions of similar length go through together, without the padding of longer
        ones: states of real tokens are the same, those of padding may be zeros.

        Raises:
            ValueError: captions longer than `max_tokens`.
        """
        if ids.shape[1] > self.max_tokens:
            raise ValueError(
                f"captions of {ids.shape[1]} tokens; this text tower reads {self.max_tokens}"
            )
        if self.style.fixed_length and not causal:
            ids = torch.where(mask, ids, self.style.pad_id)
            ids = F.pad(ids, (0, self.max_tokens - ids.shape[1]), value=self.style.pad_id)
            return self._states(ids, None)
        if ids.device.type != "cpu":  # the lengths would have to be waited for
            return self._states(ids, mask, causal)
        groups = length_groups(caption_lengths(mask), group_cost(self.width))
        states = [self._states(ids[rows, :end], mask[rows, :end], causal) for rows, end in groups]
        padded = [F.pad(x, (0, 0, 0, ids.shape[1] - x.shape[1])) for x in states]
        if len(groups) == 1:
            return padded[0]
        return torch.cat(padded)[torch.cat([rows for rows, _ in groups]).argsort()]

    def _states(self, ids: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """ids [B,T], mask [B,T] (None = all are read) -> [B,T,Dt], in one pass.

        On a CPU by plain attention: as fast as the fused kernel in float32, and 1.25 to 1.3 times
        as fast in bfloat16, whose backward is slow there. The mask goes in as [B,1,T,T], which
        transformers takes as it is; in a flat one it would look for padding, and wait for a GPU.
        """
        plain = ids.device.type == "cpu"
        self.net.config._attn_implementation = PLAIN if plain else "sdpa"
        if mask is None or self.style.causal:  # padding follows what is read: nothing attends to it
            return self.net(input_ids=ids).last_hidden_state
        seen = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
        if causal:
            seen = seen & torch.ones_like(seen).tril()
        if plain:  # it is added there; a row that sees nothing stays finite
            seen = torch.where(seen, 0.0, torch.finfo(torch.bfloat16).min).to(self.net.dtype)
        return self.net(input_ids=ids, attention_mask=seen).last_hidden_state

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B,T] -> token embeddings [B,T,Dt], before places are added: free of context."""
        return self.net.get_input_embeddings()(ids)

    @property
    def word_table(self) -> Tensor:
        """The token embeddings [V,Dt], which tied heads share."""
        return self.net.get_input_embeddings().weight

    def pool(self, states: Tensor, mask: Tensor, ids: Tensor | None = None) -> Tensor:
        """Token states [B,T,Dt] -> text state [B,Dt]: the mean over real tokens (main text, sec.
        3), or the state that `TextStyle.pool` names; `ids` [B,T] are read by 'argmax' and 'eos'.

        Raises:
            ValueError: no ids where they are needed.
        """
        if self.style.pool == "mean":
            kept = mask.unsqueeze(-1).to(states.dtype)
            return (states * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
        if self.style.pool == "first":
            return states[:, 0]
        if self.style.pool == "last":
            return states[:, -1]
        if ids is None:
            raise ValueError(f"text pool {self.style.pool!r} needs the token ids")
        ids = torch.where(mask, ids, -1)
        end = ids if self.style.pool == "argmax" else (ids == self.style.eos_id).int()
        return states[torch.arange(len(ids), device=ids.device), end.argmax(dim=1)]
