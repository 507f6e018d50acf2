"""What one training step of a detector or segmentor keeps in memory, computed, not measured: the
model is on the meta device, and the tensors that its backward pass would need are counted.

    python tools/measure/memory.py

Counted are weights, gradients and AdamW's two moments (16 bytes a weight that is trained) and the
activations of one photograph: tower, pyramid, and heads on as many regions as the recipe samples.
Not counted are the kernels' workspaces, the fragments of the allocator and the CUDA context: a
GPU needs 1 to 2 GB more.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from sparc_pretrain.command import cli
from transfer import mm

GIB = 2**30
ARCHS = {
    "ViT-S/16": dict(arch="vit_small_patch16_224", width=384),
    "ViT-B/16": dict(arch="vit_base_patch16_224", width=768),
    "ViT-L/16": dict(arch="vit_large_patch16_224", width=1024),
}
CARDS = (12, 16, 24, 48, 80)  # GB
PHOTOGRAPHS = 2  # a batch norm wants more than one
SPARE = 2.0  # GB of a card that are not ours
# bfloat16 autocast keeps most in two bytes, the stream between blocks and norms in four; assumed
AMP = 0.6


def main(argv: list[str] | None = None) -> int:
    """Print a table for each of configs/my."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    mm.register(*mm.SCOPES)
    heads = {"det": (1024, 640), "instances": (1024, 640), "seg": (512,)}
    warnings.simplefilter("ignore")  # mmseg's losses, at each model
    for name, sides in heads.items():
        print(f"\n| configs/my/{name}.py | px | weights | a photograph | with --amp |", end="")
        print("".join(f" {card} GB |" for card in CARDS))
        print("|---|---|---|---|---|" + "---|" * len(CARDS))
        for arch, vision in ARCHS.items():
            for side in sides:
                fixed, whole = step(f"configs/my/{name}.py", vision, side)
                half = whole * AMP
                fits = [int(max(card - SPARE - fixed, 0) // half) for card in CARDS]
                cells = [arch, side, f"{fixed:.1f} GB", f"{whole:.1f} GB", f"{half:.1f} GB", *fits]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return 0


def step(config: str, vision: dict[str, Any], side: int) -> tuple[float, float]:
    """GB of weights with gradients and moments, and of one photograph's activations in float32."""
    cfg = Config.fromfile(config)
    model = cfg.model
    model.backbone.vision = dict(vision, img_size=224)
    width = vision["width"]
    for part in ("neck", "decode_head", "auxiliary_head"):
        node = model.get(part) or {}
        for key in ("in_channels", "embed_dim"):
            if node.get(key) == 768:
                node[key] = width
            elif isinstance(node.get(key), (list, tuple)):
                node[key] = [width if v == 768 else v for v in node[key]]
    if vision["arch"].startswith("vit_large") and "out_indices" in model.backbone:
        model.backbone.out_indices = (7, 11, 15, 23)
    from mmengine.registry import MODELS, DefaultScope

    from transfer.mm.norms import single_process_norms

    single_process_norms(model)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        built = MODELS.build(model).train()
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    return 16 * trained / GIB, sum(map(kept, passes(built, side))) / GIB / PHOTOGRAPHS


def passes(model: nn.Module, side: int) -> list[Callable[[], Any]]:
    """What a training step of `PHOTOGRAPHS` runs forward."""
    image = torch.empty(PHOTOGRAPHS, 3, side, side, device="meta")
    maps: list[Tensor] = []

    def tower() -> Any:
        maps[:] = model.extract_feat(image)
        return maps

    steps: list[Callable[[], Any]] = [tower]
    if hasattr(model, "roi_head"):
        heads = model.roi_head
        regions = PHOTOGRAPHS * model.train_cfg.rcnn.sampler.num
        channels = maps_width(model)
        steps.append(lambda: model.rpn_head(tuple(maps)))
        boxes = torch.empty(regions, channels, 7, 7, device="meta")
        steps.append(lambda: heads.bbox_head(boxes.requires_grad_()))
        if heads.with_mask:
            share = int(regions * model.train_cfg.rcnn.sampler.pos_fraction)
            masks = torch.empty(share, channels, 14, 14, device="meta")
            steps.append(lambda: heads.mask_head(masks.requires_grad_()))
    else:
        steps.append(lambda: model.decode_head(maps))
        steps.append(lambda: model.auxiliary_head(maps))
    return steps


def maps_width(model: nn.Module) -> int:
    """Channels of the pyramid that heads of regions read."""
    return model.roi_head.bbox_roi_extractor.out_channels


def kept(run: Callable[[], Any]) -> int:
    """Bytes that the backward pass of `run` needs, parameters left out, each storage once."""
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            held[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


if __name__ == "__main__":
    cli.guard(main)
