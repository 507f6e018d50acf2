"""SPARC: sparse fine-grained contrastive alignment (Bica et al., arXiv 2401.09865).

Suffixes: B samples, T tokens, P patches, D shared width. `scale` = 1/tau. Embeddings come un-
    normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparc_pretrain.distributed import roll, total, world_size
from sparc_pretrain.objectives.contrastive import (
    BLOCK,
    Temperature,
    by_rows,
    full_precision,
    info_nce,
    normaliser,
    token_contrast,
    unit,
)
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures

# A row of similarities whose max - min is not above this has no preference: its weights are zero.
FLAT_ROW = 1e-6


def group_patches(
    tokens: Tensor,
    patches: Tensor,
    threshold: float | None = None,
    alignment: str = "sparse",
    detach: bool = False,
) -> tuple[Tensor, Tensor]:
    """Eqs. 2-5: each token gathers the patches it resembles.

        s_lp = t_l . v_p;  min-max over patches;  zero below `threshold`;  renormalise to sum 1;
        c_l = sum_p a_lp v_p

    Args:
        tokens: [B,T,D]. patches: [B,P,D]; neither is normalised before the inner product.
        threshold: sigma; None = 1/P as in the paper, 0 = no sparsity.
        alignment: 'sparse' (the paper's) or 'softmax' over patches of s (its ablation, Table 8).
        detach: no gradient through the weights.

    Returns:
        grouped [B,T,D] and weights [B,T,P]. A row that gathers nothing (constant, with a
        range <= 1e-6, also P = 1; or sigma above 1) has weights and grouped vector 0 and passes
        no gradient; every other row sums to 1.

    Raises:
        ValueError: an unknown alignment.
    """
    tokens, patches = full_precision(tokens), full_precision(patches)
    score_BTP = torch.einsum("btd,bpd->btp", tokens, patches)
    if alignment == "softmax":
        weight_BTP = score_BTP.softmax(dim=-1)
    elif alignment == "sparse":
        sigma = 1 / patches.shape[1] if threshold is None else threshold
        low, high = score_BTP.aminmax(dim=-1, keepdim=True)
        spread = high - low
        alive = spread > FLAT_ROW
        shifted = torch.where(alive, score_BTP - low, 0) / torch.where(alive, spread, 1)
        kept = torch.where(shifted >= sigma, shifted, 0)
        total = kept.sum(dim=-1, keepdim=True)
        weight_BTP = kept / torch.where(total > 0, total, 1)
    else:
        raise ValueError(f"alignment {alignment!r}: use 'sparse' or 'softmax'")
    if detach:
        weight_BTP = weight_BTP.detach()
    return torch.einsum("btp,bpd->btd", weight_BTP, patches), weight_BTP


def fine_grained_loss(
    patches: Tensor,
    tokens: Tensor,
    mask: Tensor,
    scale: Tensor | float,
    threshold: float | None = None,
    alignment: str = "sparse",
    detach: bool = False,
    reduction: str = "caption",
) -> Tensor:
    """L_f of SPARC, eqs. 2-6, of patches [B,P,D], tokens [B,T,D] and mask [B,T]: `group_patches`,
    then `token_contrast`.
    """
    grouped, _ = group_patches(tokens, patches, threshold, alignment, detach)
    return token_contrast(grouped, tokens, mask, scale, reduction)


def grouped_similarity(
    patches: Tensor,
    tokens: Tensor,
    mask: Tensor,
    threshold: float | None = None,
    alignment: str = "sparse",
    block: int | None = BLOCK,
) -> Tensor:
    """What eq. 6 raises, for every image and caption: the mean over real tokens of
    cos(c_l, t_l), where the caption's tokens group the image's patches.

    Args:
        patches: [Bi,P,D]. tokens: [Bt,T,D], mask: [Bt,T]. block: see `contrastive.by_rows`.

    Returns:
        [Bi,Bt].
    """
    count_B = mask.sum(dim=1).clamp(min=1)

    def rows(patches_RPD: Tensor, tokens: Tensor) -> tuple[Tensor]:
        cosine_RBT = torch.stack(
            [
                (unit(group_patches(tokens, one, threshold, alignment)[0]) * unit(tokens)).sum(
                    dim=-1
                )
                for one in patches_RPD[:, None].expand(-1, len(tokens), -1, -1)
            ]
        )
        return (torch.where(mask, cosine_RBT, 0).sum(dim=-1) / count_B,)

    cells = tokens.shape[0] * tokens.shape[1] * (patches.shape[1] + patches.shape[2])
    return by_rows(rows, patches, tokens, cells=cells, block=block)[0]


@OBJECTIVES.register_module()
class Sparc(nn.Module):
    """L = global_weight L_g + local_weight L_f (eq. 7), one learned temperature for both.

    The paper's ablations: no sparsity is threshold=0, softmax alignment is alignment='softmax',
    Listing 1's mean over tokens is reduction='token', and local only is global_weight=0.

    Args:
        global_weight, local_weight: lambda_g (0.5) and lambda_f (the paper sweeps 0.5-10 and
            does not say which; 1). A term of weight 0 is not computed.
        threshold, alignment, detach: see `group_patches`. reduction: see `token_contrast`.
        skip_special: leave begin and end tokens out of the fine-grained loss.
        local_temperature: a temperature of its own for the fine-grained loss.
        shuffle: a control, not a method: the fine-grained loss sees the images of the batch moved
            on by one. Tokens group patches by resemblance, so a token's identity can be written
            into what it gathers; whatever L_f still falls by on wrong images is that leak.

    Raises:
        ValueError: both weights are 0.
    """

    def __init__(
        self,
        global_weight: float = 0.5,
        local_weight: float = 1.0,
        threshold: float | None = None,
        alignment: str = "sparse",
        detach: bool = False,
        reduction: str = "caption",
        skip_special: bool = False,
        local_temperature: bool = False,
        shuffle: bool = False,
    ) -> None:
        super().__init__()
        if not (global_weight or local_weight):
            raise ValueError("Sparc: global_weight and local_weight are both 0, nothing is trained")
        self.global_weight, self.local_weight = global_weight, local_weight
        self.grouping = dict(threshold=threshold, alignment=alignment, detach=detach)
        self.reduction, self.skip_special, self.shuffle = reduction, skip_special, shuffle
        self.temperature = Temperature()
        self.local_temperature = Temperature() if local_temperature else None
        if local_temperature:  # a term that is not computed must not hold a parameter that waits
            self.temperature.requires_grad_(bool(global_weight))
            self.local_temperature.requires_grad_(bool(local_weight))
        whole = ("image", "text") if global_weight else ()
        parts = ("patches", "tokens") if local_weight else ()
        self.couples = whole + parts if shuffle else whole
        self.pairs = () if shuffle else parts
        self.reads = whole or parts  # the features that `scores` uses

    def forward(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """features of [b] pairs -> {"global_loss", "local_loss", ...}; the rest is logged only."""
        return {**self.coupled(features), **self.paired(features, batch)}

    def coupled(self, features: Features) -> dict[str, Tensor]:
        """The terms over all pairs of a batch: L_g, and L_f when its images are shuffled."""
        losses: dict[str, Tensor] = {}
        if self.global_weight:
            scale = self.temperature()
            loss = self.global_weight * info_nce(features.image, features.text, scale)
            losses.update(global_loss=loss, scale=scale.detach())
        if self.local_weight and self.shuffle:
            losses.update(self._local(features, roll(features.patches), features))
        return losses

    def paired(
        self, features: Features, batch: Batch, whole: Batch | None = None
    ) -> dict[str, Tensor]:
        """The terms that need one pair at a time, so that micro-batches sum to the batch.

        Args:
            whole: the rank's whole batch, when `features` and `batch` are a part of it.
        """
        if not self.local_weight or self.shuffle:
            return {}
        return self._local(features, features.patches, whole or batch)

    def _local(
        self, features: Features, patches: Tensor, whole: Batch | Features
    ) -> dict[str, Tensor]:
        """L_f of `features` with these patches; `whole` is what its divisor is counted over."""
        mask = self._mask(features.mask, features.special)
        scale = (self.local_temperature or self.temperature)()
        divisor = normaliser(self._mask(whole.mask, whole.special), self.reduction)
        if self.reduction == "token":
            # The mean over ranks of (sum / divisor) must be (sum of sums) / (sum of counts).
            divisor = total(divisor) / world_size()
        grouped, weights = group_patches(features.tokens, patches, **self.grouping)
        loss = token_contrast(grouped, features.tokens, mask, scale, self.reduction, divisor)
        return {"local_loss": self.local_weight * loss, **alignment_statistics(weights, mask)}

    def _mask(self, mask: Tensor, special: Tensor) -> Tensor:
        return mask & ~special if self.skip_special else mask

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How the model is read: cosine of the global embeddings, [I,T]; trained by the
        fine-grained loss alone, by `grouped_similarity`.
        """
        if self.global_weight:
            return unit(image.image) @ unit(text.text).T
        mask = self._mask(text.mask, text.special)
        grouping = {key: self.grouping[key] for key in ("threshold", "alignment")}
        return grouped_similarity(image.patches, text.tokens, mask, **grouping)


@torch.no_grad()
def alignment_statistics(weights: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """For the log, over the real tokens of weights [B,T,P]: the mean share of patches kept (0 to 1)
    and the mean entropy
    of the alignment weights (nats; log P = uniform)."""
    count = mask.sum().clamp(min=1)
    kept = (weights > 0).float().mean(dim=-1)
    entropy = torch.special.entr(weights.detach().float()).sum(dim=-1)
    return {
        "patches_kept": (kept * mask).sum() / count,
        "alignment_entropy": (entropy * mask).sum() / count,
    }
