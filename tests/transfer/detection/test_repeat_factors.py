"""Repeat factors in the mean what the formula says."""

from __future__ import annotations

import math

import pytest
from mmengine.dataset import BaseDataset

from transfer.detection.repeat_factors import RepeatFactorDataset


class Tail(BaseDataset):
    """A hundred common images in ten thousand, the rest of a category that all have."""

    def load_data_list(self) -> list[dict]:
        return [{"categories": [0, 1] if i % 100 == 0 else [0]} for i in range(20_000)]

    def get_cat_ids(self, index: int) -> list[int]:
        return self.get_data_info(index)["categories"]


def repeated(threshold: float, **options) -> RepeatFactorDataset:
    return RepeatFactorDataset(Tail(), oversample_thr=threshold, **options)


@pytest.mark.parametrize("factor", [1.3, 2.5, 3.0])
def test_an_image_is_seen_as_often_as_its_factor_in_the_mean(factor: float) -> None:
    found = repeated(0.01 * factor**2)  # sqrt(t / f) with f = 0.01
    rare = [i for i in found.repeat_indices if i % 100 == 0]
    deviation = math.sqrt((factor % 1) * (1 - factor % 1) / 200)
    assert len(rare) / 200 == pytest.approx(factor, abs=4 * deviation + 1e-9)
    assert {rare.count(i) for i in set(rare)} <= {math.floor(factor), math.ceil(factor)}
    assert len(found.repeat_indices) - len(rare) == 20_000 - 200  # the others once


def test_the_rounding_is_drawn_by_the_seed() -> None:
    first, again, other = repeated(0.02), repeated(0.02), repeated(0.02, seed=1)
    assert first.repeat_indices == again.repeat_indices != other.repeat_indices
