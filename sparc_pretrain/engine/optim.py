"""An optimizer wrapper with bf16 autocast on any device and a guard: a non-finite step changes no
weight on any rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import Tensor, nn

from sparc_pretrain.distributed import everywhere
from sparc_pretrain.engine import precision
from sparc_pretrain.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper (AmpOptimWrapper refuses a CPU, and one NaN loss poisons all weights)
    with

    Args:
        amp: autocast to bfloat16 (no loss scaling needed) on whatever device the model is.
        max_norm: clip the gradient norm to it; None = only measure it. mmengine's `clip_grad`
            works as well.
    """

    def __init__(self, *args, amp: bool = False, max_norm: float | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.amp = amp
        self.max_norm = max_norm
        self.skipped_in_a_row = 0
        self._finite_losses: list[Tensor] = []

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """mmengine's context (no gradient exchange in the middle of an accumulation), under
        autocast when asked.
        """
        device = next(model.parameters()).device.type
        if self.amp:
            precision.advise(device)
        with super().optim_context(model), torch.autocast(device, torch.bfloat16, self.amp):
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        """loss.backward(), remembering whether the loss was finite."""
        self._finite_losses.append(loss.detach().isfinite())
        super().backward(loss, **kwargs)

    def step(self, **kwargs) -> None:
        """Clip and update, unless a loss or the gradient is not finite on any rank: then nothing
        changes but a count.
        """
        weights = [
            p
            for group in self.optimizer.param_groups
            for p in group["params"]
            if p.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm([p.grad for p in weights])
        finite = torch.stack([*self._finite_losses, norm.isfinite()]).all()
        self._finite_losses.clear()
        if everywhere(bool(finite), norm.device):
            self.skipped_in_a_row = 0
            if self.max_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(weights, self.max_norm, norm)
            if self.clip_grad_kwargs:
                self.clip_func(weights, **self.clip_grad_kwargs)
            self.optimizer.step(**kwargs)
        else:
            self.skipped_in_a_row += 1
            past = self.message_hub.runtime_info.get("skipped_steps", 0)
            self.message_hub.update_info("skipped_steps", past + 1)
        self.message_hub.update_scalar("train/grad_norm", float(norm))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GroupedConstructor(DefaultOptimWrapperConstructor):
    """Parameter groups by learning rate and weight decay, and no more than that.

    Vectors and scalars (biases, norms, the temperature) and position embeddings get no weight
    decay. mmengine's own makes, and logs, one group per parameter.
    """

    def scale(self, module: nn.Module, name: str) -> float:
        """Factor on the learning rate of the parameter `name` of `module`."""
        return 1.0

    def decay(self, module: nn.Module, name: str) -> float:
        """Factor on the weight decay of the parameter `name` of `module`."""
        return 1.0

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Fill `params` with the groups of all parameters of `module` that are trained."""
        groups: dict[tuple[float, float], dict] = {}
        for name, weight in module.named_parameters():
            if not weight.requires_grad:
                continue
            bare = weight.ndim <= 1 or name.endswith("pos_embed")
            rate = self.base_lr * self.scale(module, name)
            decay = 0.0 if bare else (self.base_wd or 0.0) * self.decay(module, name)
            group = groups.setdefault(
                (rate, decay), {"params": [], "lr": rate, "weight_decay": decay}
            )
            group["params"].append(weight)
        params.extend(groups.values())
