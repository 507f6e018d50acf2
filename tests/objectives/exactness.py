"""One step of an objective that draws, however it is cut: gradients of it, on one process and two.

A test module that uses it has `model(accumulate, **options)` and `data()`, the whole batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.commands import ROOT


def gradients(made, batch, wrapped=None) -> tuple[dict, dict]:
    """Losses and gradients of one step, which changes no weight."""

    class Still:
        def optim_context(self, model):
            return torch.enable_grad()

        def update_params(self, loss):
            loss.backward()

        def backward(self, loss):
            loss.backward()

        def step(self):
            pass

        zero_grad = step

    made.zero_grad()
    losses = (wrapped or made).train_step(batch, Still())
    return losses, {n: p.grad.clone() for n, p in made.named_parameters() if p.requires_grad}


def assert_micro_batches_add_up(model, data, cases, **options) -> None:
    """cases: (accumulate, block)."""
    whole, wanted = gradients(model(**options), data())
    assert any(grad.abs().max() > 1e-6 for grad in wanted.values())
    for accumulate, block in cases:
        losses, found = gradients(model(accumulate, block=block, **options), data())
        for name in (n for n in whole if n.endswith("_loss")):
            assert losses[name].item() == pytest.approx(whole[name].item(), abs=1e-10), name
        assert found.keys() == wanted.keys()
        for name, grad in wanted.items():
            assert torch.allclose(found[name], grad, atol=1e-10), name


def overfitted(made, batch, steps: int, rate: float = 3e-3, draws: int = 2) -> tuple[dict, dict]:
    """Losses before and after some steps of Adam on one batch, under `draws` steps' noise; the rate
    rises for 20 steps and falls to 0.
    """
    optimizer = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=rate)
    rates = [min(1, (step + 1) / 20) * (1 - step / steps) for step in range(steps)]
    first: dict = {}
    losses: dict = {}
    for step in range(steps):
        batch.views = made.objective.views(batch, step % draws)
        optimizer.param_groups[0]["lr"] = rate * rates[step]
        losses = made(batch)
        first = first or {name: value.item() for name, value in losses.items()}
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if name.endswith("_loss")).backward()
        optimizer.step()
    return first, {name: value.item() for name, value in losses.items()}


# Both processes are forks of one that has imported torch, which takes longer than all steps.
WORKER = """
import importlib, json, os, sys, torch, torch.distributed as dist
sys.path.insert(0, {root!r})
from sparc_pretrain.pretraining.pretrainer import DistributedPretrainer
from tests.objectives.exactness import gradients
module = importlib.import_module({module!r})

def work(rank):
    store = dist.FileStore({store!r}, 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {{}}
    for number, (accumulate, options) in enumerate({cases!r}):
        made = module.model(accumulate, **options)
        wrapped = DistributedPretrainer(module=made, device_ids=None)
        losses, grads = gradients(made, module.data().chunk(2)[rank], wrapped)
        found[number] = [losses["loss"].item(), [g.tolist() for g in grads.values()]]
    if rank == 0:
        json.dump(found, open({out!r}, "w"))
    dist.barrier()

torch.set_num_threads(1)
other = os.fork()
work(1 if other == 0 else 0)
os._exit(0 if other == 0 else os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def assert_two_processes_are_one(folder: Path, module: str, cases: list) -> None:
    """cases: (accumulate, options of `model`)."""
    out, script = folder / "found.json", folder / "worker.py"
    names = dict(root=str(ROOT), out=str(out), store=str(folder / "store"), module=module)
    script.write_text(WORKER.format(cases=cases, **names))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script)], check=True, timeout=400, env=environment)
    found, ours = json.loads(out.read_text()), import_module(module)
    for number, (_, options) in enumerate(cases):
        whole, wanted = gradients(ours.model(**options), ours.data())
        loss, grads = found[str(number)]
        assert loss == pytest.approx(whole["loss"].item(), abs=1e-9), cases[number]
        for name, grad, other in zip(wanted, wanted.values(), grads, strict=True):
            assert torch.allclose(torch.tensor(other).to(grad), grad, atol=1e-6), name
