"""UNITER: its formulas against loops, what a step masks and draws, and exactness."""

import math
from functools import partial

import pytest
import torch

from sparc_pretrain.objectives import uniter
from sparc_pretrain.objectives.uniter import (
    Uniter,
    class_targets,
    classification_loss,
    divergence_loss,
    regression_loss,
)
from tests.models import masked, masked_objective, pretrainer, region_batch
from tests.objectives.exactness import (
    assert_micro_batches_add_up,
    assert_two_processes_are_one,
    gradients,
    overfitted,
)

LABELS = ["a", "b", "c", "d"]
OBJECTIVE = masked_objective("Uniter", labels=LABELS)
model = partial(masked, "Uniter", labels=LABELS)
data = partial(region_batch, 8, dtype=torch.float64)
TERMS = {"itm_loss", "wra_loss", "mlm_loss", "mrfr_loss", "mrc_loss", "mrc_kl_loss"}


# ------------------------------------------------------------------ formulas


def test_the_spread_of_targets_is_that_of_the_valid_regions():
    g = torch.Generator().manual_seed(0)
    states, valid = torch.randn(3, 4, 5, generator=g), torch.rand(3, 4, generator=g) < 0.5
    wanted = states[valid].std(dim=0, correction=0).mean()
    torch.testing.assert_close(uniter._spread(states, valid), wanted)
    assert uniter._spread(states, torch.zeros_like(valid)) == 0


def test_the_losses_of_regions_equal_the_loops_and_their_gradients_are_right():
    g = torch.Generator().manual_seed(0)
    one, other = (torch.randn(5, 4, generator=g, dtype=torch.float64) for _ in range(2))
    probs = other.softmax(dim=1)
    squares = sum(
        (a - b) ** 2 for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    ).item()
    assert regression_loss(one, other).item() == pytest.approx(squares / 20)
    assert regression_loss(one, other, "paper").item() == pytest.approx(squares / 5)
    assert regression_loss(one, other, "paper", 2.0).item() == pytest.approx(squares / 2)
    log = [[x - math.log(sum(map(math.exp, row))) for x in row] for row in one.tolist()]
    kl = sum(
        p * (math.log(p) - q)
        for row, ours in zip(probs.tolist(), log, strict=True)
        for p, q in zip(row, ours, strict=True)
    )
    assert divergence_loss(one, probs).item() == pytest.approx(kl / 5)
    assert divergence_loss(one, probs, "released").item() == pytest.approx(kl / 20)
    best = [max(range(1, 4), key=lambda c: row[c]) for row in probs.tolist()]
    assert class_targets(probs).tolist() == best
    assert class_targets(probs, None).tolist() == probs.argmax(dim=1).tolist()
    cross = -sum(row[c] for row, c in zip(log, best, strict=True)) / 5
    assert classification_loss(one, probs).item() == pytest.approx(cross)
    one.requires_grad_()
    for formula in (regression_loss, divergence_loss, classification_loss):
        wanted = other if formula is regression_loss else probs
        assert torch.autograd.gradcheck(lambda x, f=formula, w=wanted: f(x, w), (one,))
        empty = formula(one[:0], wanted[:0])
        empty.backward()
        assert empty.item() == 0 and not one.grad.any()
    for formula in (regression_loss, divergence_loss):
        with pytest.raises(ValueError, match="reduction 'mean'"):
            formula(one, probs, "mean")


def test_a_class_without_any_probability_costs_nothing():
    logits, probs = torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]])
    assert divergence_loss(logits, probs).item() == pytest.approx(math.log(3))


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize(
    "options",
    [{}, dict(tasks=dict(itm=1)), dict(hidden="pixels", replace="either", wra_negatives="ignore")],
)
def test_micro_batches_add_up_to_the_batch_with_every_draw(options):
    assert_micro_batches_add_up(model, data, ((2, 256), (4, 3), (1, 3)), **options)


def test_two_processes_are_one(tmp_path):
    cases = [(1, {}), (2, dict(replace="either", hidden="pixels"))]
    cases += [(1, dict(tasks={task: 1})) for task in Uniter.tasks_of]
    assert_two_processes_are_one(tmp_path, "tests.objectives.test_uniter", cases)


# ------------------------------------------------------------------ what a step is


def test_every_term_is_logged_and_every_weight_trained():
    losses, grads = gradients(model(), data())
    assert losses.keys() >= TERMS
    unused = [name for name, grad in grads.items() if not grad.any()]
    left = ("key.bias", "embeddings.position")  # softmax does not see the first
    assert not [n for n in unused if not n.endswith(left)], unused


@pytest.mark.parametrize("task", Uniter.tasks_of)
def test_every_term_reaches_the_vision_tower_and_no_other_term_is_trained(task):
    losses, grads = gradients(model(tasks={task: 1}), data())
    assert {n for n in losses if n in TERMS} == {f"{term}_loss" for term in Uniter.tasks_of[task]}
    assert set(grads) == {n for n, p in model().named_parameters() if p.requires_grad}
    for name, grad in grads.items():
        if name.startswith("encoder.vision.net.blocks.0.mlp.fc1"):
            assert grad.abs().max() > 1e-9, name
    used = {"itm": "match_head", "mlm": "word_head"}.get(task, "region_heads")
    for head in ("match_head", "word_head", "region_heads"):
        heads = [grad for name, grad in grads.items() if name.startswith(f"objective.{head}")]
        assert any(grad.any() for grad in heads) == (head == used)


def test_either_words_or_regions_are_masked_and_geometry_stays():
    made, batch = model(), data()
    drawn = made.with_views(batch).views
    words, regions = drawn.drawn["words"], drawn.drawn["regions"]
    assert (words.any(dim=1)).all() and not (words & (batch.special | ~batch.mask)).any()
    assert (regions.any(dim=1)).all() and not (regions & ~batch.regions.valid).any()
    masked = drawn.texts["masked"]
    assert torch.equal(masked.ids[~words], batch.ids[~words])
    seen = []
    made.objective.embed.place.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    hidden = []
    made.objective.embed.register_forward_pre_hook(lambda m, x: hidden.append(x[2:]))
    gradients(made, batch)
    assert len(seen) == 3  # ITM, MLM, regions
    assert torch.equal(seen[1], seen[2]) and hidden[1] == () and hidden[2][0] is not None


def test_the_masked_text_of_a_region_task_is_clean_and_the_image_of_an_mlm_step_is_too():
    made = model(tasks=dict(mrfr=1), hidden="pixels")
    views = made.with_views(data()).views
    assert not views.texts and not views.drawn["words"].any() and "blanked" in views.images
    made = model(tasks=dict(mlm=1), hidden="pixels")
    views = made.with_views(data()).views
    assert not views.images and not views.drawn["regions"].any() and "masked" in views.texts


def test_hidden_pixels_are_blank_and_the_others_are_not():
    made, batch = model(hidden="pixels"), data()
    views = made.with_views(batch).views
    blank = views.images["blanked"]
    for row, region in views.drawn["regions"].nonzero().tolist():
        x0, y0, x1, y1 = (batch.regions.box[row, region] * 32).tolist()
        inside = blank[row, :, math.ceil(y0) : math.floor(y1), math.ceil(x0) : math.floor(x1)]
        assert not inside.any()
    assert 0 < (blank == batch.image).float().mean() < 1


def test_half_of_the_pairs_have_another_image_and_never_one_of_the_same_id():
    from sparc_pretrain.objectives import uniter

    made, batch, seen = model(tasks=dict(itm=1)), data(), []
    real = uniter.matching_loss

    def watched(logits, match, **options):
        seen.append(match)
        return real(logits, match, **options)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(uniter, "matching_loss", watched)
        features = made.features(made.with_views(batch))
        donors = []
        of = uniter.Seen.of
        patch.setattr(uniter.Seen, "of", lambda self, d: (donors.append(d), of(self, d))[1])
        for step in range(60):
            batch.views = made.objective.views(batch, step)
            made.objective.coupled(features, batch)
    share = torch.stack(seen).double().mean().item()
    assert 0.43 < share < 0.57
    for donor, match in zip(donors, seen, strict=True):
        assert torch.equal(donor < 0, match)
        assert (batch.image_id[donor[~match]] != batch.image_id[~match]).all()


def test_one_image_alone_has_no_negative_and_finite_losses():
    batch = data()
    batch.image_id[:] = 1
    losses, grads = gradients(model(), batch)
    assert losses["wra_distance_unmatched"] == 0
    assert losses["loss"].isfinite() and all(grad.isfinite().all() for grad in grads.values())


def test_padding_of_words_and_regions_changes_nothing():
    made, batch = model(), data()
    wanted, _ = gradients(made, batch)
    other = data()
    hole = ~other.regions.valid
    other.regions.box[hole] = torch.rand(int(hole.sum()), 4)
    other.ids[~other.mask] = 7
    found, _ = gradients(made, other)
    for name in TERMS:
        assert found[name].item() == pytest.approx(wanted[name].item(), abs=1e-10), name


def test_tasks_are_drawn_in_proportion_to_their_shares():
    terms = model(tasks=dict(itm=2, mlm=2, mrfr=1, mrc_kl=1)).objective.terms
    drawn = [[task for task in Uniter.tasks_of if terms.runs(task, step)] for step in range(600)]
    assert all(len(one) == 1 for one in drawn)
    counts = {task: sum(one == [task] for one in drawn) for task in Uniter.tasks_of}
    assert counts["mrc"] == 0 and 160 < counts["itm"] < 240 and 70 < counts["mrc_kl"] < 130


def test_without_labels_classes_are_not_trained_and_cannot_be_asked_for():
    losses, _ = gradients(model(labels=()), data())
    assert losses.keys() >= TERMS - {"mrc_loss", "mrc_kl_loss"} and "mrc_loss" not in losses
    assert Uniter.needs_of(dict(type="Uniter")) == ("regions", "mask_id")
    assert "label" in Uniter.needs_of(dict(tasks=dict(mrc=1)))
    assert "region_probs" in Uniter.needs_of(dict(tasks=dict(mrc_kl=1), regions="files"))
    given = dict(text_width=8, vision_width=8, vocab_size=9, mask_id=8, word_ids=[3, 8])
    given |= dict(fusion=dict(layers=1, heads=2))
    for wrong, name in (
        (dict(tasks=dict(mrc=1)), "mrc needs classes"),
        (dict(mask_id=None), "mask token"),
        (dict(tasks=dict(wra=1)), "tasks"),
        (dict(hidden="all"), "hidden 'all'"),
        (dict(reductions=dict(mrfr="sum")), "reduction 'sum'"),
    ):
        with pytest.raises(ValueError, match=name):
            Uniter(**{**given, **wrong})


def test_it_learns_eight_pairs_by_heart():
    made = model().float()
    first, last = overfitted(made, region_batch(8), steps=220, draws=1)
    for name in ("itm_loss", "mlm_loss", "mrc_loss", "mrfr_loss"):
        assert last[name] < first[name] / 10, (name, first[name], last[name])
    assert last["mrfr_target_std"] > first["mrfr_target_std"] / 2  # the target has not collapsed
    assert last["wra_distance"] < last["wra_distance_unmatched"] / 5
    least = entropy_of_smoothed_labels(len(LABELS) + 1)
    assert last["mrc_kl_loss"] < (first["mrc_kl_loss"] + least) / 5


def entropy_of_smoothed_labels(classes: int) -> float:
    probs = [0.9 + 0.1 / classes, *[0.1 / classes] * (classes - 1)]
    return -sum(p * math.log(p) for p in probs)


# ------------------------------------------------------------------ of files


def with_vectors(batch):
    g = torch.Generator().manual_seed(4)
    shape = batch.regions.valid.shape
    batch.regions.state = torch.randn(*shape, 12, generator=g, dtype=torch.float64)
    batch.regions.probs = torch.rand(*shape, 5, generator=g, dtype=torch.float64).softmax(dim=-1)
    return batch


FILES = dict(regions="files", region_width=12, labels=(), classes=5)


def test_vectors_of_files_train_no_tower_and_the_run_folder_says_so(tmp_path):
    from sparc_pretrain import run_folder
    from sparc_pretrain.convert.export import Opened
    from sparc_pretrain.zeroshot import encode
    from transfer.backbone.vit import SparcViT

    losses, grads = gradients(model(**FILES), with_vectors(data()))
    assert losses.keys() >= TERMS and not any("vision" in name for name in grads)
    made = model(**FILES).float()
    run_folder.write(tmp_path / "run", made.run_config(8), made.run_weights(), None)
    _, objective = encode.load(tmp_path / "run")
    assert not objective.vision_trained
    with pytest.raises(ValueError, match=r"vision_trained: false.*nothing to transfer"):
        SparcViT(run=str(tmp_path / "run"), patch=None).init_weights()
    with pytest.raises(ValueError, match=r"vision_trained: false.*nothing to transfer"):
        Opened.read(tmp_path / "run")
    online = model().float()
    run_folder.write(tmp_path / "online", online.run_config(8), online.run_weights(), None)
    assert "vision_trained" not in run_folder.open_run(tmp_path / "online").config
    SparcViT(run=str(tmp_path / "online"), patch=None).init_weights()
    _, objective = encode.load(tmp_path / "online")
    for name, value in online.objective.state_dict().items():
        assert torch.equal(value, objective.state_dict()[name])


def test_micro_batches_of_files_add_up():
    def batch():
        return with_vectors(data())

    assert_micro_batches_add_up(model, batch, ((4, 3),), **FILES)


# ------------------------------------------------------------------ the target


def test_the_target_of_a_run_that_starts_from_another_stays_that_runs(tmp_path):
    source = pretrainer(layers=0)
    source.encoder.save_pretrained(tmp_path / "run")
    options = dict(layers=0, init_from=str(tmp_path / "run"))
    made = pretrainer({**OBJECTIVE, "tasks": dict(mrfr=1)}, **options).train()
    made.init_weights()
    assert made.objective.target == "frozen"
    batch = made.with_views(region_batch(4))
    first = batch.views.drawn["taught_image"]
    torch.testing.assert_close(first, source.encoder.image_features(batch.image).patch_states)
    with torch.no_grad():
        made.encoder.vision.net.norm.weight.mul_(2)
    assert torch.equal(made.with_views(region_batch(4)).views.drawn["taught_image"], first)
    assert not any("teacher." in name for name in made.state_dict())
    with pytest.raises(ValueError, match="frozen"):
        pretrainer({**OBJECTIVE, "target": "frozen"}, layers=0)


# ------------------------------------------------------------------ reading


def test_it_reads_matches_regions_and_plans_from_cells_or_boxes():
    made, batch = model().eval(), data().rows(slice(0, 3))
    with torch.no_grad():
        image = made.encoder.image_features(batch.image)
        text = made.encoder.text_features(batch.ids, batch.mask, batch.special)
        scores = made.objective.scores(image, text)
        assert scores.shape == (3, 3) and scores.std() > 0
        odds = made.objective.match(image, text)
        torch.testing.assert_close(scores.diagonal(), odds)
        boxes = made.objective.ground(image, text)
        assert torch.allclose(boxes[:, 2:] - boxes[:, :2], torch.tensor(0.25).double())
        looked = made.objective.look(image, text)
        assert looked.shape == (3, 9, 16)
        words = text.mask.sum(dim=1)  # the words' marginal is exact
        assert torch.allclose(looked.sum(dim=2), text.mask / words[:, None].double())
        image.regions = batch.regions
        given = made.objective.ground(image, text)
        for box, own, valid in zip(
            given, batch.regions.box.double(), batch.regions.valid, strict=True
        ):
            assert (own[valid] == box).all(dim=1).any()
    assert not made.objective.shares_space
