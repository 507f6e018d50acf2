"""What may be said of a vision tower beside its name and image size: the arguments of timm's
VisionTransformer that describe an architecture.

They come out of files (config.json of run folders), so there is a list of them: others of timm's
open files (`checkpoint_path`), fetch weights, or belong to training.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.layers import LayerNorm, SwiGLUPacked

MLP_LAYERS = {"swiglu_packed": SwiGLUPacked}  # values of `mlp_layer`
MOST = 1 << 20  # of any size: far above all towers, far below what fills a memory with a list
DEEPEST = 1024  # blocks: some of timm's arithmetic is a loop over them before the first is built
TRAINING = ("drop_path_rate", "patch_drop_rate", "pos_embed_init")  # arguments of VisionTower


def _size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MOST


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= MOST


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _one_of(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in names


ALLOWED: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("patch_size", "embed_dim", "num_heads"), _size),
    "depth": lambda value: _size(value) and value <= DEEPEST,
    **dict.fromkeys(("mlp_ratio", "norm_eps"), _number),
    "reg_tokens": _count,
    "init_values": lambda value: value is None or _number(value),
    **dict.fromkeys(
        (
            "qkv_bias",
            "qk_norm",
            "proj_bias",
            "class_token",
            "no_embed_class",
            "pre_norm",
            "fc_norm",
            "final_norm",
            "pool_include_prefix",
        ),
        _flag,
    ),
    "global_pool": _one_of("avg", "token", "map", "max", "avgmax"),
    "act_layer": _one_of("gelu", "gelu_tanh", "quick_gelu", "silu", "relu"),
    "mlp_layer": _one_of(*MLP_LAYERS),
    "pos_embed": _one_of("learn", "none"),
}


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Raises ValueError for an argument that is not on the list, or a value that it cannot have."""
    for name, value in overrides.items():
        if name in TRAINING:
            raise ValueError(
                f"vision.overrides.{name} belongs to training, not to the architecture: set "
                f"vision.{name}"
            )
        if name not in ALLOWED:
            near = difflib.get_close_matches(str(name), ALLOWED, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else f": allowed are {sorted(ALLOWED)}"
            raise ValueError(f"vision.overrides takes no {name!r}{hint}")
        if not ALLOWED[name](value):
            raise ValueError(f"vision.overrides.{name}={value!r} is no value that it can have")


def timm_arguments(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of timm's VisionTransformer that `overrides`, checked here, stand for."""
    check_overrides(overrides)
    usual = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    return timm_named({**usual, **overrides})


def timm_named(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Checked `overrides` with the classes that words in them stand for."""
    found = dict(overrides)
    if "norm_eps" in found:
        found["norm_layer"] = partial(LayerNorm, eps=found.pop("norm_eps"))
    if "mlp_layer" in found:
        found["mlp_layer"] = MLP_LAYERS[found["mlp_layer"]]
    return found
