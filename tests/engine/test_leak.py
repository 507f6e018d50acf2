"""A long run keeps its memory and its files (reliability goal R11: 2,000 steps)."""

from __future__ import annotations

import gc
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain.data import shards as shards_module
from sparc_pretrain.data.dataset import PairDataset, collate
from sparc_pretrain.data.sampler import PairSampler
from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.data.tokenizer import Tokenizer

STEPS = 2000
GROWTH = 1.01


def usage() -> tuple[int, int]:
    """(resident bytes, open files) of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


@HOOKS.register_module(force=True)
class UsageHook(Hook):
    """Looks at the process a quarter of the way through, and at the end."""

    found: list[tuple[int, int]]

    def before_train(self, runner):
        type(self).found = []

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 in (STEPS // 4, STEPS):
            self.found.append(usage())


def test_two_thousand_steps_of_a_run_keep_memory_and_files(tmp_path: Path) -> None:
    toy_run.train(
        tmp_path, steps=STEPS, checkpoint=dict(interval=100), hooks=[dict(type="UsageHook")]
    )
    (early, files), (late, files_late) = UsageHook.found
    assert late < GROWTH * early and files_late == files


@pytest.fixture
def data(tmp_path: Path) -> PairDataset:
    """24 tars, of which 4 may be open."""

    def picture(number: int) -> bytes:
        file = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    pairs = ((f"{i:04d}", picture(i), "png", [f"picture {i}"]) for i in range(96))
    write_shards(pairs, tmp_path / "shards", shard_size=4)
    words = Tokenizer.train(["a picture of a dog"], 300)
    return PairDataset(tmp_path / "shards", words, image_size=16)


def test_two_thousand_batches_keep_memory_and_few_files(
    data: PairDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "OPEN_SHARDS", 4)
    before = len(os.listdir("/proc/self/fd"))
    order = iter(PairSampler(data, global_batch=4, shards_per_block=8))
    found = []
    for step in range(1, STEPS + 1):
        collate([data[next(order)] for _ in range(4)])
        if step in (STEPS // 4, STEPS):
            found.append(usage())
    assert found[1][0] < GROWTH * found[0][0]
    assert all(files - before <= 8 for _, files in found)  # each tar's handle and map
