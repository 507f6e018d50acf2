"""Whether words look, against slow loops."""

import pytest
import torch

from sparc_pretrain.study import dependence
from sparc_pretrain.types import ImageFeatures, TextFeatures
from tests.objectives.loops import cosine, pairs
from tests.objectives.test_sparc import group_by_loops, loss_by_loops

SCALE = 7.0


def measured(monkeypatch, patches, text):
    images = [ImageFeatures(None, part, None) for part in patches.split(3)]
    monkeypatch.setattr(dependence.encode, "encode_images", lambda *_: images)
    monkeypatch.setattr(dependence.encode, "encode_texts", lambda *_: [text])
    return dependence.image_dependence(None, range(len(patches)), "abcd", SCALE)


@pytest.fixture
def features():
    patches, tokens, mask = pairs(batch=4, tokens=5, patches=6, width=3)
    special = torch.zeros_like(mask)
    special[:, 0] = mask.sum(dim=1) > 1
    return patches, TextFeatures(None, tokens, mask, special, None)


def test_both_measures_equal_the_loops(features, monkeypatch):
    patches, text = features
    nats, own = measured(monkeypatch, patches, text)
    for b, words in enumerate(text.mask & ~text.special):
        caption = text.tokens[b, None], text.mask[b, None]
        here, following = (
            loss_by_loops(caption[0], patches[i, None], caption[1], SCALE) for i in (b, b - 1)
        )
        assert nats[b].item() == pytest.approx(following - here, abs=1e-9)
        said = text.tokens[b][words].tolist()
        groups = [group_by_loops(said, patches[i].tolist(), 1 / 6)[0] for i in (b, b - 1)]
        nearer = [cosine(t, x) > cosine(t, y) for t, x, y in zip(said, *groups, strict=True)]
        assert own[b].item() == pytest.approx(sum(nearer) / len(nearer))
    assert 0 < own.mean() < 1


def test_one_image_for_all_is_no_look(features, monkeypatch):
    patches, text = features
    nats, own = measured(monkeypatch, patches[:1].expand(4, -1, -1), text)
    assert nats.abs().max() < 1e-9 and own.max() == 0
