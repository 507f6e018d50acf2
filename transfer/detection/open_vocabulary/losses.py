"""What an open-vocabulary detector is trained with: prediction and truth are matched one to one,
then classes cost a focal loss, boxes L1 and GIoU (OWL-ViT, arXiv 2205.06230, app. A1.9; DETR,
arXiv 2005.12872).

Legend: P patches (each predicts one box), Q queries, N true boxes, M matched pairs = min(P, N).
Boxes are (centre x, centre y, width, height) as shares of the image, unless said otherwise.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

ALPHA, GAMMA = 0.3, 2.0  # OWL-ViT's
WORST = 1e4  # the cost of a pair that is not a number: far above any real one


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = ALPHA, gamma: float = GAMMA):
    """`-alpha_t (1 - p_t)^gamma log p_t`, element by element (arXiv 1708.02002, eq. 5).

    logits and targets (0 or 1, float) of one shape -> the same shape; p_t = p and alpha_t = alpha
    where the target is 1, else 1 - p and 1 - alpha.
    """
    p = logits.sigmoid()
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return alpha_t * (1 - p_t) ** gamma * entropy


def matching_cost(
    logits_PQ: Tensor,
    boxes_P4: Tensor,
    labels_N: Tensor,
    truth_N4: Tensor,
    alpha: float = ALPHA,
    gamma: float = GAMMA,
) -> Tensor:
    """[P,N]: what it would cost that patch p predicts object n; the weights of the loss, 1 each.

    The class costs what the focal loss says of p being n's class less what it says of p being
    nothing, as in Deformable DETR.
    """
    picked_PN = logits_PQ[:, labels_N]
    yes, no = torch.ones_like(picked_PN), torch.zeros_like(picked_PN)
    class_PN = focal_loss(picked_PN, yes, alpha, gamma) - focal_loss(picked_PN, no, alpha, gamma)
    corners_P4, corners_N4 = (box_convert(b, "cxcywh", "xyxy") for b in (boxes_P4, truth_N4))
    return (
        class_PN
        + torch.cdist(boxes_P4, truth_N4, p=1)
        - generalized_box_iou(corners_P4, corners_N4)
    )


@torch.no_grad()
def match(cost_PN: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one assignment of least total cost (Hungarian method): patches [M], objects [M].

    Pairs whose cost is not a number come last, so that a broken step reaches the guard of the
    optimizer and not an exception here.
    """
    cost = torch.nan_to_num(cost_PN.float(), nan=WORST, posinf=WORST, neginf=-WORST).cpu()
    patches, objects = linear_sum_assignment(cost.numpy())
    device = cost_PN.device
    return torch.as_tensor(patches, device=device), torch.as_tensor(objects, device=device)


def class_loss(
    logits_PQ: Tensor,
    known_PQ: Tensor,
    patches_M: Tensor,
    labels_M: Tensor,
    alpha: float = ALPHA,
    gamma: float = GAMMA,
) -> Tensor:
    """Focal loss of one image, summed over all that is known (a scalar).

    known [P,Q] bool: True where it is known that patch p, unless it is matched, shows nothing of
    class q. A matched patch is positive for its object's class, known or not. All the rest, the
    classes nobody looked for (arXiv 1908.03195, sec. 2.3), cost nothing and have no gradient.
    """
    target_PQ = torch.zeros_like(logits_PQ)
    target_PQ[patches_M, labels_M] = 1
    counted_PQ = known_PQ | (target_PQ > 0)
    # `where` and not a product: a logit that is not counted has no gradient, whatever its value
    return torch.where(counted_PQ, focal_loss(logits_PQ, target_PQ, alpha, gamma), 0).sum()


def box_losses(boxes_M4: Tensor, truth_M4: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and `1 - GIoU` (arXiv 1902.09630, alg. 1) of matched boxes, each summed (two scalars)."""
    l1 = F.l1_loss(boxes_M4, truth_M4, reduction="sum")
    corners = [box_convert(boxes, "cxcywh", "xyxy") for boxes in (boxes_M4, truth_M4)]
    return l1, generalized_box_iou_loss(*corners, reduction="sum")
