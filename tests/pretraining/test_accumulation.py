"""Micro-batches of captions of similar length: which rows go together, and what is computed."""

import pytest
import torch

from sparc_pretrain.pretraining.accumulation import by_length
from sparc_pretrain.types import Batch
from tests.pretraining.test_pretrainer import data, gradients


def test_captions_of_similar_length_go_into_one_micro_batch_and_groups_stay_whole():
    lengths = torch.tensor([2, 9, 3, 3, 8, 0, 4, 4])
    order, ends = by_length(lengths, 4)
    assert order.tolist() == [1, 4, 6, 7, 2, 3, 0, 5] and ends == [9, 4, 3, 2]
    order, ends = by_length(lengths, 2, together=2)
    assert order.tolist() == [0, 1, 4, 5, 6, 7, 2, 3] and ends == [9, 4]
    assert by_length(torch.zeros(4, dtype=torch.long), 2)[1] == [1, 1]


def test_eight_micro_batches_compute_at_most_1_35_tokens_for_a_real_one():
    """Lengths around 16 tokens, as of the captions of spec/performance.md, P12."""
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(2048, generator=generator) * 6 + 16).long().clamp(5, 54)
    _, ends = by_length(drawn, 8)
    computed = sum(ends) * 2048 / 8
    assert computed / drawn.sum() < 1.35 < 2048 * drawn.max() / drawn.sum() / 1.5


def test_padding_of_longer_captions_reaches_no_tower(monkeypatch):
    from sparc_pretrain.towers.text import TextTower

    shapes, whole = [], TextTower._states

    def seen(self, ids, *rest):
        shapes.append(tuple(ids.shape))
        return whole(self, ids, *rest)

    monkeypatch.setattr(TextTower, "_states", seen)
    gradients(dict(type="Clip"), 8, torch.float32)
    real = int(data(torch.float32).mask.sum())
    computed = sum(rows * tokens for rows, tokens in shapes) / 2  # two passes
    assert real <= computed < 1.05 * real < 0.9 * data(torch.float32).mask.numel()


def test_rows_are_picked_by_number_with_their_lists():
    made = data(torch.float32)
    picked = made.rows(torch.tensor([3, 0]))
    assert isinstance(picked, Batch) and picked.key == [made.key[3], made.key[0]]
    assert torch.equal(picked.ids, made.ids[[3, 0]])
    with pytest.raises(IndexError):
        made.rows(torch.tensor([99]))
