"""A step on a GPU that nobody has here: under fake tensors on 'cuda' whatever would wait for the
device (`.item()`, `bool`, a mask as an index) or mix devices raises. No backward pass: torch has no
fake one without a driver.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sparc_pretrain import step_before
from sparc_pretrain.engine.optim import GuardedOptimWrapper
from tests.models import batch as pairs
from tests.pretraining.test_pretrainer import OBJECTIVES, pretrainer

NAMES = ["clip", "filip", "gloria", "mgca", "pacl", "siglip", "sparc"]
NAMES += ["clip+filip with dropping", "sparc, image contrast", "sparc, image contrast of captions"]


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_pass_on_a_gpu_waits_for_nothing_and_mixes_no_devices(name):
    made = pairs(16)
    model = pretrainer(dict(OBJECTIVES[name])).train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        move(mode, model)
        batch = made.changed(lambda x: on_gpu(mode, x))
        losses = model(batch, mode="loss")
        assert {value.device.type for value in losses.values()} == {"cuda"}


def test_an_optimizer_step_on_a_gpu_waits_for_nothing_and_skips_by_itself(monkeypatch):
    told, model = [], pretrainer(dict(type="Clip"))

    class Sent:
        def __init__(self, values):
            assert values.device.type == "cuda"
            self.size = len(values)

        def read(self):
            return torch.zeros(self.size)

    monkeypatch.setattr(step_before, "Later", Sent)
    monkeypatch.setattr(GuardedOptimWrapper, "_tell", lambda self, **told_: told.append(told_))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        move(mode, model)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        wrapper = GuardedOptimWrapper(torch.optim.AdamW(weights, fused=True), max_norm=1.0)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        for _ in range(2):
            wrapper._finite_losses.append(torch.ones((), dtype=torch.bool, device="cuda"))
            wrapper.step()
        assert wrapper.optimizer.found_inf.device.type == "cuda"
        losses = {"loss": torch.zeros((), device="cuda")}
        assert model.told(losses)["loss"].device.type == "cpu"
    assert [set(numbers) for numbers in told] == [{"norm", "skipped"}] * 2


def move(mode: FakeTensorMode, model: torch.nn.Module) -> None:
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for key, value in kind.items():
                if value is not None:
                    kind[key] = on_gpu(mode, value, isinstance(value, torch.nn.Parameter))


def on_gpu(mode: FakeTensorMode, value: torch.Tensor, weight: bool = False) -> torch.Tensor:
    fake = mode.from_tensor(value.detach()).to("cuda")
    return torch.nn.Parameter(fake) if weight else fake
