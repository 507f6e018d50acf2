"""A run folder's vision tower as a timm model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._hub import save_for_hf
from timm.models.eva import Eva
from torch import nn

from sparc_pretrain.convert import layout
from sparc_pretrain.convert.export import Exported, Opened, proved
from sparc_pretrain.towers.rotary import described

# Archs that bring what cannot be said in JSON: an epsilon of 1e-6, one of 1e-5, SwiGLU.
STEMS = (layout.SMALLEST, "vit_base_patch16_clip_224", "vit_giant_patch14_dinov2")
USAGE = """import timm
model = timm.create_model("local-dir:path/to/this/folder", pretrained=True).eval()  # or hf-hub:
tokens = model.forward_features(images)  # [B, prefix + patches, width]
pooled = model(images)"""


def to_timm(opened: Opened, folder: Path) -> Exported:
    """Write config.json and model.safetensors as timm.create_model('local-dir:...') reads them;
    transformers' AutoModel reads the same folder (its timm wrapper).

    Raises:
        ValueError: timm has no arch with these norms.
    """
    model, tower = opened.model, opened.model.vision
    arch, arguments = stem(tower.net, tower.arch)
    arguments |= {"img_size": tower.img_size, "dynamic_img_size": True}
    target = timm.create_model(arch, num_classes=0, **arguments)
    target.load_state_dict(tower.net.state_dict())
    statistics = model.config()
    target.pretrained_cfg = {  # not the arch's own: its licence and tags are other weights'
        "architecture": arch,
        "input_size": (3, tower.img_size, tower.img_size),
        "fixed_input_size": False,
        "interpolation": model.interpolation,
        "crop_pct": 1.0,
        "mean": tuple(statistics["mean"]),
        "std": tuple(statistics["std"]),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    save_for_hf(target, str(folder), model_args=arguments, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["model_args"]["num_classes"]  # transformers' wrapper of timm models says it itself
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    with torch.inference_mode():
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        image = opened.image()
        tokens = tower(image, prefix=True)
        pairs = [(again.forward_features(image), tokens), (again(image), tower.pool(tokens))]
        difference = proved(pairs, f"timm's {arch}")
    notes = ["the vision tower alone: no text tower, and nothing of the maps into the shared space"]
    return Exported(f"timm {arch}", difference, USAGE, notes if model.text else [])


def stem(net: nn.Module, arch: str) -> tuple[str, dict[str, Any]]:
    """A timm arch and JSON arguments that build `net` again.

    Raises:
        ValueError: none has its kind of MLP; an epsilon may be another (the features tell).
    """
    if isinstance(net, Eva):  # rotary positions: the arch says the rest
        return arch, described(net)
    wanted = layout.arguments(net)
    said = {k: v for k, v in wanted.items() if k not in ("norm_eps", "mlp_layer") and v is not None}
    close = None
    for name in (arch, *STEMS):
        with torch.device("meta"):
            built = layout.arguments(timm.create_model(name, num_classes=0, **said))
        if built == wanted:
            return name, said
        if close is None and {**built, "norm_eps": wanted["norm_eps"]} == wanted:
            close = name
    if close is None:
        raise ValueError(f"timm has no arch that {wanted} would make of it")
    return close, said
