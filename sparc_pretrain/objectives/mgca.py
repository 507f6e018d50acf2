"""MGCA: contrast of instances, of tokens and of prototypes (Wang et al., arXiv 2210.06044), as
SPARC's comparison trains it: uniform token weights, learned temperatures, all terms of weight 1.

Suffixes: B samples, Q queries, D width, K prototypes. `scale` = 1/tau. Embeddings come
un-normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparc_pretrain.distributed import gather, own_rows
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.contrastive import (
    Temperature,
    full_precision,
    info_nce,
    token_contrast,
    unit,
    without_autocast,
)
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import Batch, Features


def token_alignment(
    queries: Tensor,
    attended: Tensor,
    mask: Tensor,
    scale: Tensor | float,
    divisor: Tensor | None = None,
) -> Tensor:
    """MGCA, eqs. 4-5, one direction of the token-wise term with uniform weights: each query against
    what the queries of its own sample attended to in the other modality, and the other way round.

        (1/2) (1/L_i) sum_l [ CE(scale cos(t_l, o_.), l) + CE(scale cos(o_l, t_.), l) ], mean over i

    SPARC's eq. 6 on cross-attended instead of grouped embeddings, so the same function.

    Args:
        queries, attended: [B,Q,D]. mask: [B,Q], True = takes part; padding is neither row nor
            column. divisor: samples of the whole batch, when this is a part of it.
    """
    return token_contrast(attended, queries, mask, scale, divisor=divisor)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Assignments of samples to prototypes, equally many to each (SwAV, arXiv 2006.09882).

    Args:
        scores: [b,K] of this rank. Columns are balanced over the samples of all ranks.

    Returns:
        [b,K] of this rank, rows sum to 1: exp(scores / epsilon), columns and rows normalised in
        turn, `iterations` times, in logarithms (exp would overflow at a small epsilon).
    """
    log_BK = gather(scores) / epsilon
    for _ in range(iterations):
        log_BK = log_BK - log_BK.logsumexp(dim=0, keepdim=True)
        log_BK = log_BK - log_BK.logsumexp(dim=1, keepdim=True)
    return log_BK.softmax(dim=1)[own_rows(len(scores), scores.device)]


@without_autocast
def prototype_loss(
    image: Tensor,
    text: Tensor,
    prototypes: Tensor,
    scale: Tensor | float,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    """MGCA, eqs. 7-9: the prototypes that a caption is assigned to, predicted from its image, and
    the other way round.

        q = Sinkhorn(z C^T / epsilon), without gradient;   p = softmax(scale z C^T)
        1/2 [ CE(q_image, p_text) + CE(q_text, p_image) ]

    Args:
        image, text: [b,D] of this rank. prototypes: [K,D]; all are made unit vectors here.

    Returns:
        scalar: the mean over this rank's rows.
    """
    prototypes = unit(prototypes)
    image_BK, text_BK = unit(image) @ prototypes.T, unit(text) @ prototypes.T
    loss = 0.0
    for target, predicted in ((image_BK, text_BK), (text_BK, image_BK)):
        share = (scale * predicted).log_softmax(dim=1)
        loss = loss - (sinkhorn(target, epsilon, iterations) * share).sum(dim=1).mean()
    return loss / 2


class CrossAttention(nn.Module):
    """One head from the tokens of one modality to those of the other, each projected to `width`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(width, num_heads=1, batch_first=True)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """queries [B,Q,d], keys [B,N,d], mask [B,N] (True = a key that is seen) -> [B,Q,d]."""
        hidden = ~mask & mask.any(dim=1, keepdim=True)  # all keys hidden is NaN in some kernels
        return self.heads(queries, keys, keys, key_padding_mask=hidden, need_weights=False)[0]


@OBJECTIVES.register_module()
class Mgca(Objective):
    """L = L_ITA + L_CTA + L_CPA: InfoNCE of the global embeddings, `token_alignment` halved over
    both directions, `prototype_loss`. Starts at the temperatures that MGCA fixes: 0.07, 0.1, 0.2.

    The instance and prototype terms see the shared space itself, as all objectives do; tokens and
    patches are projected to `local_width` for the cross-attention.

    Args:
        width: D of the shared space; the Pretrainer fills it in.
        local_width: of the cross-attention (128). prototypes: K (500).
        instance_weight, token_weight, prototype_weight: of the three terms, 1 each, above 0.
        epsilon, iterations: of the Sinkhorn assignment (0.05 and 3).

    Raises:
        ValueError: a weight that is not above 0.
    """

    coupled_features = ("image", "text")
    paired_features = ("patches", "tokens")

    def __init__(
        self,
        width: int,
        local_width: int = 128,
        prototypes: int = 500,
        instance_weight: float = 1.0,
        token_weight: float = 1.0,
        prototype_weight: float = 1.0,
        epsilon: float = 0.05,
        iterations: int = 3,
    ) -> None:
        super().__init__()
        self.weights = (instance_weight, token_weight, prototype_weight)
        if min(self.weights) <= 0:
            raise ValueError(f"Mgca: the weights {self.weights} must all be above 0")
        self.epsilon, self.iterations = epsilon, iterations
        self.project_patches = nn.Linear(width, local_width)
        self.project_tokens = nn.Linear(width, local_width)
        self.tokens_to_patches = CrossAttention(local_width)
        self.patches_to_tokens = CrossAttention(local_width)
        self.prototypes = nn.Parameter(unit(torch.randn(prototypes, width)))
        self.instance_temperature = Temperature(0.07)
        self.token_temperature = Temperature(0.1)
        self.prototype_temperature = Temperature(0.2)

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The terms over all pairs of a batch: instances, and prototypes (their assignment)."""
        scale, sharpness = self.instance_temperature(), self.prototype_temperature()
        image, text = features.image, features.text
        instance = info_nce(image, text, scale)
        prototype = prototype_loss(
            image, text, self.prototypes, sharpness, self.epsilon, self.iterations
        )
        return {
            "instance_loss": self.weights[0] * instance,
            "prototype_loss": self.weights[2] * prototype,
            "scale": scale.detach(),
            "prototype_scale": sharpness.detach(),
        }

    def paired(self, features: Features, batch: Batch, whole: Batch) -> dict[str, Tensor]:
        """The token-wise term, whose negatives are of the same pair.

        Args:
            whole: the rank's whole batch, when `features` and `batch` are a part of it.
        """
        scale = self.token_temperature()
        divisor = scale.new_tensor(len(whole))
        loss = self._token_term(features.patches, features.tokens, features.mask, scale, divisor)
        return {"token_loss": self.weights[1] * loss / 2, "token_scale": scale.detach()}

    @without_autocast
    def _token_term(
        self, patches: Tensor, tokens: Tensor, mask: Tensor, scale: Tensor, divisor: Tensor
    ) -> Tensor:
        """Both directions of `token_alignment`, summed."""
        patches = self.project_patches(full_precision(patches))
        tokens = self.project_tokens(full_precision(tokens))
        every = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
        seen = self.tokens_to_patches(tokens, patches, every)
        read = self.patches_to_tokens(patches, tokens, mask)
        loss = token_alignment(tokens, seen, mask, scale, divisor)
        return loss + token_alignment(patches, read, every, scale, divisor)
