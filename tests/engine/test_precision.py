"""Advice on --amp: a CPU whose bfloat16 is slow is told so, once; what is fast is left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sparc_pretrain.engine import optim as optim_module
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
    assert 0.001 < precision.bfloat16_speedup() < 100  # 1/65 was seen where there are no units


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


def half_wrapper(lr: float = 0.1) -> tuple[GuardedOptimWrapper, nn.Module]:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    return GuardedOptimWrapper(torch.optim.SGD(model.parameters(), lr), amp="float16"), model


def half_step(optim: GuardedOptimWrapper, model: nn.Module, factor: float = 1.0) -> None:
    with optim.optim_context(model):
        out = model(torch.linspace(-1, 1, 8).view(2, 4))
        assert out.dtype == torch.float16
    optim.update_params(factor * out.float().square().mean())


def test_float16_gives_the_step_of_float32_to_its_precision() -> None:
    """The loss is scaled for the backward pass, and neither the step nor the norm is."""
    optim, model = half_wrapper()
    plain, other = nn.Linear(4, 4), torch.linspace(-1, 1, 8).view(2, 4)
    plain.load_state_dict(model.state_dict())
    half_step(optim, model)
    loss = plain(other).square().mean()
    loss.backward()
    torch.optim.SGD(plain.parameters(), 0.1).step()
    torch.testing.assert_close(model.weight, plain.weight, rtol=0, atol=1e-3)
    norm = torch.nn.utils.get_total_norm([p.grad for p in plain.parameters()])
    logged = optim.message_hub.get_scalar("train/grad_norm").current()
    assert logged == pytest.approx(norm.item(), rel=1e-2)


def test_gradients_too_large_for_float16_are_passed_over_with_a_lower_scale() -> None:
    optim, model = half_wrapper()
    before, scale = model.weight.detach().clone(), optim.scaler.get_scale()
    half_step(optim, model, factor=1e4)  # 65,536 times that is above 65,504
    assert torch.equal(model.weight, before) and optim.skipped_in_a_row == 1
    assert optim.scaler.get_scale() == scale / 2
    half_step(optim, model)
    assert not torch.equal(model.weight, before) and optim.skipped_in_a_row == 0


def test_the_scale_of_the_loss_goes_on_after_a_resume() -> None:
    optim, model = half_wrapper()
    half_step(optim, model, factor=1e4)
    other, _ = half_wrapper()
    other.load_state_dict(optim.state_dict())
    assert other.scaler.get_scale() == optim.scaler.get_scale() == 2.0**15
    plain, _ = wrapper(amp=False)
    assert "loss_scaler" not in plain.state_dict()


def test_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"amp='int8': use one of \[False, True, 'bfloat16', 'flo"):
        wrapper(amp="int8")


def test_a_gpu_without_bfloat16_is_told_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    with pytest.raises(ValueError, match=r"V100 has no bfloat16: use .*amp=float16"):
        optim_module.need_bfloat16("cuda")
    optim_module.need_bfloat16("cpu")
