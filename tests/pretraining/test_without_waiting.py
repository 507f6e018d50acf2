"""A step on a GPU that nobody has here. Under fake tensors on 'cuda' whatever would wait for the
device (`.item()`, `bool`, a mask as an index) or mix devices raises; torch has no fake backward
pass without a driver. So whole steps, with towers in parts (FSDP2) as well, run on the CPU, where
what would wait is noticed.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from mmengine.optim import build_optim_wrapper
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from sparc_pretrain import step_before
from sparc_pretrain.engine.optim import GuardedOptimWrapper
from sparc_pretrain.engine.sharded import FullySharded
from sparc_pretrain.objectives import chunked
from sparc_pretrain.pretraining.pretrainer import Pretrainer
from sparc_pretrain.types import Batch, Views
from tests.models import batch as pairs
from tests.models import concept_batch, masked_objective, region_batch
from tests.pretraining.test_pretrainer import OBJECTIVES, pretrainer

NAMES = ["clip", "filip", "gloria", "mgca", "pacl", "siglip", "sparc"]
NAMES += ["clip+filip with dropping", "sparc, image contrast", "sparc, image contrast of captions"]
LABELS = ["a", "b", "c", "d"]
FUSED = {
    "xvlm": (masked_objective("Xvlm"), concept_batch),
    "xvlm, nested": (masked_objective("Xvlm", nested="ignore"), concept_batch),
    "uniter": (masked_objective("Uniter", labels=LABELS), region_batch),
    "uniter, pixels": (masked_objective("Uniter", hidden="pixels"), region_batch),
    "uniter, either": (masked_objective("Uniter", replace="either"), region_batch),
    "oscar": (masked_objective("Oscar"), region_batch),
    "oscar, three kinds": (masked_objective("Oscar", kinds=3), region_batch),
    "kaleido": (masked_objective("Kaleido"), region_batch),
    "kaleido, pixels": (masked_objective("Kaleido", target="pixels"), region_batch),
}
Case = tuple[dict, Callable[[int], Batch]]
CASES: dict[str, Case] = {**{name: (OBJECTIVES[name], pairs) for name in NAMES}, **FUSED}


def made_of(name: str) -> tuple[Pretrainer, Batch]:
    objective, data = CASES[name]
    torch.manual_seed(0)
    return pretrainer(dict(objective), layers=int(data is not region_batch)).train(), data(16)


@pytest.mark.parametrize("name", CASES)
def test_a_forward_pass_on_a_gpu_waits_for_nothing_and_mixes_no_devices(name, monkeypatch):
    model, made = made_of(name)
    known = model.with_views(made).views
    counted = []

    def choose(self, **masks):
        """What is counted here is the one thing that is waited for."""
        counted.append({mask.device.type for mask in masks.values()})
        numbers = dict(counts=known.counts, totals=known.totals)
        return replace(self, drawn=self.drawn | masks, **numbers)

    monkeypatch.setattr(Views, "choose", choose)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        move(mode, model)
        batch = model.with_views(made.changed(lambda x: on_gpu(mode, x)))
        losses = model(batch, mode="loss")
        assert {value.device.type for value in losses.values()} == {"cuda"}
    assert counted == [{"cuda"}] * (name in FUSED)


OPS = torch.ops.aten
WAIT = {
    *(OPS._local_scalar_dense.default, OPS.nonzero.default, OPS.masked_select.default),
    *(OPS.equal.default, OPS._unique2.default, OPS.unique_consecutive.default),
    *(OPS.repeat_interleave.Tensor, OPS.bincount.default),
}
BY_INDEX = {OPS.index.Tensor, OPS.index_put.default, OPS.index_put_.default}


class Waits(TorchDispatchMode):
    """Notes what a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        at = [x for x in args[1] if x is not None] if func in BY_INDEX else []
        if func in WAIT or any(x.dtype in (torch.bool, torch.uint8) for x in at):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def alone():
    """A process group of this process."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "fsdp2"])
@pytest.mark.parametrize("name", CASES)
def test_a_whole_step_waits_for_nothing(name, sharded, alone, monkeypatch):
    model, made = made_of(name)
    batch = model.with_views(made)
    # what a CPU alone is asked for
    monkeypatch.setattr(model, "with_views", lambda batch: batch)  # but for `Views.choose`
    monkeypatch.setattr(chunked, "longest", lambda mask: mask.shape[1])
    monkeypatch.setattr(GuardedOptimWrapper, "_tell", lambda self, **told: None)
    if sharded:
        model = FullySharded(module=model)
    optimizer = dict(type="AdamW", lr=0.01, fused=True)
    wrapper = dict(type="sparc.GuardedOptimWrapper", constructor="GroupedConstructor")
    built = build_optim_wrapper(model, dict(wrapper, max_norm=0.5, optimizer=optimizer))
    with Waits() as waits:
        model.train_step(batch, built)
    assert not waits.found


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
