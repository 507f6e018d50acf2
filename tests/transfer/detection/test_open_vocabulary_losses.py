"""Open-vocabulary losses and heads against slow float64 loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from transfer.detection.open_vocabulary.heads import (
    BoxHead,
    ClassHead,
    PooledGate,
    class_logits,
    drop_text_blocks,
    grid_bias,
)
from transfer.detection.open_vocabulary.losses import (
    box_losses,
    class_loss,
    focal_loss,
    match,
    matching_cost,
)

P, Q, N = 6, 4, 3


def draw(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [P,Q], boxes [P,4], labels [N], true boxes [N,4], float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(P, Q, generator=generator, dtype=torch.float64) * 3
    boxes = torch.rand(P, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    truth = torch.rand(N, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    return logits, boxes, torch.randint(Q, (N,), generator=generator), truth


def focal_by_hand(logit: float, target: int, alpha: float, gamma: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    if target:
        return -alpha * (1 - p) ** gamma * math.log(p)
    return -(1 - alpha) * p**gamma * math.log(1 - p)


def giou_by_hand(one: list[float], other: list[float]) -> float:
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (one, other)
    )
    shared = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return shared / union - (hull - union) / hull


def cost_by_hand(logits, boxes, labels, truth) -> list[list[float]]:
    rows = []
    for p in range(P):
        row = []
        for n in range(N):
            logit = logits[p, labels[n]].item()
            a, b = boxes[p].tolist(), truth[n].tolist()
            row.append(
                focal_by_hand(logit, 1, 0.3, 2)
                - focal_by_hand(logit, 0, 0.3, 2)
                + sum(abs(x - y) for x, y in zip(a, b, strict=True))
                - giou_by_hand(a, b)
            )
        rows.append(row)
    return rows


@pytest.mark.parametrize(("alpha", "gamma"), [(0.3, 2.0), (0.25, 1.5)])
def test_the_focal_loss_is_the_formula_and_so_is_its_gradient(alpha: float, gamma: float) -> None:
    logits = draw()[0].requires_grad_()
    targets = (torch.arange(P * Q).reshape(P, Q) % 3 == 0).double()
    loss = focal_loss(logits, targets, alpha, gamma)
    pairs = zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    expected = [focal_by_hand(x, t, alpha, gamma) for x, t in pairs]
    torch.testing.assert_close(loss.flatten(), torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, targets, alpha, gamma), logits)


@pytest.mark.parametrize("seed", range(5))
def test_matching_finds_the_cheapest_of_all_assignments(seed: int) -> None:
    logits, boxes, labels, truth = draw(seed)
    cost = cost_by_hand(logits, boxes, labels, truth)
    torch.testing.assert_close(
        matching_cost(logits, boxes, labels, truth), torch.tensor(cost, dtype=torch.float64)
    )
    patches, objects = match(torch.tensor(cost))
    assert sorted(objects.tolist()) == list(range(N)) and len(set(patches.tolist())) == N
    found = sum(cost[p][n] for p, n in zip(patches.tolist(), objects.tolist(), strict=True))
    best = min(
        sum(cost[p][n] for n, p in enumerate(order))
        for order in itertools.permutations(range(P), N)
    )
    assert found == pytest.approx(best)


def test_matching_survives_more_objects_than_patches_and_costs_that_are_no_numbers() -> None:
    cost = torch.rand(2, 5)
    patches, objects = match(cost)
    assert sorted(patches.tolist()) == [0, 1] and len(set(objects.tolist())) == 2
    assert len(match(torch.full((3, 2), math.nan))[0]) == 2
    assert len(match(torch.zeros(3, 0))[0]) == 0


def test_box_losses_are_the_formulas_and_so_are_their_gradients() -> None:
    _, boxes, _, truth = draw()
    boxes = boxes[:N].requires_grad_()
    l1, giou = box_losses(boxes, truth)
    assert l1.item() == pytest.approx((boxes - truth).abs().sum().item())
    pairs = zip(boxes.tolist(), truth.tolist(), strict=True)
    assert giou.item() == pytest.approx(sum(1 - giou_by_hand(a, b) for a, b in pairs), abs=1e-6)
    assert torch.autograd.gradcheck(lambda x: sum(box_losses(x, truth)), boxes)


def test_classes_nobody_looked_for_have_no_gradient() -> None:
    logits, _, labels, _ = draw()
    logits.requires_grad_()
    known = torch.zeros(P, Q, dtype=torch.bool)
    known[:, 1] = True
    known[:3, 2] = True
    patches = torch.tensor([0, 5, 2])
    loss = class_loss(logits, known, patches, labels)
    loss.backward()
    positive = {(p, n) for p, n in zip(patches.tolist(), labels.tolist(), strict=True)}
    expected = 0.0
    for p, q in itertools.product(range(P), range(Q)):
        counted = known[p, q] or (p, q) in positive
        assert (logits.grad[p, q] != 0) == counted
        if counted:
            expected += focal_by_hand(logits[p, q].item(), (p, q) in positive, 0.3, 2)
    assert loss.item() == pytest.approx(expected)


def test_an_infinite_logit_of_an_unknown_class_leaves_the_gradient_finite() -> None:
    logits = torch.zeros(2, 2, dtype=torch.float64)
    logits[0, 0] = 1e30
    logits.requires_grad_()
    known = torch.tensor([[False, True], [False, True]])
    class_loss(logits, known, torch.tensor([1]), torch.tensor([1])).backward()
    assert logits.grad.isfinite().all() and (logits.grad[:, 0] == 0).all()


def test_an_untrained_patch_predicts_its_own_cell() -> None:
    rows, columns = 3, 5
    boxes = BoxHead(8)(torch.randn(2, rows * columns, 8), (rows, columns))
    for p, box in enumerate(boxes[0].tolist()):
        y, x = divmod(p, columns)
        expected = [(x + 0.5) / columns, (y + 0.5) / rows, 1 / columns, 1 / rows]
        assert box == pytest.approx(expected, abs=1e-5)


def test_a_box_is_decoded_as_an_offset_in_logits_from_its_cell() -> None:
    head = BoxHead(8).double()
    nn.init.normal_(head.layers[-1].weight)
    states = torch.randn(1, 6, 8, dtype=torch.float64)
    raw, boxes = head.layers(states)[0], head(states, (2, 3))[0]
    for p in range(6):
        y, x = divmod(p, 3)
        cell = [(x + 0.5) / 3, (y + 0.5) / 2, 1 / 3, 1 / 2]
        for k in range(4):
            logit = raw[p, k].item() + math.log(cell[k] / (1 - cell[k]))
            assert boxes[p, k].item() == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)


def test_a_grid_of_one_cell_is_finite() -> None:
    assert grid_bias(1, 1).isfinite().all()


@pytest.mark.parametrize("scale", [0.5, 1.0, 10.0])
def test_every_score_starts_at_the_prior_when_the_cosine_is_zero(scale: float) -> None:
    head = ClassHead(8, 4, prior=0.01, scale=scale)
    unit, shift, factor = head(torch.randn(2, 5, 8))
    torch.testing.assert_close(factor, torch.full_like(factor, scale))
    logits = class_logits(torch.zeros_like(unit), shift, factor, torch.eye(4))
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01))


def test_class_logits_are_shifted_and_scaled_cosines() -> None:
    head = ClassHead(8, 4).double()
    for layer in (head.shift, head.scale):
        nn.init.normal_(layer.weight)
    states = torch.randn(5, 8, dtype=torch.float64)
    queries = torch.nn.functional.normalize(torch.randn(3, 4, dtype=torch.float64), dim=-1)
    logits = class_logits(*head(states), queries)
    for p in range(5):
        embedding = head.project(states[p])
        raw = head.scale(states[p]).item()
        scale = (raw if raw > 0 else math.exp(raw) - 1) + 1
        for q in range(3):
            cosine = (embedding @ queries[q] / embedding.norm()).item()
            expected = (cosine + head.shift(states[p]).item()) * scale
            assert logits[p, q].item() == pytest.approx(expected)


def test_other_queries_do_not_change_a_query_and_their_order_does_not_matter() -> None:
    parts = ClassHead(8, 4)(torch.randn(5, 8))
    queries = torch.randn(6, 4)
    order = torch.randperm(6)
    logits = class_logits(*parts, queries)
    torch.testing.assert_close(class_logits(*parts, queries[order]), logits[:, order])
    torch.testing.assert_close(class_logits(*parts, queries[2:3]), logits[:, 2:3])


def test_the_pooled_image_gates_every_patch() -> None:
    gate, states = PooledGate(4).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    gated = gate(states)
    for b, p in itertools.product(range(2), range(5)):
        product = states[b, p] * sum(states[b, k] for k in range(5)) / 5
        spread = ((product - product.mean()) ** 2).mean()
        expected = (product - product.mean()) / (spread + 1e-5).sqrt()
        torch.testing.assert_close(gated[b, p], expected)


class Doubling(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + 1


def test_text_blocks_are_dropped_in_training_only_and_the_first_never() -> None:
    layers = nn.ModuleList(Doubling() for _ in range(3))
    drop_text_blocks(nn.Sequential(layers), 0.5)
    x = torch.zeros(4000, 2, 3)
    layers.train()
    assert (layers[0](x) == 1).all()
    for i, rate in ((1, 0.25), (2, 0.5)):
        out = layers[i](x)
        kept = out[:, 0, 0] > 0
        assert kept.float().mean().item() == pytest.approx(1 - rate, abs=0.04)
        torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - rate)))
    layers.eval()
    assert all((layer(x) == 1).all() for layer in layers)
