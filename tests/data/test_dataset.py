"""Pairs: reproducible for any number of workers; bad samples replaced, counted, listed, limited."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from PIL import Image
from torch.utils.data import DataLoader

from sparc_pretrain.data.dataset import DataHealth, PairDataset, TooManyBadSamples, collate
from sparc_pretrain.data.sampler import PairSampler
from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.types import BadSample, Batch


def picture(seed: int, width: int = 48, height: int = 40, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([f"a picture of {n} red dogs" for n in range(20)], 300)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    texts = [
        [f"number {i}", *(f"caption {k} of {i} dogs" for k in range(i % 3))] for i in range(50)
    ]
    pairs = ((f"{i:04d}", picture(i), "jpg", texts[i]) for i in range(50))
    write_shards(pairs, folder, shard_size=12)
    return folder


def dataset(shards, tokenizer, **options) -> PairDataset:
    return PairDataset(shards, tokenizer, **{"image_size": 32, "scale": (0.4, 1.0), **options})


def equal(one: Batch, two: Batch) -> bool:
    tensors = all(
        torch.equal(getattr(one, name), getattr(two, name))
        for name in ("image", "ids", "mask", "special")
    )
    rest = ("key", "caption", "skipped")
    return tensors and all(getattr(one, name) == getattr(two, name) for name in rest)


def test_a_sample_has_all_its_parts(shards, tokenizer):
    sample = dataset(shards, tokenizer)[(13, 0)]
    assert sample["image"].shape == (3, 32, 32) and sample["image"].dtype == torch.uint8
    assert sample["key"] == "shard-000001:0013" and sample["skipped"] == []
    assert sample["ids"] == tokenizer.encode(sample["caption"]).ids
    assert len(dataset(shards, tokenizer)) == 50


def test_a_batch_is_padded_to_its_longest_caption(shards, tokenizer):
    data = dataset(shards, tokenizer)
    batch = collate([data[i] for i in range(8)])
    assert batch.image.shape == (8, 3, 32, 32) and batch.ids.shape == batch.mask.shape
    assert batch.mask.all(dim=0).sum() < batch.mask.any(dim=0).sum() == batch.ids.shape[1]
    assert batch.special.sum() == 16 and len(batch.key) == len(batch.caption) == len(batch) == 8


def test_the_caption_is_any_of_an_image_or_its_first_or_its_longest(shards, tokenizer):
    for train in (True, False):
        for n in (1, 2, 5):  # of two, three and three captions
            said = {
                which: {
                    dataset(shards, tokenizer, train=train, caption=which)[(n, visit)]["caption"]
                    for visit in range(20)
                }
                for which in ("any", "first", "longest")
            }
            assert said["first"] == {f"number {n}"}
            assert said["longest"] == {f"caption 0 of {n} dogs"}
            assert said["any"] == {
                f"number {n}",
                *(f"caption {k} of {n} dogs" for k in range(n % 3)),
            }
    assert {dataset(shards, tokenizer, train=False)[(2, v)]["caption"] for v in range(9)} == {
        "number 2"
    }
    with pytest.raises(ValueError, match="caption='best': use one of any, first, longest"):
        dataset(shards, tokenizer, caption="best")


def test_crop_and_caption_are_functions_of_seed_sample_and_visit(shards, tokenizer):
    one, two = dataset(shards, tokenizer), dataset(shards, tokenizer)
    assert equal(collate([one[(5, 2)]]), collate([two[(5, 2)]]))
    assert torch.equal(one[5]["image"], one[(5, 0)]["image"])
    images = [one[(5, visit)]["image"] for visit in range(3)]
    images.append(dataset(shards, tokenizer, seed=1)[5]["image"])
    assert not any(torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])
    assert len({one[(5, visit)]["caption"] for visit in range(30)}) == 3


def test_global_random_state_is_neither_read_nor_changed(shards, tokenizer):
    data = dataset(shards, tokenizer)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = data[(3, 1)]["image"]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    np.random.seed(5)
    assert torch.equal(one, data[(3, 1)]["image"])


def test_evaluation_is_fixed_and_takes_the_first_caption(shards, tokenizer):
    data = dataset(shards, tokenizer, train=False)
    assert equal(collate([data[(5, 0)]]), collate([data[(5, 9)]]))
    assert data[5]["caption"] == "number 5"
    squashed = dataset(shards, tokenizer, train=False, resize="squash")
    assert not torch.equal(squashed[5]["image"], data[5]["image"])


def test_mirrored_images_come_only_when_asked_for(shards, tokenizer):
    plain = dataset(shards, tokenizer)
    always, sometimes = (dataset(shards, tokenizer, flip=p) for p in (1.0, 0.5))
    assert torch.equal(always[4]["image"], plain[4]["image"].flip(-1))
    same = [torch.equal(sometimes[(4, v)]["image"], plain[(4, v)]["image"]) for v in range(20)]
    assert 0 < sum(same) < 20


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_any_number_of_workers_makes_the_same_batches(shards, tokenizer, context):
    data = dataset(shards, tokenizer)
    order = [(i, i % 3) for i in range(0, 50, 2)]

    def batches(workers: int) -> list[Batch]:
        options = dict(num_workers=workers, multiprocessing_context=context if workers else None)
        return list(DataLoader(data, batch_size=5, sampler=order, collate_fn=collate, **options))

    alone = batches(0)
    together = batches(2 if context == "fork" else 1)
    assert len(alone) == 5 and all(map(equal, alone, together))


def test_captions_of_all_samples_train_a_tokenizer(shards):
    captions = list(PairDataset.captions(str(shards)))
    assert len(captions) == sum(1 + i % 3 for i in range(50)) and captions[0] == "number 0"
    assert len(list(PairDataset.captions([dict(shards=str(shards))], limit=7))) == 7


def test_several_sources_are_numbered_one_after_the_other(shards, tokenizer):
    first, second = str(shards / "shard-000000.tar"), str(shards / "shard-00000[1-4].tar")
    data = PairDataset([dict(shards=first, weight=2), dict(shards=second, name="rest")], tokenizer)
    assert len(data) == 50 and data.weights == [2.0, 1.0]
    assert [sizes.tolist() for sizes in data.shard_sizes] == [[12], [12, 12, 12, 2]]
    assert data[12]["key"] == "shard-000001:0012"
    with pytest.raises(IndexError):
        data[50]
    with pytest.raises(ValueError, match="wieght"):
        PairDataset([dict(shards=first, wieght=2)], tokenizer)


def test_the_fingerprint_changes_with_data_weights_and_seed(shards, tokenizer):
    def name(**options) -> str:
        return dataset(**{"shards": shards, "tokenizer": tokenizer, **options}).fingerprint

    assert name() == name()
    other = [dict(shards=str(shards), weight=2)]
    assert (
        len({name(), name(seed=1), name(shards=shards / "shard-000000.tar"), name(shards=other)})
        == 4
    )


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16000, 16000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# key -> members beside it and the reason expected: every kind of bad sample that crawls contain
FAULTS = {
    "truncated": ({"jpg": picture(1, 300, 300)[:2000], "txt": b"t"}, "truncated"),
    "html": ({"jpg": b"<html>404 not found</html>", "txt": b"t"}, "not an image"),
    "zero": ({"jpg": b"", "txt": b"t"}, "empty file"),
    "bomb": ({"png": bomb(), "txt": b"t"}, "too many pixels"),
    "dot": ({"png": picture(1, 1, 1, "PNG"), "txt": b"t"}, "too small"),
    "thin": ({"png": picture(1, 2000, 10, "PNG"), "txt": b"t"}, "long and thin"),
    "bmp": ({"jpg": picture(1, kind="BMP"), "txt": b"t"}, "BMP and TIFF are not read"),
    "cut-header": ({"jpg": picture(1)[:30], "txt": b"t"}, "truncated"),
    "no-caption": ({"jpg": picture(1)}, "no caption"),
    "empty": ({"jpg": picture(1), "txt": b""}, "caption is empty"),
    "blank": ({"jpg": picture(1), "txt": b" \n "}, "caption is empty"),
    "latin1": ({"jpg": picture(1), "txt": b"caf\xe9"}, "not UTF-8"),
    "json": ({"jpg": picture(1), "json": b"{"}, "JSON is broken"),
    "json-empty": ({"jpg": picture(1), "json": b"{}"}, "neither 'caption' nor"),
}
ODD = {
    "nul": {"jpg": picture(2), "txt": b"a\0b"},
    "emoji": {"jpg": picture(3), "txt": "🐶 שלום".encode()},
    "megabyte": {"jpg": picture(4), "txt": b"dog " * 250_000},
    "grey": {"png": picture(5, kind="PNG"), "txt": b"t"},
}


def crawl(path: Path, samples: dict[str, dict[str, bytes]], good: int = 0) -> Path:
    with tarfile.open(path, "w") as tar:
        rest = {f"good{i}": {"jpg": picture(i), "txt": b"good %d" % i} for i in range(good)}
        for key, members in (samples | rest).items():
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("key", FAULTS)
def test_a_bad_sample_is_replaced_and_reported_with_its_reason(tmp_path, tokenizer, key):
    members, reason = FAULTS[key]
    path = crawl(tmp_path / "a.tar", {key: members}, good=4)
    sample = dataset(path, tokenizer)[(0, 0)]
    assert sample["key"].startswith("a:good") and sample["image"].shape == (3, 32, 32)
    bad = sample["skipped"][0]
    assert (bad.shard, bad.key) == (str(path), key) and reason in bad.reason


@pytest.mark.parametrize("key", ODD)
def test_odd_but_sound_samples_are_used(tmp_path, tokenizer, key):
    sample = dataset(crawl(tmp_path / "a.tar", {key: ODD[key]}), tokenizer)[0]
    assert sample["skipped"] == [] and 3 <= len(sample["ids"]) <= 55


def test_replacements_are_the_same_every_time_and_differ_by_visit(tmp_path, tokenizer):
    samples = {key: members for key, (members, _) in FAULTS.items()}
    data = dataset(crawl(tmp_path / "a.tar", samples, good=20), tokenizer)
    for index in range(len(FAULTS)):
        assert equal(collate([data[(index, 1)]]), collate([data[(index, 1)]]))
    assert len({data[(0, visit)]["key"] for visit in range(20)}) > 5


def test_a_replacement_comes_from_the_same_source(shards, tmp_path, tokenizer):
    bad = crawl(tmp_path / "bad.tar", {"x": FAULTS["html"][0]}, good=2)
    data = PairDataset([dict(shards=str(shards)), dict(shards=str(bad))], tokenizer)
    assert all(data[(50, visit)]["key"].startswith("bad:good") for visit in range(10))


def test_shards_without_one_good_sample_stop_the_run_with_the_reason(tmp_path, tokenizer):
    data = dataset(crawl(tmp_path / "a.tar", {"x": FAULTS["html"][0]}), tokenizer)
    with pytest.raises(TooManyBadSamples, match=r"none of 1000 .* not an image \(1000\)"):
        data[0]


def test_a_tar_that_vanishes_in_training_counts_as_bad_samples(shards, tmp_path, tokenizer):
    one = write_shards([("a", picture(1), "jpg", ["t"])], tmp_path)[0]
    data = dataset([dict(shards=[str(one), str(shards)])], tokenizer)
    one.unlink()
    sample = data[0]
    assert sample["skipped"][0] == BadSample(str(one), "", "tar: No such file or directory")


def test_a_few_damaged_tars_are_listed_and_many_stop_the_start(tmp_path, tokenizer):
    pairs = ((f"{i:04d}", picture(i % 3), "jpg", ["t"]) for i in range(100))
    good = [str(path) for path in write_shards(pairs, tmp_path, shard_size=1)]
    missing = str(tmp_path / "missing.tar")
    assert [
        bad.reason for bad in dataset([dict(shards=[*good, missing])], tokenizer).bad_shards
    ] == ["missing"]
    with pytest.raises(TooManyBadSamples, match=r"1 of 3 shards .*missing\.tar: missing"):
        dataset([dict(shards=[*good[:2], missing])], tokenizer)
    few = dataset([dict(shards=[*good[:2], missing])], tokenizer, max_bad_shards=0.5)
    assert len(few) == 2 and len(few.bad_shards) == 1


def test_a_scale_that_is_no_pair_is_refused(tmp_path, tokenizer):
    write_shards([("a", picture(1), "jpg", ["t"])], tmp_path)
    with pytest.raises(ValueError, match=r"two shares of the area, such as .*, not 0\.5"):
        dataset(str(tmp_path), tokenizer, scale=0.5)


def skipped(n: int, reason: str = "r") -> list[BadSample]:
    return [BadSample("s.tar", str(i), reason) for i in range(n)]


def test_health_counts_reasons_and_lists_each_bad_sample_once(tmp_path):
    health = DataHealth(tmp_path / "run" / "bad_samples.jsonl")
    health.note_shards([BadSample("t.tar", "", "missing")])
    health.update(skipped(2), seen=500)
    health.update([*skipped(2), *skipped(1, "q")], seen=500)
    assert (health.seen, health.bad, health.summary()) == (1005, 5, "r: 4, q: 1")
    lines = [json.loads(line) for line in health.file.read_text().splitlines()]
    assert lines[0] == {"shard": "t.tar", "key": "", "reason": "missing"} and len(lines) == 4
    health.update(skipped(1, "z"), seen=1, write=False)
    assert len(health.file.read_text().splitlines()) == 4


def test_health_stops_above_the_limit_but_judges_only_after_a_thousand():
    health = DataHealth(max_bad=0.01)
    health.update(skipped(11), seen=900)
    with pytest.raises(TooManyBadSamples, match=r"11 of 1011 samples are bad \(r: 11\).*max_bad"):
        health.update([], seen=100)
    fine = DataHealth(max_bad=0.01)
    fine.update(skipped(10), seen=1000)
    fine.update([], seen=1000)


def test_mmengine_builds_loader_and_resumes_it_at_once(shards, tokenizer, tmp_path):
    config = dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(
            type="sparc.PairDataset",
            sources=[dict(shards=str(shards))],
            tokenizer=str(tokenizer.save(tmp_path)),
            image_size=16,
        ),
        sampler=dict(type="sparc.PairSampler", global_batch=4),
        collate_fn=dict(type="sparc_collate"),
    )
    straight = iter(Runner.build_dataloader(config, seed=1))
    want = [next(straight) for _ in range(20)]
    loader = Runner.build_dataloader(config, seed=1)
    assert isinstance(loader.sampler, PairSampler)
    resumed = _InfiniteDataloaderIterator(loader)
    resumed.skip_iter(15)
    for batch in want[15:]:
        assert equal(next(resumed), batch)


def test_the_parts_are_registered():
    assert DATASETS.get("sparc.PairDataset") is PairDataset
    assert DATA_SAMPLERS.get("sparc.PairSampler") is PairSampler
    assert FUNCTIONS.get("sparc_collate") is collate
