"""The image contrast beside SPARC's losses, and equal tokens of a caption, against slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from sparc_pretrain.objectives import sparc
from sparc_pretrain.objectives.grouping import equal_pairs, image_contrast, neighbours
from tests.objectives.loops import (
    cosine,
    dot,
    features,
    kept_sizes,
    mix,
    padded,
    pairs,
    real,
    slopes,
    surprise,
)

NEVER = [[False] * 8] * 3


def eight(seed=0, **sizes):
    """Patches, tokens and mask of eight pairs, captions of 1 to 4 tokens."""
    made = [pairs(4, seed=seed + i, **sizes) for i in range(2)]
    return [torch.cat(parts) for parts in zip(*made, strict=True)]


def gathered(token, image):
    """Eqs. 2-5 of one token in one image, lists of floats."""
    s = [dot(token, v) for v in image]
    s = [(x - min(s)) / (max(s) - min(s)) for x in s]
    s = [x if x >= 1 / len(s) else 0.0 for x in s]
    return mix([x / sum(s) for x in s], image)


SIZES = {1: 2, 2: 4, 3: 4}


def by_loops(patches, tokens, mask, scale, negatives, refused=NEVER, reduction="caption"):
    """L_ic with its groups spelt out."""
    if reduction == "captions":
        return of_captions(patches, tokens, mask, scale, negatives, refused)
    size = SIZES[negatives]
    images, captions = patches.tolist(), real(tokens, mask)
    total, every = 0.0, 0
    for i, caption in enumerate(captions):
        first = i // size * size
        others = [
            first + (i - first + k) % size for k in range(1, negatives + 1) if not refused[k - 1][i]
        ]
        terms = [
            surprise([scale * cosine(gathered(t, images[j]), t) for j in [i, *others]], 0)
            for t in caption
        ]
        total += sum(terms) / (len(caption) if reduction == "caption" else 1)
        every += len(caption)
    return total / (len(captions) if reduction == "caption" else every)


def of_captions(patches, tokens, mask, scale, negatives, refused):
    """L_ic of captions: all scores of a group, then rows and columns of those that may be seen."""
    images, captions = patches.tolist(), real(tokens, mask)
    score = [
        [scale * sum(cosine(gathered(t, v), t) for t in caption) / len(caption) for v in images]
        for caption in captions
    ]
    seen = {(i, i) for i in range(len(captions))}
    size = SIZES[negatives]
    for i in range(len(captions)):
        first = i // size * size
        for k in range(negatives):
            if not refused[k][i]:
                seen.add((i, first + (i - first + k + 1) % size))
    total = 0.0
    for i in range(len(captions)):
        rows = [score[i][j] for j in range(len(images)) if (i, j) in seen and j != i]
        columns = [score[j][i] for j in range(len(images)) if (j, i) in seen and j != i]
        total += surprise([score[i][i], *rows], 0) + surprise([score[i][i], *columns], 0)
    return total / 2 / len(captions)


@pytest.mark.parametrize("reduction", ["caption", "token", "captions"])
@pytest.mark.parametrize("negatives", [1, 2, 3])
def test_the_image_contrast_equals_slow_loops_and_so_do_its_gradients(negatives, reduction):
    patches, tokens, mask = eight()
    refused = torch.zeros(negatives, 8, dtype=torch.bool)
    refused[0, 2] = refused[-1, 5] = True
    wanted = by_loops(patches, tokens, mask, 3.0, negatives, refused.tolist(), reduction)
    leaves = [patches.clone().requires_grad_(), tokens.clone().requires_grad_()]
    how = dict(reduction=reduction)
    how = dict(contrast_of="captions") if reduction == "captions" else how
    loss, weights = image_contrast(*leaves, mask, 3.0, negatives, refused, **how)
    assert loss.item() == pytest.approx(wanted, abs=1e-12)
    torch.testing.assert_close(weights, sparc.group_patches(tokens, patches)[1])
    grads = torch.autograd.grad(loss, leaves)
    places = [(0, 1, 2), (3, 0, 0), (5, 1, 1), (7, 0, 2)]
    for which, grad in enumerate(grads):

        def value(moved, which=which):
            both = [moved if k == which else x for k, x in enumerate((patches, tokens))]
            return by_loops(*both, mask, 3.0, negatives, refused.tolist(), reduction)

        found = slopes(value, (patches, tokens)[which], places)
        assert [grad[place].item() for place in places] == pytest.approx(found, abs=1e-7)


@pytest.mark.parametrize("of", ["tokens", "captions"])
def test_padding_and_the_order_of_groups_tokens_and_patches_change_nothing(of):
    patches, tokens, mask = eight()
    wanted, _ = image_contrast(patches, tokens, mask, 3.0, 2, contrast_of=of)
    longer, _ = image_contrast(patches, *padded(tokens, mask), 3.0, 2, contrast_of=of)
    torch.testing.assert_close(longer, wanted)
    groups = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    moved, _ = image_contrast(patches[groups], tokens[groups], mask[groups], 3.0, 2, contrast_of=of)
    torch.testing.assert_close(moved, wanted)
    other = torch.tensor([3, 0, 4, 1, 2])
    moved, _ = image_contrast(patches[:, other], tokens, mask, 3.0, 2, contrast_of=of)
    torch.testing.assert_close(moved, wanted)
    back = torch.arange(3, -1, -1)
    moved, _ = image_contrast(patches, tokens[:, back], mask[:, back], 3.0, 2, contrast_of=of)
    torch.testing.assert_close(moved, wanted)


@pytest.mark.parametrize("negatives", [1, 3])
def test_what_an_image_does_not_tell_costs_the_logarithm_of_all_images(negatives):
    """The shortcut of eq. 6: weights that depend on the token and the place alone."""
    patches, tokens, mask = eight()
    patches, wanted = patches[:1].expand(8, -1, -1), pytest.approx(math.log(negatives + 1))
    loss, _ = image_contrast(patches, tokens, mask, 9.0, negatives)
    assert loss.item() == wanted
    same = tokens[:1].expand(8, -1, -1), mask[:1].expand(8, -1)  # nor what a caption says
    loss, _ = image_contrast(patches, *same, 9.0, negatives, contrast_of="captions")
    assert loss.item() == wanted


def test_the_same_image_and_an_equal_caption_are_never_a_negative():
    keys = ["a", "b", "c", "c", "d", "e", "f", "g"]
    ids = torch.arange(16).reshape(8, 2) + 1
    ids[6] = ids[4]
    mask = torch.ones(8, 2, dtype=torch.bool)
    ids[1], ids[2] = torch.tensor([7, 8]), torch.tensor([7, 99])
    mask[1:3, 1] = False  # what stands in the padding says nothing
    found = equal_pairs(keys, ids, mask, 2)
    wanted = torch.zeros(2, 8, dtype=torch.bool)
    wanted[0, 2] = True  # place 2 against 3: the same image
    wanted[1, 4] = wanted[1, 6] = True  # 4 and 6: the same caption
    wanted[0, 1] = True  # 1 and 2
    assert found.tolist() == wanted.tolist()
    made, batch = features(4)
    batch.key = ["same"] * 4
    options = dict(global_weight=0, local_weight=0, image_contrast=1.0)
    losses = sparc.Sparc(**options).double()(made, batch)
    assert losses["image_contrast_tokens_loss"] == 0


def test_groups_stay_the_same_however_a_batch_is_cut():
    size, whole = neighbours(16, 3)
    assert size == 4 and whole.shape == (4, 16)
    parts = [neighbours(4, 3)[1] + 4 * part for part in range(4)]
    assert torch.equal(whole, torch.cat(parts, dim=1))
    assert torch.equal(whole.sort(dim=0).values[0], torch.arange(16) // 4 * 4)
    with pytest.raises(ValueError, match="6 pairs is no multiple of 4: choose"):
        neighbours(6, 2)
    with pytest.raises(ValueError, match="at least 1"):
        neighbours(8, 0)


def test_sparc_weighs_the_image_contrast_of_both_kinds_of_tokens():
    made, batch = features(4)
    losses = {
        context: sparc.Sparc(image_contrast=2.0, token_context=context).double()(made, batch)
        for context in ("text", "none", "both")
    }
    scale = 1 / 0.07
    for context, tokens in (("text", made.tokens), ("none", made.words)):
        name = f"image_contrast_{'tokens' if context == 'text' else 'words'}_loss"
        wanted, _ = image_contrast(made.patches, tokens, made.mask, scale)
        assert losses[context][name].item() == pytest.approx(2 * wanted.item(), rel=1e-6)
        assert losses["both"][name].item() == pytest.approx(wanted.item(), rel=1e-6)
    of = dict(contrast_of="captions")
    found = sparc.Sparc(image_contrast=1.0, reduction="token", **of).double()(made, batch)
    wanted, _ = image_contrast(made.patches, made.tokens, made.mask, scale, **of)
    assert found["image_contrast_tokens_loss"].item() == pytest.approx(wanted.item(), rel=1e-6)
    plain = sparc.Sparc().double()(made, batch)
    assert not [name for name in plain if name.startswith("image_contrast")]
    assert plain["local_loss"] == losses["both"]["local_loss"]
    assert sparc.Sparc(image_contrast=1.0, token_context="both").word_features == "words"
    assert sparc.Sparc().word_features == "tokens"
    wrongs = (dict(token_context="words"), dict(same_token="drop"), dict(contrast_of="images"))
    for wrong in wrongs:
        with pytest.raises(ValueError, match="use"):
            sparc.Sparc(**wrong)


def test_the_shuffled_twin_never_shows_a_caption_its_own_image():
    """Whole groups move on: own and other images are then equally wrong."""
    made, batch = features(4)
    made.patches.requires_grad_()
    options = dict(global_weight=0, local_weight=0, image_contrast=1.0, shuffle=True)
    objective = sparc.Sparc(**options).double()
    assert objective.coupled_features == ("patches", "tokens") and objective.paired_features == ()
    only = made.mask.clone()
    only[1:] = False  # nothing but the first caption asks for images
    made.mask = only
    loss = objective(made, batch)["image_contrast_tokens_loss"]
    (grad,) = torch.autograd.grad(loss, made.patches)
    assert [bool(g.any()) for g in grad] == [False, False, True, True]


def test_memory_grows_linearly_with_the_batch():
    def kept(times):
        made = [x.repeat(times, *[1] * (x.ndim - 1)) for x in eight()]
        made[0].requires_grad_()
        return sum(kept_sizes(lambda: image_contrast(*made, 3.0, 3)))

    assert kept(4) < 4.1 * kept(1)


def test_equal_tokens_of_a_caption_can_be_left_out_of_both_denominators():
    made, batch = features(3)
    batch.ids[0] = torch.tensor([5, 7, 5, 9])
    scale, wanted = 1 / 0.07, 0.0
    for row, (caption, image) in enumerate(
        zip(real(made.tokens, made.mask), made.patches.tolist(), strict=True)
    ):
        grouped = [gathered(t, image) for t in caption]
        ids = batch.ids[row].tolist()
        for j in range(len(caption)):
            kept = [k for k in range(len(caption)) if k == j or ids[k] != ids[j]]
            for one, others in ((grouped[j], caption), (caption[j], grouped)):
                logits = [scale * cosine(one, others[k]) for k in kept]
                wanted += surprise(logits, kept.index(j)) / 2 / len(caption) / 3
    found = sparc.Sparc(same_token="ignore").double()(made, batch)["local_loss"].item()
    assert found == pytest.approx(wanted, rel=1e-6)
    printed = sparc.Sparc().double()(made, batch)["local_loss"].item()
    assert printed > found
