"""Advice on --amp: a CPU whose bfloat16 is slow is told so, once; what is fast is left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sparc_pretrain.engine import precision
from sparc_pretrain.engine.optim import GuardedOptimWrapper


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    lines: list[str] = []
    monkeypatch.setattr(precision, "print_log", lambda text, **_: lines.append(text))
    precision._say.cache_clear()
    yield lines
    precision._say.cache_clear()


def measured(monkeypatch: pytest.MonkeyPatch, speedup: float) -> None:
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda: speedup)


def wrapper(amp: bool) -> tuple[GuardedOptimWrapper, nn.Module]:
    model = nn.Linear(2, 2)
    return GuardedOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), amp=amp), model


def test_the_ratio_is_that_of_this_cpu() -> None:
    assert 0.02 < precision.bfloat16_speedup() < 50


def test_a_slow_cpu_is_told_once_in_training(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    measured(monkeypatch, 0.5)
    optim, model = wrapper(amp=True)
    for _ in range(3):
        with optim.optim_context(model):
            assert torch.is_autocast_enabled("cpu")
    assert len(said) == 1 and "2.0 times as long" in said[0] and "without --amp" in said[0]


@pytest.mark.parametrize(("amp", "speedup"), [(True, 3.0), (False, 0.5)])
def test_nothing_is_said_where_bfloat16_is_fast_or_not_used(
    monkeypatch: pytest.MonkeyPatch, said: list[str], amp: bool, speedup: float
) -> None:
    measured(monkeypatch, speedup)
    optim, model = wrapper(amp)
    with optim.optim_context(model):
        pass
    assert said == []


def test_a_gpu_is_not_measured(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(precision, "bfloat16_speedup", pytest.fail)
    precision.advise("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision.amp_pays() and said == []


@pytest.mark.parametrize("speedup", [0.5, 2.0])
def test_without_a_gpu_amp_pays_where_bfloat16_is_faster(
    monkeypatch: pytest.MonkeyPatch, speedup: float
) -> None:
    measured(monkeypatch, speedup)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.amp_pays() is (speedup > 1)
