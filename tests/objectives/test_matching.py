"""Hard negatives: only strangers, drawn as often as their weights say; and the matching loss."""

import math

import pytest
import torch

from sparc_pretrain import chance
from sparc_pretrain.objectives import matching


def test_strangers_differ_in_image_and_in_group():
    image, other = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4, 3])
    group, groups = torch.tensor([7, 8, 9]), torch.tensor([5, 8, 9, 7])
    found = matching.strangers(image, other, group, groups)
    for i in range(3):
        for j in range(4):
            assert found[i, j] == (image[i] != other[j] and group[i] != groups[j])
    assert torch.equal(matching.strangers(image, other), image[:, None] != other)


@pytest.mark.parametrize("buckets", [60, 7])
def test_texts_are_nested_when_one_has_all_words_of_the_other(buckets):
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 7, (9, 4), generator=g)  # few words, so many are nested
    words = torch.rand(9, 4, generator=g) < 0.7
    ids[4:] += 40
    other = torch.randperm(9, generator=g)
    found = matching.nested(ids, words, ids[other], words[other], buckets)
    for i in range(9):
        for n, j in enumerate(other.tolist()):
            one = {k % buckets for k, w in zip(ids[i].tolist(), words[i], strict=True) if w}
            two = {k % buckets for k, w in zip(ids[j].tolist(), words[j], strict=True) if w}
            assert found[i, n] == (one <= two or two <= one)
    assert 0.15 < found.float().mean() < 0.8


def test_negatives_are_drawn_with_softmax_weights_the_positive_in_the_denominator():
    logits = torch.tensor([[5.0, 1.0, 0.0, -1.0]], dtype=torch.float64).expand(20000, -1)
    allowed = torch.tensor([[False, True, True, True]]).expand(20000, -1)
    noise = chance.uniform(0, 0, torch.arange(20000), 2, 4)
    drawn = matching.draw_negatives(logits, allowed, noise)
    weight = [math.exp(v) for v in (5, 1, 0, -1)]
    weight = [w / sum(weight) + 1e-5 for w in weight]
    weight[0] = 0.0
    for place in range(4):
        wanted = weight[place] / sum(weight)
        assert (drawn == place).double().mean().item() == pytest.approx(wanted, abs=0.015)


def test_the_draw_equals_the_race_of_every_row_and_does_not_depend_on_the_order():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9, generator=g, dtype=torch.float64) * 4
    allowed = torch.rand(6, 9, generator=g) < 0.5
    allowed[2] = False
    noise = torch.rand(6, 9, generator=g, dtype=torch.float64)
    drawn = matching.draw_negatives(logits, allowed, noise)
    for i in range(6):
        share = logits[i].exp() / logits[i].exp().sum() + 1e-5
        race = [
            math.log(share[j]) - math.log(-math.log(noise[i, j])) if allowed[i, j] else -math.inf
            for j in range(9)
        ]
        assert drawn[i] == (race.index(max(race)) if allowed[i].any() else -1)
    order = torch.randperm(9, generator=g)
    moved = matching.draw_negatives(logits[:, order], allowed[:, order], noise[:, order])
    assert torch.equal(torch.where(moved < 0, -1, order[moved]), drawn)
    nobody = torch.zeros(3, 0)
    assert matching.draw_negatives(nobody, nobody.bool(), nobody).tolist() == [-1] * 3


def test_the_draw_passes_no_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    drawn = matching.draw_negatives(logits, torch.ones(2, 3, dtype=torch.bool), torch.rand(2, 3))
    assert not drawn.requires_grad


def test_the_matching_loss_is_a_mean_over_valid_pairs_and_0_of_none():
    logits = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    match = torch.tensor([True, False, True, True, False, False])
    valid = torch.tensor([True, True, False, True, True, False])
    slow = 0.0
    for row, yes, counts in zip(logits.tolist(), match.tolist(), valid.tolist(), strict=True):
        slow += counts * (math.log(math.exp(row[0]) + math.exp(row[1])) - row[int(yes)])
    found = matching.matching_loss(logits, match, valid)
    assert found.item() == pytest.approx(slow / 4, abs=1e-12)
    assert matching.matching_loss(logits, match, valid, 8).item() == pytest.approx(slow / 8)
    assert torch.autograd.gradcheck(lambda x: matching.matching_loss(x, match, valid), logits)
    nothing = matching.matching_loss(logits, match, torch.zeros(6, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0 and not logits.grad.any()
