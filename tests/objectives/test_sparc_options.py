"""SPARC's ablations, its shuffled control, how it is read, and what it may hold in memory."""

from __future__ import annotations

import pytest
import torch

from sparc_pretrain.objectives import mgca, sparc
from tests.objectives.loops import cosine, dot, features, kept_sizes, mix, pairs, real


def losses(**options):
    made, batch = features()
    return sparc.Sparc(**options).double()(made, batch)


def test_the_sparsity_threshold_is_one_over_the_patches_unless_it_is_said():
    patches, tokens, mask = pairs(patches=5)
    default = sparc.fine_grained_loss(patches, tokens, mask, 5.0)
    assert default == sparc.fine_grained_loss(patches, tokens, mask, 5.0, threshold=1 / 5)
    assert default != sparc.fine_grained_loss(patches, tokens, mask, 5.0, threshold=0.3)


@pytest.mark.parametrize(
    "options",
    [
        dict(threshold=0.0),
        dict(threshold=0.3),
        dict(alignment="softmax"),
        dict(reduction="token"),
        dict(shuffle=True),
    ],
)
def test_an_ablation_changes_the_local_loss_and_leaves_the_global_one(options):
    plain, other = losses(), losses(**options)
    assert other["local_loss"].item() != pytest.approx(plain["local_loss"].item(), abs=1e-9)
    assert other["global_loss"].item() == plain["global_loss"].item()


@pytest.mark.parametrize("reduction", ["caption", "token"])
def test_begin_and_end_are_left_out_of_the_local_terms_where_that_is_said(reduction):
    """As if the captions were without them."""

    def of(hidden: bool, **more):
        made, batch = features(4)
        first = torch.zeros_like(made.mask)
        first[:, 0] = True
        for one in (made, batch):
            one.special = first
            one.mask = one.mask & ~first if hidden else one.mask
        options = dict(reduction=reduction, image_contrast=1.0, token_context="both", **more)
        return sparc.Sparc(**options).double()(made, batch)

    left_out, hidden, kept = of(False, skip_special=True), of(True), of(False)
    names = ("local_loss", "image_contrast_tokens_loss", "image_contrast_words_loss")
    for name in names:
        assert left_out[name].item() == pytest.approx(hidden[name].item(), rel=1e-12)
        assert left_out[name].item() != pytest.approx(kept[name].item(), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, dict(threshold=0.3), dict(alignment="softmax", detach=True), dict(reduction="token")],
)
def test_what_is_trained_is_the_formula_that_is_tested(options):
    """Sparc counts its divisor and logs its weights beside; `fine_grained_loss` has the oracles."""
    grads = []
    for trained in (True, False):
        made, batch = features()
        leaves = [made.patches.requires_grad_(), made.tokens.requires_grad_()]
        objective = sparc.Sparc(local_weight=2.0, **options).double()
        if trained:
            loss = objective(made, batch)["local_loss"]
        else:
            scale = objective.temperature()
            loss = 2 * sparc.fine_grained_loss(*leaves, made.mask, scale, **options)
        grads.append([loss, *torch.autograd.grad(loss, [*leaves, *objective.parameters()])])
    torch.testing.assert_close(*grads)


def test_detached_weights_change_the_gradient_and_not_the_loss():
    grads = []
    for detach in (False, True):
        made, batch = features()
        made.patches.requires_grad_()
        loss = sparc.Sparc(detach=detach).double()(made, batch)["local_loss"]
        loss.backward()
        grads.append((loss.item(), made.patches.grad))
    assert grads[0][0] == pytest.approx(grads[1][0], abs=1e-14)
    assert (grads[0][1] - grads[1][1]).abs().max() > 1e-3


def test_the_shuffled_control_gives_each_caption_the_image_before_its_own():
    made, batch = features()
    shuffled = sparc.Sparc(shuffle=True).double()(made, batch)["local_loss"]
    made.patches = made.patches[[2, 0, 1]]
    torch.testing.assert_close(shuffled, sparc.Sparc().double()(made, batch)["local_loss"])


def test_local_only_computes_no_global_term_and_is_read_by_grouping():
    objective = sparc.Sparc(global_weight=0).double()
    made, batch = features()
    assert "global_loss" not in objective(made, batch)
    assert objective.score_features == ("patches", "tokens") and objective.coupled_features == ()
    wanted = []
    for image in made.patches.tolist():
        row = []
        for caption in real(made.tokens, made.mask):
            total = 0.0
            for token in caption:
                s = [dot(token, v) for v in image]
                s = [(x - min(s)) / (max(s) - min(s)) for x in s]
                s = [x if x >= 1 / len(s) else 0.0 for x in s]
                total += cosine(mix([x / sum(s) for x in s], image), token) / len(caption)
            row.append(total)
        wanted.append(row)
    wanted = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(objective.scores(made, made), wanted)
    for block in (1, 60, None):
        found = sparc.grouped_similarity(made.patches, made.tokens, made.mask, block=block)
        torch.testing.assert_close(found, wanted)


def test_global_only_computes_no_local_term():
    assert losses(local_weight=0).keys() == {"global_loss", "scale"}
    with pytest.raises(ValueError, match="all 0"):
        sparc.Sparc(global_weight=0, local_weight=0)


def test_what_is_kept_for_the_backward_pass_grows_linearly_with_the_batch():
    """Pairs of different samples are not built, not even to be thrown away."""
    patches, tokens, mask = pairs(tokens=6, patches=9, width=5)
    terms = {
        "sparc": sparc.Sparc(global_weight=0),
        "mgca": mgca.Mgca(width=5, local_width=4, prototypes=3),
    }
    for objective in terms.values():
        objective.double()
        sums = []
        for times in (2, 8):
            made, batch = features(tokens=6, patches=9, width=5)
            made.patches = patches.repeat(times, 1, 1).requires_grad_()
            made.tokens = tokens.repeat(times, 1, 1).requires_grad_()
            made.mask = batch.mask = mask.repeat(times, 1)
            made.special = batch.special = torch.zeros_like(made.mask)
            sums.append(sum(kept_sizes(lambda o=objective, m=made, b=batch: o.paired(m, b, b))))
        assert sums[1] < 4.1 * sums[0]
