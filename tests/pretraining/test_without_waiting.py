"""A step on a GPU that nobody has here: under fake tensors on 'cuda' whatever would wait for the
device (`.item()`, `bool`, a mask as an index) or mix devices raises. No backward pass: torch has no
fake one without a driver.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.models import batch as pairs
from tests.pretraining.test_pretrainer import OBJECTIVES, pretrainer

DROPPING = pytest.mark.xfail(
    raises=DataDependentOutputException,
    strict=True,
    reason="FILIP's dropping asks how many tokens each caption has",
)
# not the image contrast: it lists places of a batch, on the CPU, which a fake tensor refuses too
NAMES = ["clip", "filip", "gloria", "mgca", "pacl", "siglip", "sparc"]


@pytest.mark.parametrize("name", [*NAMES, pytest.param("clip+filip with dropping", marks=DROPPING)])
def test_a_forward_pass_on_a_gpu_waits_for_nothing_and_mixes_no_devices(name):
    made = pairs(16)
    model = pretrainer(dict(OBJECTIVES[name])).train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        for module in model.modules():
            for kind in (module._parameters, module._buffers):
                for key, value in kind.items():
                    if value is not None:
                        kind[key] = on_gpu(mode, value, isinstance(value, torch.nn.Parameter))
        batch = made.changed(lambda x: on_gpu(mode, x))
        losses = model(batch, mode="loss")
        assert {value.device.type for value in losses.values()} == {"cuda"}


def on_gpu(mode: FakeTensorMode, value: torch.Tensor, weight: bool = False) -> torch.Tensor:
    fake = mode.from_tensor(value.detach()).to("cuda")
    return torch.nn.Parameter(fake) if weight else fake
