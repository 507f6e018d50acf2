"""(mm config with a SparcViT, run folder) -> the same config on that run's backbone, its ancestry
written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from sparc_pretrain import run_folder
from sparc_pretrain.engine.records import ancestry

BACKBONE = ("SparcViT", "sparc.SparcViT")


def plug(cfg: Config, run: str | Path, scratch: bool = False) -> Config:
    """Put a run's backbone into every SparcViT of `cfg`, in place.

    Architecture and pixel statistics are written inline, so a fine-tuned checkpoint is tested
    without the run folder; widths of the parts that read the backbone's maps follow.

    Args:
        cfg: an mmdet, mmseg or captioning config whose backbone is a SparcViT.
        run: run folder or its work dir. scratch: the run's architecture, but random weights
            (the baseline).

    Raises:
        ValueError: the config has no SparcViT. FileNotFoundError, InvalidRunFolder: no such run.
    """
    opened = run_folder.verify(run)
    vision = opened.config["vision"]
    owners = _owners(cfg)
    if not owners:
        raise ValueError(
            "the config's backbone is not a SparcViT: give it "
            "backbone=dict(type='sparc.SparcViT', ...), see configs/det/sparc_coco.py"
        )
    for owner in owners:
        before = owner.backbone.get("vision", {}).get("width")
        owner.backbone.vision = ConfigDict(vision)
        owner.backbone.run = None if scratch else str(opened.path)
        neck = owner.get("neck") or {}
        if owner.backbone.get("patch", 16) is None and "Pyramid" in str(neck.get("type")):
            neck.in_stride = vision["patch"]
        # a neck with a width of its own hides the backbone's from what comes after
        hidden = isinstance(neck, dict) and "out_channels" in neck
        for part in ("neck",) if hidden else ("neck", "decode_head", "auxiliary_head"):
            for reader in _dicts(owner.get(part) or {}):
                _follow(reader, before, vision["width"])
        _follow(owner, before, vision["width"])
    for part in _dicts(cfg.model):
        if "mean" in part and "std" in part:
            part.mean = [255 * v for v in opened.config["mean"]]
            part.std = [255 * v for v in opened.config["std"]]
            if "bgr_to_rgb" in part:  # caffe-style configs feed BGR; runs are trained on RGB
                part.bgr_to_rgb = True
    if "tokenizer" in cfg.model and not cfg.model.tokenizer:  # a captioner speaks the run's tokens
        cfg.model.tokenizer = str(opened.path / run_folder.TOKENIZER)
    cfg.ancestry = None if scratch else ancestry(opened)
    return cfg


def note_ancestry(cfg: Config) -> None:
    """Write down the ancestry of a config that names its run folder itself (`backbone.run`)."""
    for owner in _owners(cfg):
        run = owner.backbone.get("run")
        if run and "ancestry" not in cfg:
            cfg.ancestry = ancestry(run_folder.verify(run))


def _owners(cfg: Config) -> list[ConfigDict]:
    """The dicts of `cfg.model` that hold a SparcViT."""
    backbones = [(d, d.get("backbone")) for d in _dicts(cfg.get("model") or {})]
    return [d for d, b in backbones if isinstance(b, dict) and b.get("type") in BACKBONE]


def _follow(reader: ConfigDict, before: int | None, after: int) -> None:
    """Replace the old backbone width by the new one where `reader` takes its input."""
    if before is None:
        return
    keys = ["in_channels", "embed_dim"]
    if reader.get("num_convs") == 0:  # a linear head passes its input on
        keys.append("channels")
    for key in keys:
        value = reader.get(key)
        if value == before:
            reader[key] = after
        elif isinstance(value, (list, tuple)):
            reader[key] = [after if v == before else v for v in value]


def _dicts(node: Any) -> Iterator[ConfigDict]:
    """`node` and every dict below it."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _dicts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _dicts(value)
