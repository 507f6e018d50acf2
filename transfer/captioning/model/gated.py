"""Gated cross-attention inside a frozen language model of transformers, put there by hooks: the
GATED XATTN-DENSE blocks of Flamingo (arXiv 2204.14198, sec. 3.1.2 and app. A.1.2).

Shapes: B sequences, T tokens, I images of a sequence, L latents of an image, E width of the
language model, D width of the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from transfer.captioning.model.resampler import attention, attention_weights, feed_forward


def image_mask(index_BT: Tensor, images: int, latents: int) -> Tensor:
    """[B,T,I*L] bool: token t sees the latents of image `index[b,t]` and of no other.

    A token before the first image (index -1) sees nothing; its row is all False.
    """
    own_BTI = index_BT[..., None] == torch.arange(images, device=index_BT.device)
    return own_BTI.repeat_interleave(latents, dim=-1)


class GatedCrossAttention(nn.Module):
    """`x + tanh(a) attend(x, image)`, then `x + tanh(b) mlp(x)`; a = b = 0 at the start, so that
    the language model is at first what it was.

    Args: width: E; media_width: D; heads: of the attention; inner: its width (a multiple of
    `heads`; None = E); factor: of the perceptron.
    """

    def __init__(
        self,
        width: int,
        media_width: int,
        heads: int = 8,
        inner: int | None = None,
        factor: int = 4,
    ) -> None:
        super().__init__()
        inner = inner or width
        if inner % heads:
            raise ValueError(
                f"gated attention of width {inner} cannot have {heads} heads: set bridge.heads"
            )
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(media_width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.attention_gate = nn.Parameter(torch.zeros(1))
        self.feed_forward = feed_forward(width, factor)
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        hidden_BTE: Tensor,
        media_BILD: Tensor,
        index_BT: Tensor,
        seen: list[Tensor] | None = None,
    ) -> Tensor:
        """hidden [B,T,E], media [B,I,L,D], index [B,T] (-1 = no image yet) -> hidden, same dtype.

        With `seen`, the weights [B,T,I*L] are added to it, zero where a token sees no image.
        """
        x = hidden_BTE.to(self.norm.weight.dtype)  # a language model in bf16, gates in fp32
        mask = image_mask(index_BT, *media_BILD.shape[1:3])
        some = mask.any(-1, keepdim=True)
        mask = mask | ~some  # a row that sees nothing would be NaN; it is multiplied by 0 below
        query = self.query(self.norm(x))
        key, value = self.key_value(media_BILD.flatten(1, 2)).chunk(2, dim=-1)
        if seen is not None:
            seen.append(attention_weights(query, key, self.heads, mask) * some)
        attended = self.out(attention(query, key, value, self.heads, mask)) * some
        x = x + self.attention_gate.tanh() * attended
        x = x + self.feed_forward_gate.tanh() * self.feed_forward(x)
        return x.to(hidden_BTE.dtype)


class MediaContext:
    """What the inserted blocks look at, for as long as `looking_at` lasts."""

    def __init__(self) -> None:
        self.media: Tensor | None = None
        self.index: Tensor | None = None
        self.seen: list[Tensor] | None = None

    @contextmanager
    def looking_at(
        self, media_BILD: Tensor, index_BT: Tensor, seen: list[Tensor] | None = None
    ) -> Iterator[None]:
        """media [B,I,L,D], index [B,T] of the prompt or the whole sequence."""
        self.media, self.index, self.seen = media_BILD, index_BT, seen
        try:
            yield
        finally:
            self.media = self.index = self.seen = None

    def of(self, hidden_BTE: Tensor) -> tuple[Tensor, Tensor]:
        """media and index for a call of a layer.

        Generation calls with beams (the batch repeated) and with tokens after the prompt, alone
        (from the cache): they belong to the prompt's last image.
        """
        rows, length = hidden_BTE.shape[:2]
        media, index = self.media, self.index
        if rows != len(media):
            media = media.repeat_interleave(rows // len(media), dim=0)
            index = index.repeat_interleave(rows // len(index), dim=0)
        if length != index.shape[1]:
            index = index[:, -1:].expand(-1, length)
        return media, index


class Insertion:
    """A forward pre-hook: the hidden states go through `block` before the layer has them."""

    def __init__(self, block: nn.Module, context: MediaContext, recompute: bool) -> None:
        self.block, self.context, self.recompute = block, context, recompute

    def __call__(self, layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self.context.media is None:  # the language model alone
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        media, index = self.context.of(hidden)
        if self.recompute and torch.is_grad_enabled():
            hidden = checkpoint(self.block, hidden, media, index, use_reentrant=False)
        else:
            hidden = self.block(hidden, media, index, self.context.seen)
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})


class Recomputed:
    """A layer's `forward` whose activations are made again in the backward pass.

    transformers' own switch works in training mode only, and a frozen language model stays in eval.
    """

    def __init__(self, forward: Callable) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if not (torch.is_grad_enabled() and hidden.requires_grad):
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, **kwargs)


def decoder_layers(language_model: PreTrainedModel) -> nn.ModuleList:
    """The layers of a causal language model, in order.

    Raises ValueError for a model that is not a stack of `num_hidden_layers` layers.
    """
    count = language_model.config.get_text_config().num_hidden_layers
    for module in language_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(
        f"no list of {count} layers in {type(language_model).__name__}: only plain stacks of"
        " decoder layers (GPT-2, OPT, GPT-NeoX, Qwen, Llama, ...) are supported"
    )


def insert(
    language_model: PreTrainedModel,
    every: int,
    build: Callable[[], GatedCrossAttention],
    context: MediaContext,
    recompute: bool = False,
) -> nn.ModuleList:
    """Put a block before layers every, 2 every, ... (counted from 1); returns the blocks.

    The layers below the first block see no gradient, so autograd keeps nothing of them.

    Raises ValueError when `every` is not in 1..layers.
    """
    layers = decoder_layers(language_model)
    if not 1 <= every <= len(layers):
        raise ValueError(f"bridge.every={every}: the language model has {len(layers)} layers")
    blocks = nn.ModuleList()
    for number in range(every - 1, len(layers), every):
        blocks.append(build())
        layers[number].register_forward_pre_hook(
            Insertion(blocks[-1], context, recompute), with_kwargs=True
        )
    return blocks


def recompute_layers(language_model: PreTrainedModel) -> None:
    """Gradient checkpointing of every layer, also in eval mode."""
    for layer in decoder_layers(language_model):
        layer.forward = Recomputed(layer.forward)
