"""An optimizer wrapper with autocast on any device and a guard: a non-finite step changes no weight
on any rank. And which weights it decays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import Tensor, nn

from sparc_pretrain.distributed import is_sharded, most, part_of, total, world_size
from sparc_pretrain.engine import precision, shards
from sparc_pretrain.registry import OPTIM_WRAPPERS
from sparc_pretrain.step_before import StepBefore

PRECISIONS = ("highest", "high", "medium")
AUTOCAST = {
    False: None,
    True: torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper (AmpOptimWrapper refuses a CPU, and one NaN loss poisons all weights)
    with

    Args:
        amp: True or 'bfloat16': autocast to it (no loss scaling needed) on whatever device the
            model is; 'float16', for GPUs that have no bfloat16 (V100, T4), scales the loss.
        max_norm: clip the gradient norm to it; None = only measure it. mmengine's `clip_grad`
            works as well.
        float32_matmul: 'high' or 'medium' lets a GPU round the products of what is not under
            autocast (TF32, bfloat16), the losses' cosines included; None leaves torch's setting.

    Raises:
        ValueError: another `amp` or `float32_matmul`, or bfloat16 on a GPU that does not have it.
    """

    def __init__(
        self,
        *args,
        amp: bool | str = False,
        max_norm: float | None = None,
        float32_matmul: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        if amp not in AUTOCAST:
            raise ValueError(f"optim_wrapper.amp={amp!r}: use one of {list(AUTOCAST)}")
        if float32_matmul not in (None, *PRECISIONS):
            raise ValueError(f"optim_wrapper.float32_matmul={float32_matmul!r}: use {PRECISIONS}")
        if float32_matmul:
            torch.set_float32_matmul_precision(float32_matmul)
        self.dtype = AUTOCAST[amp]
        device = self.optimizer.param_groups[0]["params"][0].device.type
        if self.dtype == torch.bfloat16:
            need_bfloat16(device)
        self.scaler = torch.amp.GradScaler(device, enabled=self.dtype == torch.float16)
        self.max_norm = max_norm
        self.skipped_in_a_row = 0
        self._in_a_row: Tensor | float = 0.0
        self._told = StepBefore()
        self._finite_losses: list[Tensor] = []

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """mmengine's context (no gradient exchange in the middle of an accumulation), under
        autocast when asked.
        """
        device = next(model.parameters()).device.type
        if self.dtype == torch.bfloat16:
            precision.advise(device)
        with super().optim_context(model), torch.autocast(device, self.dtype, bool(self.dtype)):
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        """loss.backward(), remembering whether the loss was finite."""
        self._finite_losses.append(loss.detach().isfinite())
        super().backward(self.scaler.scale(loss), **kwargs)

    def step(self, **kwargs) -> None:
        """Clip and update, unless a loss or the gradient is not finite on any rank: then nothing
        changes but a count. With a fused optimizer a GPU decides that by itself, and norm and count
        are told one step late.
        """
        weights = [
            p
            for group in self.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        parts = _by_kind(weights)
        norm = _norm(parts)
        bad = most((~torch.stack([*self._finite_losses, norm.isfinite()]).all()).float())
        self._finite_losses.clear()
        fused = not self.scaler.is_enabled() and is_fused(self.optimizer)
        if fused or not bad:  # to ask `bad` is to wait for the GPU
            if self.max_norm is not None:
                for part in parts:
                    torch.nn.utils.clip_grads_with_norm_(part, self.max_norm, norm)
            if self.clip_grad_kwargs:
                self.clip_func(weights, **self.clip_grad_kwargs)
            if fused:
                self.optimizer.found_inf = bad  # as GradScaler tells it: then nothing is changed
            self.optimizer.step(**kwargs)
        if self.scaler.is_enabled():
            self.scaler.update()  # the gradients of all ranks are alike, and so are their scales
        self._in_a_row = (self._in_a_row + 1) * bad
        self._tell(**self._told({"norm": norm, "skipped": self._in_a_row}))

    def _tell(self, norm: Tensor, skipped: Tensor) -> None:
        self.skipped_in_a_row = int(skipped)
        if self.skipped_in_a_row:
            past = self.message_hub.runtime_info.get("skipped_steps", 0)
            self.message_hub.update_info("skipped_steps", past + 1)
        self.message_hub.update_scalar("train/grad_norm", float(norm))

    def state_dict(self) -> dict:
        """The optimizer's, and of float16 the scale of the loss."""
        scale = {"loss_scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
        return {**super().state_dict(), **scale}

    def load_state_dict(self, state_dict: dict) -> None:
        """What `state_dict` gave.

        Raises:
            ValueError: the checkpoint's optimizer had other groups: those until 2026-11-29 had one,
                in which everything decayed.
        """
        there, here = len(state_dict["param_groups"]), len(self.optimizer.param_groups)
        if there != here:
            raise ValueError(
                f"the checkpoint's optimizer has {there} parameter group(s), this one {here}: their"
                " learning rates or weight decays differ, or one is sharded (fsdp2). Go on with "
                "the code and config that made it, or start from its run folder with "
                "model.init_from=RUN in a new --work-dir"
            )
        state = dict(state_dict)
        scale = state.pop("loss_scaler", None)
        if scale and self.scaler.is_enabled():
            self.scaler.load_state_dict(scale)
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        if folder := state.pop(shards.SHARDS, None):
            shards.fill(state["state"], Path(folder), weights)
        if any(map(is_sharded, weights)):
            state["state"] = {
                number: {key: part_of(value, weights[number]) for key, value in of_weight.items()}
                for number, of_weight in state["state"].items()
            }
        super().load_state_dict(state)


def is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its step leaves all as it is when its attribute `found_inf` is 1."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def _by_kind(weights: list[Tensor]) -> list[list[Tensor]]:
    """Sharded weights and whole ones, which no operation takes together. Whole ones beside sharded
    ones get the mean of their gradients over the ranks, which FullySharded leaves to this.
    """
    kinds = [[p for p in weights if is_sharded(p) == sharded] for sharded in (True, False)]
    if kinds[0] and kinds[1]:
        mean = total(torch.cat([p.grad.flatten() for p in kinds[1]])) / world_size()
        for p, part in zip(kinds[1], mean.split([p.numel() for p in kinds[1]]), strict=True):
            p.grad.copy_(part.view_as(p))
    return [kind for kind in kinds if kind]


def _norm(parts: list[list[Tensor]]) -> Tensor:
    """Of all gradients together, scalar."""
    norms = [torch.nn.utils.get_total_norm([p.grad for p in part]) for part in parts]
    norms = [norm.full_tensor() if is_sharded(norm) else norm for norm in norms]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def need_bfloat16(device: str) -> None:
    """Raises ValueError on a GPU that only emulates it, many times more slowly than float32."""
    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"{torch.cuda.get_device_name()} has no bfloat16: use --cfg-options "
            "optim_wrapper.amp=float16"
        )


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GroupedConstructor(DefaultOptimWrapperConstructor):
    """Parameter groups by learning rate and weight decay, sharded weights apart, and no more than
    that.

    No weight decay for vectors and scalars (biases, norms, temperatures), nor for what a module
    names in ``no_weight_decay()``, timm's convention: position embeddings, class and register
    tokens. mmengine's own makes, and logs, one group per parameter.

    ``paramwise_cfg=dict(custom_keys={'objective.': dict(lr_mult=2.0)})`` multiplies rate or decay
    (``lr_mult``, ``decay_mult``) of the parameters whose name holds the key; the longest key wins,
    as in mm.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        # never empty: with an empty one mmengine puts all weights into one group and does not call
        # add_params
        super().__init__(optim_wrapper_cfg, {"custom_keys": {}, **(paramwise_cfg or {})})

    def scale(self, module: nn.Module, name: str) -> float:
        """Factor on the learning rate of the parameter `name` of `module`."""
        return self._custom(name).get("lr_mult", 1.0)

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Fill `params` with the groups of all parameters of `module` that are trained."""
        groups: dict[tuple[float, float, bool], dict] = {}
        bare = without_decay(module)
        for name, weight in module.named_parameters():
            if not weight.requires_grad:
                continue
            rate = self.base_lr * self.scale(module, name)
            decay = (self.base_wd or 0.0) * self._custom(name).get("decay_mult", 1.0)
            decay = 0.0 if name in bare else decay
            group = groups.setdefault(
                (rate, decay, is_sharded(weight)),
                {"params": [], "lr": rate, "weight_decay": decay},
            )
            group["params"].append(weight)
        params.extend(groups.values())
        for (rate, decay, _), group in groups.items():
            told = f"{len(group['params'])} parameters, {sum(p.numel() for p in group['params']):,}"
            told += f" numbers: learning rate {rate:g}, weight decay {decay:g}"
            print_log(told, "current", logging.DEBUG if len(groups) > 4 else logging.INFO)

    def _custom(self, name: str) -> dict:
        """The first of ``custom_keys``, longest first, that is part of `name`."""
        keys = self.paramwise_cfg["custom_keys"]
        found = (key for key in sorted(keys, key=lambda k: (-len(k), k)) if key in name)
        return keys.get(next(found, None), {})


def without_decay(module: nn.Module) -> set[str]:
    """Names of the parameters of `module` that weight decay would only harm: those of fewer than
    two dimensions, and those that a module in it names in ``no_weight_decay()``.
    """
    bare = {name for name, weight in module.named_parameters() if weight.ndim < 2}
    for prefix, part in module.named_modules():
        if hasattr(part, "no_weight_decay"):
            bare |= {f"{prefix}.{name}" if prefix else name for name in part.no_weight_decay()}
    return bare
