"""Words on patches: the numbers are those of the objective, the pictures show them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.pacl import Pacl
from sparc_pretrain.objectives.sparc import group_patches
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.zeroshot import alignment
from sparc_pretrain.zeroshot.alignment import align, draw, overlay
from tests.models import VISION

CAPTION = "two zebras, two red-hot kites"


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["two dogs and a cat"] * 3, vocab_size=262)  # words become pieces
    text = TextTower(vocab_size=tokenizer.vocab_size, width=24, layers=1, heads=2, max_tokens=40)
    return DualEncoder(VisionTower(**VISION), text, 16, tokenizer=tokenizer).eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(1)).byte()


def weights_of(model: DualEncoder, image: torch.Tensor, **grouping) -> torch.Tensor:
    with torch.inference_mode():
        features = model(image[None], *model.tokenize([CAPTION]))
        return group_patches(features.tokens, features.patches, **grouping)[1][0]


def test_a_word_has_the_mean_weights_of_its_tokens(model, image):
    weight_TP = weights_of(model, image)
    encoding = model.tokenizer.encode(CAPTION)
    words = model.tokenizer.words(CAPTION, encoding)
    assert max(len(positions) for _, positions in words) > 1
    found = align(model, image, CAPTION)
    assert [word.word for word in found] == [word for word, _ in words]
    for word, (_, positions) in zip(found, words, strict=True):
        expected = sum(weight_TP[i] for i in positions) / len(positions)
        assert torch.allclose(word.weights.flatten(), expected, atol=1e-6)


def test_weights_lie_on_the_grid_are_not_negative_and_sum_to_one(model, image):
    for word in align(model, image, CAPTION):
        assert word.weights.shape == (4, 4)
        assert (word.weights >= 0).all()
        assert word.weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert 1 <= word.peak <= 16


def test_the_spans_point_at_the_words_also_at_repeated_ones(model, image):
    found = align(model, image, CAPTION)
    assert [CAPTION[w.start : w.end] for w in found] == [w.word for w in found]
    assert len({w.start for w in found}) == len(found)


def test_begin_and_end_belong_to_no_word(model, image, monkeypatch):
    special = model.tokenize([CAPTION])[2]

    def spoiled(tokens, patches, **grouping):
        grouped, weights = group_patches(tokens, patches, **grouping)
        return grouped, weights.masked_fill(special[..., None], torch.nan)

    before = align(model, image, CAPTION)
    monkeypatch.setattr(alignment, "group_patches", spoiled)
    for one, other in zip(before, align(model, image, CAPTION), strict=True):
        assert torch.equal(one.weights, other.weights)


def test_a_caption_without_words_has_none(model, image):
    assert align(model, image, "") == []


def test_a_word_that_prefers_no_patch_has_no_weight(model):
    # Position embeddings make patches of one colour differ; without g_v they are all alike.
    kept = model.adapters.g_v.weight.data.clone()
    model.adapters.g_v.weight.data.zero_()
    try:
        found = align(model, torch.full((3, 32, 32), 90, dtype=torch.uint8), CAPTION)
    finally:
        model.adapters.g_v.weight.data.copy_(kept)
    assert found and all(word.weights.sum() == 0 and word.peak == 0 for word in found)


def test_the_grouping_is_that_of_the_runs_objective(model, image, monkeypatch):
    monkeypatch.setattr(model, "objective_config", {"type": "Sparc", "threshold": 0.9})
    weight_TP = weights_of(model, image, threshold=0.9)
    assert not torch.allclose(weight_TP, weights_of(model, image))
    words = model.tokenizer.words(CAPTION, model.tokenizer.encode(CAPTION))
    for word, (_, positions) in zip(align(model, image, CAPTION), words, strict=True):
        expected = weight_TP[positions].mean(dim=0)
        assert torch.allclose(word.weights.flatten(), expected, atol=1e-6)


def test_the_score_is_the_mean_cosine_of_tokens_and_what_they_gathered(model, image):
    with torch.inference_mode():
        features = model(image[None], *model.tokenize([CAPTION]))
        grouped = group_patches(features.tokens, features.patches)[0][0]
    positions = model.tokenizer.words(CAPTION, model.tokenizer.encode(CAPTION))[0][1]
    cosines = [
        float(grouped[i] @ features.tokens[0, i] / grouped[i].norm() / features.tokens[0, i].norm())
        for i in positions
    ]
    expected = sum(cosines) / len(cosines)
    assert align(model, image, CAPTION)[0].score == pytest.approx(expected, abs=1e-5)


def test_an_image_that_is_not_uint8_is_refused(model):
    with pytest.raises(ValueError, match="uint8"):
        align(model, torch.zeros(3, 32, 32), CAPTION)


def test_heat_lies_where_the_weight_is_and_nowhere_when_it_is_even():
    photo = np.full((64, 64, 3), 128, dtype=np.uint8)
    even = overlay(photo, torch.full((4, 4), 1 / 16))
    assert (even == even[0, 0]).all() and np.ptp(even[0, 0]) == 0
    one = torch.zeros(4, 4)
    one[0, 3] = 1
    lit = overlay(photo, one).astype(int)
    colour = lit.max(axis=-1) - lit.min(axis=-1)
    assert colour[6, 58] > 50 and colour[50, 10] == 0


def test_a_row_is_the_photo_and_a_tile_per_word(model, image):
    words = align(model, image, CAPTION)
    row = draw(image, words, side=48, gap=4)
    assert row.dtype == np.uint8
    assert row.shape == (48 + 26, (len(words) + 1) * 52 - 4, 3)


def test_pacl_words_gather_embedded_patches(model, image):
    torch.manual_seed(0)
    objective = Pacl(16).eval()
    with torch.inference_mode():
        features = model(image[None], *model.tokenize([CAPTION]))
        embedded = objective.embedder(features.patches)
        weight_TP = group_patches(features.tokens, embedded)[1][0]
    encoding = model.tokenizer.encode(CAPTION)
    _, positions = model.tokenizer.words(CAPTION, encoding)[0]
    first = align(model, image, CAPTION, objective=objective)[0]
    assert torch.allclose(first.weights.flatten(), weight_TP[positions].mean(dim=0), atol=1e-6)
    assert not torch.allclose(first.weights, align(model, image, CAPTION)[0].weights, atol=1e-3)
