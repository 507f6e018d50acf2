"""GLoRIA against slow loops in float64, its invariances, and what goes wrong in ports."""

from __future__ import annotations

import math

import pytest
import torch

from sparc_pretrain.objectives import gloria
from tests.objectives.loops import (
    cosine,
    dot,
    features,
    kept_sizes,
    mix,
    nce,
    padded,
    pairs,
    real,
    slopes,
    softmax,
)


def by_loops(patches, tokens, mask, gamma1, gamma2):
    """Z of every image and caption, on lists of floats."""
    table = []
    for image in patches.tolist():
        row = []
        for caption in real(tokens, mask):
            root = math.sqrt(len(image[0]))
            words = [softmax([dot(v, t) / root for t in caption]) for v in image]  # [P][L]
            total = 0.0
            for word, token in enumerate(caption):
                weights = softmax([gamma1 * patch[word] for patch in words])
                total += math.exp(gamma2 * cosine(mix(weights, image), token))
            row.append(math.log(total))
        table.append(row)
    return table


@pytest.mark.parametrize("block", [gloria.BLOCK, 1, 100, None])
def test_the_similarity_equals_slow_loops_in_blocks_of_any_size(block):
    patches, tokens, mask = pairs()
    torch.testing.assert_close(
        gloria.local_similarity(patches, tokens, mask, 4.1, 5.3, block),
        torch.tensor(by_loops(patches, tokens, mask, 4.1, 5.3), dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("block", [gloria.BLOCK, 1, None])
def test_gradcheck_of_embeddings_and_temperatures(block):
    patches, tokens, mask = pairs(batch=2)
    gammas = [torch.tensor(g, dtype=torch.float64, requires_grad=True) for g in (4.0, 5.0)]
    patches.requires_grad_()
    tokens.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, t, a, b: gloria.local_similarity(v, t, mask, a, b, block),
        (patches, tokens, *gammas),
    )


def test_the_losses_are_summed_over_directions_and_equal_slow_loops_with_gradient():
    made, batch = features()
    made.tokens.requires_grad_()
    objective = gloria.Gloria().double()
    losses = objective(made, batch)
    (losses["local_loss"] + losses["global_loss"]).backward()
    assert all(p.grad != 0 for p in objective.parameters())  # all three temperatures are learned

    def slow(tokens):
        table = by_loops(made.patches, tokens, made.mask, objective.gamma1().item(), 5)
        table = [[objective.gamma3().item() * z for z in row] for row in table]
        return 2 * nce(table, table)

    assert losses["local_loss"].item() == pytest.approx(slow(made.tokens.detach()), rel=1e-6)
    places = [(0, 0, 0), (1, 1, 2), (2, 0, 1)]
    assert [made.tokens.grad[p].item() for p in places] == pytest.approx(
        slopes(slow, made.tokens, places), rel=1e-5, abs=1e-5
    )
    table = [
        [objective.gamma3().item() * cosine(v, t) for t in made.text.tolist()]
        for v in made.image.tolist()
    ]
    assert losses["global_loss"].item() == pytest.approx(2 * nce(table, table), rel=1e-9)


def test_blocks_bound_what_is_kept_for_the_backward_pass():
    """All at once, similarities and context vectors of all pairs are kept; in blocks, only what is
    linear in the batch.
    """
    patches, tokens, mask = pairs(batch=3, tokens=8, patches=30)
    patches, tokens, mask = patches.repeat(8, 1, 1), tokens.repeat(8, 1, 1), mask.repeat(8, 1)
    patches.requires_grad_()

    def kept(block):
        return max(
            kept_sizes(lambda: gloria.local_similarity(patches, tokens, mask, 4.0, 5.0, block))
        )

    assert kept(None) >= len(patches) * len(tokens) * 30 * 8
    assert kept(1) <= patches.numel()


def test_temperatures_start_at_glorias_values():
    objective = gloria.Gloria()
    found = [objective.gamma1(), objective.gamma2(), objective.gamma3()]
    assert [g.item() for g in found] == pytest.approx([4, 5, 10], rel=1e-5)


def test_padding_changes_nothing_and_gets_no_gradient():
    patches, tokens, mask = pairs()
    longer, longer_mask = padded(tokens, mask)
    longer.requires_grad_()
    found = gloria.local_similarity(patches, longer, longer_mask, 4.0, 5.0)
    wanted = gloria.local_similarity(patches, tokens, mask, 4.0, 5.0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    found.sum().backward()
    assert (longer.grad[~longer_mask] == 0).all() and (longer.grad[0, 0] != 0).any()


def test_permuting_images_and_captions_permutes_the_similarity():
    patches, tokens, mask = pairs()
    order, other = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    found = gloria.local_similarity(patches[order], tokens[other], mask[other], 4.0, 5.0)
    whole = gloria.local_similarity(patches, tokens, mask, 4.0, 5.0)
    torch.testing.assert_close(found, whole[order][:, other])


def test_similarities_are_divided_by_the_root_of_the_width():
    """Doubling the width with zeros changes the division alone, and so the result."""
    patches, tokens, mask = pairs()
    wider = [torch.cat([x, torch.zeros_like(x)], dim=2) for x in (patches, tokens)]
    found = gloria.local_similarity(*wider, mask, 4.0, 5.0)
    scaled = gloria.local_similarity(patches / 2**0.5, tokens, mask, 4.0, 5.0)
    torch.testing.assert_close(found, scaled)
    whole = gloria.local_similarity(patches, tokens, mask, 4.0, 5.0)
    assert (found - whole).abs().max() > 1e-3


def test_a_caption_without_real_tokens_is_finite():
    patches, tokens, mask = pairs()
    mask[1] = False
    tokens.requires_grad_()
    found = gloria.local_similarity(patches, tokens, mask, 4.0, 5.0)
    found.sum().backward()
    assert (found[:, 1] == 0).all() and tokens.grad.isfinite().all()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="local_weight"):
        gloria.Gloria(local_weight=0)
