"""X-VLM: the contrast of concepts against a loop, what may be a negative, and exactness."""

import math
from functools import partial

import pytest
import torch

from sparc_pretrain.objectives.xvlm import SAME, Xvlm, concept_contrast
from tests.models import concept_batch, masked
from tests.objectives.exactness import (
    assert_micro_batches_add_up,
    assert_two_processes_are_one,
    gradients,
    overfitted,
)

model = partial(masked, "Xvlm", layers=1)


def slow_contrast(concept, text, scale, valid, group, same) -> float:
    n = len(concept)
    cos = [
        [torch.cosine_similarity(concept[i], text[j], dim=0).item() for j in range(n)]
        for i in range(n)
    ]
    loss, count = 0.0, sum(valid)
    for c in range(n):
        if not valid[c]:
            continue
        for row in (cos[c], [cos[i][c] for i in range(n)]):
            twins = [j for j in range(n) if valid[j] and group[j] == group[c]]
            kept = [
                j for j in range(n) if valid[j] and (same != "ignore" or j == c or j not in twins)
            ]
            log_sum = math.log(sum(math.exp(scale * row[j]) for j in kept))
            right = twins if same == "share" else [c]
            loss += sum(log_sum - scale * row[j] for j in right) / len(right)
    return loss / (2 * max(1, count))


@pytest.mark.parametrize("same", SAME)
def test_the_contrast_of_concepts_equals_the_loop_and_its_gradient_is_right(same):
    g = torch.Generator().manual_seed(0)
    concept, text = (torch.randn(9, 5, generator=g, dtype=torch.float64) for _ in range(2))
    valid = torch.tensor([True, True, False, True, True, True, False, True, True])
    group = torch.tensor([1, 2, 1, 1, 3, 2, 4, 5, 1])
    scale = torch.tensor(7.0, dtype=torch.float64)
    found = concept_contrast(concept, text, scale, valid, group, same)
    wanted = slow_contrast(concept, text, 7.0, valid.tolist(), group.tolist(), same)
    assert found.item() == pytest.approx(wanted, abs=1e-10)
    concept.requires_grad_(), text.requires_grad_(), scale.requires_grad_()

    def loss(concept, text, scale):
        return concept_contrast(concept, text, scale, valid, group, same)

    assert torch.autograd.gradcheck(loss, (concept, text, scale))
    order = torch.randperm(9, generator=g)
    moved = concept_contrast(concept[order], text[order], scale, valid[order], group[order], same)
    assert moved.item() == pytest.approx(wanted, abs=1e-10)


def test_nothing_valid_costs_nothing_and_another_rule_is_refused():
    x = torch.randn(3, 4, requires_grad=True)
    none, group = torch.zeros(3, dtype=torch.bool), torch.arange(3)
    loss = concept_contrast(x, x.detach(), 2.0, none, group)
    loss.backward()
    assert loss.item() == 0 and not x.grad.any()
    same_texts = concept_contrast(x, x.detach(), 2.0, ~none, torch.zeros(3, dtype=torch.long))
    assert same_texts.item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="same 'equal'"):
        concept_contrast(x, x, 2.0, none, group, "equal")


@pytest.mark.parametrize(
    "options", [{}, dict(tasks=dict(itm=1, mlm=1)), dict(nested="ignore", tasks=dict(itm=1))]
)
def test_micro_batches_add_up_to_the_batch_with_every_draw(options):
    def batch():
        return concept_batch(8, dtype=torch.float64)

    assert_micro_batches_add_up(model, batch, ((2, 256), (4, 5), (1, 5)), **options)


def test_every_term_is_logged_and_every_weight_trained():
    losses, grads = gradients(model(), concept_batch(8, dtype=torch.float64))
    terms = {"itc_loss", "itm_loss", "mlm_loss", "box_l1_loss", "box_giou_loss"}
    assert terms | {"itm_accuracy", "mlm_accuracy", "box_iou", "scale"} <= losses.keys()
    unused = [name for name, grad in grads.items() if not grad.any()]
    assert not [n for n in unused if not n.endswith(("key.bias", "embeddings.position"))], unused


@pytest.mark.parametrize("nested", ["negative", "ignore"])
def test_what_may_be_true_of_an_image_is_never_drawn(monkeypatch, nested):
    from sparc_pretrain.objectives import matching

    seen = []
    real = matching.draw_negatives

    def watched(logits, allowed, noise):
        drawn = real(logits, allowed, noise)
        seen.append((allowed.clone(), drawn))
        return drawn

    monkeypatch.setattr(matching, "draw_negatives", watched)
    weights = dict(itc=0, mlm=0, box_l1=0, box_giou=0)
    made, batch = model(weights=weights, nested=nested), concept_batch(8)
    batch.image = batch.image.double()
    told = batch.concepts  # every other text says the same, and more
    told.ids[1::2, :, 1:3], told.mask[1::2, :, 1:3] = told.ids[::2, :, 1:3], told.mask[::2, :, 1:3]
    told.mask[::2, :, 3:] = False
    counted = (told.mask & ~told.special).flatten(0, 1)
    said = [
        set(ids[kept].tolist()) for ids, kept in zip(told.ids.flatten(0, 1), counted, strict=True)
    ]
    image = batch.image_id.repeat_interleave(4)
    group, valid = batch.concepts.text_id.flatten(), batch.concepts.valid.flatten()
    taken = set()
    with torch.no_grad():
        batch = made.with_views(batch)
        features = made.features(batch)
        for step in range(300):
            made.objective._match_loss(features, batch, torch.tensor(20.0), step)
    for _, drawn in seen:
        for i, j in enumerate(drawn.tolist()):
            if j >= 0 and valid[i]:
                assert valid[j] and image[i] != image[j] and group[i] != group[j]
                taken.add((i, j))
    inside = {(i, j) for i, j in taken if said[i] <= said[j] or said[j] <= said[i]}
    assert len(taken) > 200 and bool(inside) == (nested == "negative")


def test_a_batch_without_a_negative_and_one_without_a_box_have_finite_losses():
    batch = concept_batch(4, dtype=torch.float64)
    batch.image_id[:] = 7
    losses, grads = gradients(model(), batch)
    assert losses["itm_accuracy"] in (0.0, 1.0) or 0 <= losses["itm_accuracy"] <= 1
    assert all(grad.isfinite().all() for grad in grads.values())
    batch = concept_batch(4, dtype=torch.float64)
    batch.concepts.valid[:, 1:] = False
    batch.concepts.mask[:, 1:] = False
    losses, grads = gradients(model(), batch)
    assert "box_l1_loss" not in losses and losses["loss"].isfinite()
    assert all(grad.isfinite().all() for grad in grads.values())
    assert not grads["objective.box_head.0.weight"].any()
    one = concept_batch(1, dtype=torch.float64)
    losses, _ = gradients(model(), one)
    assert losses["loss"].isfinite()


def test_a_batch_of_one_text_alone_has_nothing_to_tell_apart():
    batch = concept_batch(4, dtype=torch.float64)
    batch.concepts.text_id[:] = 5
    losses, grads = gradients(model(), batch)
    assert losses["itc_loss"] == 0 and losses["itm_loss"] == 0 and losses["mlm_loss"] > 0
    assert all(grad.isfinite().all() for grad in grads.values())


def test_a_batch_without_any_concept_costs_nothing():
    batch = concept_batch(4, dtype=torch.float64)
    batch.concepts.valid[:] = False
    batch.concepts.mask[:] = False
    losses, grads = gradients(model(), batch)
    assert losses["loss"].item() == 0 and not any(grad.any() for grad in grads.values())
    assert all(grad.isfinite().all() for grad in grads.values())


def test_a_box_is_predicted_without_knowing_the_box():
    """The pass of the box terms sees all cells: the answer is not in the mask."""
    made, batch = model(weights=dict(itc=0, itm=0, mlm=0)), concept_batch(6, dtype=torch.float64)
    seen = []
    made.objective.box_head.register_forward_hook(lambda m, x, y: seen.append(y))
    gradients(made, batch)
    batch.concepts.box[:, 1:] = batch.concepts.box[:, 1:].flip(0)
    gradients(made, batch)
    assert torch.equal(*seen)


def test_the_text_under_the_mask_is_hidden_and_the_clean_one_is_not():
    made = model()
    batch = made.with_views(concept_batch(8, dtype=torch.float64))
    chosen, words = batch.views.drawn["chosen"], batch.views.texts["masked"]
    assert chosen.any() and not (chosen & batch.concepts.special).any()
    assert not (chosen & ~batch.concepts.mask).any()
    assert torch.equal(words.ids[~chosen], batch.concepts.ids[~chosen])
    budget = (0.25 * (batch.concepts.mask & ~batch.concepts.special).sum(dim=2) + 0.25).round()
    budget = budget.clamp(1, 8) * batch.concepts.valid
    assert torch.equal(chosen.sum(dim=2).double(), budget.double())


def test_tasks_are_sampled_and_the_others_get_a_zero_gradient():
    made, batch = model(tasks=dict(itm=1, box=1)), concept_batch(8, dtype=torch.float64)
    picked = [
        [task for task in Xvlm.tasks_of if made.objective.terms.runs(task, s)] for s in range(20)
    ]
    assert {tuple(p) for p in picked} == {("itm",), ("box",)}
    losses, grads = gradients(made, batch)
    assert not {"itc_loss", "mlm_loss"} & losses.keys() and set(grads) == {
        n for n, p in made.named_parameters() if p.requires_grad
    }


def test_what_cannot_be_is_refused():
    given = dict(text_width=8, vision_width=8, vocab_size=9, mask_id=8, word_ids=[3, 8])
    given |= dict(fusion=dict(layers=1, heads=2))
    for wrong, name in (
        (dict(mask_id=None), "mask token"),
        (dict(weights=dict(box=1)), "weights"),
        (dict(tasks=dict(box_l1=1)), "tasks"),
        (dict(same="all"), "same 'all'"),
        (dict(negatives="none"), "negatives 'none'"),
        (dict(score="p"), "score 'p'"),
        (dict(mask=dict(kind="all")), "mask of 'all'"),
    ):
        with pytest.raises(ValueError, match=name):
            Xvlm(**{**given, **wrong})


def test_it_reads_matches_boxes_and_where_it_looks():
    made, batch = model().eval(), concept_batch(3, dtype=torch.float64)
    image = made.encoder.image_features(batch.image)
    text = made.encoder.text_features(batch.ids, batch.mask, batch.special)
    odds = made.objective.match(image, text)
    made.objective.score = "logit"
    assert odds.shape == (3,) and not torch.equal(odds, made.objective.match(image, text))
    boxes = made.objective.ground(image, text)
    assert boxes.shape == (3, 4) and (boxes[:, 2:] >= boxes[:, :2]).all()
    assert (boxes >= 0).all() and (boxes <= 1).all()
    assert made.objective.look(image, text).shape == (3, 9, 16)


def test_it_learns_eight_pictures_by_heart():
    made = model().float()
    first, last = overfitted(made, concept_batch(8), steps=400, rate=5e-3, draws=1)
    for name in ("itc", "itm", "mlm", "box_l1", "box_giou"):
        assert last[f"{name}_loss"] < first[f"{name}_loss"] / 10, (name, last[f"{name}_loss"])


def test_a_run_folder_of_it_is_opened_with_its_heads(tmp_path):
    from sparc_pretrain import run_folder
    from sparc_pretrain.zeroshot import encode

    made = model().float()
    weights, tokenizer = made.run_weights(), None
    run_folder.write(tmp_path / "run", made.run_config(8), weights, tokenizer)
    _, objective = encode.load(tmp_path / "run")
    assert objective.dense_head == "global"  # h_v is trained, through the concepts
    assert isinstance(objective, Xvlm) and objective.fusion.blocks[0].attention.heads == 2
    for name, value in objective.state_dict().items():
        assert torch.equal(value, weights[f"objective.{name}"])


CASES = [(1, None), (2, None), (1, dict(itc=1)), (2, dict(itm=1, mlm=1)), (1, dict(box=1))]


def data():
    """Four images with concepts, then four without any: the second process has none."""
    whole = concept_batch(8, dtype=torch.float64)
    whole.concepts.valid[4:] = False
    whole.concepts.mask &= whole.concepts.valid[..., None]
    return whole


def test_two_processes_one_of_them_without_concepts_are_one(tmp_path):
    cases = [(accumulate, dict(tasks=tasks)) for accumulate, tasks in CASES]
    cases.append((2, dict(tasks=dict(itm=1), nested="ignore")))
    assert_two_processes_are_one(tmp_path, "tests.objectives.test_xvlm", cases)


def test_a_compiled_fusion_encoder_computes_the_same_for_any_length():
    graphs = []

    def traced(graph, inputs):
        graphs.append(graph)
        return graph

    plain, made = model(), model()
    for part in made.objective.compiled:
        part.compile(backend=traced, dynamic=True)
    counts = []
    for seed in range(4):
        losses, grads = gradients(made, concept_batch(6, seed, dtype=torch.float64))
        wanted, right = gradients(plain, concept_batch(6, seed, dtype=torch.float64))
        torch.testing.assert_close(losses["loss"], wanted["loss"])
        name = "objective.fusion.blocks.0.cross.key.weight"
        torch.testing.assert_close(grads[name], right[name])
        counts.append(len(graphs))
    assert counts[0] and counts[3] == counts[1]  # lengths are dynamic
