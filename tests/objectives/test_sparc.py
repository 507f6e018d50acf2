"""SPARC's loss against slow loops in float64, its invariances, and the pitfalls of public ports."""

from __future__ import annotations

import math

import pytest
import torch

from sparc_pretrain.objectives import sparc
from sparc_pretrain.objectives.contrastive import info_nce
from sparc_pretrain.objectives.grouping import (
    alignment_sums,
    group_direction,
    group_patches,
    sum_to_one,
)
from tests.models import batch, pretrainer


def pairs(batch=3, tokens=5, patches=7, width=4, seed=0):
    """Random float64 embeddings and a mask of uneven lengths."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(batch, tokens, width, generator=generator, dtype=torch.float64)
    v = torch.randn(batch, patches, width, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([tokens, max(2, tokens - 2), 1][:batch])
    mask = torch.arange(tokens) < lengths[:, None]
    return t, v, mask


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def group_by_loops(tokens, patches, sigma):
    """Eqs. 2-5 on lists of floats, one caption."""
    grouped, weights = [], []
    for token in tokens:
        row = [sum(a * b for a, b in zip(token, patch, strict=True)) for patch in patches]
        low, high = min(row), max(row)
        row = [(s - low) / (high - low) for s in row]
        row = [s if s >= sigma else 0.0 for s in row]
        row = [s / sum(row) for s in row]
        weights.append(row)
        columns = zip(*patches, strict=True)
        grouped.append([sum(w * x for w, x in zip(row, c, strict=True)) for c in columns])
    return grouped, weights


def loss_by_loops(tokens, patches, mask, scale, sigma=None, reduction="caption"):
    """Eq. 6 on lists of floats."""
    captions, count, total = 0.0, 0, 0.0
    for t, v, m in zip(tokens.tolist(), patches.tolist(), mask.tolist(), strict=True):
        t = [x for x, real in zip(t, m, strict=True) if real]
        c, _ = group_by_loops(t, v, 1 / len(v) if sigma is None else sigma)
        summed = 0.0
        for j in range(len(t)):
            for own, others in ((c[j], t), (t[j], c)):
                logits = [scale * cosine(own, other) for other in others]
                summed -= logits[j] - math.log(sum(math.exp(x) for x in logits))
        captions += summed / 2 / len(t)
        total += summed / 2
        count += len(t)
    return captions / len(tokens) if reduction == "caption" else total / count


@pytest.mark.parametrize("sigma", [None, 0.0, 0.3])
def test_weights_and_groups_equal_slow_loops(sigma):
    tokens, patches, _ = pairs()
    grouped, weights = sparc.group_patches(tokens, patches, sigma)
    for b in range(3):
        wanted = group_by_loops(
            tokens[b].tolist(), patches[b].tolist(), 1 / 7 if sigma is None else sigma
        )
        torch.testing.assert_close(grouped[b], torch.tensor(wanted[0], dtype=torch.float64))
        torch.testing.assert_close(weights[b], torch.tensor(wanted[1], dtype=torch.float64))


@pytest.mark.parametrize("reduction", ["caption", "token"])
@pytest.mark.parametrize("sigma", [None, 0.0, 0.3])
def test_the_loss_equals_slow_loops(sigma, reduction):
    tokens, patches, mask = pairs()
    loss = sparc.fine_grained_loss(patches, tokens, mask, 3.0, sigma, reduction=reduction)
    assert loss.item() == pytest.approx(
        loss_by_loops(tokens, patches, mask, 3.0, sigma, reduction), abs=1e-12
    )


def test_the_gradient_equals_finite_differences_of_the_slow_loops():
    tokens, patches, mask = pairs(batch=2, tokens=3, patches=4, width=3)
    tokens.requires_grad_()
    patches.requires_grad_()
    sparc.fine_grained_loss(patches, tokens, mask, 2.0).backward()
    step = 1e-6
    for value in (tokens, patches):
        flat, grad = value.detach().clone(), value.grad
        for index in [(0, 0, 0), (0, 1, 2), (1, 0, 1), (1, 2, 0)]:
            ends = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[index] += sign * step
                t, v = (moved, patches) if value is tokens else (tokens, moved)
                ends.append(loss_by_loops(t.detach(), v.detach(), mask, 2.0))
            assert grad[index].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)


def test_gradcheck_away_from_ties():
    tokens, patches, mask = pairs(batch=2)
    tokens.requires_grad_()
    patches.requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t, v, s: sparc.fine_grained_loss(v, t, mask, s), (tokens, patches, scale)
    )


def test_a_case_computed_by_hand():
    # One token [1,0]; similarities 0, 1, 2 -> min-max 0, 1/2, 1 -> divided by 3/2: 0, 1/3, 2/3.
    tokens = torch.tensor([[[1.0, 0.0]]])
    patches = torch.tensor([[[0.0, 3.0], [1.0, 0.0], [2.0, 6.0]]])
    grouped, weights = sparc.group_patches(tokens, patches)
    torch.testing.assert_close(weights, torch.tensor([[[0.0, 1 / 3, 2 / 3]]]))
    torch.testing.assert_close(grouped, torch.tensor([[[5 / 3, 4.0]]]))


def test_scaling_leaves_the_weights_alone_but_normalising_each_patch_does_not():
    tokens, patches, _ = pairs()
    _, weights = sparc.group_patches(tokens, patches)
    torch.testing.assert_close(sparc.group_patches(3 * tokens, patches)[1], weights)
    torch.testing.assert_close(sparc.group_patches(tokens, 0.2 * patches)[1], weights)
    unit = torch.nn.functional.normalize(patches, dim=-1)
    assert (sparc.group_patches(tokens, unit)[1] - weights).abs().max() > 1e-2


@pytest.mark.parametrize("reduction", ["caption", "token"])
def test_padding_does_not_change_the_loss(reduction):
    tokens, patches, mask = pairs()
    loss = sparc.fine_grained_loss(patches, tokens, mask, 5.0, reduction=reduction)
    rubbish = torch.full((3, 4, 4), 1e3, dtype=torch.float64)
    longer = torch.cat([tokens, rubbish], 1), torch.cat([mask, torch.zeros(3, 4, dtype=bool)], 1)
    padded = sparc.fine_grained_loss(patches, longer[0], longer[1], 5.0, reduction=reduction)
    torch.testing.assert_close(padded, loss, rtol=0, atol=1e-12)


def test_padding_gets_no_gradient_and_no_nan():
    tokens, patches, mask = pairs()
    tokens.requires_grad_()
    sparc.fine_grained_loss(patches, tokens, mask, 5.0).backward()
    assert tokens.grad.isfinite().all()
    assert (tokens.grad[~mask] == 0).all()
    assert (tokens.grad[0] != 0).any()


def test_permuting_the_batch_does_not_change_the_loss():
    tokens, patches, mask = pairs()
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        sparc.fine_grained_loss(patches[order], tokens[order], mask[order], 5.0),
        sparc.fine_grained_loss(patches, tokens, mask, 5.0),
    )


def test_one_sample_has_no_gradient_with_respect_to_another():
    tokens, patches, mask = pairs()
    patches.requires_grad_()
    grouped, _ = sparc.group_patches(tokens, patches)
    sparc.token_contrast(grouped[:1], tokens[:1], mask[:1], 5.0).backward()
    alone = patches.grad.clone()
    assert (alone[1:] == 0).all()
    patches.grad = None
    (3 * sparc.fine_grained_loss(patches, tokens, mask, 5.0)).backward()
    torch.testing.assert_close(patches.grad[0], alone[0])


def test_rows_sum_to_one_with_the_lowest_patch_at_zero_and_the_highest_largest():
    tokens, patches, _ = pairs()
    _, weights = sparc.group_patches(tokens, patches)
    similarity = torch.einsum("btd,bpd->btp", tokens, patches)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 5, dtype=torch.float64))
    assert (weights.gather(-1, similarity.argmin(-1, keepdim=True)) == 0).all()
    assert (weights.argmax(-1) == similarity.argmax(-1)).all()


@pytest.mark.parametrize(
    "patches", [torch.ones(2, 6, 4), torch.randn(2, 1, 4), torch.zeros(2, 3, 4)]
)
@pytest.mark.parametrize("sigma", [None, 0.0])
def test_a_constant_row_has_zero_weights_and_zero_gradient(patches, sigma):
    tokens = torch.randn(2, 3, 4, requires_grad=True)
    patches = patches.clone().requires_grad_()
    mask = torch.ones(2, 3, dtype=torch.bool)
    grouped, weights = sparc.group_patches(tokens, patches, sigma)
    assert (weights == 0).all() and (grouped == 0).all()
    loss = sparc.token_contrast(grouped, tokens, mask, 10.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), abs=1e-6)  # all cosines are zero
    assert (patches.grad == 0).all() and tokens.grad.isfinite().all()


def test_a_sigma_that_no_patch_reaches_gathers_nothing():
    tokens, patches, mask = pairs()
    patches.requires_grad_()
    grouped, weights = sparc.group_patches(tokens, patches, threshold=1.5)
    assert (weights == 0).all() and (grouped == 0).all()
    sparc.token_contrast(grouped, tokens, mask, 10.0).backward()
    assert (patches.grad == 0).all()


def test_a_caption_of_one_token_costs_nothing():
    tokens, patches, _ = pairs(tokens=1)
    loss = sparc.fine_grained_loss(patches, tokens, torch.ones(3, 1, dtype=torch.bool), 9.0)
    assert loss.item() == pytest.approx(0, abs=1e-12)


def test_a_caption_without_real_tokens_has_a_finite_loss_and_no_gradient():
    tokens, patches, mask = pairs()
    mask[1] = False
    tokens.requires_grad_()
    loss = sparc.fine_grained_loss(patches, tokens, mask, 9.0)
    loss.backward()
    assert loss.isfinite() and tokens.grad.isfinite().all()
    assert (tokens.grad[1] == 0).all() and (tokens.grad[0] != 0).any()
    for reduction in ("caption", "token"):  # a batch without any word
        none = sparc.fine_grained_loss(patches, tokens, mask & False, 9.0, reduction=reduction)
        assert none == 0


def test_both_reductions_agree_when_all_captions_are_equally_long():
    tokens, patches, _ = pairs()
    mask = torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(
        sparc.fine_grained_loss(patches, tokens, mask, 5.0, reduction="token"),
        sparc.fine_grained_loss(patches, tokens, mask, 5.0, reduction="caption"),
    )


def test_gradient_flows_through_the_weights_unless_detached():
    tokens, patches, _ = pairs()
    tokens.requires_grad_()
    flowing, _ = sparc.group_patches(tokens, patches)
    assert flowing.requires_grad
    fixed, _ = sparc.group_patches(tokens, patches, detach=True)
    assert not fixed.requires_grad


def test_softmax_alignment_is_softmax_over_patches():
    tokens, patches, _ = pairs()
    _, weights = sparc.group_patches(tokens, patches, alignment="softmax")
    row = [math.exp((tokens[0, 0] * patches[0, p]).sum()) for p in range(7)]
    assert weights[0, 0].tolist() == pytest.approx([x / sum(row) for x in row])
    with pytest.raises(ValueError, match="alignment"):
        sparc.group_patches(tokens, patches, alignment="argmax")


def test_the_global_loss_equals_slow_loops_and_ignores_lengths_of_vectors():
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    text = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    wanted = 0.0
    for i in range(4):
        for own, others in ((image[i], text), (text[i], image)):
            logits = [7.0 * cosine(own.tolist(), o.tolist()) for o in others]
            wanted -= logits[i] - math.log(sum(math.exp(x) for x in logits))
    assert info_nce(image, text, 7.0).item() == pytest.approx(wanted / 8, abs=1e-12)
    torch.testing.assert_close(info_nce(5 * image, text, 7.0), info_nce(image, text, 7.0))


def test_half_precision_embeddings_are_summed_in_float32():
    tokens, patches, mask = pairs()
    loss = sparc.fine_grained_loss(patches.bfloat16(), tokens.bfloat16(), mask, 5.0)
    assert loss.dtype == torch.float32 and loss.isfinite()


def direction(tokens, patches):
    grouped, weights = group_direction(tokens, patches)
    return grouped, sum_to_one(weights)


@pytest.mark.parametrize("group", [group_patches, direction])
def test_a_row_without_preference_ends_at_a_range_of_a_millionth(group):
    """Min-max does not see how wide a range is: scores of 0 to 2e-6 weigh like those of 0 to 1."""
    tokens = torch.ones(1, 1, 1, dtype=torch.float64)
    steps = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64).view(1, 4, 1)
    wide = group(tokens, steps)[1]
    assert wide.sum() == pytest.approx(1)
    for spread in (2e-6, 5e-3):
        torch.testing.assert_close(group(tokens, spread * steps)[1], wide)
    assert not group(tokens, 5e-7 * steps)[1].any()


@pytest.mark.parametrize("group", [group_patches, direction])
def test_a_patch_exactly_at_the_threshold_is_kept(group):
    """Zero *below* sigma, 1/4 of four patches."""
    tokens = torch.ones(1, 1, 1, dtype=torch.float64)
    steps = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64).view(1, 4, 1)
    weights = group(tokens, steps)[1].flatten()
    torch.testing.assert_close(weights, torch.tensor([0, 1, 2, 4]).double() / 7)


def test_the_log_counts_every_patch_and_means_over_real_tokens():
    weights = torch.full((2, 3, 2000), 1 / 2000, dtype=torch.float64)
    weights[0, 0] = torch.nn.functional.one_hot(torch.tensor(7), 2000)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    kept, entropy = alignment_sums(weights, mask)
    assert kept.item() == pytest.approx(1 / 2000 + 1 + 1)
    assert entropy.item() == pytest.approx(2 * math.log(2000), rel=1e-5)


def test_the_default_weights_are_the_papers_and_the_log_is_per_token():
    model = sparc.Sparc()
    assert (model.global_weight, model.local_weight) == (0.5, 1.0)
    torch.manual_seed(0)
    mine, twice = (pretrainer(dict(type="Sparc")).eval() for _ in range(2))
    twice.load_state_dict(mine.state_dict())
    small = batch(4)
    both = batch(4)
    for name in ("image", "ids", "mask", "special"):
        setattr(both, name, getattr(both, name).repeat(2, *[1] * (getattr(both, name).ndim - 1)))
    both.key, both.caption = both.key * 2, both.caption * 2
    with torch.no_grad():
        one, two = mine(small), twice(both)
    for name in ("patches_kept", "alignment_entropy"):
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
