"""VisionTower: pixels -> patch states. A timm ViT, read as patches [B,P,Dv] or as maps [B,Dv,h,w]
at chosen depths.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed, resample_patch_embed
from timm.models import is_model, list_models, model_entrypoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sparc_pretrain.towers.overrides import MOST, TRAINING, timm_arguments
from sparc_pretrain.towers.positions import start_positions
from sparc_pretrain.towers.rotary import check_rotary, is_rotary, of_windows, rotary_arguments
from sparc_pretrain.towers.windows import windowed

# Above this many patches the fused kernel is used on a CPU as well: the plain one needs P*P memory
# per head.
PLAIN_ATTENTION_PATCHES = 1024
# Modules of timm whose models are plain Vision Transformers: blocks over patch tokens, with learned
# absolute positions or rotary ones (`towers.rotary`). BEiT and hierarchical ones are not.
PLAIN_VIT = tuple(
    f"timm.models.{name}"
    for name in ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")
)
POOLS = {"token": "cls"}  # timm's name -> the run folder's, where they differ
DESCRIBED = (  # the keys of `VisionTower.config`
    "arch",
    "width",
    "patch",
    "img_size",
    "class_token",
    "reg_tokens",
    "pool",
    "pre_norm",
    "act",
    "overrides",
)


class VisionTower(nn.Module):
    """A timm Vision Transformer; by default without class token and average pooled, as SPARC trains
    it (App. D.3).

    Converted backbones keep their class and register tokens (the prefix), norms and pooling, all of
    them given by `overrides`.

    Args:
        arch: a timm ViT name, e.g. ``vit_base_patch16_224``.
        img_size: side in pixels of the training image; any size that the patch divides works at
            run time, the position embeddings are then resampled (timm's bicubic, antialiased).
        drop_path_rate: stochastic depth. patch_drop_rate: share of the patches that a training
            step leaves out (FLIP, arXiv 2212.00794). pos_embed_init: where learned position
            embeddings start, 'normal' (deviation .02, timm's) or 'sincos' (`towers.positions`).
            These are of training: no config of a run folder says them.
        overrides: further arguments of timm's VisionTransformer, those that `towers.overrides`
            allows, e.g. ``dict(depth=6, patch_size=8)``; ``norm_eps`` (epsilon of the layer norms)
            and ``mlp_layer`` ('swiglu_packed') stand for arguments that are classes.

    Raises:
        ValueError: `arch` is not a Vision Transformer that timm knows, an override that is not
            allowed, or patches that do not divide `img_size`.
    """

    def __init__(
        self,
        arch: str = "vit_base_patch16_224",
        img_size: int = 224,
        drop_path_rate: float = 0.0,
        overrides: dict[str, Any] | None = None,
        patch_drop_rate: float = 0.0,
        pos_embed_init: str = "normal",
    ) -> None:
        super().__init__()
        check_arch(arch)
        if type(img_size) is not int or not 1 <= img_size <= MOST:
            raise ValueError(f"img_size={img_size!r} is no number of pixels")
        self.arch = arch
        self.img_size = int(img_size)
        self.overrides = dict(overrides or {})
        rotary = is_rotary(arch)
        options = (rotary_arguments if rotary else timm_arguments)(self.overrides)
        self.net = timm.create_model(
            arch,
            pretrained=False,
            num_classes=0,
            img_size=self.img_size,
            drop_path_rate=drop_path_rate,
            patch_drop_rate=patch_drop_rate,
            dynamic_img_size=True,
            **options,
        )
        if rotary:
            check_rotary(self.net, arch)
        start_positions(self.net, pos_embed_init)
        if self.img_size % self.patch:
            raise ValueError(
                f"images of {self.img_size} px do not divide into patches of {self.patch}"
            )
        self.grad_checkpointing: bool | int = False  # or: of how many blocks, the first ones

    @property
    def width(self) -> int:
        """Dv, the number of channels of a patch state."""
        return self.net.embed_dim

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(self.net.blocks)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels, the stride of the maps."""
        return self.net.patch_embed.patch_size[0]

    @property
    def prefix(self) -> int:
        """Number of class and register tokens, which come before the patches."""
        return self.net.num_prefix_tokens

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are no matrices, though they have several dimensions:
        position embeddings, class and register tokens and the query of an attention pool (timm's
        convention, whose own list lacks the last; see `engine.optim`).
        """
        tokens = ("pos_embed", "cls_token", "reg_token", "dist_token", "latent")
        return {name for name, _ in self.named_parameters() if name.endswith(tokens)}

    def config(self) -> dict[str, Any]:
        """What a run folder needs to build this tower again (see run_folder)."""
        return {
            "arch": self.arch,
            "width": self.width,
            "patch": self.patch,
            "img_size": self.img_size,
            "class_token": self.net.cls_token is not None,
            "reg_tokens": self.prefix - (self.net.cls_token is not None),
            "pool": POOLS.get(self.net.global_pool, self.net.global_pool),
            "pre_norm": not isinstance(self.net.norm_pre, nn.Identity),
            "act": type(self.net.blocks[0].mlp.act).__name__,
            "overrides": self.overrides,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], drop_path_rate: float = 0.0) -> VisionTower:
        """Build the tower that `config()` described.

        Raises:
            ValueError: no description of a tower, or the tower that was built is not the one
                described (another timm version, an edited file).
        """
        unknown = [key for key in config if key not in DESCRIBED]
        missing = [key for key in ("arch", "img_size") if key not in config]
        if unknown or missing:
            raise ValueError(f"vision: unknown keys {unknown[:3]}, missing keys {missing}")
        overrides = config.get("overrides") or {}
        if not isinstance(overrides, dict):
            raise ValueError(f"vision.overrides={overrides!r} is no object")
        # folders of before say there what their training dropped
        overrides = {key: value for key, value in overrides.items() if key not in TRAINING}
        config = {**config, "overrides": overrides}
        tower = cls(config["arch"], config["img_size"], drop_path_rate, overrides)
        built = tower.config()
        wrong = {k: (config[k], built[k]) for k in built if k in config and config[k] != built[k]}
        if wrong:
            raise ValueError(
                f"this timm builds another {config['arch']}: (wanted, built) = {wrong}"
            )
        return tower

    def forward(self, image: Tensor, prefix: bool = False) -> Tensor:
        """image [B,3,H,W] float, normalised -> patch states [B,P,Dv] after the final norm, P = H*W
        / patch^2, or the share of them that `patch_drop_rate` leaves in training.

        `prefix` keeps the class and register tokens before the patches: [B,N+P,Dv], which is what
        `pool` reads.
        """
        x, _, rope = self._embed(image)
        if rope is None:  # with angles, timm drops patches where it knows theirs
            x = self.net.patch_drop(x) if self.net.patch_drop is not None else x
        x = self.net.norm_pre(x)
        for number, block in enumerate(self.net.blocks):
            x = self._run(block, x, rope, number)
        x = self.net.norm(x)
        return x if prefix else x[:, self.prefix :]

    def pool(self, states: Tensor) -> Tensor:
        """All token states [B,N+P,Dv], the prefix first -> image state [B,Dv]: the mean over
        patches, the class token, or the attention pool.
        """
        return self.net.forward_head(states, pre_logits=True)

    def maps(
        self,
        image: Tensor,
        indices: Sequence[int],
        window: int = 0,
        global_blocks: Sequence[int] = (),
    ) -> list[Tensor]:
        """Feature maps [B,Dv,h,w] after the blocks `indices`, all through the tower's final norm.

        Args:
            image: [B,3,H,W] float, normalised; H and W multiples of the patch.
            indices: block numbers, ascending from 0; negative ones count from the end.
            window: side in patches of attention windows (ViTDet, arXiv 2203.16527, sec. 3); 0 =
                attention over the whole image. Class and register tokens take part in every
                window and leave it as the mean over windows.
            global_blocks: with windows, the blocks that still attend to the whole image.

        Raises:
            ValueError: an index out of range.
        """
        wanted = [i % self.depth if -self.depth <= i < self.depth else None for i in indices]
        if None in wanted:
            raise ValueError(f"out_indices {list(indices)}: the tower has {self.depth} blocks")
        x, (h, w), rope = self._embed(image)
        x = self.net.norm_pre(x)  # every patch has its place in a map: none is dropped
        maps: dict[int, Tensor] = {}
        for i, block in enumerate(self.net.blocks[: max(wanted) + 1]):
            if window and i not in global_blocks:
                turned = of_windows(rope, h, w, window)
                cut = lambda y, r=None, b=block: windowed(b, y, h, w, window, r)  # noqa: E731
                x = self._run(cut, x, turned, i)
            else:
                x = self._run(block, x, rope, i)
            if i in wanted:
                patches = self.net.norm(x)[:, self.prefix :]
                maps[i] = patches.transpose(1, 2).unflatten(2, (h, w))  # fails if one is missing
        return [maps[i] for i in wanted]

    def _embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int], Tensor | None]:
        """Embedded patches behind the prefix [B,N+h*w,Dv], (h, w), and the angles of rotary
        positions [h*w,C].
        """
        x = self._patches(image)
        h, w = x.shape[1:3]
        # CPU flash attention's backward is a third of a bf16 step; plain attention is 1.25-1.3x
        # faster there.
        fused = image.is_cuda or h * w > PLAIN_ATTENTION_PATCHES
        for block in self.net.blocks:
            block.attn.fused_attn = fused
        found = self.net._pos_embed(x)
        states, rope = found if isinstance(found, tuple) else (found, None)
        return states, (h, w), rope

    def _patches(self, image: Tensor) -> Tensor:
        """image [B,3,H,W] -> embedded patches [B,h,w,Dv]: timm's convolution, whose windows do not
        overlap, as the matrix product that it is. Stems of several layers stay timm's.
        """
        embed, size = self.net.patch_embed, self.patch
        b, c, height, width = image.shape
        if type(embed) is not PatchEmbed or height % size or width % size:  # timm tells of the rest
            return embed(image)  # it keeps the grid when sizes are dynamic
        x = image.reshape(b, c, height // size, size, width // size, size)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return embed.norm(F.linear(x, embed.proj.weight.flatten(1), embed.proj.bias))

    def _run(self, block: Any, x: Tensor, rope: Tensor | None, number: int) -> Tensor:
        given = (x,) if rope is None else (x, rope)
        again = self.depth if self.grad_checkpointing is True else self.grad_checkpointing
        if number < again and self.training and torch.is_grad_enabled():
            return checkpoint(block, *given, use_reentrant=False)
        return block(*given)


def check_arch(arch: str) -> None:
    """Raises ValueError, with near names, when `arch` is no plain Vision Transformer of timm."""
    if not isinstance(arch, str):
        raise ValueError(f"arch={arch!r} is no name")
    if is_model(arch):
        module = model_entrypoint(arch).__module__
        if module in PLAIN_VIT:
            return
        why = f"{arch!r} ({module}) is not a plain Vision Transformer"
    else:
        why = f"timm has no Vision Transformer {arch!r}"
    known = [n for m in PLAIN_VIT for n in list_models(module=m.rpartition(".")[2])]
    near = difflib.get_close_matches(arch, known, n=4, cutoff=0.4)
    raise ValueError(f"{why}; near names: {near}")


def resample_patch(weights: dict[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """A tower's weights with its patch embedding resampled from `old` to `new` pixels a side
    (timm's pseudo-inverse resize, FlexiViT, arXiv 2212.08013); position embeddings are resampled
    at run time.
    """
    if old == new:
        return weights
    name = "net.patch_embed.proj.weight"
    return {**weights, name: resample_patch_embed(weights[name], [new, new])}
