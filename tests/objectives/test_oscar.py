"""Oscar: texts of captions and tags, what is exchanged in them and masked, and exactness."""

import math
from functools import partial

import pytest
import torch

from sparc_pretrain.objectives.oscar import (
    Oscar,
    cut,
    fitting,
    join,
    kinds,
    pollution_loss,
    replace_tags,
)
from tests.models import masked, region_batch
from tests.objectives.exactness import (
    assert_micro_batches_add_up,
    assert_two_processes_are_one,
    gradients,
    overfitted,
)

model = partial(masked, "Oscar")
data = partial(region_batch, 8, dtype=torch.float64)


# ------------------------------------------------------------------ texts


def test_captions_and_tags_are_joined_without_a_gap():
    batch = data()
    ids, mask, segment = join(batch.ids, batch.mask, batch.tags.ids, batch.tags.mask)
    rows = zip(batch.ids, batch.mask, batch.tags.ids, batch.tags.mask, strict=True)
    for row, (own, real, tags, tag_real) in enumerate(rows):
        one, other = own[real].tolist(), tags[tag_real].tolist()
        assert ids[row][mask[row]].tolist() == one + other
        assert segment[row][mask[row]].tolist() == [0] * len(one) + [1] * len(other)
        assert mask[row].tolist() == sorted(mask[row].tolist(), reverse=True)
    assert mask.any(dim=0).all()


def test_the_longer_of_the_two_is_cut_first_and_the_end_stays():
    for most in (7, 8, 35):
        for a in range(1, 40):
            for b in range(1, 40):
                left, right = a, b
                while left + right > most:
                    left, right = (left - 1, right) if left > right else (left, right - 1)
                found = fitting(torch.tensor([a]), torch.tensor([b]), most)
                assert [int(x) for x in found] == [left, right]
    ids = torch.tensor([[1, 5, 6, 7, 2, 0], [1, 5, 2, 0, 0, 0]])
    mask = ids > 0
    ids, mask = cut(ids, mask, torch.tensor([3, 3]))
    assert ids[mask].tolist() == [1, 5, 2, 1, 5, 2]


def test_kinds_follow_their_shares():
    noise = torch.tensor([0.1, 0.24, 0.25, 0.49, 0.5, 0.9])
    assert kinds(noise).tolist() == [1, 1, 1, 1, 0, 0]
    assert kinds(noise, 0.25, 0.25).tolist() == [1, 1, 2, 2, 0, 0]


def test_polluted_rows_take_the_tags_of_their_donor_and_those_without_stay_their_own():
    tags, mask = torch.tensor([[5, 2], [6, 2], [7, 2]]), torch.ones(3, 2, dtype=torch.bool)
    others = torch.tensor([[8, 9, 2], [4, 2, 0]])
    kind, donor = torch.tensor([1, 0, 1]), torch.tensor([0, 1, -1])
    found, real, kind = replace_tags(tags, mask, kind, donor, others, others > 0)
    assert found.tolist() == [[8, 9, 2], [6, 2, 0], [7, 2, 0]]
    assert real.tolist() == [[True] * 3, [True, True, False], [True, True, False]]
    assert kind.tolist() == [1, 0, 0]


def test_the_loss_of_pollution_equals_the_loop():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=g, dtype=torch.float64, requires_grad=True)
    kind = torch.tensor([0, 2, 1, 0, 1])
    wanted = 0.0
    for row, k in zip(logits.tolist(), kind.tolist(), strict=True):
        wanted += math.log(sum(map(math.exp, row))) - row[k]
    assert pollution_loss(logits, kind).item() == pytest.approx(wanted / 5)
    assert pollution_loss(logits, kind, 2.0).item() == pytest.approx(wanted / 2)
    assert torch.autograd.gradcheck(lambda x: pollution_loss(x, kind), (logits,))


# ------------------------------------------------------------------ what a step draws


def test_wrong_tags_are_never_those_of_the_image_nor_equal_and_captions_stay():
    made, batch = model(), data()
    made.objective.length = 13  # nothing is cut
    own = [ids[mask].tolist() for ids, mask in zip(batch.tags.ids, batch.tags.mask, strict=True)]
    seen = []
    for step in range(60):
        drawn = made.objective.views(batch, step).drawn
        for row, kind in enumerate(drawn["kind"].tolist()):
            tags = drawn["right"][row][drawn["segment"][row] == 1].tolist()
            caption = batch.ids[row][batch.mask[row]].tolist()
            assert drawn["right"][row][: len(caption)].tolist() == caption
            assert (tags == own[row]) == (kind == 0)
            donors = [i for i in range(8) if own[i] == tags]
            assert donors and (kind == 0 or (batch.image_id[donors] != batch.image_id[row]).any())
            seen.append(kind)
    assert 0.42 < sum(seen) / len(seen) < 0.58


def test_of_three_kinds_a_quarter_have_another_caption():
    made, batch, seen = model(kinds=3), data(), []
    made.objective.length = 13  # nothing is cut
    own = [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]
    for step in range(60):
        views = made.objective.views(batch, step)
        drawn, real = views.drawn, views.texts["joined"].mask
        for row, kind in enumerate(drawn["kind"].tolist()):
            caption = drawn["right"][row][real[row] & (drawn["segment"][row] == 0)].tolist()
            assert caption in own and (caption == own[row]) == (kind != 2)
            seen.append(kind)
    assert 0.18 < seen.count(1) / len(seen) < 0.32 and 0.18 < seen.count(2) / len(seen) < 0.32


def test_words_and_tags_are_masked_and_their_ends_are_not():
    made, batch = model(), data()
    share = []
    for step in range(40):
        views = made.objective.views(batch, step)
        chosen, text = views.drawn["chosen"], views.texts["joined"]
        assert chosen.any(dim=1).all() and not (chosen & (text.special | ~text.mask)).any()
        assert torch.equal(text.ids[~chosen], views.drawn["right"][~chosen])
        assert (views.drawn["right"][text.special & (views.drawn["segment"] == 1)] == 2).all()
        share.append(views.drawn["segment"][chosen].double().mean().item())
    assert min(share[:5]) > 0 or max(share) > 0
    careful = model(mask_polluted="words").objective
    for step in range(20):
        drawn = careful.views(batch, step).drawn
        wrong = (drawn["kind"] == 1)[:, None] & (drawn["segment"] == 1)
        assert not (drawn["chosen"] & wrong).any()


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize("options", [{}, dict(kinds=3), dict(tasks=dict(mtl=1))])
def test_micro_batches_add_up_to_the_batch_with_every_draw(options):
    assert_micro_batches_add_up(model, data, ((2, 256), (4, 1), (1, 3)), **options)


def test_two_processes_are_one(tmp_path):
    cases = [(1, {}), (2, dict(kinds=3)), (1, dict(tasks=dict(pollution=1)))]
    assert_two_processes_are_one(tmp_path, "tests.objectives.test_oscar", cases)


def test_every_term_reaches_the_vision_tower():
    losses, grads = gradients(model(), data())
    assert {"mtl_loss", "pollution_loss", "mtl_tag_accuracy"} <= losses.keys()
    unused = [name for name, grad in grads.items() if not grad.any()]
    left = ("key.bias", "embeddings.position")
    assert not [n for n in unused if not n.endswith(left)], unused
    for task, head in (("mtl", "own_head"), ("pollution", "word_head")):
        _, grads = gradients(model(tasks={task: 1}), data())
        assert grads["encoder.vision.net.blocks.0.mlp.fc1.weight"].abs().max() > 1e-9
        assert not any(grad.any() for name, grad in grads.items() if head in name)


def test_it_learns_eight_images_by_heart():
    first, last = overfitted(model().float(), region_batch(8), steps=300)
    for name in ("mtl_loss", "pollution_loss"):
        assert last[name] < first[name] / 10, (name, first[name], last[name])


def test_files_train_no_tower():
    batch = data()
    batch.regions.state = torch.randn(*batch.regions.valid.shape, 12, dtype=torch.float64)
    made = model(regions="files", region_width=12)
    _, grads = gradients(made, batch)
    assert not any("vision" in name for name in grads)
    assert made.run_config(0)["vision_trained"] is False
    assert "region_state" in Oscar.needs_of(dict(regions="files"))


def test_it_reads_matches_and_where_it_looks():
    made, batch = model(kinds=3).eval(), data().rows(slice(0, 3))
    with torch.no_grad():
        image = made.encoder.image_features(batch.image)
        text = made.encoder.text_features(batch.ids, batch.mask, batch.special)
        scores = made.objective.scores(image, text)
        torch.testing.assert_close(scores.diagonal(), made.objective.match(image, text))
        looked = made.objective.look(image, text)
    assert looked.shape == (3, 9, 16) and (looked.sum(dim=2) < 1).all() and looked.any()
    with pytest.raises(ValueError, match="kinds 4"):
        model(kinds=4)
