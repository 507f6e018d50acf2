"""Layer-wise learning rates for SparcViT: deep blocks learn fast, early ones keep what they know
(BEiT, ViTDet).
"""

from __future__ import annotations

import re

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from transfer.backbone import SparcViT


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Learning rate of backbone layer i of n: lr * layer_decay^(n + 1 - i); embeddings are layer 0,
    heads keep lr.

    ``optim_wrapper = dict(constructor='LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay=0.8))``; biases, norms and position embeddings get no weight
    decay.
    """

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Fill `params` with one group per learning rate and weight decay."""
        decay = self.paramwise_cfg.get("layer_decay", 0.8)
        towers = [(name, m) for name, m in module.named_modules() if isinstance(m, SparcViT)]
        if not towers:
            raise ValueError(
                "layer_decay is for models with a SparcViT backbone; this one has none"
            )
        groups: dict[tuple[float, float], dict] = {}
        for name, weight in module.named_parameters():
            if not weight.requires_grad:
                continue
            scale = 1.0
            for prefix, tower in towers:
                if name.startswith(f"{prefix}."):
                    scale = decay ** (tower.tower.depth + 1 - _layer(name, tower.tower.depth))
            bare = weight.ndim <= 1 or name.endswith("pos_embed")
            key = (self.base_lr * scale, 0.0 if bare else (self.base_wd or 0.0))
            group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1]})
            group["params"].append(weight)
        params.extend(groups.values())


def _layer(name: str, depth: int) -> int:
    """Layer number of a backbone parameter: 0 embeddings, i + 1 block i, depth + 1 the final norm."""
    block = re.search(r"\.blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return depth + 1 if re.search(r"\.net\.norm\.", name) else 0
