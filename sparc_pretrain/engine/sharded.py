"""Towers too large for one GPU: of parameters, gradients and optimizer states each process has a
part (torch's fully_shard, FSDP2), under the same step, checkpoint and run folder as without.
"""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from sparc_pretrain.distributed import gather_objects, part_of, rank, share, world_size
from sparc_pretrain.engine import checkpoint as files
from sparc_pretrain.engine import mmengine_patches, shards
from sparc_pretrain.engine.writer import Writer
from sparc_pretrain.registry import HOOKS, MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class FullySharded:
    """Called like a wrapper, gives the Pretrainer itself, every block of its towers sharded, and
    what is between them together. Each process keeps its part of the weights that all have drawn.

    The objective stays whole: it is read outside of a forward pass too, and small; its gradients
    GuardedOptimWrapper averages. Frozen weights stay whole as well.

    Raises ValueError for a model that is none with towers.
    """

    def __new__(cls, module: nn.Module, **options: Any) -> nn.Module:
        """The sharded `module`; options: of fully_shard (`mp_policy`, `reshard_after_forward`)."""
        encoder = getattr(module, "encoder", None)
        if encoder is None:
            raise ValueError("strategy='fsdp2' is for pre-training: the model has no towers")
        module.init_weights()
        for value in module.state_dict().values():
            share(value)
        whole = set(module.objective.parameters())
        whole |= {weight for weight in module.parameters() if not weight.requires_grad}
        options["ignored_params"] = whole
        layers = [part for part in encoder.text.net.modules() if isinstance(part, nn.ModuleList)]
        for block in (*encoder.vision.net.blocks, *(block for part in layers for block in part)):
            fully_shard(block, **options)
        fully_shard(module, **options)
        module.sharded = True
        return module


@torch.no_grad()
def whole(state: Any) -> Any:
    """`state` with every sharded tensor put together, on the CPU of rank 0; on the others it is
    left out. Every rank must call it with the same state.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if rank() == 0 else None
    if isinstance(state, dict):
        return type(state)((key, whole(value)) for key, value in state.items())
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value) for value in state)
    return state


@HOOKS.register_module()
class ShardedStateHook(Hook):
    """Checkpoints of a sharded model hold whole weights, as those of any other; of what is loaded
    each process takes its part. The optimizer's state is put together too, or, with
    `CheckpointHook.sharded`, every process writes its own part of it.
    """

    priority = "VERY_HIGH"  # before hooks that read the checkpoint

    def __init__(self) -> None:
        self.gathered: dict[str, Any] = {}
        self.parts: dict[str, shards.Place] = {}
        self.meeting: shards.Meeting | None = None

    def gather_weights(self, runner: Runner) -> None:
        """Called on every rank before weights alone are saved."""
        self.gathered = {"state_dict": whole(runner.model.state_dict())}

    def gather_state(self, runner: Runner) -> None:
        """Called on every rank before a checkpoint is saved."""
        self.gather_weights(runner)
        state = runner.optim_wrapper.state_dict()
        if any(getattr(hook, "sharded", False) for hook in runner.hooks):
            self.gathered["optimizer"], sharded = shards.split(state, "optimizer")
            self.parts = shards.own_parts(sharded)
        else:
            self.gathered["optimizer"] = whole(state)

    def write_shards(self, runner: Runner, path: Path, writer: Writer) -> None:
        """Called on every rank after `gather_state`: this one's part goes beside `path`."""
        if rank() == 0:  # what a save that failed has left; no other is going on
            files.sweep_shards(path.parent)
        folder = shards.folder_beside(path, gather_objects(secrets.token_hex(4))[0])
        self.meeting = shards.Meeting(folder, rank(), world_size())
        own = {name: (at, writer.own(part)) for name, (at, part) in self.parts.items()}
        writer.do(partial(self.meeting.write, own))
        self.parts = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Whole tensors, or notes on shards, in the place of parts (rank 0)."""
        for name, state in self.gathered.items():
            if name in checkpoint:
                checkpoint[name] = state
        if self.meeting is not None:
            checkpoint[shards.SHARDS] = self.meeting.folder.name
            checkpoint[mmengine_patches.SHARD_FILES] = self.meeting.hear
        self.gathered, self.meeting = {}, None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """This rank's part of every weight."""
        weights = runner.model.state_dict()
        checkpoint["state_dict"] = {
            name: part_of(value, weights[name]) if name in weights else value
            for name, value in checkpoint["state_dict"].items()
        }
