"""Pretrainer: Batch -> Features -> losses, and one exact optimizer step for any number of micro-
batches and processes.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.distributed import total, world_size
from sparc_pretrain.dual_encoder import MEAN, STD, DualEncoder
from sparc_pretrain.pretraining import starting_weights
from sparc_pretrain.registry import MODEL_WRAPPERS, MODELS, OBJECTIVES
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.types import Batch, Features

Losses = dict[str, Tensor]
# Which features each adapter makes: it is trained when the objective reads one of them.
MADE_BY = {"g_v": {"image", "patches"}, "h_v": {"image"}, "g_t": {"text", "tokens", "words"}}


class BatchToDevice(BaseDataPreprocessor):
    """Moves a Batch to the model's device; pixels stay uint8 until the encoder normalises them
    there.
    """

    def forward(self, data: Batch, training: bool = False) -> Batch:
        """Batch -> the same Batch on the device."""
        return data.to(self.device, non_blocking=True)


@MODELS.register_module()
class Pretrainer(BaseModel):
    """A dual encoder under an objective, as mmengine's Runner trains it.

    Adapters that make no feature of the objective's `couples` and `pairs` are frozen: the weights
    drawn for them stay, and no process waits for their gradient.

    Args:
        vision, text: arguments of VisionTower and TextTower. objective: config of a registered
            objective; one that has parameters in the shared space is given `width`.
        width, global_head, mean, std: of the DualEncoder.
        tokenizer: tokenizer.json that travels in the run folder.
        accumulate: micro-batches per step. Exact: the features that the objective `couples` are
            cached, its coupled terms see them all, its paired terms are computed inside each
            micro-batch, and the gradients equal one big batch's.
        grad_checkpointing: recompute the vision blocks in the backward pass.
        init_from: a run folder to start from, of the same towers and vocabulary. locked: 'vision'
            or 'text', a tower that is not trained (LiT, arXiv 2111.07991).

    Raises:
        ValueError: accumulation with an objective that has no `coupled`/`paired` parts, an
            unknown locked tower, or weights of `init_from` that do not fit.
    """

    def __init__(
        self,
        vision: dict[str, Any],
        text: dict[str, Any],
        objective: dict[str, Any],
        width: int = 512,
        global_head: bool = True,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
        tokenizer: str | None = None,
        accumulate: int = 1,
        grad_checkpointing: bool = False,
        init_from: str | None = None,
        locked: str | None = None,
    ) -> None:
        super().__init__(BatchToDevice())
        if locked not in (None, "vision", "text"):
            raise ValueError(f"locked={locked!r}: use 'vision', 'text' or nothing")
        words = Tokenizer.load(tokenizer) if tokenizer else None
        self.encoder = DualEncoder(
            VisionTower(**vision), TextTower(**text), width, global_head, mean, std, words
        )
        self.objective_config = with_width(objective, width)
        self.objective = OBJECTIVES.build(dict(self.objective_config))
        if accumulate > 1 and not hasattr(self.objective, "coupled"):
            raise ValueError(f"{objective['type']} cannot be accumulated exactly: use accumulate=1")
        if hasattr(self.objective, "couples"):
            read = {*self.objective.couples, *self.objective.pairs}
            for adapter, made in MADE_BY.items():
                if not made & read:
                    getattr(self.encoder.adapters, adapter).requires_grad_(False)
        self.accumulate = accumulate
        self.encoder.vision.grad_checkpointing = grad_checkpointing
        self.init_from, self.locked = init_from, locked
        if locked:
            getattr(self.encoder, locked).requires_grad_(False)

    def init_weights(self) -> None:
        """Take the weights of `init_from`; called by the Runner before a checkpoint is resumed.

        Raises as `starting_weights.load`.
        """
        if self.init_from:
            starting_weights.load(self.encoder, self.init_from)

    def train(self, mode: bool = True) -> Pretrainer:
        """Training mode; a locked tower stays in eval mode."""
        super().train(mode)
        if self.locked:
            getattr(self.encoder, self.locked).eval()
        return self

    def forward(self, batch: Batch, mode: str = "loss", **kwargs) -> Losses | Any:
        """mode 'loss': Batch -> losses; 'part': one micro-batch, see `_part`; 'tensor': Batch ->
        Features.
        """
        if mode == "part":
            return self._part(batch, **kwargs)
        features = self.encoder(batch.image, batch.ids, batch.mask, batch.special)
        if mode == "tensor":
            return features
        with _no_autocast(batch):
            return self.objective(features, batch)

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> Losses:
        """One optimizer step on this process alone."""
        return self.optimize(self, data, optim_wrapper)

    def optimize(self, model: nn.Module, data: Batch, optim_wrapper: OptimWrapper) -> Losses:
        """One optimizer step; `model` is this module or its distributed wrapper."""
        batch = self.data_preprocessor(data, True)
        if self.accumulate == 1:
            with optim_wrapper.optim_context(model):
                losses = model(batch, mode="loss")
            loss, log = _sum(losses)
            optim_wrapper.update_params(loss)
            return log
        parts = batch.chunk(self.accumulate)
        states, cached = self._cache(parts, model, optim_wrapper)
        gradients, owed, coupled = self._coupled_gradients(cached, batch)
        size, logs = len(parts[0]), []
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            rows = slice(i * size, (i + 1) * size)
            quiet = model.no_sync() if not last and hasattr(model, "no_sync") else nullcontext()
            _set_random_state(states[i])
            with quiet:
                with optim_wrapper.optim_context(model):
                    losses = model(
                        part,
                        mode="part",
                        gradients={name: grad[rows] for name, grad in gradients.items()},
                        whole=batch,
                        owed=owed if last else {},
                    )
                surrogate = losses.pop("surrogate")
                if last:
                    losses.update(coupled)
                loss, log = _sum(losses)
                optim_wrapper.backward(loss + surrogate)
            logs.append(log)
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return _join(logs)

    @torch.no_grad()
    def _cache(
        self, parts: list[Batch], model: nn.Module, optim_wrapper: OptimWrapper
    ) -> tuple[list, dict[str, Tensor]]:
        """First pass: random state before each micro-batch, and of them all the features [b,...]
        that the objective couples.
        """
        states: list = []
        kept: dict[str, list[Tensor]] = {name: [] for name in self.objective.couples}
        for part in parts:
            states.append(_random_state(part.image.device))
            with optim_wrapper.optim_context(model):
                features = self(part, mode="tensor")
            for name, values in kept.items():
                values.append(getattr(features, name))
        return states, {name: torch.cat(values) for name, values in kept.items()}

    def _coupled_gradients(
        self, cached: dict[str, Tensor], batch: Batch
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Losses]:
        """The coupled terms over the whole batch, once: their gradients [b,...] with respect to the
        cached features, those with respect to the objective's own parameters, and their values.
        """
        leaves = {name: value.detach().requires_grad_() for name, value in cached.items()}
        with _no_autocast(batch):
            losses = self.objective.coupled(_features(leaves, batch), batch)
        loss, _ = _sum(losses)
        if not isinstance(loss, Tensor):  # no coupled term
            return {}, {}, losses
        own = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        wanted = [*leaves.values(), *own.values()]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        gradients = dict(zip(leaves, found[: len(leaves)], strict=True))
        owed = dict(zip(own, found[len(leaves) :], strict=True))
        return (
            gradients,
            {name: grad for name, grad in owed.items() if grad is not None},
            {name: value.detach() for name, value in losses.items()},
        )

    def _part(
        self,
        part: Batch,
        gradients: dict[str, Tensor],
        whole: Batch,
        owed: dict[str, Tensor],
    ) -> Losses:
        """Second pass over one micro-batch.

        `surrogate` has the gradient of the coupled terms: with respect to the towers through
        `gradients` of this micro-batch's features, and with respect to the objective's own
        parameters through `owed`, which the last micro-batch is given.
        """
        features = self.encoder(part.image, part.ids, part.mask, part.special)
        with _no_autocast(part):
            losses = dict(self.objective.paired(features, part, whole))
            pairs = [(getattr(features, name), grad) for name, grad in gradients.items()]
            pairs += [(self.objective.get_parameter(name), grad) for name, grad in owed.items()]
            losses["surrogate"] = sum((value * grad).sum() for value, grad in pairs)
        return losses

    def run_config(self, samples_seen: int) -> dict[str, Any]:
        """config.json of this model's run folder."""
        self.encoder.objective_config = self.objective_config
        return {**self.encoder.config(), "samples_seen": samples_seen}

    def run_weights(self) -> dict[str, Tensor]:
        """The run folder's tensors: vision.*, text.*, adapters.*, objective.*."""
        objective = {f"objective.{k}": v for k, v in self.objective.state_dict().items()}
        return {**self.encoder.state_dict(), **objective}


@MODEL_WRAPPERS.register_module()
class DistributedPretrainer(MMDistributedDataParallel):
    """DistributedDataParallel around a Pretrainer: gradients are averaged once per step."""

    def train_step(self, data: Batch, optim_wrapper: OptimWrapper) -> Losses:
        """One optimizer step of all processes; the losses are those of the global batch."""
        return _over_ranks(self.module.optimize(self, data, optim_wrapper))


def with_width(objective: dict[str, Any], width: int) -> dict[str, Any]:
    """The config of an objective, with the shared `width` filled in when it takes one and its
    config does not give it.

    Raises:
        ValueError: it gives another width.
    """
    kind = OBJECTIVES.get(objective["type"])
    if kind is None or "width" not in inspect.signature(kind).parameters:
        return dict(objective)
    if objective.get("width", width) != width:
        raise ValueError(
            f"model.objective.width={objective['width']}, but model.width={width}: leave it out"
        )
    return {**objective, "width": width}


def _features(cached: dict[str, Tensor], batch: Batch) -> Features:
    """Features of a whole batch that hold what was cached, and None for what was not."""
    empty = dict.fromkeys(f.name for f in fields(Features))
    return Features(**{**empty, **cached, "mask": batch.mask, "special": batch.special})


def _no_autocast(batch: Batch) -> torch.autocast:
    return torch.autocast(batch.image.device.type, enabled=False)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def _sum(losses: Losses) -> tuple[Tensor | float, Losses]:
    """The sum of the entries that end in `_loss`, and everything, with that sum, for the log."""
    loss = sum(value for key, value in losses.items() if key.endswith("_loss"))
    log = {key: value.detach() for key, value in losses.items()}
    if isinstance(loss, Tensor):
        log["loss"] = loss.detach()
    return loss, log


def _over_ranks(log: Losses) -> Losses:
    """The mean over ranks of each entry; every rank has the same ones, in any order."""
    names = sorted(log)
    values = torch.stack([log[name].detach().to(log["loss"].dtype) for name in names])
    return dict(zip(names, total(values) / world_size(), strict=True))


def _join(logs: list[Losses]) -> Losses:
    """Losses of micro-batches add up (their divisor is the batch's), the rest is averaged."""
    joined: Losses = {}
    for key in {k for log in logs for k in log}:
        values = torch.stack([log[key].detach() for log in logs if key in log])
        joined[key] = values.sum() if key.endswith("loss") else values.mean()
    return joined
