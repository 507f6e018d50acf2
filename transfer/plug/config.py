"""(any mm config, run folder) -> the same config on that run's backbone, its ancestry written down.

Where the config's backbone is a SparcViT already, the run's architecture goes into it. Any other
backbone is measured (`plug_contract`) and replaced by a SparcViT and a pyramid that keeps what it
promised (`plug_replace`); models that cannot are refused with the reason (`plug_exclusions`).
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

from mmengine.config import Config, ConfigDict

from sparc_pretrain import run_config, run_folder
from sparc_pretrain.command import cli
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metrics_file import ancestry
from transfer import mm
from transfer.plug.contract import contract, read_levels
from transfer.plug.exclusions import excluded
from transfer.plug.optimizer import (
    FOREIGN_DECAY,
    FOREIGN_RATES,
    layer_wise,
    note_optimizer,
    take_adamw,
)
from transfer.plug.pixels import normalise
from transfer.plug.replace import STRIDE, Change, Ledger, depth, replace
from transfer.plug.walk import dicts

BACKBONE = ("SparcViT", "sparc.SparcViT")
PYRAMID = ("SimplePyramid", "sparc.SimplePyramid")


def plug(
    config: Config | str | Path,
    run: str | Path,
    scratch: bool = False,
    layer_decay: float | None = None,
    adamw: bool = False,
) -> Config:
    """Put a run's backbone into a config; a Config is changed in place and returned.

    Architecture and pixel statistics are written inline, so a fine-tuned checkpoint is tested
    without the run folder.

    Args:
        config: an mmdet, mmseg or captioning config: read, a path, or ``mmdet::...`` /
            ``mmseg::...``.
        run: run folder or its work dir. scratch: the run's architecture, but random weights
            (the baseline). layer_decay: factor from a block's learning rate to the one before.
        adamw: AdamW in the place of the config's optimizer, see `ADAMW`.

    Raises:
        ValueError: the model cannot take it; the line names both sides. FileNotFoundError,
            InvalidRunFolder: no such config or run.
    """
    cfg = config if isinstance(config, Config) else read(config)
    explain(cfg, run, scratch, layer_decay, adamw)
    return cfg


def explain(
    cfg: Config,
    run: str | Path,
    scratch: bool = False,
    layer_decay: float | None = None,
    adamw: bool = False,
) -> list[Change]:
    """As `plug`, in place; returns what was changed and why."""
    opened = run_folder.verify(run)
    if not scratch:
        run_config.check_vision(opened.config, opened.path)
    DualEncoder.on_paper(opened)  # what its config says is built below
    vision, scope = opened.config["vision"], scope_of(cfg)
    model, owners = cfg.get("model") or ConfigDict(), _owners(cfg)
    foreign = [(p, o) for p, o in owners if o.backbone.get("type") not in BACKBONE]
    ledger, plans = Ledger(), []
    if "run" in model:  # of `transfer.pairs`
        if adamw or layer_decay is not None:
            raise ValueError(f"{model.type} has no --adamw and no --layer-decay")
        ledger.set(model, "model", "run", str(opened.path), "towers, fusion encoder and words")
        model.scratch, cfg.ancestry = scratch, None if scratch else ancestry(opened)
        return ledger.changes
    if foreign or not owners:
        if scope in mm.SCOPES:
            mm.register(scope)
        _can_take(model, owners, scope, opened)
        for path, owner in foreign:
            promise = contract(owner, scope)
            plans.append((owner, path, promise, read_levels(owner, promise, scope)))
    folder = None if scratch else str(opened.path)
    for owner, path, promise, read_ in plans:
        replace(owner, path, vision, folder, promise, read_, ledger)
    for path, owner in owners:
        if (path, owner) not in foreign:
            _adopt(owner, path, vision, folder, ledger)
    _fits(cfg, opened)
    normalise(cfg, opened, scope, bool(foreign), ledger)
    if plans:
        _leave_behind(cfg, ledger)
    if adamw:
        take_adamw(cfg, ledger)
    if layer_decay is not None:
        layer_wise(cfg, layer_decay, ledger)
    if plans and not adamw:
        note_optimizer(cfg, ledger)
    # a language model of random weights has no tokens of its own, nor has an open vocabulary
    wordless = "model_type" in (model.get("language_model") or {})
    wordless |= model.get("type") == "sparc.OpenVocabularyDetector"
    if wordless and not model.get("tokenizer"):
        tokens = str(opened.path / run_folder.TOKENIZER)
        ledger.set(model, "model", "tokenizer", tokens, "texts are the run's tokens")
    if model.get("type") == "sparc.OpenVocabularyDetector":
        if opened.config["text"] is None:
            raise ValueError(f"{opened.path} has no text tower: open-vocabulary models need one")
        for key in ("text", "width"):
            ledger.set(model, "model", key, opened.config[key], "it reads the run's words as well")
    cfg.ancestry = None if scratch else ancestry(opened)
    return ledger.changes


def read(config: str | Path) -> Config:
    """A config by path or ``mmdet::...`` / ``mmseg::...``; its custom imports are left for later,
    since they may bring nothing but the old backbone.

    Raises:
        FileNotFoundError, ValueError: see `cli.read_config`.
    """
    return cli.read_config(mm.locate(str(config)), custom_imports=False)


def scope_of(cfg: Config) -> str:
    """The config's default scope; of a part without one, the package that knows its model."""
    if cfg.get("default_scope"):
        return cfg.default_scope
    segmentor = any("decode_head" in part for _, part in dicts(cfg.get("model") or {}, "model"))
    return "mmseg" if segmentor else "mmdet"


def adopt_own(cfg: Config) -> list[Change]:
    """The run that a config names itself (`backbone.run`) put into it as `explain` does, so that
    pixels, widths and ancestry are that run's; nothing where the config has been through it.
    """
    if "ancestry" in cfg:
        return []
    for _, owner in _owners(cfg):
        run = owner.backbone.get("run") if owner.backbone.get("type") in BACKBONE else None
        if run:
            return explain(cfg, run)
    return []


def _can_take(
    model: ConfigDict,
    owners: list[tuple[str, ConfigDict]],
    scope: str,
    opened: run_folder.RunFolder,
) -> None:
    """Raises ValueError if `model` cannot be plugged."""
    why = excluded(model, owners, scope)
    if why is None and not owners:
        why = (
            f"model {model.get('type')} has no backbone=dict(type=...) whose place SparcViT could "
            "take: give it backbone=dict(type='sparc.SparcViT', ...), see configs/det/sparc_coco.py"
        )
    for path, owner in owners:
        inputs = owner.backbone.get("in_channels", 3)
        stem = owner.backbone.get("type")
        if why is None and stem not in BACKBONE and inputs != 3:
            why = (
                f"{path}.backbone ({stem}) reads images of {inputs} channels, the SparcViT of "
                f"{opened.path} 3"
            )
    if why is not None:
        raise ValueError(why)


def _adopt(owner: ConfigDict, path: str, vision: dict, folder: str | None, ledger: Ledger) -> None:
    """The run's architecture in a backbone that is a SparcViT; widths behind it follow."""
    told = owner.backbone.get("vision") or _vision_of(owner.backbone.get("run"))
    before, after = told.get("width"), vision["width"]
    _same_depths(owner.backbone, path, told, vision, ledger)
    ledger.set(owner.backbone, f"{path}.backbone", "vision", ConfigDict(vision), "the run's tower")
    owner.backbone.run = folder
    listed = owner.get("neck") or {}
    neck = listed[0] if isinstance(listed, (list, tuple)) else listed
    if owner.backbone.get("patch", STRIDE) is None and neck.get("type") in PYRAMID:
        ledger.set(neck, f"{path}.neck", "in_stride", vision["patch"], "the run's patch")
    if neck.get("type") in PYRAMID:
        ledger.set(neck, f"{path}.neck", "in_channels", after, "the run's width")
    # a neck with a width of its own hides the backbone's from what comes after
    hidden = "out_channels" in neck
    for part in ("neck",) if hidden else ("neck", "decode_head", "auxiliary_head"):
        first = neck if part == "neck" else owner.get(part) or {}
        for name, reader in dicts(first, f"{path}.{part}"):
            _follow(reader, name, before, after, ledger)
    _follow(owner, path, before, after, ledger)


def _vision_of(run: str | None) -> dict:
    """The architecture of the run that a config names, if it is there."""
    return run_folder.open_run(run).config["vision"] if run and Path(run).exists() else {}


def _same_depths(backbone: ConfigDict, path: str, told: dict, vision: dict, ledger: Ledger) -> None:
    """Maps are taken at the same parts of the run's depth as of the depth the config has: 3, 5, 7,
    11 of 12 blocks are 7, 11, 15, 23 of 24.
    """
    indices = backbone.get("out_indices")
    if not told.get("arch") or not indices or min(indices) < 0:
        return
    before, after = depth(told), depth(vision)
    if before != after:
        scaled = [max(math.ceil((i + 1) / before * after), 1) - 1 for i in indices]
        if len(set(scaled)) < len(scaled):  # so shallow that maps would fall together
            return
        reason = f"the same parts of {after} blocks as of {before}"
        ledger.set(backbone, f"{path}.backbone", "out_indices", scaled, reason)


def _follow(reader: ConfigDict, path: str, before: int | None, after: int, ledger: Ledger) -> None:
    """Replace the old backbone width by the new one where `reader` takes its input."""
    if before is None:
        return
    keys = ["in_channels", "embed_dim"]
    if reader.get("num_convs") == 0:  # a linear head passes its input on
        keys.append("channels")
    for key in keys:
        value = reader.get(key)
        if value == before:
            ledger.set(reader, path, key, after, "the run's width")
        elif isinstance(value, (list, tuple)):
            follows = [after if v == before else v for v in value]
            ledger.set(reader, path, key, follows, "the run's width")


def _fits(cfg: Config, opened: run_folder.RunFolder) -> None:
    """Raises ValueError, naming both sides, where patches and strides do not go together."""
    for path, owner in _owners(cfg):
        patch = owner.backbone.get("patch", STRIDE) or opened.config["vision"]["patch"]
        listed = owner.get("neck") or {}
        neck = listed[0] if isinstance(listed, (list, tuple)) else listed
        if neck.get("type") in PYRAMID:
            told, strides = neck.get("in_stride", STRIDE), neck.get("strides", (4, 8, 16, 32))
            ratios = [max(s, patch) / min(s, patch) for s in strides]
            if told != patch or any(math.log2(r) % 1 for r in ratios):
                raise ValueError(
                    f"{path}.neck makes strides {list(strides)} from maps of stride {told}, but "
                    f"the patches of {opened.path} give maps of stride {patch}: set "
                    f"{path}.backbone.patch=16 and {path}.neck.in_stride=16"
                )
        pixels = (owner.get("data_preprocessor") or {}).get("size")
        if pixels and min(pixels) < patch:
            raise ValueError(
                f"{path}.data_preprocessor.size {list(pixels)} is smaller than one patch of "
                f"{opened.path} ({patch} px)"
            )


def _leave_behind(cfg: Config, ledger: Ledger) -> None:
    """Take out what belonged to the old backbone: whole-model weights, imports, its layer rates."""
    for path, part in dicts(cfg.model, "model"):
        start = part.get("init_cfg")
        if isinstance(start, dict) and start.get("type") == "Pretrained":
            ledger.set(part, path, "init_cfg", None, "weights of a model with the old backbone")
    if cfg.get("load_from"):
        ledger.set(cfg, "", "load_from", None, "weights of a model with the old backbone")
    imports = cfg.get("custom_imports")
    if imports:
        listed = imports.get("imports") or []
        listed = [listed] if isinstance(listed, str) else list(listed)
        kept = [name for name in listed if importlib.util.find_spec(name.split(".")[0])]
        if kept != listed:
            reason = "not installed, and brought the old backbone"
            ledger.set(imports, "custom_imports", "imports", kept, reason)
    for path, part in dicts(cfg.model, "model"):
        teacher = part.get("teacher_config")
        if isinstance(teacher, str) and not Path(teacher).is_file():
            found = Path(mm.locate(f"mmdet::../{teacher}"))
            if found.is_file():
                ledger.set(part, path, "teacher_config", str(found), "where the wheel keeps it")
    wrapper = cfg.get("optim_wrapper") or {}
    if wrapper.get("constructor") in FOREIGN_DECAY:
        told = wrapper.get("paramwise_cfg") or {}
        rate = next((told[key] for key in FOREIGN_RATES if key in told), 0.8)
        layer_wise(cfg, rate, ledger)


def _owners(cfg: Config) -> list[tuple[str, ConfigDict]]:
    """Paths and dicts in ``cfg.model`` that hold a backbone with a type."""
    return [
        (path, d)
        for path, d in dicts(cfg.get("model") or {}, "model")
        if isinstance(d.get("backbone"), dict) and "type" in d.backbone
    ]
