"""FILIP against slow loops in float64, its invariances, and what goes wrong in ports."""

from __future__ import annotations

import math

import pytest
import torch

from sparc_pretrain.objectives import filip
from tests.objectives.loops import cosine, features, kept_sizes, nce, padded, pairs, real, slopes


def by_loops(patches, tokens, mask):
    """s^I and s^T of every image and caption, on lists of floats."""
    both = [[], []]
    for image in patches.tolist():
        rows = [[], []]
        for caption in real(tokens, mask):
            table = [[cosine(v, t) for t in caption] for v in image]
            rows[0].append(sum(max(row) for row in table) / len(image))
            rows[1].append(sum(max(col) for col in zip(*table, strict=True)) / len(caption))
        both[0].append(rows[0])
        both[1].append(rows[1])
    return both


@pytest.mark.parametrize("block", [filip.BLOCK, 1, 45, None])
def test_both_similarities_equal_slow_loops_in_blocks_of_any_size(block):
    patches, tokens, mask = pairs()
    found = filip.token_similarity(patches, tokens, mask, block)
    for got, wanted in zip(found, by_loops(patches, tokens, mask), strict=True):
        torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64))


def test_images_and_captions_may_differ_in_number():
    patches, tokens, mask = pairs()
    found = filip.token_similarity(patches[:1], tokens, mask)
    whole = filip.token_similarity(patches, tokens, mask)
    assert found[0].shape == (1, 3)
    for got, wanted in zip(found, whole, strict=True):
        torch.testing.assert_close(got, wanted[:1])


@pytest.mark.parametrize("block", [filip.BLOCK, 1, None])
def test_gradcheck_away_from_ties(block):
    patches, tokens, mask = pairs(batch=2)
    patches.requires_grad_()
    tokens.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, t: filip.token_similarity(v, t, mask, block), (patches, tokens)
    )


def test_the_loss_and_its_gradient_equal_slow_loops():
    made, batch = features()
    made.patches.requires_grad_()
    objective = filip.Filip().double()
    loss = objective(made, batch)["local_loss"]
    loss.backward()
    scale = objective.temperature().item()

    def slow(patches):
        tables = by_loops(patches, made.tokens, made.mask)
        return nce(*[[[scale * s for s in row] for row in table] for table in tables])

    assert loss.item() == pytest.approx(slow(made.patches.detach()), abs=1e-12)
    places = [(0, 0, 0), (1, 3, 2), (2, 4, 1)]
    wanted = slopes(slow, made.patches, places)
    assert [made.patches.grad[p].item() for p in places] == pytest.approx(wanted, abs=1e-6)
    assert objective.temperature.log_scale.grad != 0  # learned, not fixed


def test_each_direction_uses_its_own_similarity():
    """Captions are ranked by s^I, images by s^T; swapping them is another loss."""
    made, batch = features()
    objective = filip.Filip().double()
    scale = objective.temperature().item()
    image_to_text, text_to_image = (
        [[scale * s for s in row] for row in table]
        for table in by_loops(made.patches, made.tokens, made.mask)
    )
    found = objective(made, batch)["local_loss"].item()
    assert found == pytest.approx(nce(image_to_text, text_to_image), abs=1e-12)
    assert found != pytest.approx(nce(text_to_image, image_to_text), abs=1e-4)


def test_padding_changes_nothing_and_gets_no_gradient():
    patches, tokens, mask = pairs()
    longer, longer_mask = padded(tokens, mask)
    longer.requires_grad_()
    found = filip.token_similarity(patches, longer, longer_mask)
    for got, wanted in zip(found, filip.token_similarity(patches, tokens, mask), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    (found[0].sum() + found[1].sum()).backward()
    assert (longer.grad[~longer_mask] == 0).all() and (longer.grad[0, 0] != 0).any()


def test_permuting_images_and_captions_permutes_the_similarity():
    patches, tokens, mask = pairs()
    order, other = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    found = filip.token_similarity(patches[order], tokens[other], mask[other])
    for got, whole in zip(found, filip.token_similarity(patches, tokens, mask), strict=True):
        torch.testing.assert_close(got, whole[order][:, other])


def test_similarities_are_averages_so_a_caption_said_twice_scores_the_same():
    patches, tokens, _ = pairs()
    mask = torch.ones(3, 4, dtype=torch.bool)
    once = filip.token_similarity(patches, tokens, mask)
    twice = filip.token_similarity(patches, tokens.repeat(1, 2, 1), mask.repeat(1, 2))
    for a, b in zip(once, twice, strict=True):
        torch.testing.assert_close(a, b)


def test_no_captions_score_nothing():
    patches, nothing = torch.randn(2, 3, 4), torch.zeros(0, 5, 4)
    for scores in filip.token_similarity(patches, nothing, torch.zeros(0, 5, dtype=torch.bool)):
        assert scores.shape == (2, 0)


def test_a_caption_without_real_tokens_is_finite():
    patches, tokens, mask = pairs()
    mask[1] = False
    tokens.requires_grad_()
    both = filip.token_similarity(patches, tokens, mask)
    sum(s.sum() for s in both).backward()
    assert all((s[:, 1] == 0).all() for s in both) and tokens.grad.isfinite().all()


def test_tied_maxima_share_the_gradient():
    patches = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)
    filip.token_similarity(patches, tokens, torch.ones(1, 1, dtype=torch.bool))[1].sum().backward()
    torch.testing.assert_close(patches.grad[0, 0], patches.grad[0, 1])
    assert (patches.grad != 0).any()


def test_blocks_bound_what_is_kept_for_the_backward_pass():
    """All at once, the B x B x P x T similarity is kept; in blocks, only what is linear in B."""
    patches, tokens, mask = pairs(batch=3, tokens=8, patches=30)
    patches, tokens, mask = patches.repeat(8, 1, 1), tokens.repeat(8, 1, 1), mask.repeat(8, 1)
    patches.requires_grad_()

    def kept(block):
        return max(kept_sizes(lambda: filip.token_similarity(patches, tokens, mask, block)))

    whole = len(patches) * len(tokens) * 30 * 8
    assert kept(None) == whole
    assert kept(1) <= patches.numel()


def test_dropping_keeps_the_most_salient_by_slow_loops():
    patches, tokens, mask = pairs(tokens=5, patches=7)
    mask[:2] = True
    kept, kept_mask = filip.keep_salient(patches, tokens, mask, 0.4)
    for b in range(3):
        caption = tokens[b][mask[b]].tolist()
        image = patches[b].tolist()
        best = [max(cosine(v, t) for t in caption) for v in image]
        chosen = sorted(sorted(range(7), key=lambda p: -best[p])[: math.ceil(0.6 * 7)])
        torch.testing.assert_close(kept[b], patches[b][chosen])
        best = [max(cosine(v, t) for v in image) for t in caption]
        most = math.ceil(round(0.6 * len(caption), 9))
        chosen = set(sorted(range(len(caption)), key=lambda t: -best[t])[:most])
        assert kept_mask[b].tolist() == [t in chosen for t in range(5)]


@pytest.mark.parametrize(("drop", "kept"), [(0.3, 7), (0.2, 8), (0.25, 8), (0.0, 10)])
def test_the_share_that_is_kept_is_rounded_up(drop, kept):
    assert filip._kept(10, drop) == kept
    assert filip._kept(1, drop) == 1


def test_dropping_changes_the_loss_and_passes_no_gradient_to_what_is_dropped():
    made, batch = features(patches=10)
    made.patches.requires_grad_()
    objective = filip.Filip(drop=0.2).double()
    dropped = objective(made, batch)["local_loss"]
    dropped.backward()
    assert ((made.patches.grad == 0).all(dim=2).sum(dim=1) >= 2).all()
    assert dropped.item() != pytest.approx(filip.Filip().double()(made, batch)["local_loss"].item())


def test_clip_plus_filip_adds_the_global_term():
    made, batch = features()
    losses = filip.Filip(global_weight=0.5).double()(made, batch)
    alone = filip.Filip().double()(made, batch)
    assert losses["local_loss"].item() == pytest.approx(alone["local_loss"].item())
    assert losses["global_loss"] > 0 and "global_loss" not in alone


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="local_weight"):
        filip.Filip(local_weight=0)
    with pytest.raises(ValueError, match="drop"):
        filip.Filip(drop=1.0)


def test_the_share_that_is_dropped_is_a_whole_number_in_spite_of_binary_fractions():
    assert 100 * 0.29 < 29 and filip._kept(100, 0.29) == 71
