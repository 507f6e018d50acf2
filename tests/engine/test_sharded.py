"""Towers in parts on two processes: the losses, weights, checkpoints and run folder of DDP."""

# ruff: noqa: F811 (fixtures)

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparc_pretrain.engine import checkpoint, optim
from tests.commands import ROOT
from tests.small_pretraining import (  # noqa: F401 (fixtures)
    config_text_as_it_is,
    life,
    logged,
    one_thread,
    place,
)

WORKER = """
import json, os, sys, torch, torch.distributed as dist
sys.path.insert(0, {root!r})
from mmengine.optim import build_optim_wrapper
from sparc_pretrain.distributed import is_sharded, rank
from sparc_pretrain.engine.sharded import FullySharded, whole
from sparc_pretrain.pretraining.pretrainer import DistributedPretrainer
from tests.models import pretrainer
from tests.pretraining.test_pretrainer import data

def trained(wrapper, fused, accumulate=1, recompute=False, **options):
    torch.manual_seed(0)
    made = pretrainer(dict(type="Sparc"), accumulate=accumulate, grad_checkpointing=recompute)
    model = wrapper(made.train(), **options)
    optimizer = dict(type="AdamW", lr=0.01, weight_decay=0.1, fused=fused)
    built = build_optim_wrapper(model, dict(
        type="sparc.GuardedOptimWrapper", constructor="GroupedConstructor", max_norm=0.5,
        optimizer=optimizer))
    own, losses = data(torch.float32).chunk(2)[rank()], []
    before = built.message_hub.runtime_info.get("skipped_steps", 0)
    for step in range(4):
        given = own
        if step == 2 and rank() == 1:
            given = own.changed(lambda x: x * float("nan") if x.is_floating_point() else x)
        losses.append(model.train_step(given, built)["loss"].item())
        norm = built.message_hub.get_scalar("train/grad_norm").current()
        losses.append(norm)
    held = sum(p.to_local().numel() if is_sharded(p) else p.numel() for p in made.parameters())
    weights = whole(made.state_dict())
    sums = {{k: v.double().sum().item() for k, v in weights.items() if v is not None}}
    skipped = built.message_hub.get_info("skipped_steps", 0) - before
    return dict(losses=losses, held=held, skipped=skipped, weights=sums)

def work(number):
    dist.init_process_group("gloo", store=dist.FileStore({store!r}, 2), rank=number, world_size=2)
    torch.set_num_threads(1)
    ddp = lambda module, **options: DistributedPretrainer(module=module, device_ids=None, **options)
    sharded = lambda module: FullySharded(module=module)
    found = [
        trained(ddp, True), trained(sharded, True), trained(sharded, False),
        trained(sharded, True, recompute=1), trained(ddp, True, accumulate=2),
        trained(sharded, True, accumulate=2), trained(ddp, True, static_graph=True),
    ]
    if number == 0:
        json.dump(found, open({out!r}, "w"))
    dist.barrier()

other = os.fork()
work(1 if other == 0 else 0)
os._exit(0 if other == 0 else os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""
NAMES = ["plain", "not fused", "recomputed", "accumulated", "static graph"]
PAIRS = dict(zip(NAMES, [(1, 0), (2, 0), (3, 0), (5, 4), (6, 0)], strict=True))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("sharded")
    out, script = folder / "found.json", folder / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT), out=str(out), store=str(folder / "store")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_losses_norms_and_weights_are_those_of_ddp_with_a_step_that_is_skipped(found, name):
    mine, theirs = (found[number] for number in PAIRS[name])
    assert mine["skipped"] == theirs["skipped"] == 1
    assert mine["losses"] == pytest.approx(theirs["losses"], rel=1e-5, nan_ok=True)
    assert len(theirs["weights"]) > 20
    # Adam makes steps of what rounding leaves of gradients that are zero (key biases)
    assert mine["weights"] == pytest.approx(theirs["weights"], rel=1e-3, abs=0.02)


def test_a_process_holds_half_of_the_towers(found):
    assert found[1]["held"] < 0.55 * found[0]["held"]


def test_the_command_trains_stops_resumes_and_saves_as_with_ddp(
    place: Path,
    tmp_path: Path,
):
    """One process can go on from what two have saved, so the tensors in it are whole."""
    fsdp2 = ("strategy=fsdp2", "default_hooks.checkpoint.interval=2")
    for name, options in (("ddp", ()), ("fsdp2", fsdp2)):
        codes, said = life(place, tmp_path / name, *options, ranks=2)
        assert codes == [0, 0], said
    steps = [[line["loss"] for line in logged(tmp_path / name)] for name in ("ddp", "fsdp2")]
    assert steps[1] == pytest.approx(steps[0], rel=1e-4)
    saved = [checkpoint.load(tmp_path / name / "iter_6.pth") for name in ("ddp", "fsdp2")]
    assert saved[0]["state_dict"].keys() == saved[1]["state_dict"].keys()
    for key, value in saved[0]["state_dict"].items():
        torch.testing.assert_close(saved[1]["state_dict"][key], value, rtol=1e-3, atol=1e-4)
    codes, said = life(place, tmp_path / "stopped", *fsdp2, ranks=2, STOP_AT="3")
    assert codes == [75, 75], said
    codes, said = life(place, tmp_path / "stopped", *fsdp2, ranks=2)
    assert codes == [0, 0], said
    again = checkpoint.load(tmp_path / "stopped" / "iter_6.pth")
    for part in ("state_dict",):
        for key, value in saved[1][part].items():
            torch.testing.assert_close(again[part][key], value, rtol=1e-5, atol=1e-6)


def test_how_a_gpu_rounds_float32_products_is_said_in_the_config():
    weight = torch.nn.Parameter(torch.ones(1))
    before = torch.get_float32_matmul_precision()
    try:
        optim.GuardedOptimWrapper(torch.optim.SGD([weight], lr=0.1), float32_matmul="high")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    with pytest.raises(ValueError, match="float32_matmul"):
        optim.GuardedOptimWrapper(torch.optim.SGD([weight], lr=0.1), float32_matmul="low")
