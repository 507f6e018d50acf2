"""What comes out of a checkpoint against what the config says: weights that must fit the model, and
the schedule of a training that is resumed.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from sparc_pretrain.registry import HOOKS

WRAPPED = re.compile(r"^module\.")
SIZES = re.compile(r"size mismatch for (\S+):")
SHOWN = 10  # names in a message
# What a scheduler notes while it runs; everything else is its plan.
RUNNING = ("last_step", "verbose", "best", "num_bad_epochs", "cooldown_counter", "mode_worse")
# Of an optimizer's groups: what a config sets.
HYPERPARAMETERS = ("weight_decay", "momentum", "betas", "eps")


def misfits(model: nn.Module, weights: dict[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Copies `weights` into `model`, as mmengine does with ``strict=False``, and tells what did not
    fit.

    Returns:
        names that the checkpoint lacks, names that the model lacks, names of other shapes.
    """
    missing: list[str] = []
    unknown: list[str] = []
    errors: list[str] = []
    told = getattr(weights, "_metadata", None) or {}
    weights = {WRAPPED.sub("", name): value for name, value in weights.items()}

    def load(module: nn.Module, own: dict[str, Tensor], prefix: str) -> None:
        version = told.get(prefix[:-1], {})
        module._load_from_state_dict(own, prefix, version, True, missing, unknown, errors)
        for name, child in module.named_children():
            place = f"{prefix}{name}."
            load(child, {k: v for k, v in own.items() if k.startswith(place)}, place)

    load(_bare(model), weights, "")
    missing = [name for name in missing if "num_batches_tracked" not in name]
    return missing, unknown, SIZES.findall(" ".join(errors))


def _bare(model: nn.Module) -> nn.Module:
    """The model inside DDP and test-time augmentation, as its weights are named."""
    from mmengine.model import BaseTTAModel

    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


@HOOKS.register_module()
class LoadedWeightsHook(Hook):
    """Refuses a checkpoint whose weights do not fit the model, and logs how much of it was taken.

    Args:
        strict: every tensor of both sides must fit (testing). Otherwise those of the backbone must
            (`load_from` in fine-tuning): heads may be of other classes.
        partial: not even those; what fits is taken, and the log says how much.

    Raises:
        ValueError: listing the first names.
    """

    priority = "VERY_HIGH"  # before the average of the weights takes them over

    def __init__(self, strict: bool = False, partial: bool = False) -> None:
        self.strict, self.partial = strict, partial

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Called before mmengine loads the weights, which it does whether they fit or not."""
        if runner._resume:
            return
        if "state_dict" not in checkpoint:  # weights alone, which EMAHook would not know
            weights = dict(checkpoint)
            checkpoint.clear()
            checkpoint["state_dict"] = weights
        missing, unknown, shapes = misfits(runner.model, checkpoint["state_dict"])
        names = list(_bare(runner.model).state_dict())
        lost = {*missing, *shapes}
        backbone = [name for name in names if "backbone." in f".{name}"] or names
        counted = names if self.strict else backbone
        fitting = [name for name in counted if name not in lost]
        listed = "; ".join(
            f"{what} {sorted(found)[:SHOWN]}"
            for what, found in (
                ("not in it", missing),
                ("not in the model", unknown),
                ("of another shape", shapes),
            )
            if found
        )
        whole = "" if self.strict or backbone is names else " of the backbone"
        told = f"{len(fitting)} of {len(counted)} tensors{whole} fit"
        file = runner._load_from
        if self.strict and listed:
            raise ValueError(
                f"{file} does not fit the config: {told}; {listed}; if it was trained with "
                "--backbone, give the config in its work dir, or --backbone RUN"
            )
        if len(fitting) < len(counted) and not self.partial:
            raise ValueError(
                f"load_from={file} does not fit the model: {told}; {listed}; give a checkpoint of "
                "this backbone, or --load-partially to train from what fits"
            )
        taken = len([name for name in names if name not in lost])
        runner.logger.info(
            f"load_from {file}: {taken} of {len(names)} tensors ({taken / len(names):.1%}), {told}"
            + (f"; {listed}" if listed else "")
        )


@HOOKS.register_module()
class ResumedScheduleHook(Hook):
    """Refuses to resume a training whose schedule, learning rate or weight decay the config has
    changed: mmengine would go on with those of the checkpoint, without a word.

    Args:
        new: go on with those of the config instead, from the step that was reached.

    Raises:
        ValueError: naming both sides.
    """

    def __init__(self, new: bool = False) -> None:
        self.new = new

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Called while the runner still holds what the config made."""
        saved = checkpoint.get("optimizer")
        if not runner._resume or not isinstance(saved, dict) or "param_groups" not in saved:
            return
        groups = runner.optim_wrapper.optimizer.param_groups
        sizes = [[len(g["params"]) for g in side] for side in (saved["param_groups"], groups)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"cannot resume from {runner._load_from}: its optimizer has parameters in groups "
                f"of {sizes[0][:SHOWN]}, the config's of {sizes[1][:SHOWN]}: give the constructor "
                "and paramwise_cfg that it was trained with"
            )
        schedulers = runner.param_schedulers or []
        changes = [*_of_groups(saved["param_groups"], groups)]
        changes += _of_schedulers(checkpoint.get("param_schedulers") or [], schedulers)
        if not changes:
            return
        if not self.new:
            raise ValueError(
                f"cannot resume from {runner._load_from}: {'; '.join(changes[:SHOWN])}: give the "
                "schedule it was trained with, or --resume-schedule new to go on with the config's"
            )
        meta = checkpoint["meta"]
        _advance(schedulers, meta["iter"], meta["epoch"], len(runner.train_dataloader))
        base = [saved["base_param_settings"]] if "base_param_settings" in saved else []
        for old, now in zip(
            [*saved["param_groups"], *base], runner.optim_wrapper.param_groups, strict=False
        ):
            old.update({key: value for key, value in now.items() if key != "params"})
        checkpoint["param_schedulers"] = [scheduler.state_dict() for scheduler in schedulers]
        runner.logger.info(f"resumed with the config's schedule: {'; '.join(changes)}")


def _of_groups(saved: list[dict], now: list[dict]) -> Iterator[str]:
    """What differs between an optimizer's groups of parameters, each kind of difference once."""
    told = set()
    for old, new in zip(saved, now, strict=True):
        rate = "initial_lr" if "initial_lr" in old and "initial_lr" in new else "lr"
        for key in (rate, *HYPERPARAMETERS):
            if key in told or _same(old.get(key), new.get(key)):
                continue
            told.add(key)
            name = "learning rate" if key == rate else key
            yield f"{name} {old.get(key)} in the checkpoint, {new.get(key)} in the config"


def _of_schedulers(saved: list[dict], now: list[Any]) -> list[str]:
    """What differs between the plans of schedulers; `saved` are their states."""
    if len(saved) != len(now):
        return [f"{len(saved)} schedulers in the checkpoint, {len(now)} in the config"]
    changes = []
    for old, scheduler in zip(saved, now, strict=True):
        for key, value in scheduler.state_dict().items():
            # the rates of the groups are compared above
            if key.startswith("_") or key in (*RUNNING, "base_values"):
                continue
            if not _same(old.get(key), value):
                name = f"{type(scheduler).__name__}.{key}"
                changes.append(f"{name} {old.get(key)} in the checkpoint, {value} in the config")
    return changes


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _advance(schedulers: list[Any], steps: int, epochs: int, length: int) -> None:
    """Bring new `schedulers` to where they would be after `steps` steps in epochs of `length`, as
    ParamSchedulerHook steps them: mm's schedules are recursive.
    """
    by_step = [s for s in schedulers if not s.by_epoch]
    by_epoch = [s for s in schedulers if s.by_epoch]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # steps without an optimizer's
        for step in range(1, steps + 1):
            for scheduler in by_step:
                scheduler.step()
            if step % length == 0 and step // length <= epochs:
                for scheduler in by_epoch:
                    scheduler.step()
