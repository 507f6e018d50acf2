"""SPARC: sparse fine-grained contrastive alignment (Bica et al., arXiv 2401.09865), and an image
contrast of ours beside it, off by default.

Suffixes: B samples, T tokens, P patches, D shared width. `scale` = 1/tau. Embeddings come un-
    normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparc_pretrain.distributed import roll, total, world_size
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.chunked import pairs_at_a_time, sum_over_pairs
from sparc_pretrain.objectives.contrastive import (
    BLOCK,
    Temperature,
    by_rows,
    info_nce,
    normaliser,
    token_contrast,
    twins,
    unit,
    without_autocast,
)
from sparc_pretrain.objectives.grouping import (
    alignment_sums,
    equal_pairs,
    group_direction,
    group_patches,
    image_contrast,
    neighbours,
    sum_to_one,
)
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features, ImageFeatures, TextFeatures

# The tokens that the image contrast holds against images.
CONTEXTS = {"text": ("tokens",), "none": ("words",), "both": ("tokens", "words")}


@without_autocast
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
    then `token_contrast`: the formula line by line, all pairs at once. `Sparc` computes the same a
    few pairs at a time.
    """
    grouped, _ = group_patches(tokens, patches, threshold, alignment, detach)
    return token_contrast(grouped, tokens, mask, scale, reduction)


@without_autocast
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
class Sparc(Objective):
    """L = global_weight L_g + local_weight L_f (eq. 7) + image_contrast L_ic, one learned
    temperature for all.

    The paper's ablations: no sparsity is threshold=0, softmax alignment is alignment='softmax',
    Listing 1's mean over tokens is reduction='token', and local only is global_weight=0. L_ic is
    not the paper's: see `grouping.image_contrast`, configs/sparc_ic.py.

    Args:
        global_weight, local_weight: lambda_g (0.5) and lambda_f (the paper sweeps 0.5-10 and
            does not say which; 1). A term of weight 0 is not computed.
        threshold, alignment, detach: see `group_patches`. reduction: see `token_contrast`.
        skip_special: leave begin and end tokens out of the local terms.
        local_temperature: a temperature of its own for the local terms.
        shuffle: a control, not a method: the local terms see the images of the batch moved on, by
            one or by a whole group of `neighbours`. Tokens group patches by resemblance, so a
            token's identity can be written into what it gathers; whatever L_f still falls by on
            wrong images is that leak.
        image_contrast: the weight of L_ic. image_negatives: K of it.
        token_context: the tokens of L_ic: 'text' = as L_f has them, 'none' = free of context,
            'both' = the mean of the two.
        contrast_of: what L_ic holds against images, 'tokens' or 'captions', see
            `grouping.image_contrast`.
        same_token: equal tokens of one caption are in L_f each other's 'negative' (as printed), or
            'ignore': left out of both denominators.

    Raises:
        ValueError: all weights are 0, or an unknown option.
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
        image_contrast: float = 0.0,
        image_negatives: int = 1,
        token_context: str = "text",
        contrast_of: str = "tokens",
        same_token: str = "negative",
    ) -> None:
        super().__init__()
        local = bool(local_weight or image_contrast)
        if not (global_weight or local):
            raise ValueError(
                "Sparc: global_weight, local_weight and image_contrast are all 0: nothing is "
                "trained"
            )
        if token_context not in CONTEXTS:
            raise ValueError(f"token_context {token_context!r}: use one of {', '.join(CONTEXTS)}")
        if contrast_of not in ("tokens", "captions"):
            raise ValueError(f"contrast_of {contrast_of!r}: use 'tokens' or 'captions'")
        if same_token not in ("negative", "ignore"):
            raise ValueError(f"same_token {same_token!r}: use 'negative' or 'ignore'")
        self.global_weight, self.local_weight, self.local = global_weight, local_weight, local
        self.image_contrast, self.image_negatives = image_contrast, image_negatives
        self.contrast_of = contrast_of
        self.grouping = dict(threshold=threshold, alignment=alignment, detach=detach)
        self.reduction, self.skip_special, self.shuffle = reduction, skip_special, shuffle
        self.ignore_twins = same_token == "ignore"
        self.contrasted = CONTEXTS[token_context] if image_contrast else ()
        self.word_features = self.contrasted[-1] if self.contrasted else "tokens"
        # how far the control moves images: whole groups, so that no caption meets its own image
        self.moved = neighbours(0, image_negatives)[0] if image_contrast else 1
        self.together = self.moved
        self.temperature = Temperature()
        self.local_temperature = Temperature() if local_temperature else None
        if local_temperature:  # a term that is not computed must not hold a parameter that waits
            self.temperature.requires_grad_(bool(global_weight))
            self.local_temperature.requires_grad_(local)
        whole = ("image", "text") if global_weight else ()
        tokens = (("tokens",) if local_weight else ()) + self.contrasted
        parts = ("patches", *dict.fromkeys(tokens)) if local else ()
        self.coupled_features = whole + parts if shuffle else whole
        self.paired_features = () if shuffle else parts
        self.score_features = whole or parts[:2]

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The terms over all pairs of a batch: L_g, and the local ones when images are shuffled."""
        losses: dict[str, Tensor] = {}
        if self.global_weight:
            scale = self.temperature()
            loss = self.global_weight * info_nce(features.image, features.text, scale)
            losses.update(global_loss=loss, scale=scale.detach())
        if self.shuffle and self.local:
            losses.update(self._local(features, roll(features.patches, self.moved), batch, batch))
        return losses

    def paired(self, features: Features, batch: Batch, whole: Batch) -> dict[str, Tensor]:
        """The terms that need one pair at a time, so that micro-batches sum to the batch.

        Args:
            whole: the rank's whole batch, when `features` and `batch` are a part of it.
        """
        if self.shuffle or not self.local:
            return {}
        return self._local(features, features.patches, batch, whole)

    def _local(
        self, features: Features, patches: Tensor, batch: Batch, whole: Batch
    ) -> dict[str, Tensor]:
        """The local terms of `features` of `batch` with these patches; `whole` is what their
        divisor is counted over.
        """
        mask = self._mask(features.mask, features.special)
        scale = (self.local_temperature or self.temperature)()
        divisor = normaliser(self._mask(whole.mask, whole.special), self.reduction)
        if self.reduction == "token":
            # The mean over ranks of (sum / divisor) must be (sum of sums) / (sum of counts).
            divisor = total(divisor) / world_size()
        shared = scale, divisor
        losses: dict[str, Tensor] = {}
        logged: list[tuple[Tensor, ...]] = []
        if self.local_weight:
            texts = [mask, features.tokens, *([batch.ids] if self.ignore_twins else [])]
            pairs = pairs_at_a_time(features.tokens, patches)
            loss, *sums = sum_over_pairs(self._fine_grained, [patches], texts, shared, pairs)
            losses["local_loss"] = self.local_weight * loss
            logged.append(sums)
        if self.image_contrast:
            refused = equal_pairs(batch.key, batch.ids, batch.mask, self.image_negatives)
            group, _ = neighbours(0, self.image_negatives)
            if self.contrast_of == "captions":
                shared = scale, normaliser(whole.mask)
            for name in self.contrasted:
                tokens = getattr(features, name)
                pairs = pairs_at_a_time(tokens, patches, group)
                images = [patches, refused.T]
                loss, *sums = sum_over_pairs(
                    self._image_contrast, images, [mask, tokens], shared, pairs
                )
                weight = self.image_contrast / len(self.contrasted)
                losses[f"image_contrast_{name}_loss"] = weight * loss
                logged.append(sums)
        count = mask.sum().clamp(min=1)
        kept, entropy = logged[0]
        return {**losses, "patches_kept": kept / count, "alignment_entropy": entropy / count}

    def _fine_grained(
        self, patches: Tensor, mask: Tensor, tokens: Tensor, *others: Tensor
    ) -> tuple[Tensor, ...]:
        """L_f of a few pairs and the sums for the log; `others`: ids if used, scale, divisor."""
        *ids, scale, divisor = others
        grouped, weights = group_direction(tokens, patches, **self.grouping)
        weights = sum_to_one(weights)
        ignored = twins(ids[0]) if ids else None
        loss = token_contrast(grouped, tokens, mask, scale, self.reduction, divisor, ignored)
        return loss, *alignment_sums(weights, mask)

    def _image_contrast(
        self,
        patches: Tensor,
        refused_BK: Tensor,
        mask: Tensor,
        tokens: Tensor,
        scale: Tensor,
        divisor: Tensor,
    ) -> tuple[Tensor, ...]:
        """L_ic of a few whole groups of pairs and the sums for the log."""
        options = dict(self.grouping, reduction=self.reduction, divisor=divisor)
        options["contrast_of"] = self.contrast_of
        refused_KB = refused_BK.T
        loss, weights = image_contrast(
            patches, tokens, mask, scale, self.image_negatives, refused_KB, **options
        )
        return loss, *alignment_sums(weights, mask)

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
        return grouped_similarity(
            image.patches, getattr(text, self.score_features[1]), mask, **grouping
        )

    @property
    def dense_head(self) -> str:
        """How dense tasks read patches: as the paper does, or as the image contrast trains them."""
        return "local" if self.image_contrast else super().dense_head
