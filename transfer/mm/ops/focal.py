"""The sigmoid focal loss for the stand-in of ``mmcv._ext``.

Argument names and order, and which tensors are written in place, are those of mmcv's C++ binding
(``pybind.cpp``). Letters: R rows, K classes. Half types are computed in float32.
No config of mmdet or mmseg calls the softmax one: it raises.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from transfer.mm.ops.boxes import widen

PART = 1 << 20  # entries whose terms are in memory at a time


def _sigmoid_focal_terms(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``p``, ``log p``, ``log (1 - p)`` and which entries are the target's, all ``[R,K]``; a target
    of K is background.
    """
    wide = widen(logits)
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    return wide.sigmoid(), functional.logsigmoid(wide), functional.logsigmoid(-wide), positive


def _parts(rows: int, classes: int) -> Iterator[slice]:
    """Rows, `PART` entries at a time: the terms of all at once are eight times the logits."""
    some = max(PART // max(classes, 1), 1)
    return (slice(start, start + some) for start in range(0, rows, some))


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (Lin et al. 2017, eq. 5) of logits ``input [R,K]`` into ``output [R,K]``;
    ``weight [K]`` or empty.

    Exact also where mmcv's kernel clamps the probability at 1e-38.
    """
    for part in _parts(*input.shape):
        p, log_p, log_q, positive = _sigmoid_focal_terms(input[part], target[part])
        loss = torch.where(
            positive, -alpha * (1 - p) ** gamma * log_p, -(1 - alpha) * p**gamma * log_q
        )
        output[part] = loss * weight[target[part], None] if weight.numel() else loss


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The derivative of :func:`sigmoid_focal_loss_forward` with respect to ``input``, into
    ``grad_input [R,K]``.
    """
    for part in _parts(*input.shape):
        p, log_p, log_q, positive = _sigmoid_focal_terms(input[part], target[part])
        gradient = torch.where(
            positive,
            -alpha * (1 - p) ** gamma * (1 - p - gamma * p * log_p),
            -(1 - alpha) * p**gamma * (gamma * (1 - p) * log_q - p),
        )
        grad_input[part] = gradient * weight[target[part], None] if weight.numel() else gradient


KERNELS = (sigmoid_focal_loss_forward, sigmoid_focal_loss_backward)
