"""One model's backbone taken out and a SparcViT put in, so that nothing behind it needs to know."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import ConfigDict

from sparc_pretrain.towers.vision import VisionTower
from transfer.plug.contract import Contract

STRIDE = 16  # SparcViT resamples every patch embedding to it unless told otherwise
PYRAMID_WIDTH = 256  # channels of ViTDet's pyramid (arXiv 2203.16527, sec. 3)
# Necks whose in_channels size nothing but a projection of each map: they take ViTDet's pyramid.
# With all others the pyramid keeps the old channels, since those size the neck's inner layers.
PROJECTING = ("FPN", "PAFPN", "ChannelMapper", "FPN_CARAFE", "FPN_DropBlock", "NASFPN")


@dataclass(frozen=True)
class Change:
    """One edit of a config: where, what it was, what it is, and why; or what stays, and why that is
    worth a line.
    """

    path: str
    before: Any
    after: Any
    reason: str

    def __str__(self) -> str:
        if self.before == self.after:
            return f"{self.path}: {_short(self.before)} stays  ({self.reason})"
        return f"{self.path}: {_short(self.before)} -> {_short(self.after)}  ({self.reason})"


@dataclass
class Ledger:
    """Edits a config and remembers each edit."""

    changes: list[Change] = field(default_factory=list)

    def set(self, node: Any, path: str, key: str, value: Any, reason: str) -> None:
        """``node[key] = value``, or without the key when `value` is None; noted if it differs."""
        before = node.get(key)
        if value is None:
            node.pop(key, None)
        else:
            node[key] = value
        if before != value:
            name = f"{path}.{key}" if path else key
            # what was there and what came may be edited later on: note them as they are now
            self.changes.append(Change(name, copy.deepcopy(before), copy.deepcopy(value), reason))


def replace(
    owner: ConfigDict,
    path: str,
    vision: dict[str, Any],
    run: str | None,
    promise: Contract,
    read: list[bool],
    ledger: Ledger,
) -> None:
    """Put a SparcViT, and the pyramid that keeps `promise`, into `owner`, in place.

    Args:
        owner: the dict with `backbone` and perhaps `neck`; `path` names it.
        vision: the run's architecture. run: its folder, None = random weights.
        promise: the old backbone's maps. read: those that somebody reads.
    """
    old = owner.backbone
    new = ConfigDict(type="sparc.SparcViT", run=run, vision=ConfigDict(vision))
    for key in ("with_cp", "drop_path_rate"):  # of the recipe, not of the architecture
        if isinstance(old.get(key), (bool, int, float)) and old[key]:
            new[key] = old[key]
    levels, width = len(promise.channels), vision["width"]
    each = levels > 1 and set(promise.strides) == {STRIDE} and len(promise.depths) == levels
    if each:
        blocks = depth(vision)
        new.out_indices = [max(math.ceil(part * blocks), 1) - 1 for part in promise.depths]
    ledger.set(owner, path, "backbone", new, f"the run's tower; {promise.source}")
    if owner.get("pretrained"):
        ledger.set(owner, path, "pretrained", None, "weights of the old backbone")
    neck = owner.get("neck")
    first = neck[0] if isinstance(neck, (list, tuple)) and neck else neck
    projecting = isinstance(first, dict) and _projects(first, levels)
    channels = [PYRAMID_WIDTH] * levels if projecting else list(promise.channels)
    made = [c if wanted else 0 for c, wanted in zip(channels, read, strict=True)]
    plain = all(
        not c or (c, s) == (width, STRIDE) for c, s in zip(made, promise.strides, strict=True)
    )
    if plain and not promise.tokens and (each or levels == 1) and not projecting:
        return
    pyramid = ConfigDict(
        type="sparc.SimplePyramid",
        in_channels=width,
        out_channels=made,
        strides=list(promise.strides),
        in_stride=STRIDE,
        mix=projecting,
    )
    if each:
        pyramid.each = True
    if promise.tokens:
        pyramid.pooled = True
    if projecting:
        ledger.set(first, f"{path}.neck", "in_channels", channels, "the pyramid's channels")
    reason = f"maps at strides {list(promise.strides)}"
    if not projecting:
        reason += f" with the {list(promise.channels)} channels of the old ones"
    if not all(read):
        reason += f"; nobody reads {[i for i, wanted in enumerate(read) if not wanted]}"
    behind = list(neck) if isinstance(neck, (list, tuple)) else [neck] if neck else []
    owner.neck = [pyramid, *behind] if behind else pyramid
    name = f"{path}.neck[0]" if behind else f"{path}.neck"
    ledger.changes.append(Change(name, None, copy.deepcopy(pyramid), reason))


def _projects(neck: dict, levels: int) -> bool:
    told = neck.get("in_channels")
    name = str(neck.get("type")).split(".")[-1]
    return name in PROJECTING and isinstance(told, (list, tuple)) and len(told) == levels


def depth(vision: dict[str, Any]) -> int:
    """Blocks of the run's tower."""
    with torch.device("meta"):
        return VisionTower.from_config({"img_size": 224, **vision}).depth


def _short(value: Any) -> str:
    """`value` on one line, architectures left out."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k != "vision"}
        value = dict(kept, vision="...") if "vision" in value else kept
        return "dict(" + ", ".join(f"{k}={_short(v)}" for k, v in value.items()) + ")"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_short(v) for v in value) + "]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "nothing" if value is None else repr(value)
