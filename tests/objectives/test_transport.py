"""IPOT against slow loops and the exact linear programme, and WRA of it."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from sparc_pretrain.objectives.transport import (
    alignment_loss,
    ipot,
    transport_distance,
    word_region_cost,
)


def slow_ipot(cost: list[list[float]], beta: float, iterations: int, inner: int) -> list:
    """Of one pair without padding; the words' marginal last."""
    words, regions = len(cost), len(cost[0])
    plan = [[1.0] * regions for _ in range(words)]
    sigma = [1 / words] * words
    for _ in range(iterations):
        q = [
            [math.exp(-cost[w][r] / beta) * plan[w][r] for r in range(regions)]
            for w in range(words)
        ]
        for _ in range(inner):
            delta = [
                1 / (regions * sum(q[w][r] * sigma[w] for w in range(words)))
                for r in range(regions)
            ]
            sigma = [
                1 / (words * sum(q[w][r] * delta[r] for r in range(regions))) for w in range(words)
            ]
        plan = [[sigma[w] * q[w][r] * delta[r] for r in range(regions)] for w in range(words)]
    return plan


def padded_case():
    g = torch.Generator().manual_seed(0)
    text, regions = (torch.randn(4, n, 7, generator=g, dtype=torch.float64) for n in (6, 5))
    text_mask = torch.arange(6) < torch.tensor([6, 4, 2, 1])[:, None]
    region_mask = torch.arange(5) < torch.tensor([5, 3, 5, 2])[:, None]
    return text, regions, text_mask, region_mask


@pytest.mark.parametrize(("beta", "iterations", "inner"), [(0.5, 50, 1), (0.3, 7, 2)])
def test_the_plan_equals_the_loop_and_padding_takes_no_part(beta, iterations, inner):
    text, regions, text_mask, region_mask = padded_case()
    cost = word_region_cost(text, regions)
    found = ipot(cost, text_mask, region_mask, beta, iterations, inner)
    assert found.dtype == torch.float64
    for b in range(4):
        w, r = int(text_mask[b].sum()), int(region_mask[b].sum())
        wanted = slow_ipot(cost[b, :w, :r].tolist(), beta, iterations, inner)
        torch.testing.assert_close(found[b, :w, :r], torch.tensor(wanted).double())
        assert found[b].sum().item() == pytest.approx(1)
        torch.testing.assert_close(found[b].sum(dim=1), text_mask[b] / w, check_dtype=False)


def test_the_plan_comes_near_the_exact_linear_programme():
    text, regions, text_mask, region_mask = padded_case()
    cost = word_region_cost(text, regions)
    for iterations, tolerance in ((50, 0.05), (1000, 0.005)):
        plan = ipot(cost, text_mask, region_mask, iterations=iterations)
        for b in range(4):
            w, r = int(text_mask[b].sum()), int(region_mask[b].sum())
            rows = np.kron(np.eye(w), np.ones(r))
            columns = np.kron(np.ones(w), np.eye(r))
            sides = np.concatenate([np.full(w, 1 / w), np.full(r, 1 / r)])
            exact = linprog(
                cost[b, :w, :r].flatten().numpy(), None, None, np.vstack([rows, columns]), sides
            ).fun
            assert (plan[b] * cost[b]).sum().item() == pytest.approx(exact, rel=tolerance)


def test_the_distance_has_no_gradient_through_the_plan_and_half_precision_is_summed_in_full():
    text, regions, text_mask, region_mask = padded_case()
    text.requires_grad_()
    plan = ipot(word_region_cost(text, regions).detach(), text_mask, region_mask)
    wanted = (plan * word_region_cost(text, regions)).sum(dim=(1, 2))
    (gradient,) = torch.autograd.grad(wanted.sum(), text)
    found = transport_distance(text, regions, text_mask, region_mask)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), text)[0], gradient)
    halves = (text.bfloat16(), regions.bfloat16(), text_mask, region_mask)
    assert transport_distance(*halves).dtype == torch.float32
    nothing = transport_distance(
        torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), *[torch.ones(1, 2)] * 2
    )
    assert nothing.item() == pytest.approx(1)  # a cosine of 0


def test_no_word_or_no_region_costs_nothing():
    text, regions, text_mask, region_mask = padded_case()
    found = transport_distance(text, regions, text_mask & False, region_mask)
    other = transport_distance(text, regions, text_mask, region_mask & False)
    assert not found.any() and not other.any()


def test_unmatched_pairs_are_repelled_or_ignored():
    distance = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    match = torch.tensor([True, True, False])
    assert alignment_loss(distance, match).item() == pytest.approx(-1 / 3)
    assert alignment_loss(distance, match, "ignore").item() == pytest.approx(1.5)
    assert alignment_loss(distance, match, "repel", 2.0).item() == pytest.approx(-0.5)
    empty = alignment_loss(distance[:0], match[:0])
    empty.backward()
    assert empty.item() == 0 and not distance.grad.any()
    with pytest.raises(ValueError, match="negatives 'all'"):
        alignment_loss(distance, match, "all")
