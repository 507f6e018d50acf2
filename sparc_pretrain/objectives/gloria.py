"""GLoRIA: words attend to the patches of every image (Huang et al., ICCV 2021), as SPARC's
comparison trains it: tokens as words, similarities divided by sqrt(D), learned temperatures.

Suffixes: R images of a block, B captions, P patches, T tokens, D shared width. gamma1, gamma2 and
gamma3 are the paper's, inverse temperatures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparc_pretrain.distributed import gather_padded
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import (
    BLOCK,
    Temperature,
    by_rows,
    full_precision,
    info_nce,
    score_nce,
    unit,
    without_autocast,
)
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures


@without_autocast
def local_similarity(
    patches: Tensor,
    tokens: Tensor,
    mask: Tensor,
    gamma1: Tensor | float,
    gamma2: Tensor | float,
    block: int | None = BLOCK,
) -> Tensor:
    """GLoRIA, eqs. 3-7 and its code's softmax over words: how well each caption's words are matched
    by what they attend to in each image.

        s_pl = v_p . t_l / sqrt(D);   s'_pl = softmax over words l;   a_lp = softmax over patches p
        of gamma1 s'_pl;   c_l = sum_p a_lp v_p;   Z = log sum_l exp(gamma2 cos(c_l, t_l))

    Args:
        patches: [Bi,P,D]. tokens: [Bt,T,D], both un-normalised. mask: [Bt,T], True = real;
            padding takes part in neither softmax nor sum.
        block: numbers held at a time, see `contrastive.by_rows`; None = all.

    Returns:
        Z [Bi,Bt]. A caption without real tokens scores 0.
    """
    patches, tokens = full_precision(patches), full_precision(tokens)
    gamma1 = torch.as_tensor(gamma1, dtype=patches.dtype, device=patches.device)
    gamma2 = torch.as_tensor(gamma2, dtype=patches.dtype, device=patches.device)
    some_B1 = mask.any(dim=1, keepdim=True)
    seen_BT = mask | ~some_B1  # no softmax runs over nothing, which would be NaN
    root = patches.shape[2] ** 0.5

    def rows(
        patches_RPD: Tensor, tokens_BTD: Tensor, gamma1: Tensor, gamma2: Tensor
    ) -> tuple[Tensor]:
        score_RPBT = torch.einsum("rpd,btd->rpbt", patches_RPD, tokens_BTD) / root
        word_RPBT = score_RPBT.masked_fill(~seen_BT, -torch.inf).softmax(dim=-1)
        weight_RPBT = (gamma1 * word_RPBT).softmax(dim=1)
        context_RBTD = torch.einsum("rpbt,rpd->rbtd", weight_RPBT, patches_RPD)
        cosine_RBT = (unit(context_RBTD) * unit(tokens_BTD)).sum(dim=-1)
        total_RB = (gamma2 * cosine_RBT).masked_fill(~seen_BT, -torch.inf).logsumexp(dim=-1)
        return (torch.where(some_B1[:, 0], total_RB, 0),)

    cells = mask.numel() * (patches.shape[1] + patches.shape[2])
    return by_rows(rows, patches, tokens, gamma1, gamma2, cells=cells, block=block)[0]


@OBJECTIVES.register_module()
class Gloria(Objective):
    """L = L_global + L_local, each the sum of both directions' cross-entropies (not the mean).

    All three temperatures are learned, gamma3 is that of both losses; the paper says learned, and
    not which.

    Args:
        global_weight, local_weight: 1 and 1 in GLoRIA.
        gamma1, gamma2, gamma3: where the inverse temperatures start (GLoRIA's 4, 5 and 10).
        block: see `local_similarity`.

    Raises:
        ValueError: `local_weight` is not above 0 (that is Clip).
    """

    def __init__(
        self,
        global_weight: float = 1.0,
        local_weight: float = 1.0,
        gamma1: float = 4.0,
        gamma2: float = 5.0,
        gamma3: float = 10.0,
        block: int | None = BLOCK,
    ) -> None:
        super().__init__()
        if local_weight <= 0:
            raise ValueError(f"Gloria: local_weight={local_weight} must be above 0; else use Clip")
        self.global_weight, self.local_weight, self.block = global_weight, local_weight, block
        self.gamma1, self.gamma2 = Temperature(1 / gamma1), Temperature(1 / gamma2)
        self.gamma3 = Temperature(1 / gamma3)
        whole = ("image", "text") if global_weight else ()
        self.coupled_features = (*whole, "patches", "tokens")
        self.score_features = self.coupled_features

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The terms over all pairs of a batch."""
        gamma1, gamma2, gamma3 = self.gamma1(), self.gamma2(), self.gamma3()
        tokens, mask = gather_padded(features.tokens), gather_padded(features.mask)
        similarity = local_similarity(features.patches, tokens, mask, gamma1, gamma2, self.block)
        logits = gamma3 * similarity
        losses = {"local_loss": 2 * self.local_weight * score_nce(logits, logits)}
        if self.global_weight:
            coarse = info_nce(features.image, features.text, gamma3)
            losses["global_loss"] = 2 * self.global_weight * coarse
        gammas = {"gamma1": gamma1, "gamma2": gamma2, "gamma3": gamma3}
        return {**losses, **{name: value.detach() for name, value in gammas.items()}}

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How the model is read: the losses' logits over gamma3, summed by the losses' weights,
        Z + cos(v, t), [I,T].
        """
        gammas = self.gamma1(), self.gamma2()
        fine = local_similarity(image.patches, text.tokens, text.mask, *gammas, self.block)
        if not self.global_weight:
            return self.local_weight * fine
        coarse = unit(image.image) @ unit(text.text).T
        return self.local_weight * fine + self.global_weight * coarse
