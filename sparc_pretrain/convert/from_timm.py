"""timm's Vision Transformers -> Parts."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import eva, is_model, split_model_name_tag, vision_transformer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from sparc_pretrain.blueprint import REFUSALS, at_most
from sparc_pretrain.convert import layout
from sparc_pretrain.convert.files import WEIGHT_FILES, read_weights
from sparc_pretrain.convert.parts import Parts, load
from sparc_pretrain.json_file import read_object
from sparc_pretrain.towers.overrides import check_overrides, timm_named
from sparc_pretrain.towers.rotary import check_rotary, described
from sparc_pretrain.towers.vision import VisionTower, check_arch

HEADS = ("head.", "head_dist.", "head_drop.")
# Arguments in a folder's config.json beside those of `towers.overrides`.
INPUT = ("img_size", "in_chans", "num_classes", "dynamic_img_size", "dynamic_img_pad")
TRAINED_WITH = (
    "drop_rate",
    "drop_path_rate",
    "patch_drop_rate",
    "pos_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
)


def from_timm(model: VisionTransformer, name: str, arch: str | None = None) -> Parts:
    """A timm Vision Transformer, whole: tokens, pooling and pixel statistics; its classifier is
    left out.

    Args:
        model: built by timm, with its weights. name: where it came from.
        arch: timm's name of it, None = the one the model carries.

    Raises:
        ValueError: not a plain Vision Transformer; the part is named.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    try:
        tower = tower_of(model, arch or cfg.get("architecture") or layout.SMALLEST)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    notes = ["its classifier is left out"] if model.num_classes else []
    reference = copy.copy(model).eval()

    def embed(image: Tensor) -> Tensor:
        return reference.forward_head(reference.forward_features(image), pre_logits=True)

    return Parts(
        tower,
        {"library": "timm", "name": name},
        embed,
        mean=cfg.get("mean", (0.485, 0.456, 0.406)),
        std=cfg.get("std", (0.229, 0.224, 0.225)),
        interpolation=cfg.get("interpolation") or "bicubic",
        notes=notes,
    )


def tower_of(net: VisionTransformer | Eva, arch: str) -> VisionTower:
    """The VisionTower with the architecture and weights of a timm model.

    Raises:
        ValueError: a part that a VisionTower does not have.
    """
    if isinstance(net, Eva):
        check_rotary(net, arch)
        overrides = described(net)
    elif isinstance(net, VisionTransformer):
        overrides = layout.arguments(net)
    else:
        raise ValueError(f"{type(net).__name__} is not a plain Vision Transformer")
    tower = VisionTower(arch, net.patch_embed.img_size[0], overrides=overrides)
    weights = {k: v for k, v in net.state_dict().items() if not k.startswith(HEADS)}
    load(tower.net, weights, arch, "this model is not a plain Vision Transformer")
    return tower.eval()


def load_timm(
    source: str,
    arch: str | None = None,
    options: dict[str, Any] | None = None,
    average: bool | None = None,
) -> Parts:
    """A timm model by name (``vit_base_patch16_224.augreg_in21k``), by ``hf-hub:`` name, from a
    folder that timm wrote, or from a file of weights with `arch`.

    Args:
        options: further arguments of timm.create_model, e.g. ``dict(img_size=512)``.
        average: of a file, see `files.read_weights`.

    Raises:
        ValueError: an unknown name, or weights that do not fit. OSError: not to be fetched.
    """
    options = dict(options or {})
    path = Path(source)
    if path.is_file():
        if arch is None:
            raise ValueError(f"{source}: say what it is with --arch NAME, e.g. {layout.SMALLEST}")
        check_arch(arch)
        model, notes = _from_file(path, arch, options, average)
        parts = from_timm(model, path.name, arch)
        parts.notes += notes
        return parts
    if path.is_dir():
        _check_folder(path)
        name = f"local-dir:{path}"
    else:
        name = source
        if not source.startswith("hf-hub:"):
            check_arch(split_model_name_tag(source)[0])
    try:
        model = timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub, its client and timm raise a dozen types
        reason = str(error).strip().split("\n")[0]
        raise OSError(
            f"{source} cannot be loaded ({type(error).__name__}: {reason}); download its "
            ".safetensors file and pass that with --arch"
        ) from None
    shown = path.name if path.is_dir() else source
    return from_timm(model, shown)


def _check_folder(folder: Path) -> None:
    """Raises ValueError when config.json of a folder says more than an architecture of a size that
    the weights there have.
    """
    place = folder / "config.json"
    said = read_object(place)
    arch, arguments = said.get("architecture"), said.get("model_args") or {}
    files = [p for p in folder.iterdir() if p.suffix in WEIGHT_FILES]
    try:
        check_arch(arch)
        if not isinstance(arguments, dict):
            raise ValueError("model_args is no object")
        overrides = {k: v for k, v in arguments.items() if k not in (*INPUT, *TRAINED_WITH)}
        check_overrides(overrides)
        told = f"it describes a model larger than the weights beside {place}"
        with torch.device("meta"), at_most(sum(f.stat().st_size for f in files), told):
            size = {k: arguments[k] for k in INPUT if k in arguments}
            timm.create_model(arch, pretrained=False, **size, **timm_named(overrides))
    except REFUSALS as error:
        raise ValueError(f"{place}: {error}") from None


def _from_file(
    path: Path, arch: str, options: dict[str, Any], average: bool | None
) -> tuple[VisionTransformer, list[str]]:
    """The model of a file, at the image size that its position embeddings were trained for; and
    notes.
    """
    weights, notes = read_weights(path, average)
    if not is_model(arch):
        raise ValueError(f"timm has no model {arch!r}")
    try:
        model = timm.create_model(arch, num_classes=0, **options)
    except TypeError as error:
        raise ValueError(f"{arch} with {options}: {error}") from None
    names = ("pos_embed", "visual.trunk.pos_embed", "visual.positional_embedding")
    table = next((weights[n] for n in names if n in weights), None)
    if table is not None and "img_size" not in options and model.pos_embed is not None:
        prefix = model.pos_embed.shape[1] - model.patch_embed.num_patches
        side = math.isqrt(max(table.shape[-2] - prefix, 0))
        if side * side == table.shape[-2] - prefix and side != model.patch_embed.grid_size[0]:
            size = side * model.patch_embed.patch_size[0]
            model = timm.create_model(arch, num_classes=0, img_size=size, **options)
    try:
        library = eva if isinstance(model, Eva) else vision_transformer
        converted = library.checkpoint_filter_fn(weights, model)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ValueError(
            f"{path} does not fit {arch} ({reason}); is --arch {arch} what these weights are?"
        ) from None
    converted = {k: v for k, v in converted.items() if not k.startswith(HEADS)}
    load(model, converted, str(path), f"is --arch {arch} what these weights are?")
    return model, notes
