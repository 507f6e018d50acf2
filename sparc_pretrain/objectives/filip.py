"""FILIP: token-wise maximal similarity (Yao et al., arXiv 2111.07783), as SPARC's comparison trains
it: no augmentation, optional dropping of tokens.

Suffixes: R images of a block, B captions, P patches, T tokens, D shared width. `scale` = 1/tau.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparc_pretrain.distributed import gather_padded
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import (
    BLOCK,
    Temperature,
    by_rows,
    info_nce,
    score_nce,
    unit,
    without_autocast,
)
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures


@without_autocast
def token_similarity(
    patches: Tensor, tokens: Tensor, mask: Tensor, block: int | None = BLOCK
) -> tuple[Tensor, Tensor]:
    """FILIP, eqs. 4-5: the mean over patches of the best token's cosine, and the mean over tokens
    of the best patch's.

        s^I_ij = (1/P) sum_p max_l cos(v_ip, t_jl);    s^T_ij = (1/L_j) sum_l max_p cos(v_ip, t_jl)

    Args:
        patches: [Bi,P,D]. tokens: [Bt,T,D], both un-normalised. mask: [Bt,T], True = real;
            padding is in neither maximum nor mean.
        block: numbers of the similarity held at a time, see `contrastive.by_rows`; None = all.

    Returns:
        image_to_text, text_to_image: [Bi,Bt]. A caption without real tokens scores 0. Tied maxima
        share the gradient.
    """
    count_B = mask.sum(dim=1)
    cells = mask.numel() * patches.shape[1]

    def rows(patches_RPD: Tensor, tokens_BTD: Tensor) -> tuple[Tensor, Tensor]:
        cosine_RPBT = torch.einsum("rpd,btd->rpbt", patches_RPD, tokens_BTD)
        best_token_RPB = cosine_RPBT.masked_fill(~mask, -torch.inf).amax(dim=-1)
        best_token_RPB = torch.where(count_B > 0, best_token_RPB, 0)
        best_patch_RBT = torch.where(mask, cosine_RPBT.amax(dim=1), 0)
        return best_token_RPB.mean(dim=1), best_patch_RBT.sum(dim=-1) / count_B.clamp(min=1)

    image_to_text, text_to_image = by_rows(
        rows, unit(patches), unit(tokens), cells=cells, block=block
    )
    return image_to_text, text_to_image


@without_autocast
def keep_salient(
    patches: Tensor, tokens: Tensor, mask: Tensor, drop: float
) -> tuple[Tensor, Tensor]:
    """Drop the share `drop` of the least salient patches and tokens of each pair (FILIP, sec. 3.3
    keeps a quarter; SPARC speaks of "20 % token dropping").

    Salience of a patch is its best cosine with a real token of its own caption, of a token its best
    cosine with a patch of its own image; the choice passes no gradient. FILIP compares with the
    captions of a whole worker, which would depend on how a batch is cut up.

    Args:
        patches: [B,P,D]. tokens: [B,T,D], mask: [B,T]; un-normalised. drop: from 0 up to, not
            including, 1.

    Returns:
        patches [B,ceil((1-drop) P),D] in their order, and the mask with ceil((1-drop) L_i) real
        tokens.
    """
    with torch.no_grad():
        cosine_BPT = torch.einsum("bpd,btd->bpt", unit(patches), unit(tokens))
        patch_BP = cosine_BPT.masked_fill(~mask[:, None], -2).amax(dim=2)
        token_BT = cosine_BPT.amax(dim=1).masked_fill(~mask, -torch.inf)
        most = _kept(patches.shape[1], drop)
        chosen = patch_BP.topk(most, dim=1).indices.sort(dim=1).values
        place_BT = token_BT.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        # by a table: counts on a GPU would have to be waited for
        kept_T = torch.tensor([_kept(count, drop) for count in range(mask.shape[1] + 1)])
        limit_B = kept_T.to(mask.device, non_blocking=True)[mask.sum(dim=1)]
    picked = patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[2]))
    return picked, mask & (place_BT < limit_B[:, None])


def _kept(count: int, drop: float) -> int:
    return count - math.floor(count * drop + 1e-9)  # 100 x 0.29 is 28.9999... in binary


@OBJECTIVES.register_module()
class Filip(Objective):
    """InfoNCE of the token-wise similarities, each in its own direction, one learned temperature.

    Args:
        global_weight, local_weight: of CLIP's loss (0; above 0 this is CLIP+FILIP, whose weights
            the paper does not give) and of the token-wise loss.
        drop: share of the least salient patches and tokens that training leaves out, see
            `keep_salient`.
        block: see `token_similarity`.

    Raises:
        ValueError: `local_weight` is not above 0 (that is Clip), or `drop` is not in [0,1).
    """

    def __init__(
        self,
        global_weight: float = 0.0,
        local_weight: float = 1.0,
        drop: float = 0.0,
        block: int | None = BLOCK,
    ) -> None:
        super().__init__()
        if local_weight <= 0:
            raise ValueError(f"Filip: local_weight={local_weight} must be above 0; else use Clip")
        if not 0 <= drop < 1:
            raise ValueError(f"Filip: drop={drop} must be at least 0 and below 1")
        self.global_weight, self.local_weight = global_weight, local_weight
        self.drop, self.block = drop, block
        self.temperature = Temperature()
        whole = ("image", "text") if global_weight else ()
        self.coupled_features = (*whole, "patches", "tokens")
        self.score_features = self.coupled_features

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The terms over all pairs of a batch: L = 1/2 [CE_i(s^I_i./tau) + CE_j(s^T_.j/tau)]."""
        scale = self.temperature()
        patches, mask = features.patches, features.mask
        if self.drop:
            patches, mask = keep_salient(patches, features.tokens, mask, self.drop)
        tokens, mask = gather_padded(features.tokens), gather_padded(mask)
        image_to_text, text_to_image = token_similarity(patches, tokens, mask, self.block)
        loss = self.local_weight * score_nce(scale * image_to_text, scale * text_to_image)
        losses = {"local_loss": loss, "scale": scale.detach()}
        if self.global_weight:
            coarse = info_nce(features.image, features.text, scale)
            losses["global_loss"] = self.global_weight * coarse
        return losses

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How the model is read: the mean of both token-wise similarities, [I,T]; of CLIP+FILIP
        the mean, by the losses' weights, of that and the cosine of the global embeddings.
        """
        fine = sum(token_similarity(image.patches, text.tokens, text.mask, self.block)) / 2
        if not self.global_weight:
            return fine
        coarse = unit(image.image) @ unit(text.text).T
        weighted = self.local_weight * fine + self.global_weight * coarse
        return weighted / (self.local_weight + self.global_weight)
