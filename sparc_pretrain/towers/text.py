"""TextTower: token ids -> token states. A bidirectional, pre-norm transformer encoder from
transformers (SigLIP's text model).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import SiglipTextConfig, SiglipTextModel


class TextTower(nn.Module):
    """Transformer encoder over tokens; every real token attends to every real token, padding takes
    no part.

    Args:
        vocab_size: number of token ids.
        width: Dt; layers, heads: depth and attention heads (the paper's: 768, 12, 12).
        max_tokens: longest caption in tokens, special ones included (the paper's: 55).
        dropout: attention dropout.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        max_tokens: int = 55,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.settings = dict(
            vocab_size=int(vocab_size),
            width=width,
            layers=layers,
            heads=heads,
            max_tokens=max_tokens,
            dropout=dropout,
        )
        self.net = SiglipTextModel(
            SiglipTextConfig(
                vocab_size=int(vocab_size),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                max_position_embeddings=max_tokens,
                attention_dropout=dropout,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        self.net.head = nn.Identity()  # its pooled output is not used: SPARC averages token states
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
    def max_tokens(self) -> int:
        """Longest caption in tokens."""
        return self.settings["max_tokens"]

    def config(self) -> dict[str, Any]:
        """What a run folder needs to build this tower again."""
        return {**self.settings, "causal": False, "pool": "mean"}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TextTower:
        """Build the tower that `config()` described."""
        if config.get("causal") or config.get("pool", "mean") != "mean":
            raise ValueError(
                f"a text tower like {config} is not supported: bidirectional, mean pooled only"
            )
        return cls(**{k: v for k, v in config.items() if k not in ("causal", "pool")})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids [B,T] long, mask [B,T] bool (True = real) -> token states [B,T,Dt] after the final
        norm.

        Raises:
            ValueError: captions longer than `max_tokens`.
        """
        if ids.shape[1] > self.max_tokens:
            raise ValueError(
                f"captions of {ids.shape[1]} tokens; this text tower reads {self.max_tokens}"
            )
        return self.net(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Token states [B,T,Dt] -> text state [B,Dt]: the mean over real tokens (main text, sec.
        3).
        """
        kept = mask.unsqueeze(-1).to(states.dtype)
        return (states * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
