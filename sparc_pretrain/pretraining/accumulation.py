"""One optimizer step over several micro-batches whose gradients equal one big batch's.

Terms over all pairs cannot be cut. So the features that they take gradients of are first computed
for all micro-batches without a graph; the terms are computed once, over all of them, and their
gradients with respect to the features go back through each micro-batch when it is computed again
(as GradCache does, arXiv 2101.06983). Terms of one pair at a time are computed inside each.

Captions of similar length go into one micro-batch, without the padding of longer ones.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.distributed import total, world_size
from sparc_pretrain.types import Batch, Features

if TYPE_CHECKING:
    from sparc_pretrain.pretraining.pretrainer import Pretrainer

Losses = dict[str, Tensor]
OF_CAPTION = ("ids", "mask", "special", "word")  # fields of Batch [B,T]
OF_TOKENS = ("tokens", "token_states", "words")  # fields of Features [B,T,...]


def accumulated_step(
    pretrainer: Pretrainer,
    model: nn.Module,
    batch: Batch,
    lengths: Tensor,
    optim_wrapper: OptimWrapper,
) -> Losses:
    """One optimizer step over `pretrainer.accumulate` equal parts of the rank's `batch`.

    Args:
        lengths: [B] of its captions, on the CPU: those of `batch` might have to be waited for.
        model: the pretrainer, or its distributed wrapper.

    Returns:
        The losses of the whole batch, detached.
    """
    width = batch.ids.shape[1]
    order, ends = by_length(lengths, pretrainer.accumulate, pretrainer.objective.together)
    if batch.views is not None:  # what was drawn for it lies as the batch does
        order, ends = torch.arange(len(batch)), [width] * pretrainer.accumulate
    parts = replace(batch, skipped=[]).rows(order).chunk(pretrainer.accumulate)
    order = order.to(batch.ids.device, non_blocking=True)
    parts = [_cut(part, end) for part, end in zip(parts, ends, strict=True)]
    states, cached = _cache(pretrainer, parts, model, optim_wrapper)
    cached = {n: _full(v, order, width if n in OF_TOKENS else None) for n, v in cached.items()}
    with optim_wrapper.optim_context(model):
        feature_grads, head_grads, coupled = _coupled_gradients(pretrainer, cached, batch)
    size, logs = len(parts[0]), []
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        rows = order[i * size : (i + 1) * size]
        quiet = model.no_sync() if not last and hasattr(model, "no_sync") else nullcontext()
        _set_random_state(states[i])
        with quiet:
            with optim_wrapper.optim_context(model):
                losses = model(
                    part,
                    mode="part",
                    feature_grads={
                        name: grad[rows, : ends[i]] if name in OF_TOKENS else grad[rows]
                        for name, grad in feature_grads.items()
                    },
                    head_grads=head_grads if last else {},
                    whole=batch,
                )
            surrogate = losses.pop("surrogate")
            if last:
                losses.update(coupled)
            loss, log = add_up(losses)
            optim_wrapper.backward(loss + surrogate)
        logs.append(log)
    optim_wrapper.step()
    optim_wrapper.zero_grad()
    return _join(logs)


def add_up(losses: Losses) -> tuple[Tensor | float, Losses]:
    """The sum of the entries that end in `_loss`, and everything, with that sum, for the log."""
    loss = sum(value for key, value in losses.items() if key.endswith("_loss"))
    log = {key: value.detach() for key, value in losses.items()}
    if isinstance(loss, Tensor):
        log["loss"] = loss.detach()
    return loss, log


def over_ranks(log: Losses) -> Losses:
    """The mean over ranks of each entry; every rank has the same ones, in any order."""
    if world_size() == 1:
        return log
    names = sorted(log)
    values = torch.stack([log[name].detach().to(log["loss"].dtype) for name in names])
    return dict(zip(names, total(values) / world_size(), strict=True))


def by_length(lengths: Tensor, parts: int, together: int = 1) -> tuple[Tensor, list[int]]:
    """In which order the rows of a batch are cut into `parts`: the longest captions first, rows
    that stand in one group of `together` side by side.

    Args:
        lengths: [B] long.

    Returns:
        rows [B] long, and the longest caption of each part, at least 1.
    """
    if len(lengths) // parts % together:  # the objective will tell of it
        together = len(lengths) // parts
    group = lengths.view(-1, together).amax(dim=1).argsort(descending=True, stable=True)
    order = (group[:, None] * together + torch.arange(together)).flatten()
    return order, lengths[order].view(parts, -1).amax(dim=1).clamp(min=1).tolist()


def _cut(part: Batch, end: int) -> Batch:
    """`part` with its captions cut to `end` tokens."""
    names = [name for name in OF_CAPTION if getattr(part, name) is not None]
    return replace(part, **{name: getattr(part, name)[:, :end] for name in names})


def _full(parts: list[Tensor], order: Tensor, tokens: int | None) -> Tensor:
    """A feature [b,...] of all micro-batches with its rows in their places in the batch; one
    [b,T,...] of tokens is padded with zeros to the batch's `tokens`.
    """
    if tokens is not None:
        parts = [F.pad(x, (0, 0) * (x.ndim - 2) + (0, tokens - x.shape[1])) for x in parts]
    joined = torch.cat(parts)
    return torch.empty_like(joined).index_copy_(0, order, joined)


@torch.no_grad()
def _cache(
    pretrainer: Pretrainer, parts: list[Batch], model: nn.Module, optim_wrapper: OptimWrapper
) -> tuple[list, dict[str, list[Tensor]]]:
    """First pass: the random state before each micro-batch, and of each the features [b,...] of the
    coupled terms.
    """
    states: list = []
    kept: dict[str, list[Tensor]] = {n: [] for n in pretrainer.objective.coupled_features}
    for part in parts:
        states.append(_random_state(part.image.device))
        with optim_wrapper.optim_context(model):
            features = pretrainer(part, mode="tensor")
        for name, values in kept.items():
            values.append(getattr(features, name))
    return states, kept


def _coupled_gradients(
    pretrainer: Pretrainer, cached: dict[str, Tensor], batch: Batch
) -> tuple[dict[str, Tensor], dict[str, Tensor], Losses]:
    """The coupled terms over the whole batch, once: their gradients [b,...] with respect to the
    cached features, those with respect to the objective's own parameters, and their values.
    """
    objective = pretrainer.objective
    leaves = {name: value.detach().requires_grad_() for name, value in cached.items()}
    losses = objective.coupled(_features(leaves, batch), batch)
    loss, _ = add_up(losses)
    if not isinstance(loss, Tensor):  # no coupled term
        return {}, {}, losses
    own = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, [*leaves.values(), *own.values()], allow_unused=True)
    feature_grads = {n: g for n, g in zip(leaves, found, strict=False) if g is not None}
    head_grads = dict(zip(own, found[len(leaves) :], strict=True))
    return (
        feature_grads,
        {name: grad for name, grad in head_grads.items() if grad is not None},
        {name: value.detach() for name, value in losses.items()},
    )


def _features(cached: dict[str, Tensor], batch: Batch) -> Features:
    """Features of a whole batch that hold what was cached, and None for what was not."""
    empty = dict.fromkeys(f.name for f in fields(Features))
    return Features(**{**empty, **cached, "mask": batch.mask, "special": batch.special})


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def _join(logs: list[Losses]) -> Losses:
    """Losses of micro-batches add up (their divisor is the batch's), the rest is averaged."""
    joined: Losses = {}
    for key in {k for log in logs for k in log}:
        values = torch.stack([log[key].detach() for log in logs if key in log])
        joined[key] = values.sum() if key.endswith("loss") else values.mean()
    return joined
