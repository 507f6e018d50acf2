"""Frozen models that look on: a guide's weights of words and patches."""

import pytest
import torch

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.pretraining.onlookers import CELLS, Guide, by_boxes
from sparc_pretrain.pretraining.pretrainer import Pretrainer
from tests.models import TEXT, VISION, concept_batch, pretrainer
from tests.objectives.test_kaleido import OBJECTIVE

WORDS = ["a red star", "two blue fish", "a house"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.train(WORDS * 3, 290).with_mask()


@pytest.fixture(scope="module")
def runs(words, tmp_path_factory):
    """Run folders of X-VLM and SPARC that speak these words."""
    folder = tmp_path_factory.mktemp("runs")
    words.save(folder)
    text = TEXT | dict(vocab_size=words.vocab_size)
    for name, objective in (
        ("xvlm", dict(type="Xvlm", fusion=dict(layers=1, heads=2))),
        ("sparc", dict(type="Sparc")),
        ("uniter", dict(type="Uniter", fusion=dict(layers=1, heads=2))),
    ):
        made = Pretrainer(VISION, text, objective, 16, tokenizer=str(folder / "tokenizer.json"))
        weights = made.run_weights()
        run_folder.write(folder / name, made.run_config(0), weights, words.to_json())
    return folder


def spoken(words):
    batch = concept_batch(3)
    batch.ids, batch.mask, batch.special = words.batch(WORDS)
    return batch


@pytest.mark.parametrize(
    ("run", "reading"),
    [("xvlm", "attention"), ("sparc", "trained"), ("sparc", "local"), ("sparc", "grouping")],
)
def test_a_frozen_run_weighs_patches_for_each_token(runs, words, run, reading):
    guide, batch = Guide(runs / run, reading, words), spoken(words)
    found = guide.drawn(batch)["guide"]
    assert found.shape == (*batch.ids.shape, 16) and (found >= 0).all() and found.any()
    alone = guide.drawn(batch.rows(slice(1, 2)))["guide"]
    torch.testing.assert_close(alone, found[1:2, : alone.shape[1]])
    assert not any(p.requires_grad for p in guide.encoder.parameters())


def test_a_run_that_hid_no_words_guides_one_that_does(tmp_path):
    plain = Tokenizer.train(WORDS * 3, 270)
    plain.save(tmp_path)
    text = TEXT | dict(vocab_size=plain.vocab_size, max_tokens=32)
    file = str(tmp_path / "tokenizer.json")
    made = Pretrainer(VISION, text, dict(type="Sparc"), 16, tokenizer=file)
    folder = tmp_path / "run"
    run_folder.write(folder, made.run_config(0), made.run_weights(), plain.to_json())
    words = Tokenizer.load(folder).with_mask()
    assert words.mask_id is not None and Tokenizer.load(folder).mask_id is None
    guide = Guide(folder, "local", words)
    assert guide.encoder.tokenizer.mask_id is None  # as it was
    assert guide.drawn(spoken(words))["guide"].any()
    with pytest.raises(ValueError, match="has another tokenizer"):
        Guide(folder, "local", Tokenizer.train(["a green boat"], 270).with_mask())


def test_a_guide_is_no_part_of_the_model_and_its_weights_reach_the_objective(runs, words):
    made = pretrainer(OBJECTIVE, layers=0)
    names = set(made.state_dict())
    made.guide, seen = Guide(runs / "xvlm", "attention", words), []
    assert set(made.state_dict()) == names
    batch = spoken(words)
    batch.saliency = torch.tensor([[0.0, 0, 1, 1]]).expand(3, -1)
    real = made.objective.views
    made.objective.views = lambda b, step: (seen.append(b.views.drawn["guide"]), real(b, step))[1]
    views = made.with_views(batch).views
    assert seen[0].shape[:2] == batch.ids.shape and "guide" not in views.drawn


def test_what_cannot_guide_is_refused(runs, words, tmp_path):
    other = Tokenizer.train(WORDS * 3, 270).with_mask()
    for run, reading, tokens, told in (
        (runs / "xvlm", "attention", other, "has another tokenizer"),
        (runs / "sparc", "attention", words, "Sparc has no cross-attention"),
        (runs / "uniter", "local", words, "no space that both share"),
        (None, "attention", words, "needs model.guide=RUN"),
        (runs / "sparc", "look", words, "guide_reading='look'"),
    ):
        with pytest.raises(ValueError, match=told):
            Guide(run, reading, tokens)


def test_boxes_guide_the_tokens_that_their_texts_hold():
    batch = concept_batch(4)
    batch.ids[1, 2] = batch.concepts.ids[1][batch.concepts.mask[1] & ~batch.concepts.special[1]][-1]
    found, concepts = by_boxes(batch), batch.concepts
    for b in range(4):
        for t in range(batch.ids.shape[1]):
            covered = torch.zeros(CELLS * CELLS, dtype=torch.float64)
            count = 0
            for k in range(1, concepts.valid.shape[1]):
                said = concepts.ids[b, k][concepts.mask[b, k] & ~concepts.special[b, k]]
                real = batch.mask[b, t] and not batch.special[b, t]
                if concepts.valid[b, k] and real and batch.ids[b, t] in said:
                    x0, y0, x1, y1 = concepts.box[b, k].double()
                    count += 1
                    for cell in range(CELLS * CELLS):
                        row, column = divmod(cell, CELLS)
                        inside = y0 * CELLS - 1 < row < y1 * CELLS
                        covered[cell] += inside and x0 * CELLS - 1 < column < x1 * CELLS
            torch.testing.assert_close(found[b, t], covered / max(1, count))
