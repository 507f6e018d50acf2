"""The smallest objective with everything that fused ones have: views, a cross-attention of its own,
hard negatives over the global batch, and a term with boxes of single images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.distributed import gather, own_rows
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import info_nce, unit
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features, Views, Words


@OBJECTIVES.register_module(force=True)
class FusedToy(Objective):
    """Contrast, matching with the hardest negative image, words and a box read by fusion."""

    coupled_features = ("image", "text", "patch_states", "token_states")
    paired_features = ("patch_states", "token_states")

    def __init__(self, vision_width: int, text_width: int, vocab_size: int) -> None:
        super().__init__()
        self.fusion = nn.MultiheadAttention(
            text_width, 2, kdim=vision_width, vdim=vision_width, batch_first=True
        )
        self.match_head, self.box_head = nn.Linear(text_width, 2), nn.Linear(text_width, 4)
        self.words = nn.Linear(text_width, vocab_size)

    def views(self, batch: Batch, step: int) -> Views:
        """Every third word hidden, from the step's own on, and a made-up box of each image."""
        hidden = (torch.arange(batch.ids.shape[1], device=batch.ids.device) + step) % 3 == 1
        hidden = hidden & batch.mask & ~batch.special
        texts = {"hidden": Words(batch.ids.masked_fill(hidden, 39), batch.mask, batch.special)}
        box = (batch.ids[:, :4] + 0.5) / 40
        return Views(texts=texts, drawn={"hidden": hidden, "box": box})

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE, and own against hardest image for each caption."""
        image, states = gather(unit(features.image)), gather(features.patch_states)
        similarity = unit(features.text).detach() @ image.detach().T
        own = F.one_hot(own_rows(len(similarity), image.device), len(image)).bool()
        hard = similarity.masked_fill(own, -torch.inf).argmax(dim=1)
        both = torch.cat([features.patch_states, states[hard]])
        texts = features.token_states.repeat(2, 1, 1)
        logits = self.match_head(self._fused(texts, both)[:, 0])
        target = torch.arange(2, device=image.device).repeat_interleave(len(similarity))
        return {
            "global_loss": info_nce(features.image, features.text, 10.0),
            "match_loss": F.cross_entropy(logits, target),
        }

    def paired(self, features: Features, batch: Batch, whole: Batch) -> dict[str, Tensor]:
        """The box from the caption; hidden words from the image, over those of all ranks."""
        drawn = batch.views.drawn
        fused = self._fused(features.token_states, features.patch_states)
        box = self.box_head(fused[:, 0]).sigmoid()
        seen = self._fused(features.views["hidden"].token_states, features.patch_states)
        words = self.words(seen[drawn["hidden"]])
        guessed = F.cross_entropy(words, batch.ids[drawn["hidden"]], reduction="sum")
        hidden = gather(whole.views.drawn["hidden"].sum(dim=1)).sum()
        count = hidden / (len(gather(whole.ids[:, 0])) / len(whole.ids))
        return {
            "box_loss": (box - drawn["box"].to(box.dtype)).abs().sum() / len(whole),
            "word_loss": guessed / count,
        }

    def _fused(self, tokens: Tensor, patches: Tensor) -> Tensor:
        return tokens + self.fusion(tokens, patches, patches, need_weights=False)[0]
