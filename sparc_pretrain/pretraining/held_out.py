"""Validation of a pre-training: its losses and retrieval on pairs that it does not train on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from sparc_pretrain.distributed import gather_objects, rank, total, world_size
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.pretraining.accumulation import add_up
from sparc_pretrain.registry import DATA_SAMPLERS, LOOPS
from sparc_pretrain.types import Features, ImageFeatures, TextFeatures
from sparc_pretrain.zeroshot import encode, retrieval

KEPT = (1, 5)  # recall at


@DATA_SAMPLERS.register_module()
class HeldOutSampler(Sampler):
    """The same global batches at every validation, for any number of processes: `(index, visit 0)`
    of a fixed drawing without repetition.

    Args:
        dataset: anything with a length. global_batch: pairs of a batch, of all processes. pairs: at
            most so many are read. seed: of the drawing.

    Raises ValueError when there are fewer pairs than a global batch.
    """

    def __init__(self, dataset: Any, global_batch: int, pairs: int, seed: int = 0) -> None:
        order = np.random.default_rng(seed).permutation(len(dataset))[:pairs]
        if len(order) < global_batch:
            raise ValueError(
                f"data.held_out has {len(order)} pairs, fewer than one global batch of "
                f"{global_batch}: losses would be those of another task"
            )
        whole = order[: len(order) // global_batch * global_batch]
        own = whole.reshape(-1, world_size(), global_batch // world_size())[:, rank()]
        self.own = own.ravel().tolist()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((index, 0) for index in self.own)

    def __len__(self) -> int:
        return len(self.own)


@LOOPS.register_module()
class HeldOutLoop(BaseLoop):
    """Losses and retrieval on held-out pairs, at the interval and with the checks of mmengine's own
    validation: a moving average (EMAHook) is what is measured, CheckpointHook's `save_best` and a
    signal work.

    The losses are the objective's on whole global batches, as in training (contrastive losses
    depend on their size), without augmentation. Retrieval is among all pairs, as the objective
    scores them: ``i2t_R@k``, ``t2i_R@k`` and their mean at 1, ``R@1`` (fractions).

    Args:
        runner, dataloader: of `HeldOutSampler`. evaluator: mmengine passes one; unused.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, evaluator: Any = None
    ) -> None:
        super().__init__(runner, dataloader)

    @torch.no_grad()
    def run(self) -> dict[str, float]:
        """Validate; the same numbers on every process."""
        runner = self.runner
        runner.call_hook("before_val")
        runner.call_hook("before_val_epoch")
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        model.eval()
        device = next(model.parameters()).device
        amp = bool(getattr(runner.optim_wrapper, "amp", False))
        sums: dict[str, Tensor] = {}
        kept: list[tuple[ImageFeatures, TextFeatures]] = []
        for number, data in enumerate(self.dataloader):
            runner.call_hook("before_val_iter", batch_idx=number, data_batch=data)
            batch = model.with_views(model.data_preprocessor(data))
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                features = model(batch, mode="tensor")
                _, log = add_up(model.objective(features, batch))
            for name, value in log.items():
                sums[name] = sums.get(name, 0) + value.double()
            if model.objective.vision_trained and not model.objective.sees_images:
                shown = model.objective.read_images(model.encoder, batch.image)
                features = replace(features, patch_states=shown.patch_states)
            kept.append(_halves(features, model.objective.score_features))
            runner.call_hook("after_val_iter", batch_idx=number, data_batch=data, outputs=[])
        batches = max(1, len(kept)) * world_size()
        metrics = {name: (total(value) / batches).item() for name, value in sorted(sums.items())}
        metrics |= _recall(model.objective, kept, device)
        runner.call_hook("after_val_epoch", metrics=metrics)
        runner.call_hook("after_val")
        return metrics


def _recall(
    objective: Objective,
    own: list[tuple[ImageFeatures, TextFeatures]],
    device: torch.device,
) -> dict[str, float]:
    """Retrieval among the pairs of all processes, of which these are this one's."""
    every = [halves for of_rank in gather_objects(own) for halves in of_rank]
    rows = []
    for image in (_to(image, device) for image, _ in every):
        scores = [objective.scores(image, _to(text, device)).float().cpu() for _, text in every]
        rows.append(torch.cat(scores, dim=1))
    similarity = torch.cat(rows)
    found = retrieval.recall(similarity, torch.arange(len(similarity)), KEPT)
    found = {name: value for name, value in found.items() if "R@" in name}
    return {**found, "R@1": (found["i2t_R@1"] + found["t2i_R@1"]) / 2}


def _halves(features: Features, names: tuple[str, ...]) -> tuple[ImageFeatures, TextFeatures]:
    """The two halves of a batch on the CPU, with what scores are made of alone."""
    halves = (
        kind(**{f.name: getattr(features, f.name) for f in fields(kind)})
        for kind in (ImageFeatures, TextFeatures)
    )
    image, text = (_to(encode.keep(half, names), "cpu") for half in halves)
    return image, text


def _to(half: Any, device: torch.device | str) -> Any:
    values = {
        name: value if value is None else value.to(device) for name, value in vars(half).items()
    }
    return type(half)(**values)


def sections(held_out: dict[str, Any], loader: dict[str, Any], global_batch: int) -> dict[str, Any]:
    """mmengine's sections for a validation on ``data.held_out``.

    Args:
        held_out: `sources` like those of the training, `pairs` read at most (1024), `interval` in
            steps. loader: the training's, for its workers and its data set's sizes.

    Raises ValueError for another key, or an interval below 1.
    """
    known = {"sources", "pairs", "interval"}
    if unknown := set(held_out) - known or {"sources", "interval"} - set(held_out):
        raise ValueError(f"data.held_out takes {sorted(known)}: see {sorted(unknown)}")
    if held_out["interval"] < 1:
        raise ValueError(f"data.held_out.interval={held_out['interval']}: 1 step or more")
    dataset = {
        key: value
        for key, value in loader["dataset"].items()
        if key
        in ("type", "tokenizer", "image_size", "max_tokens", "max_pixels", "resize", "fields")
    }
    sampler = dict(
        type="sparc.HeldOutSampler",
        global_batch=global_batch,
        pairs=held_out.get("pairs", 1024),
    )
    dataset |= dict(sources=held_out["sources"], train=False)
    plain = {k: v for k, v in loader.items() if k not in ("sampler", "dataset")}
    return dict(
        val_dataloader=dict(plain, sampler=sampler, dataset=dataset),
        val_cfg=dict(type="sparc.HeldOutLoop"),
    )
