"""Box loss: against loops, and what holds for any boxes."""

import pytest
import torch
from torchvision.ops import generalized_box_iou

from sparc_pretrain.objectives import boxes


def some(count: int, seed: int = 0) -> torch.Tensor:
    """[N,4] cx cy w h."""
    g = torch.Generator().manual_seed(seed)
    side = torch.rand(count, 2, generator=g, dtype=torch.float64) * 0.5 + 0.05
    middle = torch.rand(count, 2, generator=g, dtype=torch.float64)
    return torch.cat([middle, side], dim=1)


def slow_giou(a: list[float], b: list[float]) -> float:
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return common / union - (hull - union) / hull


def test_giou_equals_the_loop_and_torchvision():
    one, other = boxes.corners(some(30)), boxes.corners(some(30, 1))
    found = boxes.giou(one, other)
    slow = [slow_giou(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(slow, abs=1e-12)
    assert torch.allclose(found, generalized_box_iou(one, other).diagonal(), atol=1e-12)
    assert torch.allclose(boxes.giou(one, one), torch.ones(30, dtype=torch.float64))
    assert (found >= -1).all() and torch.allclose(found, boxes.giou(other, one))


def test_boxes_without_area_give_a_finite_number():
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]], requires_grad=True)
    value = boxes.giou(point, point.detach())
    value.sum().backward()
    assert value.item() == 0 and point.grad.isfinite().all()


def test_corners_and_centre_are_inverse():
    assert torch.allclose(boxes.centred(boxes.corners(some(9))), some(9))


def test_the_loss_is_a_mean_over_valid_boxes_whatever_stands_in_the_others():
    predicted, wanted = some(8).requires_grad_(), some(8, 1)
    valid = torch.tensor([True, True, False, True, False, True, True, True])
    wanted[~valid] = torch.nan
    l1, overlap = boxes.box_loss(predicted, wanted, valid)
    rows = [i for i in range(8) if valid[i]]
    slow_l1 = sum(abs(predicted[i, k] - wanted[i, k]).item() for i in rows for k in range(4)) / 6
    corner = [boxes.corners(x).tolist() for x in (predicted.detach(), wanted)]
    slow = sum(1 - slow_giou(corner[0][i], corner[1][i]) for i in rows) / 6
    assert (l1.item(), overlap.item()) == pytest.approx((slow_l1, slow), abs=1e-12)
    halved = boxes.box_loss(predicted, wanted, valid, 12)
    assert (halved[0].item(), halved[1].item()) == pytest.approx((slow_l1 / 2, slow / 2))
    (l1 + overlap).backward()
    assert predicted.grad.isfinite().all() and not predicted.grad[~valid].any()
    assert torch.autograd.gradcheck(lambda x: boxes.box_loss(x, wanted, valid), predicted)


def test_no_box_costs_nothing_and_never_divides_by_0():
    predicted = some(3).requires_grad_()
    l1, overlap = boxes.box_loss(predicted, some(3), torch.zeros(3, dtype=torch.bool))
    (l1 + overlap).backward()
    assert l1.item() == overlap.item() == 0 and not predicted.grad.any()
