"""Frozen transfer without running the backbone twice on the same pixels: its maps are computed once
and kept on disk in half precision.

    custom_hooks = [dict(type="sparc.CachedFeaturesHook")]   # see configs/camvid/linear_cached.py
                                    # and, for a captioner, configs/flickr8k/caption_cached.py

An entry is found by the backbone's weights and options and by the very pixels it is given (after
all transforms and the normalisation), so a stale one is never used: with another transform, run or
precision nothing is found, and the maps are computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.engine.random_state import restore, snapshot
from sparc_pretrain.registry import HOOKS
from transfer.backbone.vit import SparcViT

LOOKS, TIMES = 8, 3  # samples looked at, and how often each: a flip escapes with 4^-8
SPARE = 2  # times the images of the training set that may be new: some come twice in a batch


class FeatureCache:
    """Maps of a frozen backbone, one file per image: ``FOLDER/BACKBONE/XX/IMAGE.npy``, [L,Dv,h,w]
    float16 for the L maps.

    Args:
        backbone: wholly frozen. folder: shared by any number of runs and processes.

    Attributes: `found` and `computed`, images so far.

    Raises:
        ValueError: the backbone is trained, or not in eval mode at the first use.
    """

    def __init__(self, backbone: SparcViT, folder: str | Path) -> None:
        if backbone.frozen is not True:
            raise ValueError(
                "cached features need a backbone that stays as it is: set "
                "model.backbone.frozen=True, or leave CachedFeaturesHook out"
            )
        self.backbone, self.folder = backbone, Path(folder)
        self.compute: Callable[[Tensor], tuple[Tensor, ...]] = backbone.forward
        self.found = self.computed = 0
        self.places: dict[str, Path] = {}
        self.backbone_sha = identity(backbone)

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """`SparcViT.forward`, rounded to half precision also when it has just been computed: every
        epoch sees the same numbers.
        """
        precision = torch.get_autocast_dtype(image.device.type)
        on = torch.is_autocast_enabled(image.device.type)
        place = self._place(str(precision) if on else str(image.dtype))
        files = [place / name[:2] / f"{name[2:]}.npy" for name in map(pixels_sha, image)]
        stored = [_read(file) for file in files]
        new = [i for i, one in enumerate(stored) if one is None]
        self.found += len(files) - len(new)
        self.computed += len(new)
        if new:
            with torch.no_grad():
                maps = self.compute(image[new])
            # numpy stacks: torch's stack under bfloat16 autocast refuses float16
            stack = np.stack([one.half().cpu().numpy() for one in maps], axis=1)
            for i, one in zip(new, stack, strict=True):
                _write(files[i], one)
                stored[i] = one
        batch = torch.from_numpy(np.stack(stored)).to(image.device)
        return tuple(batch.to(precision if on else image.dtype).unbind(dim=1))

    def _place(self, precision: str) -> Path:
        if precision not in self.places:
            place = self.folder / f"{self.backbone_sha[:16]}-{precision.removeprefix('torch.')}"
            place.mkdir(parents=True, exist_ok=True)
            about = dict(backbone=self.backbone_sha, precision=precision, torch=torch.__version__)
            about |= dict(vision=self.backbone.tower.config(), run=self.backbone.run)
            (place / "about.json").write_text(json.dumps(about, indent=1, default=str))
            self.places[precision] = place
        return self.places[precision]


def identity(backbone: SparcViT) -> str:
    """sha256 of what the maps depend on beside the pixels: weights, architecture, blocks, windows.

    Raises:
        ValueError: dropout or stochastic depth would be at work.
    """
    if any(module.training for module in backbone.tower.modules()):
        raise ValueError("cached features: the backbone is in training mode")
    sha = hashlib.sha256()
    options = dict(
        vision=backbone.tower.config(),
        out_indices=backbone.out_indices,
        window=backbone.window,
        global_blocks=backbone.global_blocks if backbone.window else None,
    )
    sha.update(json.dumps(options, sort_keys=True, default=str).encode())
    for name, weight in sorted(backbone.tower.state_dict().items()):
        sha.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        sha.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def pixels_sha(image: Tensor) -> str:
    """Name of an image [3,H,W], by its pixels as the backbone gets them."""
    pixels = image.detach().cpu().contiguous().numpy()
    sha = hashlib.blake2b(f"{pixels.dtype} {pixels.shape}".encode(), digest_size=20)
    sha.update(memoryview(pixels).cast("B"))
    return sha.hexdigest()


def check_deterministic(dataset: Any) -> None:
    """Raises ValueError when a sample of `dataset` has other pixels each time it is asked for; the
    random generators are left as they were.
    """
    before = snapshot()
    try:
        step = max(len(dataset) // LOOKS, 1)
        for index in range(0, len(dataset), step):
            first, *others = (_pixels(dataset[index]) for _ in range(TIMES))
            if any(not torch.equal(first, other) for other in others):
                raise ValueError(
                    "cached features: the training pipeline is random (a sample differs each time "
                    "it is loaded): take the random transforms out of "
                    "train_dataloader.dataset.pipeline, or leave CachedFeaturesHook out"
                )
    finally:
        restore(before)


@HOOKS.register_module()
class CachedFeaturesHook(Hook):
    """Puts a `FeatureCache` before the model's SparcViT, in training, validation and test.

    The first epoch computes and stores, later ones (and later runs on the same backbone, pixels
    and `folder`) read. Images that mmdet pads to the largest of a batch are other pixels in another
    company: pad to a fixed size there.

    Args:
        folder: of the cache; it may be deleted at any time.

    Raises:
        ValueError: at the start of training: no SparcViT, or one that is trained; a random
            pipeline; later: images that keep being new.
    """

    priority = "VERY_LOW"  # after EMAHook has copied the model and weights have been loaded

    def __init__(self, folder: str = "work_dirs/features") -> None:
        self.folder = folder
        self.cache: FeatureCache | None = None
        self.images = self.new = self.seen = 0  # of training alone
        self.frames = 1  # images that an item brings: crops, examples before it

    def before_train(self, runner: Runner) -> None:
        """Check the data and the backbone, and take the backbone's place."""
        dataset = runner.train_dataloader.dataset
        self._attach(runner)
        check_deterministic(dataset)
        self.images = len(dataset)

    def before_val(self, runner: Runner) -> None:
        """The same, when there was no training."""
        self._attach(runner)

    before_test = before_val

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Count from here."""
        self._before = self.cache.computed, self.cache.found

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop when nothing is ever found, which would fill the disk for no gain."""
        computed, found = self._before
        new, seen = self.cache.computed - computed, self.cache.found - found
        self.new, self.seen = self.new + new, self.seen + seen
        self.frames = max(self.frames, (new + seen) // len(data_batch["inputs"]))
        if self.new > SPARE * self.images * self.frames and self.seen < self.new:
            raise ValueError(
                f"cached features: {self.new} images computed, {self.seen} found in a data set of "
                f"{self.images}: a transform is random, or images are padded to the largest of "
                "their batch; make the pipeline deterministic and sizes fixed"
            )

    def after_train(self, runner: Runner) -> None:
        """Say what it was good for."""
        cache = self.cache
        runner.logger.info(
            f"cached features: {cache.computed} images computed, {cache.found} read, {self.folder}"
        )

    def _attach(self, runner: Runner) -> None:
        if self.cache is not None:
            return
        found = [m for m in runner.model.modules() if isinstance(m, SparcViT)]
        if len(found) != 1:
            raise ValueError(
                f"cached features are for a model with one SparcViT; this has {len(found)}"
            )
        backbone = found[0]
        backbone.train(backbone.training)  # its own train() keeps a frozen tower in eval mode
        self.cache = FeatureCache(backbone, self.folder)
        backbone.forward = self.cache


def _pixels(sample: Any) -> Tensor:
    """The image of a data set's item."""
    return sample["inputs"]


def _read(file: Path) -> np.ndarray | None:
    """An entry; None when there is none, or a process was killed while it wrote it."""
    try:
        return np.load(file, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None


def _write(file: Path, maps: np.ndarray) -> None:
    """Whole or absent for other processes; not flushed to the disk one by one, for it can be
    computed again.
    """
    file.parent.mkdir(exist_ok=True)
    atomic_write(file, lambda stream: np.save(stream, maps, allow_pickle=False), durable=False)
