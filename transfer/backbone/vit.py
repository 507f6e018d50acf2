"""SparcViT: a run folder's vision tower as the backbone of any mmdet or mmseg model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain import run_config, run_folder
from sparc_pretrain.blueprint import draw, misfit, shapes_of
from sparc_pretrain.registry import MODELS
from sparc_pretrain.towers.vision import VisionTower, resample_patch
from transfer.backbone.relative_positions import add_relative_positions, tell_grid


@MODELS.register_module()
class SparcViT(BaseModule):
    """The tower that pre-training trained, read as maps [B,Dv,H/patch,W/patch].

    Args:
        run: run folder (or its work dir); its weights are taken in `init_weights`, before any
            resume. None = random initialisation.
        vision: architecture, as in the run folder's ``config.json`` (or just ``dict(arch=...,
            img_size=...)``). None = read from `run`. With it, a fine-tuned checkpoint is tested
            without the run
            folder.
        out_indices: blocks whose maps are returned, from 0, negative ones from the end.
        frozen: True = the whole tower; a number n = embedding and the first n blocks.
        drop_path_rate: stochastic depth. with_cp: recompute the blocks in the backward pass.
        window, global_blocks: see `VisionTower.maps`; global_blocks None = the last of each
            quarter, as in ViTDet.
        relative_positions: ViTDet's decomposed relative positions in every attention, new and zero
            at first; the side in patches of the images that global blocks see in training (64 at
            1024 px). 0 = none. Attention then has a bias for each pair of patches in memory.
        patch: patch size for dense heads; another one is resampled to it (and said so). None =
            the run's own.

    Raises:
        ValueError: neither `run` nor `vision`, or weights that do not fit (the first keys are
            listed).
    """

    def __init__(
        self,
        run: str | None = None,
        vision: dict[str, Any] | None = None,
        out_indices: Sequence[int] = (-1,),
        frozen: bool | int = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        window: int = 0,
        global_blocks: Sequence[int] | None = None,
        patch: int | None = 16,
        relative_positions: int = 0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if init_cfg is not None:
            raise ValueError("SparcViT takes its weights from run=FOLDER, not from init_cfg")
        if vision is None:
            if run is None:
                raise ValueError(
                    "SparcViT needs run=FOLDER, or vision=dict(arch=...) to start from scratch"
                )
            opened = run_folder.open_run(run)
            vision = opened.config["vision"]
            draw(opened, "vision.", lambda: VisionTower.from_config(vision))
        vision = dict(vision)
        self.run, self.trained_patch = run, vision.get("patch")
        if patch is not None and self.trained_patch not in (None, patch):
            grid = vision["img_size"] // self.trained_patch
            vision.update(patch=patch, img_size=grid * patch)
            vision["overrides"] = {**vision.get("overrides", {}), "patch_size": patch}
            print_log(
                f"SparcViT: patches of {self.trained_patch} px are resampled to {patch} px",
                "current",
            )
        self.tower = VisionTower.from_config({"img_size": 224, **vision}, drop_path_rate)
        self.tower.grad_checkpointing = with_cp
        self.out_indices = tuple(out_indices)
        self.window = window
        if global_blocks is None:
            quarter = self.tower.depth / 4
            global_blocks = [math.ceil(quarter * i) - 1 for i in range(1, 5)]
        self.global_blocks = tuple(global_blocks)
        self.relative = bool(relative_positions)
        if relative_positions:
            add_relative_positions(self.tower, relative_positions, self.window, self.global_blocks)
        self.frozen = frozen
        for module in self._frozen_modules():
            module.requires_grad_(False)
        if frozen and self.tower.net.pos_embed is not None:
            self.tower.net.pos_embed.requires_grad_(False)
        self._freeze_what_maps_do_not_use(bool(frozen))

    @property
    def out_channels(self) -> int:
        """Dv, the channels of every map."""
        return self.tower.width

    @property
    def stride(self) -> int:
        """Pixels of the image per cell of the maps."""
        return self.tower.patch

    def init_weights(self) -> None:
        """Load ``vision.*`` of the run folder, every key; called by the Runner before it loads or
        resumes.
        """
        if self.run is None:
            return
        run = run_folder.open_run(self.run)
        run_config.check_vision(run.config, run.path)
        weights = resample_patch(
            run.weights("vision."), run.config["vision"]["patch"], self.tower.patch
        )
        own = self.tower.state_dict()
        wanted = {name: value for name, value in own.items() if ".attn.relative." not in name}
        wrong = misfit(shapes_of(wanted), shapes_of(weights))
        if wrong:
            raise ValueError(
                f"{run.path} does not fit the backbone {self.tower.arch}: {wrong}; "
                "remove `vision` from the config to build the run's own architecture"
            )
        self.tower.load_state_dict({**own, **weights})
        print_log(
            f"SparcViT: {len(weights)} tensors from {run.path} ({run.sha256[:12]})", "current"
        )

    def train(self, mode: bool = True) -> SparcViT:
        """Training mode; what is frozen stays in eval mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """image [B,3,H,W] float, normalised, any size -> one map [B,Dv,ceil(H/patch),ceil(W/patch)]
        per out index.

        H and W that the patch does not divide are padded with zeros at the bottom and right.
        """
        height, width = image.shape[-2:]
        down, right = -height % self.stride, -width % self.stride
        if down or right:
            image = F.pad(image, (0, right, 0, down))
        if self.relative:
            tell_grid(self.tower, tuple(side // self.stride for side in image.shape[-2:]))
        maps = self.tower.maps(image, self.out_indices, self.window, self.global_blocks)
        return tuple(m.contiguous() for m in maps)  # some heads take views of them

    def _freeze_what_maps_do_not_use(self, embedding: bool) -> None:
        """Converted towers: no map passes the pooling (DDP would wait for its gradients); class and
        register tokens belong to the embedding.
        """
        net = self.tower.net
        parts = [net.attn_pool, net.fc_norm]
        parts += [net.cls_token, net.reg_token, net.norm_pre] if embedding else []
        for part in parts:
            if part is not None:
                part.requires_grad_(False)

    def _frozen_modules(self) -> list:
        if self.frozen is True:
            return [self.tower]
        if not self.frozen:
            return []
        return [self.tower.net.patch_embed, *self.tower.net.blocks[: self.frozen]]
