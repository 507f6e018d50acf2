"""The learned temperature."""

import math

import pytest
import torch

from sparc_pretrain.objectives.contrastive import Temperature


def test_it_starts_at_clips_value_and_learns():
    temperature = Temperature()
    scale = temperature()
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    scale.backward()
    assert temperature.log_scale.grad is not None


def test_the_scale_never_exceeds_100_and_can_come_back():
    temperature = Temperature()
    temperature.log_scale.data.fill_(9.0)
    scale = temperature()
    assert scale.item() == pytest.approx(100, rel=1e-5)
    scale.backward()
    assert temperature.log_scale.grad.item() == pytest.approx(100, rel=1e-5)
    assert temperature.log_scale.item() <= math.log(100) + 1e-6
    assert torch.isfinite(scale)
