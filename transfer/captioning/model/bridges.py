"""The trained parts between backbone and language model: what a captioner's `bridge` option names.

Shapes as in `flamingo`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc_pretrain.command.cli import nearest
from transfer.captioning.model.chunks import Chunks, Sequences
from transfer.captioning.model.gated import (
    GatedCrossAttention,
    MediaContext,
    insert,
    recompute_layers,
)
from transfer.captioning.model.resampler import PatchProjector, PerceiverResampler

MAX_FRAMES = 1  # of an image, unless crops or `frames` ask for more


class CrossAttentionBridge(nn.Module):
    """Resampler, and gated cross-attention before every `every`-th layer (Flamingo).

    Args: latents, depth: of the resampler; width: D (None = C); heads: of all attentions; every: N;
        factor: of the blocks' perceptrons; frames: the most frames of one image.
    """

    def __init__(
        self,
        language_model: PreTrainedModel,
        channels: int,
        recompute: bool,
        latents: int = 64,
        depth: int = 6,
        width: int | None = None,
        heads: int = 8,
        every: int = 4,
        factor: int = 4,
        frames: int = MAX_FRAMES,
    ) -> None:
        super().__init__()
        width = width or channels
        self.resampler = PerceiverResampler(channels, width, latents, depth, heads, frames)
        self.context = MediaContext()
        hidden = language_model.config.get_text_config().hidden_size
        block = partial(GatedCrossAttention, hidden, width, heads, factor=factor)
        self.blocks = insert(language_model, every, block, self.context, recompute)

    def latents(self, patches_NFPC: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """[N,L,D]."""
        return self.resampler(patches_NFPC, seen)

    def positions(self, media_BILD: Tensor) -> int:
        """Positions that an image takes in a sequence, before `<image>`."""
        return 0

    @contextmanager
    def joined(
        self,
        media_BILD: Tensor,
        rows: Sequences,
        embeds_BTE: Tensor,
        chunks: Chunks,
        seen: list[Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """The inputs of the language model, which sees the images while this lasts."""
        with self.context.looking_at(media_BILD, rows.index, seen):
            yield embeds_BTE


class PrefixBridge(nn.Module):
    """Latents or projected patches before `<image>`; the language model is not touched."""

    def __init__(self, net: PerceiverResampler | PatchProjector, out: nn.Module) -> None:
        super().__init__()
        self.net, self.out = net, out

    def latents(self, patches_NFPC: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """[N,L,E]."""
        if seen is not None:
            raise ValueError("where a word looked is known of kind='cross_attention' only")
        return self.out(self.net(patches_NFPC))

    def positions(self, media_BILD: Tensor) -> int:
        """L."""
        return media_BILD.shape[2]

    @contextmanager
    def joined(
        self,
        media_BILD: Tensor,
        rows: Sequences,
        embeds_BTE: Tensor,
        chunks: Chunks,
        seen: list[Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """See `CrossAttentionBridge.joined`; nothing is added to `seen`."""
        where = (rows.ids == chunks.prefix_id)[..., None].expand_as(embeds_BTE)
        yield embeds_BTE.masked_scatter(where, media_BILD.to(embeds_BTE.dtype))


def resampler_bridge(
    language_model: PreTrainedModel,
    channels: int,
    recompute: bool,
    latents: int = 64,
    depth: int = 6,
    width: int | None = None,
    heads: int = 8,
    frames: int = MAX_FRAMES,
) -> PrefixBridge:
    """A resampler whose latents are a prefix."""
    width = width or channels
    net = PerceiverResampler(channels, width, latents, depth, heads, frames)
    return PrefixBridge(net, nn.Linear(width, _embedding_width(language_model)))


def mlp_bridge(
    language_model: PreTrainedModel,
    channels: int,
    recompute: bool,
    grid: int | None = None,
    frames: int = MAX_FRAMES,
) -> PrefixBridge:
    """LLaVA's projector: every patch (or a grid of their means) is a position of the prefix."""
    net = PatchProjector(channels, _embedding_width(language_model), grid)
    return PrefixBridge(net, nn.Identity())


KINDS = {
    "cross_attention": CrossAttentionBridge,
    "resampler": resampler_bridge,
    "mlp": mlp_bridge,
}


def build_bridge(
    config: dict[str, Any],
    language_model: PreTrainedModel,
    channels: int,
    frames: int = MAX_FRAMES,
    recompute: bool = False,
) -> CrossAttentionBridge | PrefixBridge:
    """The bridge of a config. Raises ValueError for an unknown kind or option."""
    options = {"frames": frames, **config}
    kind = options.pop("kind", "cross_attention")
    if kind == "fusion":
        raise ValueError(
            "bridge.kind='fusion' is of type='sparc.Captioner' with run=RUN: the run itself writes "
            "and there is no backbone and no language_model"
        )
    if kind not in KINDS:
        raise ValueError(f"bridge.kind={kind!r}{nearest(kind, KINDS)}: choose {', '.join(KINDS)}")
    known = list(inspect.signature(KINDS[kind]).parameters)[3:]
    for key in options:
        if key not in known:
            raise ValueError(f"a {kind} bridge has no option {key!r}{nearest(key, known)}")
    if recompute:
        recompute_layers(language_model)
    return KINDS[kind](language_model, channels, recompute, **options)


def _embedding_width(language_model: PreTrainedModel) -> int:
    return language_model.get_input_embeddings().embedding_dim
