"""The focal loss's stand-in: in parts it is what it is at once, in a fraction of the memory."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from transfer.mm.ops import focal


class Peak(TorchDispatchMode):
    """The most bytes that tensors made under it held at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0

    def _gone(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        if isinstance(found, Tensor) and found.untyped_storage().data_ptr() not in given:
            size = found.untyped_storage().nbytes()
            self.live += size
            weakref.finalize(found, self._gone, size)
            self.most = max(self.most, self.live)
        return found


def steps(part: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, int]:
    """Loss, gradient and peak bytes of 300 rows of 40 classes."""
    monkeypatch.setattr(focal, "PART", part)
    torch.manual_seed(0)
    logits, target, weight = torch.randn(300, 40), torch.randint(0, 41, (300,)), torch.rand(41)
    loss, gradient = torch.empty_like(logits), torch.empty_like(logits)
    with Peak() as peak:
        focal.sigmoid_focal_loss_forward(logits, target, weight, loss, 2.0, 0.25)
        focal.sigmoid_focal_loss_backward(logits, target, weight, gradient, 2.0, 0.25)
    return loss, gradient, peak.most


def test_parts_give_the_same_in_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = 300 * 40 * 4
    loss, gradient, whole = steps(1 << 20, monkeypatch)
    again, turned, small = steps(1 << 10, monkeypatch)
    # the last numbers of a part are computed one by one: a rounding apart
    torch.testing.assert_close(loss, again, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, turned, rtol=1e-6, atol=1e-7)
    assert whole > 5 * logits  # all terms at once
    # beside the logits and what is returned (once each): together under three times the logits
    assert small < logits
