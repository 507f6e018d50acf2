"""Training on less: a batch in parts, blocks that are not trained, a compiled backbone."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config
from torch import nn

from sparc_pretrain.config_tree import dicts
from transfer.backbone import SparcViT
from transfer.plug.config import BACKBONE
from transfer.plug.replace import depth

STEPPED = ("begin", "end", "T_max", "total_steps", "step_size", "milestones")


def accumulate(cfg: Config, parts: int) -> Config:
    """The config's batch of each process in `parts`, whose gradients are averaged, in place: the
    same number of updates on the same number of images, in the memory of one part. What is counted
    in iterations is counted in parts.

    Losses that are divided by a count of their own (boxes in the batch) are divided part by part,
    and batch norms see one part: a big batch's gradient is met closely, not exactly.

    Raises:
        ValueError: `parts` does not divide the batch, or the config accumulates already.
    """
    if parts < 1:
        raise ValueError(f"--accumulate {parts}: at least 1")
    if parts == 1:
        return cfg
    loader, wrapper = cfg.train_dataloader, cfg.optim_wrapper
    batch = loader.get("batch_size", 1)
    if batch % parts or ("batch_sampler" in loader and not loader.get("batch_size")):
        raise ValueError(
            f"--accumulate {parts} does not divide the batch of {batch} (train_dataloader."
            "batch_size); it splits that batch, it does not enlarge it"
        )
    if wrapper.get("accumulative_counts", 1) != 1:
        raise ValueError("--accumulate: the config has optim_wrapper.accumulative_counts already")
    loader.batch_size, wrapper.accumulative_counts = batch // parts, parts
    by_epoch = "max_iters" not in cfg.train_cfg
    if not by_epoch:
        for key in ("max_iters", "val_interval"):
            if key in cfg.train_cfg:
                cfg.train_cfg[key] *= parts
        for key in ("dynamic_intervals",):
            if cfg.train_cfg.get(key):
                cfg.train_cfg[key] = [(a * parts, b * parts) for a, b in cfg.train_cfg[key]]
    plans = cfg.get("param_scheduler") or []
    for plan in plans if isinstance(plans, (list, tuple)) else [plans]:
        if not plan.get("by_epoch", True):
            for key in STEPPED:
                if key in plan:
                    plan[key] = _times(plan[key], parts)
    hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or [])]
    for hook in hooks:
        kind = str(hook.get("type"))
        saves = "Checkpoint" in kind and not hook.get("by_epoch", True)
        if saves and hook.get("interval", -1) > 0:
            hook["interval"] *= parts
        if "EMA" in kind:  # an average of updates, not of parts
            hook["interval"] = hook.get("interval", 1) * parts
    return cfg


def _times(value: Any, parts: int) -> Any:
    return [v * parts for v in value] if isinstance(value, (list, tuple)) else value * parts


def freeze(cfg: Config, blocks: int) -> Config:
    """Neither the embedding nor the first `blocks` blocks of any SparcViT are trained, in place.

    Raises:
        ValueError: no SparcViT, or one of fewer blocks.
    """
    found = [part for _, part in dicts(cfg.model, "model") if part.get("type") in BACKBONE]
    if not found:
        raise ValueError("--freeze: the model has no SparcViT; give --backbone RUN")
    for part in found:
        vision = part.get("vision")
        most = depth(vision) if vision else None
        if blocks < 0 or (most is not None and blocks > most):
            raise ValueError(f"--freeze {blocks}: the tower has {most} blocks")
        part["frozen"] = True if blocks == most else blocks
    return cfg


def compile_backbones(model: nn.Module) -> None:
    """torch.compile for the blocks of every SparcViT, for any size of image; weights keep names.

    Raises:
        ValueError: the model has none.
    """
    found = [module for module in model.modules() if isinstance(module, SparcViT)]
    if not found:
        raise ValueError("--compile compiles SparcViT, which this model does not have")
    for module in found:
        for block in module.tower.net.blocks:
            for part in (block, block.attn, block.mlp):  # windows run a block's parts by themselves
                part.compile(dynamic=True)
