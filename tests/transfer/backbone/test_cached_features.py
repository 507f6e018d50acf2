"""Features read from the disk are those that would be computed, for these pixels and this backbone
and for no others; and reading is worth it.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from transfer.backbone import SparcViT, cached_features
from transfer.backbone.cached_features import CachedFeaturesHook, FeatureCache, check_deterministic

VISION = dict(
    arch="vit_tiny_patch16_224", img_size=32, overrides=dict(embed_dim=24, depth=4, num_heads=2)
)
# a tower that outweighs whatever else an epoch does
HEAVY = dict(arch="vit_tiny_patch16_224", img_size=192)


def frozen(seed: int = 0, **options: Any) -> SparcViT:
    torch.manual_seed(seed)
    return SparcViT(**{"vision": VISION, "frozen": True, **options}).train()


def images(seed: int = 1, count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def stored(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npy"))


def test_what_is_read_is_what_was_computed_to_half_precision(tmp_path: Path) -> None:
    backbone = frozen(out_indices=(1, 3))
    wanted = backbone(images())
    cache = FeatureCache(backbone, tmp_path)
    computed, read = cache(images()), cache(images())
    assert (cache.computed, cache.found) == (3, 3)
    for want, first, second in zip(wanted, computed, read, strict=True):
        assert torch.equal(first, second) and first.dtype == want.dtype
        torch.testing.assert_close(first, want, rtol=1e-3, atol=1e-3)
        assert torch.equal(first, want.half().float())


def test_images_of_one_batch_are_found_in_another_order_and_company(tmp_path: Path) -> None:
    cache = FeatureCache(frozen(), tmp_path)
    (first,) = cache(images())
    (mixed,) = cache(torch.cat([images(seed=2), images().flip(0)]))
    assert (cache.computed, cache.found) == (6, 3)
    assert torch.equal(mixed[3:], first.flip(0))


def test_another_process_finds_what_this_one_stored(tmp_path: Path) -> None:
    FeatureCache(frozen(), tmp_path)(images())
    cache = FeatureCache(frozen(), tmp_path)
    cache(images())
    assert (cache.computed, cache.found) == (0, 3)


@pytest.mark.parametrize(
    "change", [dict(seed=1), dict(out_indices=(1,)), dict(window=1), dict(global_blocks=(0,))]
)
def test_another_backbone_or_way_to_read_it_finds_nothing(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    FeatureCache(frozen(window=2 if "global_blocks" in change else 0), tmp_path)(images())
    if "global_blocks" in change:
        change = {**change, "window": 2}
    cache = FeatureCache(frozen(**change), tmp_path)
    cache(images())
    assert (cache.computed, cache.found) == (3, 0)


def test_one_pixel_or_another_precision_finds_nothing(tmp_path: Path) -> None:
    cache = FeatureCache(frozen(), tmp_path)
    cache(images())
    other = images()
    other[0, 0, 0, 0] += 1e-3
    cache(other)
    assert (cache.computed, cache.found) == (4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        (half,) = cache(images())
    assert (cache.computed, cache.found) == (7, 2)
    assert half.dtype == torch.bfloat16


def test_an_entry_that_was_cut_off_is_computed_again(tmp_path: Path) -> None:
    cache = FeatureCache(frozen(), tmp_path)
    (wanted,) = cache(images())
    first, second, _ = stored(tmp_path)
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(b"")
    (again,) = cache(images())
    assert cache.computed == 5 and torch.equal(again, wanted)
    assert len(stored(tmp_path)) == 3 and not list(tmp_path.rglob("*.partial"))


def test_two_processes_of_one_number_store_the_same_image_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two containers with one cache: the other stores while this one writes."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    save, backbone = np.save, frozen()

    def slowly(stream: Any, maps: Any, **options: Any) -> None:
        monkeypatch.setattr(np, "save", save)
        FeatureCache(backbone, tmp_path)(images())
        save(stream, maps, **options)

    cache = FeatureCache(backbone, tmp_path)
    monkeypatch.setattr(np, "save", slowly)
    (wanted,) = cache(images())
    (again,) = cache(images())
    assert (cache.computed, cache.found) == (3, 3) and torch.equal(again, wanted)
    assert len(stored(tmp_path)) == 3 and not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("trained", [False, 2])
def test_a_backbone_that_is_trained_is_refused(tmp_path: Path, trained: bool | int) -> None:
    with pytest.raises(ValueError, match=r"model\.backbone\.frozen=True"):
        FeatureCache(frozen(frozen=trained), tmp_path)


def test_a_backbone_in_training_mode_is_refused(tmp_path: Path) -> None:
    backbone = frozen()
    backbone.tower.train()
    with pytest.raises(ValueError, match="training mode"):
        FeatureCache(backbone, tmp_path)


# ------------------------------------------------------------------ in a run


class Photos(Dataset):
    """Noise images of a size, and what to predict; `flip` is a transform that may be random."""

    def __init__(self, size: int = 32, count: int = 12, flip: float = 0.0) -> None:
        self.size, self.count, self.flip = size, count, flip

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, self.size, self.size, generator=generator)
        if self.flip and torch.rand(()) < self.flip:
            image = image.flip(-1)
        return {"inputs": image, "target": float(index % 3)}


class Probe(BaseModel):
    """A backbone and a linear layer."""

    def __init__(self, **backbone: Any) -> None:
        super().__init__()
        self.backbone = SparcViT(**backbone)
        self.head = nn.Linear(self.backbone.out_channels, 1)

    def forward(self, inputs: Tensor, target: Tensor, mode: str = "loss") -> dict[str, Tensor]:
        states = self.backbone(inputs)[-1].mean(dim=(2, 3))
        return {"loss": (self.head(states)[:, 0] - target.float()).square().mean()}


class Notes(Hook):
    """Losses, and the processor time of each epoch (time on the clock would measure other jobs)."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def before_train_epoch(self, runner: Runner) -> None:
        self.started = time.process_time()

    def after_train_epoch(self, runner: Runner) -> None:
        self.seconds.append(time.process_time() - self.started)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.losses.append(outputs["loss"].item())


def train(work: Path, dataset: Photos, cache: Path | None, epochs: int = 3, **vision: Any) -> Notes:
    torch.manual_seed(0)
    notes = Notes()
    hooks = [notes] if cache is None else [notes, CachedFeaturesHook(str(cache))]
    runner = Runner(
        model=Probe(**{"vision": VISION, "frozen": True, **vision}),
        work_dir=str(work),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=dataset,
            collate_fn=dict(type="default_collate"),
            sampler=dict(type="DefaultSampler", shuffle=True, seed=0),
        ),
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.05)),
        custom_hooks=hooks,
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=100)),
        randomness=dict(seed=0),
        log_level="WARNING",
        experiment_name=uuid.uuid4().hex,
    )
    runner.train()
    return notes


def test_training_on_cached_features_is_training_to_half_precision(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", Photos(), None)
    cached = train(tmp_path / "cached", Photos(), tmp_path / "features")
    assert len(plain.losses) == 9 and plain.losses[0] != plain.losses[-1]
    assert cached.losses == pytest.approx(plain.losses, rel=1e-2)
    again = train(tmp_path / "again", Photos(), tmp_path / "features")
    assert again.losses == cached.losses


def test_from_the_second_epoch_on_an_epoch_takes_less_than_a_quarter(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = train(tmp_path / "a", Photos(192), None, vision=HEAVY)
        cached = train(tmp_path / "b", Photos(192), tmp_path / "features", vision=HEAVY)
    finally:
        torch.set_num_threads(before)
    assert 4 * min(cached.seconds[1:]) < min(plain.seconds[1:]), (cached.seconds, plain.seconds)


def test_a_random_pipeline_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the training pipeline is random"):
        train(tmp_path / "run", Photos(flip=0.5), tmp_path / "features")
    assert not stored(tmp_path)


def test_looking_for_randomness_moves_no_generator() -> None:
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="random"):
        check_deterministic(Photos(flip=0.5))
    check_deterministic(Photos())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rare_random_transform_is_noticed_when_images_keep_being_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_features, "check_deterministic", lambda dataset: None)
    photos = Photos()
    monkeypatch.setattr(
        Photos, "__getitem__", lambda self, i: {"inputs": torch.randn(3, 32, 32), "target": 0.0}
    )
    with pytest.raises(ValueError, match=r"\d+ images computed, 0 found in a data set of 12"):
        train(tmp_path / "run", photos, tmp_path / "features", epochs=4)


def test_items_of_many_crops_are_no_sign_of_a_random_transform(tmp_path: Path) -> None:
    hook, items = CachedFeaturesHook(str(tmp_path)), 4
    hook.cache, hook.images = FeatureCache(frozen(), tmp_path), 2 * items
    for start in range(0, 2 * items, items):  # the first epoch: 17 new images of each item
        batch = {"inputs": range(start, start + items)}
        hook.before_train_iter(None, 0, batch)
        for crop in range(17):
            hook.cache(images(seed=17 * start + crop, count=items))
        hook.after_train_iter(None, 0, batch)
    assert (hook.new, hook.seen) == (17 * 2 * items, 0)


def test_a_model_without_a_sparcvit_is_refused(tmp_path: Path) -> None:
    hook = CachedFeaturesHook(str(tmp_path))
    runner = type("R", (), {"model": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="this has 0"):
        hook.before_val(runner)
