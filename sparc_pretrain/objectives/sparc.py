"""SPARC: sparse fine-grained contrastive alignment (Bica et al., arXiv 2401.09865).

Suffixes: B samples, T tokens, P patches, D shared width. `scale` = 1/tau. Embeddings come un-
    normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparc_pretrain.distributed import total, world_size
from sparc_pretrain.objectives.contrastive import Temperature, full_precision, info_nce, unit
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
        grouped [B,T,D] and weights [B,T,P]. A constant row (range <= 1e-6, also P = 1) has weights
        and grouped vector 0 and passes no gradient; every other row sums to 1.

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
        weight_BTP = kept / torch.where(alive, kept.sum(dim=-1, keepdim=True), 1)
    else:
        raise ValueError(f"alignment {alignment!r}: use 'sparse' or 'softmax'")
    if detach:
        weight_BTP = weight_BTP.detach()
    return torch.einsum("btp,bpd->btd", weight_BTP, patches), weight_BTP


def normaliser(mask: Tensor, reduction: str = "caption") -> Tensor:
    """What the summed token losses of mask [B,T] are divided by: captions (eq. 6) or real tokens
    (Listing 1).
    """
    if reduction == "caption":
        return mask.new_tensor(mask.shape[0], dtype=torch.float32)
    if reduction == "token":
        return mask.sum().float().clamp(min=1)
    raise ValueError(f"reduction {reduction!r}: use 'caption' or 'token'")


def token_contrast(
    grouped: Tensor,
    tokens: Tensor,
    mask: Tensor,
    scale: Tensor | float,
    reduction: str = "caption",
    divisor: Tensor | None = None,
) -> Tensor:
    """Eq. 6: each token against the grouped embeddings of its own caption and the other way round,
    by cosine.

        -(1/2) (1/L_i) sum_j [ log softmax_k(scale cos(c_j,t_k))_j + log softmax_k(scale
        cos(t_j,c_k))_j ], k over real tokens

    Args:
        grouped, tokens: [B,T,D] un-normalised. mask: [B,T], True = takes part; padding is
            neither query nor key.
        reduction: 'caption' = mean over a caption's tokens, then over the batch; 'token' = mean
            over all real tokens.
        divisor: what to divide the sum by, when this is a part of a larger batch; None =
            `normaliser(mask)`.

    Returns:
        scalar.
    """
    cosine_BTT = torch.einsum("bjd,bkd->bjk", unit(grouped), unit(tokens))
    logits_BTT = scale * cosine_BTT
    # A padded query may see every key: its loss is dropped below, and no row is ever all -inf
    # (NaN).
    seen_BTT = mask[:, None, :] | ~mask[:, :, None]
    loss_BT = 0.0
    for logits in (logits_BTT, logits_BTT.transpose(1, 2)):
        log_share = logits.masked_fill(~seen_BTT, -torch.inf).log_softmax(dim=-1)
        loss_BT = loss_BT - torch.where(mask, log_share.diagonal(dim1=1, dim2=2), 0) / 2
    if reduction == "caption":
        loss_BT = loss_BT / mask.sum(dim=1, keepdim=True).clamp(min=1)
    divisor = normaliser(mask, reduction) if divisor is None else divisor
    return loss_BT.sum() / divisor


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


@OBJECTIVES.register_module()
class Sparc(nn.Module):
    """L = global_weight L_g + local_weight L_f (eq. 7), one learned temperature for both.

    Args:
        global_weight, local_weight: lambda_g (0.5) and lambda_f (the paper sweeps 0.5-10 and
            does not say which; 1).
        threshold, alignment, detach: see `group_patches`. reduction: see `token_contrast`.
        skip_special: leave begin and end tokens out of the fine-grained loss.
        local_temperature: a temperature of its own for the fine-grained loss.
    """

    reads = ("image", "text")  # the features that `scores` uses

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
    ) -> None:
        super().__init__()
        self.global_weight, self.local_weight = global_weight, local_weight
        self.grouping = dict(threshold=threshold, alignment=alignment, detach=detach)
        self.reduction, self.skip_special = reduction, skip_special
        self.temperature = Temperature()
        self.local_temperature = Temperature() if local_temperature else None

    def forward(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """features of [b] pairs -> {"global_loss", "local_loss", ...}; the rest is logged only."""
        return {**self.coupled(features.image, features.text), **self.paired(features, batch)}

    def coupled(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """The terms that couple all pairs of a batch, from global embeddings [b,D] alone."""
        scale = self.temperature()
        loss = self.global_weight * info_nce(image, text, scale)
        return {"global_loss": loss, "scale": scale.detach()}

    def paired(
        self, features: Features, batch: Batch, whole: Batch | None = None
    ) -> dict[str, Tensor]:
        """The terms that need one pair at a time, so that micro-batches sum to the batch.

        Args:
            whole: the rank's whole batch, when `features` and `batch` are a part of it.
        """
        mask = self._mask(features.mask, features.special)
        scale = (self.local_temperature or self.temperature)()
        whole = whole or batch
        divisor = normaliser(self._mask(whole.mask, whole.special), self.reduction)
        if self.reduction == "token":
            # The mean over ranks of (sum / divisor) must be (sum of sums) / (sum of counts).
            divisor = total(divisor) / world_size()
        grouped, weights = group_patches(features.tokens, features.patches, **self.grouping)
        loss = token_contrast(grouped, features.tokens, mask, scale, self.reduction, divisor)
        return {"local_loss": self.local_weight * loss, **alignment_statistics(weights, mask)}

    def _mask(self, mask: Tensor, special: Tensor) -> Tensor:
        return mask & ~special if self.skip_special else mask

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """How the model is read: cosine of the global embeddings, [I,T]."""
        return unit(image.image) @ unit(text.text).T


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
