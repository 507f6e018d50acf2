"""Micro-batches joined into the batch that they are of, and brought to a GPU while it computes."""

from __future__ import annotations

import io
import itertools
import weakref
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor

from sparc_pretrain.data.collate import collate, join
from sparc_pretrain.data.dataset import PairDataset
from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.engine import mmengine_patches
from sparc_pretrain.pretraining import delivery, pretrainer
from sparc_pretrain.pretraining.delivery import Delivery
from sparc_pretrain.pretraining.recipe import complete
from sparc_pretrain.types import Batch, Rows
from tests.data.test_fields import CAR, STAR, TEXTLESS, TOKENIZER
from tests.models import batch as random_batch
from tests.pretraining.test_pretrainer import Recorder
from tests.pretraining.test_pretrainer import pretrainer as pretrainer_of
from tests.pretraining.test_recipe import config, scalars
from tests.pretraining.test_recipe import config_text_as_it_is as config_text_as_it_is
from tests.pretraining.test_recipe import shards as shards  # the fixture
from tests.remote_client import alone
from tools.measure.range_server import serving

CAPTIONS = ["star", "a red star the blue car", "a house", "two things", "a red star a house", "car"]


def leaves(value: object) -> object:
    """Every tensor with its bytes and type, every list, of a batch and what is in it."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.tolist()
    if isinstance(value, Rows):
        return {f.name: leaves(getattr(value, f.name)) for f in fields(value)}
    return value


def boxed(folder: Path, **options) -> PairDataset:
    """Twelve samples with captions, boxes, tags of uneven number."""
    file = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(file, "JPEG")
    elems = [[STAR, CAR, TEXTLESS], [STAR], [CAR], [STAR, CAR]]
    tags = ["car", "a red star", "house"]
    members = [
        dict(
            captions=[CAPTIONS[n] if n < 6 else "car"],
            elems=elems[n % 4],
            tags=tags if n == 3 else tags[:1],
        )
        for n in range(12)
    ]
    pairs = [(f"{n:03d}", file.getvalue(), "jpg", member) for n, member in enumerate(members)]
    shard = write_shards(pairs, folder)[0]
    wanted = dict(
        concepts=2, tags=12, crop="none", regions=2, saliency=True, labels=["car", "star", "house"]
    )
    return PairDataset(shard, TOKENIZER, image_size=16, max_tokens=12, fields=wanted, **options)


@pytest.mark.parametrize("parts", [1, 2, 4, 6])
def test_joined_micro_batches_are_the_batch_in_every_bit(tmp_path, parts):
    samples = boxed(tmp_path).__getitems__(range(12))
    size = 12 // parts
    made = [collate(samples[n * size : (n + 1) * size]) for n in range(parts)]
    whole = collate(samples)
    assert len({part.ids.shape[1] for part in made}) > 1 or parts == 1  # there is what to pad
    assert len({part.tags.ids.shape for part in made}) > 1 or parts == 1
    assert leaves(join(iter(made), parts)) == leaves(whole)
    assert whole.length == whole.mask.sum(dim=1).tolist() and whole.pad_id == TOKENIZER.pad_id
    assert join(iter(made[1:]), parts) is None


def test_padding_is_the_tokenizers_own(tmp_path):
    samples = boxed(tmp_path).__getitems__(range(12))
    for sample in samples:
        for place in (sample, sample["concepts"], sample["tags"]):
            place["pad_id"] = 7
    made = [collate(samples[:6]), collate(samples[6:])]
    assert leaves(join(iter(made), 2)) == leaves(collate(samples))


def test_an_image_is_let_go_when_it_has_been_copied():
    """What a loader's worker made lies in /dev/shm for as long as somebody holds it."""
    alive: set[int] = set()

    def micro_batches():
        for n in range(4):
            made = random_batch(2, seed=n)
            alive.add(n)
            weakref.finalize(made.image, alive.discard, n)
            yield made
            del made
            assert not alive

    joined = join(micro_batches(), 4)
    assert torch.equal(joined.image, torch.cat([random_batch(2, seed=n).image for n in range(4)]))


def train(shards: Path, name: str, workers: int, **loop) -> list[dict]:
    mmengine_patches.install()
    cfg = config(shards, work_dir=str(shards.parent / name), experiment_name=name)
    cfg.data.workers = workers
    complete(cfg, accumulate=4)
    cfg.train_cfg = dict(cfg.train_cfg, **loop)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.train_dataloader.batch_size == 8
    if not loop:
        assert runner.train_dataloader.loader.batch_size == 2
    names = ("step", "loss", "global_loss", "local_loss", "grad_norm")
    return [{k: row[k] for k in names if k in row} for row in scalars(cfg.work_dir)]


def test_a_run_on_micro_batches_is_the_run_on_whole_ones(shards):
    whole = train(shards, "whole", 0, parts=1)
    assert train(shards, "parts", 1) == whole
    assert len(whole) == 4 and len({row["loss"] for row in whole}) == 4


def test_a_resumed_run_begins_at_its_batch(shards):
    loops = []
    for _ in range(2):
        cfg = config(shards, experiment_name=f"r{len(loops)}")
        mmengine_patches.install()
        complete(cfg, accumulate=2)
        runner = Runner.from_cfg(cfg)
        loops.append(runner.build_train_loop(runner._train_loop))
    keys = [next(loops[0].dataloader_iterator).key for _ in range(4)]
    loops[1].dataloader_iterator.skip_iter(3)
    assert next(loops[1].dataloader_iterator).key == keys[3] and len(keys[3]) == 8
    assert len(loops[0].dataloader) == 3 and loops[0].dataloader.dataset is not None


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 8 cannot be split into 3"):
        delivery.PretrainLoop(None, dict(batch_size=8), 4, parts=3)


class Streams:
    """Stands for torch.cuda: writes down what is asked of it, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.log = "main", []
        self.recorded: list[tuple[int, str]] = []
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(name="side"))
        monkeypatch.setattr(torch.cuda, "stream", self.using)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(
            Tensor, "record_stream", lambda x, s: self.recorded.append((x.data_ptr(), s.now))
        )
        monkeypatch.setattr(Batch, "to", lambda batch, *to, **how: self.copy(batch, *to, **how))

    @contextmanager
    def using(self, stream):
        self.now = stream.name
        yield
        self.now = "main"

    def wait_stream(self, stream) -> None:
        self.log.append(f"main waits for {stream.name}")

    def copy(self, batch: Batch, device, non_blocking: bool = False) -> Batch:
        assert device.type == "cuda" and non_blocking
        self.log.append(f"copy {batch.key[0]} on {self.now}")
        return batch


def test_on_a_gpu_the_next_batch_is_copied_on_its_own_stream_before_a_step(monkeypatch):
    streams = Streams(monkeypatch)
    parts = [Batch(*[torch.zeros(2, 3)] * 4, key=[f"{n}"] * 2, length=[3, 3]) for n in range(6)]
    loader = Delivery(parts, 2, torch.device("cuda"))
    for step, batch in enumerate(loader):
        streams.log.append(f"step {step}")
        assert {(x.data_ptr(), "main") for x in tensors(batch)} <= set(streams.recorded)
        assert batch.key == [f"{2 * step + n // 2}" for n in range(4)]
    copies = [[f"copy {2 * n} on side", f"copy {2 * n + 1} on side"] for n in range(3)]
    waits = "main waits for side"
    assert streams.log == [
        *copies[0], waits, *copies[1], "step 0", waits, *copies[2], "step 1", waits, "step 2",
    ]  # fmt: skip


def test_on_a_cpu_nothing_is_fetched_before_it_is_asked_for():
    asked = []
    parts = (asked.append(n) or random_batch(2, seed=n) for n in itertools.count())
    batches = iter(Delivery(parts, 2, torch.device("cpu")))
    next(batches)
    assert asked == [0, 1]


def test_lengths_that_are_known_are_not_counted_on_the_device(monkeypatch):
    model = pretrainer_of(dict(type="Clip"), accumulate=2).train()
    known = random_batch(8)
    known.length = known.mask.sum(dim=1).tolist()
    monkeypatch.setattr(pretrainer, "caption_lengths", None)
    recorder = Recorder(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert model.train_step(known, recorder)["loss"] > 0


def tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    batch.changed(lambda x: found.append(x) or x)
    return found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_are_the_same_on_a_gpu():
    parts = [random_batch(2, seed=n).pin_memory() for n in range(8)]
    whole = [join(iter(parts[2 * n : 2 * n + 2]), 2) for n in range(4)]
    loader = Delivery(parts, 2, torch.device("cuda"))
    for wanted, found in zip(whole, loader, strict=True):
        assert found.image.is_cuda and leaves(found.to("cpu")) == leaves(wanted)


def test_workers_that_read_remote_shards_are_not_forked(shards, tmp_path, monkeypatch):
    alone(monkeypatch, tmp_path / "cache")
    cfg = config(shards)
    cfg.data.workers = 1
    loader = complete(cfg).train_dataloader
    assert "multiprocessing_context" not in loader and "ahead" not in loader.sampler
    with serving(tmp_path) as server:
        cfg = config(shards, work_dir=str(tmp_path / "far"))
        cfg.data.update(workers=3, sources=f"{server.address}/shards/train-{{000000..000001}}.tar")
        cfg.data.held_out = dict(sources=str(shards), interval=2, pairs=8)
        complete(cfg, accumulate=2)
    assert cfg.train_dataloader.sampler.ahead == 3 * cfg.data.global_batch // 2
    assert cfg.train_dataloader.multiprocessing_context == "forkserver"
    assert cfg.val_dataloader.multiprocessing_context == "forkserver"
