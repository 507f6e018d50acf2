"""open_clip's checkpoints by name, from a folder, or from a file -> Parts."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from torch import Tensor, nn

from sparc_pretrain.blueprint import REFUSALS, at_most
from sparc_pretrain.convert.files import read_weights
from sparc_pretrain.convert.from_open_clip import from_open_clip
from sparc_pretrain.convert.parts import Parts, load
from sparc_pretrain.json_file import read_object


def load_open_clip(
    source: str, arch: str | None = None, vision_only: bool = False, average: bool | None = None
) -> Parts:
    """An open_clip model: ``ARCH:TAG`` (``ViT-B-16:laion2b_s34b_b88k``), ``hf-hub:NAME``, a folder
    with open_clip_config.json, or a file of weights with `arch` (a name, or a model config .json).
    A file does not say how its images were normalised: that is taken from open_clip's own weights
    of the name, or of ``NAME:TAG``, or from the config's preprocess_cfg.

    Raises:
        ValueError: an unknown name, or weights that do not fit. OSError: not to be fetched.
    """
    path = Path(source)
    if path.is_file():
        if arch is None:
            raise ValueError(f"{source}: say what it is with --arch NAME, e.g. ViT-B-16")
        weights, notes = read_weights(path, average)
        model, preprocess, note = _build(arch, weights, source)
        if preprocess:
            open_clip.model.set_model_preprocess_cfg(model, preprocess)
        parts = from_open_clip(model, path.name, vision_only)
        parts.notes += [note, *notes]
        return parts
    if path.is_dir():
        settings = read_object(path / "open_clip_config.json")
        files = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".pt"))
        files.sort(key=lambda p: p.suffix != ".safetensors")
        if not files:
            raise FileNotFoundError(f"{path} holds no .safetensors file of weights")
        if not isinstance(settings.get("model_cfg"), dict):
            raise ValueError(f"{path / 'open_clip_config.json'} has no object 'model_cfg'")
        weights, notes = read_weights(files[0])
        model = _model(settings["model_cfg"], weights, f"{path / 'open_clip_config.json'}")
        _fill(model, weights, str(files[0]))
        open_clip.model.set_model_preprocess_cfg(model, settings.get("preprocess_cfg", {}))
        parts = from_open_clip(model, path.resolve().name, vision_only)
        parts.notes += notes
        return parts
    options: dict[str, Any] = {}
    name, tag = source, None
    if not source.startswith("hf-hub:"):
        name, _, tag = source.partition(":")
        known = open_clip.list_pretrained_tags_by_model(_known(name))
        if tag not in known:
            raise ValueError(f"open_clip has no weights {source!r}: use {name}:TAG of {known}")
        if open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False):
            options["force_quick_gelu"] = True  # else open_clip only warns, and is wrong
        elif open_clip.get_model_config(name).get("quick_gelu", False):
            raise ValueError(f"{source} was not trained with QuickGELU: leave -quickgelu out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model(name, tag, require_pretrained=True, **options)
    except Exception as error:  # the hub, its client and open_clip raise a dozen types
        reason = " ".join(str(error).split())[:300]
        raise OSError(
            f"{source} cannot be loaded ({type(error).__name__}: {reason}); download its "
            ".safetensors file and pass that with --arch"
        ) from None
    return from_open_clip(model, source, vision_only)


def _known(name: str) -> str:
    """`name` if open_clip has that architecture; raises ValueError with near names if not."""
    names = open_clip.list_models()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=4, cutoff=0.4)
        raise ValueError(f"open_clip has no model {name!r}; near names: {near}")
    return name


def _build(
    arch: str, weights: dict[str, Tensor], source: str
) -> tuple[nn.Module, dict[str, Any], str]:
    """The model, its preprocess_cfg, and a note on where that is from."""
    if arch.endswith(".json"):
        if not Path(arch).is_file():
            raise FileNotFoundError(f"no model config {arch}")
        cfg = read_object(arch)
        model = _model(cfg.get("model_cfg", cfg), weights, arch)
        preprocess = cfg.get("preprocess_cfg", {})
        note = f"mean and std of {arch}"
        if not preprocess:
            note = f"mean and std are CLIP's: {arch} has no preprocess_cfg"
    else:
        name, _, tag = arch.partition(":")
        model = _model(open_clip.get_model_config(_known(name)), weights, source)
        preprocess, note = _preprocessing(name, tag)
    _fill(model, weights, source)
    return model, preprocess, note


def _preprocessing(name: str, tag: str) -> tuple[dict[str, Any], str]:
    """How the images of open_clip's own weights of an architecture are normalised, and a note."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and tag not in tags:
        raise ValueError(f"open_clip has no weights {name}:{tag}: use one of {tags}")
    if not tags:
        return {}, f"mean and std are CLIP's: open_clip has no weights of {name} to take them from"
    found = [open_clip.get_pretrained_cfg(name, t) for t in ([tag] if tag else tags)]
    ways = {(tuple(cfg["mean"]), tuple(cfg["std"])) for cfg in found}
    keys = ("mean", "std", "interpolation", "resize_mode")
    taken = {key: found[0][key] for key in keys if key in found[0]}
    if len(ways) == 1:
        return taken, f"mean and std as of open_clip's {name}{':' * bool(tag)}{tag}"
    return {}, (
        f"mean and std are CLIP's, but open_clip's weights of {name} have {len(ways)} kinds: say "
        f"whose yours are with --arch {name}:TAG of {tags}"
    )


def _model(cfg: Any, weights: dict[str, Tensor], place: str) -> nn.Module:
    """The model of an open_clip model config, with random weights, without downloads, and no larger
    than `weights`.

    Raises:
        ValueError: naming `place`, for a config that describes none.
    """
    towers = [cfg.get(key) for key in ("vision_cfg", "text_cfg")] if isinstance(cfg, dict) else [0]
    if not all(isinstance(tower, dict) for tower in towers):
        raise ValueError(f"{place}: an open_clip config has the objects vision_cfg and text_cfg")
    if "multimodal_cfg" in cfg or cfg["text_cfg"].get("hf_model_name"):
        raise ValueError("CoCa and Hugging Face text towers of open_clip are not converted")
    trunk = cfg["vision_cfg"].get("timm_model_name")
    if trunk is not None and not (isinstance(trunk, str) and timm.is_model(trunk)):
        raise ValueError(f"{place}: timm has no model {trunk!r}")  # names on the hub are fetched
    own = {k: v for k, v in cfg.items() if k != "custom_text"}
    own["vision_cfg"] = {**cfg["vision_cfg"], "timm_model_pretrained": False}
    told = f"{place} describes a model larger than its weights"
    elements = sum(tensor.numel() for tensor in weights.values())
    kind = CustomTextCLIP if cfg.get("custom_text", False) else CLIP
    try:
        with torch.device("meta"), at_most(elements, told):
            kind(**own)
    except REFUSALS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{place}: {reason}") from None
    return kind(**own)


def _fill(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    weights = convert_state_dict(model, weights)
    if "positional_embedding" in weights and not hasattr(model, "positional_embedding"):
        weights = convert_to_custom_text_state_dict(weights)
    own = model.state_dict()
    for key in ("logit_scale", "logit_bias"):
        if key in weights and key in own:
            weights[key] = weights[key].reshape(own[key].shape)
    load(model, weights, source, "is its config (--arch) that of these weights?")
