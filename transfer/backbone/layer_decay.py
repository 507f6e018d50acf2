"""Layer-wise learning rates for SparcViT: deep blocks learn fast, early ones keep what they know
(BEiT, arXiv 2106.08254, sec. 3; ViTDet, arXiv 2203.16527, app. A).
"""

from __future__ import annotations

import re

from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from sparc_pretrain.engine.optim import GroupedConstructor
from transfer.backbone.vit import SparcViT


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(GroupedConstructor):
    """Learning rate of backbone layer i of n: lr * layer_decay^(n + 1 - i); embeddings are layer 0,
    the final norm n + 1, and everything outside the backbone keeps lr; times what `custom_keys`
    says, see GroupedConstructor. `layer_decay` is 0.8 where the config does not give it.

    ``optim_wrapper = dict(constructor='LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay=0.8))``

    Raises:
        ValueError: the model has no SparcViT.
    """

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """See GroupedConstructor."""
        if not any(isinstance(m, SparcViT) for m in module.modules()):
            raise ValueError("layer_decay is for models with a SparcViT backbone; this has none")
        super().add_params(params, module, **kwargs)

    def scale(self, module: nn.Module, name: str) -> float:
        """layer_decay^(n + 1 - i) inside a SparcViT, 1 elsewhere; times ``lr_mult``."""
        factor = super().scale(module, name)
        decay = self.paramwise_cfg.get("layer_decay", 0.8)
        for prefix, backbone in module.named_modules():
            if isinstance(backbone, SparcViT) and name.startswith(f"{prefix}."):
                depth = backbone.tower.depth
                return factor * decay ** (depth + 1 - _layer(name, depth))
        return factor


def _layer(name: str, depth: int) -> int:
    """Layer number of a backbone parameter."""
    block = re.search(r"\.blocks\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return depth + 1 if re.search(r"\.net\.norm\.", name) else 0
