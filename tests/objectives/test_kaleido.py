"""Kaleido-BERT: what is done to patches, which are hidden, its tasks, and exactness."""

import math
from functools import partial
from itertools import permutations

import pytest
import torch

from sparc_pretrain.objectives.kaleido import Kaleido, divergence, standardised
from sparc_pretrain.objectives.mosaic import (
    SLICES,
    colours,
    cut_out,
    grey,
    level_side,
    patch_boxes,
    patch_geometry,
    rotate,
    shuffle,
    swap,
)
from sparc_pretrain.types import Views
from tests.models import masked, masked_objective, pretrainer, region_batch
from tests.objectives.exactness import (
    assert_micro_batches_add_up,
    assert_two_processes_are_one,
    gradients,
    overfitted,
)

OBJECTIVE = masked_objective("Kaleido")
model = partial(masked, "Kaleido")
data = partial(region_batch, 8, dtype=torch.float64)
NAMES = ("amlm", "itm", "rotation", "jigsaw", "camouflage", "grey", "blank")


# ------------------------------------------------------------------ patches


def test_fifty_five_patches_of_five_levels_lie_in_the_region_row_by_row():
    region = torch.tensor([[0.2, 0.1, 0.8, 0.7], [0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    boxes, level = patch_boxes(region)
    assert boxes.shape == (2, 55, 4)
    assert level.tolist() == [n for n in range(1, 6) for _ in range(n * n)]
    for b, (x0, y0, x1, y1) in enumerate(region.tolist()):
        wanted = [
            [
                x0 + c * (x1 - x0) / n,
                y0 + r * (y1 - y0) / n,
                x0 + (c + 1) * (x1 - x0) / n,
                y0 + (r + 1) * (y1 - y0) / n,
            ]
            for n in range(1, 6)
            for r in range(n)
            for c in range(n)
        ]
        torch.testing.assert_close(boxes[b], torch.tensor(wanted).double())
    found = patch_geometry(torch.tensor([0.1, 0.2, 0.5, 0.8]))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.5, 0.2, 0.8, 0.24]))
    assert [s.stop for s in SLICES] == [1, 5, 14, 30, 55]


def test_patches_are_read_at_about_their_own_size():
    assert [level_side(n, 224, 16) for n in range(1, 6)] == [224, 112, 80, 64, 48]
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    found = cut_out(image, patch_boxes(torch.tensor([[0.0, 0, 1, 1]]))[0][:, 1:5], 4)
    assert torch.equal(found[0, 0], image[0, :, :4, :4])
    assert torch.equal(found[0, 3], image[0, :, 4:, 4:])
    bytes_ = cut_out(image.to(torch.uint8), torch.tensor([[[0.0, 0, 1, 1]]]), 8)
    assert bytes_.dtype == torch.uint8 and torch.equal(bytes_[0, 0].float(), image[0])


def test_pixels_are_turned_counter_clockwise_shuffled_swapped_and_made_grey():
    g = torch.Generator().manual_seed(0)
    pixels = torch.rand(4, 3, 5, 5, generator=g, dtype=torch.float64)
    turned = rotate(pixels, torch.arange(4))
    for b in range(4):
        for y in range(5):
            for x in range(5):
                # after one turn what was at the right edge is at the top
                sy, sx = [(y, x), (x, 4 - y), (4 - y, 4 - x), (4 - x, y)][b]
                assert torch.equal(turned[b, :, y, x], pixels[b, :, sy, sx])
    patches = torch.rand(24, 4, 3, 2, 2, generator=g, dtype=torch.float64)
    shuffled = shuffle(patches, torch.arange(24))
    for b, order in enumerate(permutations(range(4))):
        for s in range(4):
            assert torch.equal(shuffled[b, s], patches[b, order[s]])
    nine, donors = torch.rand(2, 3, 9, 3, 2, 2, generator=g)
    swapped = swap(nine, donors, torch.tensor([4, -1, 0]))
    assert torch.equal(swapped[0, 4], donors[0, 4]) and torch.equal(swapped[2, 0], donors[2, 0])
    assert (swapped != nine).flatten(2).any(dim=2).sum(dim=1).tolist() == [1, 0, 1]
    colour = torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1).expand(3, 2, 2)
    wanted = 0.299 * 10 + 0.587 * 20 + 0.114 * 30
    assert torch.allclose(grey(colour), torch.full((3, 2, 2), wanted))
    assert grey(colour.to(torch.uint8)).unique().tolist() == [round(wanted)]


def test_the_divergence_equals_the_loop_and_has_no_gradient_to_what_is_wanted():
    g = torch.Generator().manual_seed(0)
    one, other = (torch.randn(4, 6, generator=g, dtype=torch.float64) for _ in range(2))

    def softmax(row):
        return [math.exp(x) / sum(map(math.exp, row)) for x in row]

    kl = sum(
        p * math.log(p / q)
        for x, y in zip(one.tolist(), other.tolist(), strict=True)
        for p, q in zip(softmax(y), softmax(x), strict=True)
    )
    one.requires_grad_(), other.requires_grad_()
    loss = divergence(one, other)
    assert loss.item() == pytest.approx(kl / 4)
    assert divergence(one, other, 2.0).item() == pytest.approx(kl / 2)
    loss.backward()
    assert other.grad is None and one.grad.any()
    assert torch.autograd.gradcheck(lambda x: divergence(x, other), (one,))
    found = standardised(other)
    assert found.mean(dim=1).abs().max() < 1e-6
    assert (found.var(dim=1, correction=0) - 1).abs().max() < 1e-3


# ------------------------------------------------------------------ what a step draws


def test_all_rows_are_corrupted_alike_and_half_show_another_product():
    made, batch, seen = model(), data(), []
    boxes = patch_boxes(batch.saliency)[0]
    for step in range(40):
        views = made.objective.views(batch, step)
        drawn = views.drawn
        for n, count in ((3, 1), (4, 2), (5, 3)):
            assert (drawn["patches"][:, SLICES[n - 1]].sum(dim=1) == count).all()
        assert not drawn["patches"][:, :5].any() and drawn["tokens"].any(dim=1).all()
        for row, match in enumerate(drawn["match"].tolist()):
            own = torch.equal(drawn["boxes"][row], boxes[row])
            assert own == match
            if not match:
                donor = next(i for i in range(8) if torch.equal(drawn["boxes"][row], boxes[i]))
                assert batch.product_id[donor] != batch.product_id[row]
            seen.append(match)
    assert 0.42 < sum(seen) / len(seen) < 0.58
    level4, hidden = views.images["level4"], drawn["patches"][:, SLICES[3]]
    colour = (level4 - level4.mean(dim=2, keepdim=True)).abs().amax(dim=(2, 3, 4))
    assert (colour[hidden] < 1e-12).all() and (colour[~hidden] > 0).all()
    assert views.images["clean"].shape == (8, 2, 3, 16, 16)
    assert views.images["level1"].shape == (8, 1, 3, 32, 32)


def test_geometry_does_not_tell_the_order_nor_the_turn():
    """Heads that saw the places of tokens alone would be at chance: those never move."""
    made, batch = model(weights=dict(itm=0)), data()
    boxes = patch_boxes(batch.saliency)[0]
    for step in range(5):
        drawn = made.objective.views(batch, step).drawn
        assert torch.equal(drawn["boxes"], boxes) and drawn["order"].unique().numel() > 1


def test_the_answer_is_not_in_the_input():
    """Hidden tokens, grey pixels and blank vectors: what is asked for cannot be read."""
    made, batch = model(), data()
    batch.views = made.objective.views(batch, 0)
    seen = []
    made.objective.embed.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    made(batch)
    blank = batch.views.drawn["patches"].clone()
    blank[:, :30] = False
    assert not seen[0][blank].any() and (seen[0][~blank] != 0).any(dim=1).all()


def test_a_guide_decides_which_patches_are_hidden():
    made, batch = model(), data()
    weights = torch.zeros(8, 9, 16, dtype=torch.float64)
    weights[..., 15] = 1  # every token points at the lower right corner
    batch.saliency = torch.tensor([0.0, 0, 1, 1]).expand(8, -1)
    batch.views = Views(drawn={"guide": weights})
    corner = 0
    for step in range(20):
        patches = made.objective.views(batch, step).drawn["patches"]
        corner += patches[:, 13].double().mean().item() / 20  # of level 3
    batch.views = None
    random = [made.objective.views(batch, s).drawn["patches"][:, 13] for s in range(20)]
    assert corner > 0.8 > 0.3 > torch.stack(random).double().mean()


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize("options", [{}, dict(tasks=dict(camouflage=1))])
def test_micro_batches_add_up_to_the_batch_with_every_draw(options):
    assert_micro_batches_add_up(model, data, ((4, 1),), **options)


def test_two_processes_are_one(tmp_path):
    cases = [(1, {}), (2, dict(patch_px=16)), (1, dict(tasks=dict(grey=1)))]
    assert_two_processes_are_one(tmp_path, "tests.objectives.test_kaleido", cases)


def test_every_term_is_logged_and_every_weight_trained():
    losses, grads = gradients(model(), data())
    assert losses.keys() >= {f"{name}_loss" for name in NAMES}
    unused = [name for name, grad in grads.items() if not grad.any()]
    left = ("key.bias", "embeddings.position")
    assert not [n for n in unused if not n.endswith(left)], unused


@pytest.mark.parametrize("task", NAMES)
def test_every_term_reaches_the_vision_tower(task):
    losses, grads = gradients(model(tasks={task: 1}), data())
    assert {name for name in losses if name.endswith("_loss")} == {f"{task}_loss"}
    assert grads["encoder.vision.net.blocks.0.mlp.fc1.weight"].abs().max() > 1e-9


def test_one_product_alone_has_no_negative_and_finite_losses():
    batch = data()
    batch.product_id[:] = 1
    losses, grads = gradients(model(), batch)
    assert losses["camouflage_loss"] == 0 and losses["loss"].isfinite()
    assert all(grad.isfinite().all() for grad in grads.values())


def test_it_learns_six_pictures_by_heart():
    first, last = overfitted(model().float(), region_batch(6), steps=220, draws=1)
    for name in NAMES:
        assert last[f"{name}_loss"] < first[f"{name}_loss"] / 10, name


# ------------------------------------------------------------------ reading


def test_it_reads_matches_of_whole_pictures():
    made, batch = model().eval(), data().rows(slice(0, 3))
    with torch.no_grad():
        image = made.objective.read_images(made.encoder, batch.image)
        assert image.patch_states.shape == (3, 55, 24)
        text = made.encoder.text_features(batch.ids, batch.mask, batch.special)
        scores = made.objective.scores(image, text)
        torch.testing.assert_close(scores.diagonal(), made.objective.match(image, text))
    assert scores.std() > 0 and not made.objective.shares_space
    assert Kaleido.needs_of({}) == ("saliency", "mask_id")


def test_the_target_may_be_the_tower_of_the_start(tmp_path):
    pretrainer(layers=0).encoder.save_pretrained(tmp_path / "run")
    made = pretrainer(OBJECTIVE, layers=0, init_from=str(tmp_path / "run")).train()
    made.init_weights()
    batch = made.with_views(region_batch(4))
    assert batch.views.drawn["taught_clean"].shape == (4, 2, 24)
    assert batch.views.drawn["taught_level5"].shape == (4, 25, 24)
    losses = made(batch)
    assert losses["grey_loss"].isfinite() and "clean" not in made.features(batch).views


def test_the_target_may_be_the_colours_of_the_patch():
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 3, 16, 16), generator=g).to(torch.uint8)
    cells = pixels.float().unflatten(-1, (8, 2)).unflatten(-3, (8, 2)).mean(dim=(-3, -1)) / 255
    torch.testing.assert_close(colours(pixels), cells.flatten(2))
    assert colours(pixels[..., :4, :4]).shape == (2, 3, 192)  # smaller than its cells
    made, batch = model(target="pixels"), data()
    batch.views = made.objective.views(batch, 0)
    assert "clean" not in batch.views.images and made.objective.grey.out_features == 192
    drawn = batch.views.drawn
    hidden = drawn["patches"][:, SLICES[4]]
    level5 = colours(batch.views.images["level5"])
    assert torch.equal(drawn["colours_blank"], level5)
    states = {}
    made.objective.blank.register_forward_hook(lambda m, x, y: states.update(blank=y))
    losses = made(batch)
    shown = hidden & drawn["match"][:, None]
    wanted = standardised(level5[shown])
    predicted = states["blank"][drawn["match"]].flatten(0, 1)
    torch.testing.assert_close(losses["blank_loss"], divergence(predicted, wanted))
    assert_micro_batches_add_up(model, data, ((4, 1),), target="pixels")


def test_rows_of_another_product_take_part_where_it_is_asked_for():
    losses, logits = {}, []
    for unmatched in (False, True):
        made, batch = model(unmatched=unmatched), data()
        made.objective.rotation.register_forward_hook(lambda m, x, y: logits.append(y))
        batch.views = made.objective.views(batch, 0)
        losses[unmatched] = made(batch)
        match = batch.views.drawn["match"]
        (asked,) = torch.autograd.grad(losses[unmatched]["rotation_loss"], logits.pop())
        asked = asked.any(dim=1)
        assert torch.equal(asked, torch.ones_like(match) if unmatched else match)
        assert not match.all()
    assert losses[True]["itm_loss"] == losses[False]["itm_loss"]
    assert losses[True]["amlm_loss"] == losses[False]["amlm_loss"]
    for name in NAMES[2:]:
        assert losses[True][f"{name}_loss"] != losses[False][f"{name}_loss"], name
