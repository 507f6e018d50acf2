"""What a neck or head was promised by the backbone that is taken out: how many maps, their channels
and strides, and which of them are read at all.

Not a list of configs: the old backbone is built without weights and shown a small image. Only where
its class is not installed are the numbers read off its readers.
"""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sparc_pretrain.config_tree import dicts
from transfer.mm.norms import single_process_norms

SIDE = 128  # pixels of the image that an old backbone is shown: two cells at stride 64
# What changes an old backbone's layers but not the shape of its maps; much of it needs compiled
# ops.
SHAPELESS = ("init_cfg", "pretrained", "dcn", "plugins", "sac", "conv_cfg", "frozen_stages")
USUAL_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Contract:
    """The maps of an old backbone.

    Attributes:
        channels, strides: of each map, in its order.
        tokens: every map comes with a class token, as [map, token].
        depths: for a plain transformer, where in its depth each map is taken, in (0, 1].
        source: how this is known, for people.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    tokens: bool = False
    depths: tuple[float, ...] = ()
    source: str = ""


def contract(owner: ConfigDict, scope: str) -> Contract:
    """The contract of ``owner.backbone``.

    Args:
        owner: the dict of the model that holds backbone, neck and heads. scope: mmdet or mmseg.

    Raises:
        ValueError: it can neither be built nor read off.
    """
    backbone = owner.backbone
    try:
        return measured(backbone, scope)
    except Exception as error:  # foreign code fails in its own ways: whatever it was, read on
        found = read_off(owner)
        if found is None:
            raise ValueError(
                f"backbone {backbone.type} cannot be built ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:160]}), and no neck or head tells its channels: "
                "SparcViT cannot take its place"
            ) from error
        return found


def measured(backbone: ConfigDict, scope: str) -> Contract:
    """Builds `backbone` without weights and looks at its maps. Raises whatever that raises."""
    cfg = _bare(backbone)
    with DefaultScope.overwrite_default_scope(scope), _Uninitialised(), torch.no_grad():
        net = MODELS.build(cfg)
        net.eval()  # apart from the call: the `train` of many an mm backbone returns nothing
        maps = net(torch.zeros(1, 3, SIDE, SIDE))
    maps = [maps] if isinstance(maps, Tensor) else list(maps)
    tokens = bool(maps) and all(isinstance(m, (list, tuple)) and len(m) == 2 for m in maps)
    if tokens:
        maps = [m[0] for m in maps]
    if not maps or not all(isinstance(m, Tensor) and m.ndim == 4 for m in maps):
        raise ValueError(f"{backbone.type} returns something else than maps")
    # rounded: a 'stride 8' map of unpadded convolutions is a cell smaller or larger
    strides = tuple(2 ** round(math.log2(SIDE / m.shape[-1])) for m in maps)
    return Contract(
        tuple(m.shape[1] for m in maps),
        strides,
        tokens,
        _depths(net, backbone) if len(set(strides)) == 1 else (),
        f"{backbone.type} was built and measured",
    )


def read_off(owner: ConfigDict) -> Contract | None:
    """The contract as the neck, else the heads, state it, at the usual strides 4 to 32; None if
    they do not.
    """
    neck = owner.get("neck")
    neck = neck[0] if isinstance(neck, (list, tuple)) and neck else neck
    channels: list[int] = []
    if isinstance(neck, dict):
        told = neck.get("in_channels")
        channels = [told] if isinstance(told, int) else list(told or [])
    else:
        by_index: dict[int, int] = {}
        for head in heads(owner):
            told, index = head.get("in_channels"), head.get("in_index", -1)
            pairs = [(index, told)] if isinstance(told, int) else zip(index, told, strict=False)
            by_index.update({i % len(USUAL_STRIDES): c for i, c in pairs})
        if by_index:
            channels = [by_index.get(i, 0) for i in range(len(USUAL_STRIDES))]
    if not channels or len(channels) > len(USUAL_STRIDES):
        return None
    who = "its neck" if isinstance(neck, dict) else "its heads"
    strides = USUAL_STRIDES[-len(channels) :]
    source = (
        f"{owner.backbone.type} is not installed: channels as {who} states them, strides assumed"
    )
    return Contract(tuple(channels), strides, source=source)


def read_levels(owner: ConfigDict, promise: Contract, scope: str) -> list[bool]:
    """Which maps somebody reads; a level that nobody reads must have no weights (distributed
    training stops at a weight without a gradient).

    A neck, or mmseg's heads, are built and asked by their gradients; a head that cannot be says
    it in `in_index`; whoever is not known reads everything.
    """
    everything = [True] * len(promise.channels)
    if owner.get("neck"):
        try:
            return _asked(owner.neck, promise, scope)
        except Exception:  # an op that needs a GPU, a neck of the user's own: assume all
            return everything
    if "decode_head" not in owner:
        return everything
    read = [False] * len(everything)
    for part in ("decode_head", "auxiliary_head"):
        for head in _listed(owner.get(part)):
            try:
                told = _asked(head, promise, scope)
            except Exception:  # a head that takes more than maps, or of the user's own
                told = _told(head, len(everything))
            read = [a or b for a, b in zip(read, told, strict=True)]
    return read


def _told(head: ConfigDict, levels: int) -> list[bool]:
    """Which maps a head reads by its arguments, as mmseg's BaseDecodeHead understands them."""
    inner = head.get("kernel_generate_head") or head
    index, channels = inner.get("in_index"), inner.get("in_channels")
    if index is None and not isinstance(channels, int):
        return [True] * levels
    index = -1 if index is None else index
    read = {i % levels for i in ([index] if isinstance(index, int) else index)}
    if inner.get("c1_in_channels"):  # DeepLabV3+'s branch from the first map
        read.add(0)
    return [i in read for i in range(levels)]


def heads(owner: ConfigDict) -> list[ConfigDict]:
    """The innermost dicts with `in_channels` of mmseg's decode and auxiliary heads."""
    found = [*_listed(owner.get("decode_head")), *_listed(owner.get("auxiliary_head"))]
    found = [head.get("kernel_generate_head") or head for head in found]
    return [head for head in found if "in_channels" in head]


def _listed(node: Any) -> list[Any]:
    if node is None:
        return []
    return list(node) if isinstance(node, (list, tuple)) else [node]


def _asked(part: Any, promise: Contract, scope: str) -> list[bool]:
    """Runs a neck or head on random maps: those that get a gradient are read."""
    cfg = _without(copy.deepcopy(part), "init_cfg")
    with DefaultScope.overwrite_default_scope(scope):  # with weights: random offsets of a
        net = MODELS.build(cfg)  # deformable convolution would lead its kernel out of memory
    net.eval()
    maps = [
        torch.rand(1, c, max(SIDE // s, 1), max(SIDE // s, 1), requires_grad=True)
        for c, s in zip(promise.channels, promise.strides, strict=True)
    ]
    outputs = net(tuple(maps))
    total = sum(o.sum() for o in ([outputs] if isinstance(outputs, Tensor) else outputs))
    gradients = torch.autograd.grad(total, maps, allow_unused=True)
    return [gradient is not None for gradient in gradients]


def _bare(backbone: ConfigDict) -> ConfigDict:
    """`backbone` without what does not change its maps' shapes, for one process, at SIDE pixels."""
    cfg = copy.deepcopy(backbone)
    for key in SHAPELESS:
        cfg.pop(key, None)
    if "img_size" in cfg:
        cfg.img_size = SIDE if isinstance(cfg.img_size, int) else (SIDE, SIDE)
    return _without(cfg, "init_cfg")


def _without(node: Any, key: str) -> Any:
    """`node` without `key` at any depth and with BN for SyncBN, in place."""
    for _, part in dicts(node):
        part.pop(key, None)
    single_process_norms(node)
    return node


def _depths(net: torch.nn.Module, backbone: ConfigDict) -> tuple[float, ...]:
    """Where a plain transformer's maps are taken, as parts of its depth; () for other nets."""
    layers = getattr(net, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList):
        return ()
    default = inspect.signature(type(net)).parameters.get("out_indices")
    indices = backbone.get("out_indices", getattr(default, "default", -1))
    indices = [indices] if isinstance(indices, int) else list(indices)
    return tuple((i % len(layers) + 1) / len(layers) for i in indices)


class _Uninitialised(TorchFunctionMode):
    """Leaves new weights as they are: only shapes are asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
