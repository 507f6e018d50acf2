"""A short pre-training config becomes a complete one; its hooks count, stop and write."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS
from mmengine.runner import Runner, get_priority
from PIL import Image
from torch import Tensor

from sparc_pretrain import run_folder
from sparc_pretrain.data import health
from sparc_pretrain.data.dataset import PairDataset
from sparc_pretrain.data.health import DataHealth, TooManyBadSamples
from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.engine import mmengine_patches
from sparc_pretrain.engine.checkpoint_hook import CheckpointHook
from sparc_pretrain.engine.non_finite import NonFiniteHook, NonFiniteRun
from sparc_pretrain.engine.random_state import RandomStateHook
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.pretraining import hooks, starting_weights
from sparc_pretrain.pretraining.recipe import check_sources, complete, make_tokenizer
from sparc_pretrain.registry import OBJECTIVES
from sparc_pretrain.types import BadSample, Batch, Features, ImageFeatures, TextFeatures
from tests.models import VISION

CAPTIONS = ["a red star", "two blue fish", "a house on grass", "the moon above water"]


def samples(count: int, bad: tuple[int, ...] = ()) -> Iterator[tuple]:
    for i in range(count):
        file = io.BytesIO()
        Image.new("RGB", (40, 40), (5 * i % 256, 90, 40)).save(file, "PNG")
        data = b"no image" if i in bad else file.getvalue()
        yield f"{i:04d}", data, "png", [f"{CAPTIONS[i % 4]} number {i}"]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(samples(24), tmp_path / "shards", 12, "train-")
    return tmp_path / "shards"


def config(shards: Path, **top: Any) -> Config:
    hooks = ("RunFolder", "Throughput", "DataHealth", "NonFinite", "RandomState")
    base = dict(
        default_scope="mmengine",
        work_dir=str(shards.parent / "work"),
        tokenizer=dict(train=300),
        data=dict(sources=str(shards), global_batch=8, image_size=32, max_tokens=12),
        schedule=dict(steps=4, warmup=1),
        model=dict(
            type="sparc.Pretrainer",
            vision={k: v for k, v in VISION.items() if k != "img_size"},
            text=dict(width=24, layers=1, heads=2),
            objective=dict(type="Sparc"),
            width=16,
        ),
        optim_wrapper=dict(type="sparc.GuardedOptimWrapper", optimizer=dict(type="AdamW", lr=1e-3)),
        default_hooks=dict(
            checkpoint=dict(type="sparc.CheckpointHook", by_epoch=False, interval=2),
            logger=dict(type="LoggerHook", interval=1),
        ),
        custom_hooks=[dict(type=f"sparc.{name}Hook") for name in hooks],
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=3),
        experiment_name=shards.parent.name,
        log_level="ERROR",
    )
    return Config({**base, **top})


# ------------------------------------------------------------------ complete


def test_loader_loop_and_schedule_follow_from_data_and_schedule(shards: Path) -> None:
    cfg = complete(config(shards, schedule=dict(steps=4, warmup=2)), accumulate=2, amp=True)
    loader = cfg.train_dataloader
    assert (loader.batch_size, loader.num_workers, loader.persistent_workers) == (8, 0, False)
    assert loader.sampler.global_batch == 8 and loader.sampler.seed == loader.dataset.seed == 3
    assert cfg.train_cfg.max_iters == 4 and cfg.train_cfg.val_interval > 4
    warmup, cosine = cfg.param_scheduler
    assert (warmup.type, warmup.begin, warmup.end) == ("LinearLR", 0, 2)
    assert (cosine.type, cosine.begin, cosine.end) == ("CosineAnnealingLR", 2, 4)
    assert cfg.model.accumulate == 2 and cfg.optim_wrapper.amp is True
    assert cfg.model.vision.img_size == 32 and cfg.model.text.max_tokens == 12
    words = Tokenizer.load(cfg.model.tokenizer)
    assert cfg.model.text.vocab_size == words.vocab_size <= 300


def test_loaders_with_workers_have_a_timeout(shards: Path) -> None:
    cfg = config(shards)
    assert complete(cfg).train_dataloader.timeout == 0  # torch allows none without workers
    cfg.data.workers = 2
    assert complete(cfg).train_dataloader.timeout == 600
    cfg.data.timeout = 30
    assert complete(cfg).train_dataloader.timeout == 30


@pytest.mark.parametrize("warmup", [0, 1, 2, 5])
def test_the_learning_rate_reaches_its_peak_and_falls(shards: Path, warmup: int) -> None:
    cfg = config(shards, schedule=dict(steps=12, warmup=warmup))
    rates: list[float] = []

    @HOOKS.register_module(force=True)
    class RatesHook(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            rates.append(runner.optim_wrapper.param_groups[0]["lr"])

    cfg.custom_hooks.append(dict(type="RatesHook"))
    train(cfg)
    peak = max(warmup - 1, 0)
    assert rates[peak] == max(rates) == pytest.approx(1e-3)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True) and rates[-1] < 1e-4


def test_without_warmup_the_cosine_stands_alone(shards: Path) -> None:
    cfg = complete(config(shards, schedule=dict(steps=4, warmup=0)))
    assert [s.type for s in cfg.param_scheduler] == ["CosineAnnealingLR"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("schedule.steps", 1, r"schedule\.warmup=1 must be below schedule\.steps=1"),
        ("schedule.warmup", -1, r"warmup=-1"),
        ("schedule.stepps", 5, r"schedule\.stepps is unknown \(did you mean 'steps'\?\)"),
        ("data.image_sise", 5, r"data\.image_sise is unknown \(did you mean 'image_size'\?\)"),
        ("data.global_batch", 0, "1 or more"),
        ("data.global_batch", "8x", r"data\.global_batch='8x' must be a whole number"),
        ("data.workers", -1, r"data\.workers=-1 must be a whole number"),
        ("schedule.steps", 2.5, r"schedule\.steps=2\.5 must be a whole number"),
        ("data", None, "the config has no `data`"),
        ("model", 3, "`model` must be a dict with the dicts vision, text, objective"),
        ("model.text", 3, "`model` must be a dict with the dicts vision, text, objective"),
        ("optim_wrapper", [], "`optim_wrapper` must be a dict"),
        ("optim_wrapper.optimizer", dict(type="AdamW", lr="x"), "lr is a number, not x"),
        ("schedule", None, "the config has no `schedule`"),
        ("schedule", dict(steps=3), r"no schedule\.warmup"),
        ("schedule", dict(steps=3, warmup=None), r"a param_scheduler of its own"),
        ("data.mode", "random", r"data\.mode='random': use 'alternate' or 'mixed'"),
        ("data.dataset", 3, r"data\.dataset=3 must be a dict"),
        ("data.image_size", True, r"image_size=True must be a whole number"),
        ("tokenizer", dict(train=300, load="x"), "use dict"),
        ("tokenizer", dict(trian=300), r"tokenizer\.trian is unknown \(did you mean 'train'\?\)"),
    ],
)
def test_wrong_sections_are_refused_with_the_nearest_name(
    shards: Path, option: str, value: Any, message: str
) -> None:
    cfg = config(shards)
    section, _, key = option.partition(".")
    if key:
        cfg[section][key] = value
    else:
        cfg[section] = value
    with pytest.raises(ValueError, match=message):
        complete(cfg)


def test_what_a_config_says_in_mmengine_s_words_is_kept_beside_what_is_derived(
    shards: Path,
) -> None:
    own = [dict(type="ConstantLR", factor=0.5, by_epoch=False, begin=0, end=4)]
    cfg = config(
        shards,
        schedule=dict(steps=4, warmup=None),
        param_scheduler=own,
        train_dataloader=dict(
            prefetch_factor=3, pin_memory=True, sampler=dict(shards_per_block=1), batch_size=8
        ),
        model_wrapper_cfg=dict(find_unused_parameters=True),
        train_cfg=dict(val_interval=2),
    )
    cfg.data.workers = 1
    loader = complete(cfg).train_dataloader
    assert (loader.prefetch_factor, loader.pin_memory, loader.drop_last) == (3, True, True)
    assert (loader.batch_size, loader.num_workers, loader.persistent_workers) == (8, 1, True)
    assert loader.sampler.shards_per_block == 1 and loader.sampler.global_batch == 8
    assert loader.dataset.type == "sparc.PairDataset"
    assert cfg.model_wrapper_cfg == dict(
        type="sparc.DistributedPretrainer", find_unused_parameters=True
    )
    assert cfg.train_cfg == dict(type="sparc.PretrainLoop", max_iters=4, parts=1, val_interval=2)
    assert cfg.param_scheduler == own


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("train_dataloader", dict(batch_size=4), r"batch_size=4 follows from data\.global_batch"),
        ("train_dataloader", dict(num_workers=2), r"num_workers=2 follows from data\.workers \(0"),
        (
            "train_dataloader",
            dict(sampler=dict(mode="mixed")),
            r"sampler\.mode='mixed' follows from",
        ),
        (
            "train_dataloader",
            dict(sampler=dict(type="DefaultSampler")),
            r"sampler\.type=.*is set by",
        ),
        ("train_dataloader", dict(sampler=3), r"train_dataloader\.sampler=3 is set by"),
        ("train_dataloader", dict(dataset=dict(image_size=9)), r"=9 follows from data\.image_size"),
        ("train_cfg", dict(max_iters=9), r"max_iters=9 follows from schedule\.steps \(4\)"),
        ("train_cfg", dict(by_epoch=True, type="EpochBasedTrainLoop"), r"train_cfg\.type="),
        ("model_wrapper_cfg", dict(type="MMDistributedDataParallel"), r"model_wrapper_cfg\.type="),
        ("param_scheduler", [dict(type="ConstantLR")], r"say schedule\.warmup=None"),
    ],
)
def test_what_contradicts_data_or_schedule_is_refused_by_name(
    shards: Path, section: str, value: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        complete(config(shards, **{section: value}))


def test_a_completed_config_that_was_written_down_is_completed_anew(
    shards: Path, tmp_path: Path
) -> None:
    """The copy in the work dir, with other numbers: what was derived follows, the rest stays."""
    cfg = complete(config(shards, train_dataloader=dict(sampler=dict(shards_per_block=7))))
    cfg.dump(tmp_path / "dumped.py")
    again = Config.fromfile(tmp_path / "dumped.py")
    assert complete(again).to_dict() == cfg.to_dict()
    again.merge_from_dict({"data.global_batch": 4, "schedule.steps": 9, "data.workers": 1})
    complete(again)
    loader = again.train_dataloader
    assert (loader.batch_size, loader.persistent_workers, loader.timeout) == (4, True, 600)
    assert loader.sampler.shards_per_block == 7
    assert again.train_cfg == dict(type="sparc.PretrainLoop", max_iters=9, parts=1, val_interval=10)
    assert again.param_scheduler[-1].end == 9
    again.train_dataloader.batch_size = 3
    with pytest.raises(ValueError, match="batch_size=3 follows from"):
        complete(again)


@pytest.mark.parametrize("mode", ["alternate", "mixed"])
def test_the_mode_of_the_data_reaches_the_order_of_the_samples(shards: Path, mode: str) -> None:
    cfg = config(shards)
    tars = [f"{shards}/train-00000{n}.tar" for n in range(2)]
    cfg.data.update(sources=[dict(shards=tar) for tar in tars], mode=mode)
    loader = Runner.build_dataloader(complete(cfg).train_dataloader)
    stream = [index // 12 for index, _ in itertools.islice(loader.sampler, 64)]
    of_a_batch = [set(stream[begin : begin + 8]) for begin in range(0, 64, 8)]
    assert all(len(one) == (1 if mode == "alternate" else 2) for one in of_a_batch)
    assert {0, 1} == set(stream)


def test_micro_batches_that_do_not_divide_the_batch_are_refused(shards: Path) -> None:
    with pytest.raises(ValueError, match=r"global_batch=8 does not divide .* 3 micro-batches"):
        complete(config(shards), accumulate=3)
    with pytest.raises(ValueError, match="accumulate=0"):
        complete(config(shards), accumulate=0)


def test_sources_may_be_one_path_or_many_and_must_exist(shards: Path) -> None:
    assert check_sources(str(shards)) == [dict(shards=str(shards))]
    many = [str(shards), dict(shards=f"{shards}/train-*.tar", weight=2.0)]
    assert check_sources(many) == [dict(shards=str(shards)), many[1]]
    with pytest.raises(FileNotFoundError, match=r"tools/data\.py scenes .*data\.sources="):
        check_sources(f"{shards}/nothing-*.tar")
    for wrong in (None, 3, [[1]], [None], dict(weight=1.0), dict(shards=1), [dict(shards=[1])]):
        with pytest.raises(ValueError, match=r"neither a path nor dict\(shards=PATH\)"):
            check_sources(wrong)


def test_a_tokenizer_that_is_there_is_kept(tmp_path: Path, shards: Path) -> None:
    work, sources = tmp_path / "work", check_sources(str(shards))
    first = make_tokenizer(work, dict(train=300), sources)
    again = make_tokenizer(work, dict(train=300), sources)
    assert again.to_json() == first.to_json()
    with pytest.raises(ValueError, match=r'"train": 300.*"train": 270.*--work-dir'):
        make_tokenizer(work, dict(train=270), sources)
    (work / "tokenizer.spec.json").unlink()  # one that was put there by hand
    assert make_tokenizer(work, dict(train=270), sources).to_json() == first.to_json()
    assert "star" in first.decode(first.encode("a red star").ids)


def test_a_training_that_begins_anew_has_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    made = []
    for name, words in (("a", "zebra"), ("b", "quince")):
        pairs = [(key, image, kind, [f"a {words} {key}"]) for key, image, kind, _ in samples(24)]
        write_shards(pairs, tmp_path / name)
        cfg = config(tmp_path / name, work_dir=str(tmp_path / "work"))
        complete(cfg, anew=name == "b")
        made.append(Tokenizer.load(cfg.model.tokenizer))
    assert [len(one.encode("quince")) for one in made][1] < len(made[0].encode("quince"))


def test_words_of_every_source_shape_the_tokenizer(tmp_path: Path) -> None:
    for name, word in (("a", "zebra"), ("b", "quince")):
        pairs = [(key, image, kind, [f"a {word}"]) for key, image, kind, _ in samples(24)]
        write_shards(pairs, tmp_path / name)
    sources = [dict(shards=str(tmp_path / name)) for name in "ab"]
    assert list(PairDataset.captions(sources, limit=5)) == [
        "a zebra", "a quince", "a zebra", "a quince", "a zebra",
    ]  # fmt: skip


# ------------------------------------------------------------------ from another run's weights


@pytest.fixture
def first_run(tmp_path: Path) -> str:
    write_shards(samples(24), tmp_path / "first" / "shards", 12, "train-")
    cfg = config(tmp_path / "first" / "shards", schedule=dict(steps=1, warmup=0))
    cfg.model.update(mean=[0.5, 0.5, 0.5], std=[0.3, 0.3, 0.3])
    cfg.model.text.style = dict(causal=True, pool="argmax")
    train(cfg)
    return cfg.work_dir


def test_a_run_that_starts_from_another_reads_words_and_pixels_as_that_did(
    first_run: str, shards: Path
) -> None:
    cfg = config(shards, tokenizer=dict(train=290), schedule=dict(steps=1, warmup=0))
    cfg.model.init_from = first_run
    del cfg.model.vision["overrides"]
    before = DualEncoder.from_pretrained(first_run)
    encoder = train(cfg).model.encoder
    assert encoder.tokenizer.to_json() == before.tokenizer.to_json()
    assert encoder.text.style.causal and encoder.text.style.pool == "argmax"
    assert encoder.vision.overrides == before.vision.overrides != {}
    assert torch.equal(encoder.mean, before.mean) and torch.equal(encoder.std, before.std)


def test_a_single_stream_reads_pixels_as_the_run_did_and_words_as_its_config_says(
    first_run: str, shards: Path
) -> None:
    cfg = config(shards, tokenizer=dict(train=290), schedule=dict(steps=1, warmup=0))
    cfg.model.init_from = first_run
    cfg.model.text.layers = 0
    del cfg.model.vision["overrides"]
    assert starting_weights.adopt(cfg) is False
    assert cfg.tokenizer == dict(train=290) and "style" not in cfg.model.text
    assert cfg.model.mean == [0.5, 0.5, 0.5] and cfg.model.vision.overrides
    cfg.model.text.layers = 1
    assert starting_weights.adopt(cfg) is True
    assert cfg.tokenizer == dict(load=first_run) and cfg.model.text.style.causal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(tokenizer=dict(load="MINE")), "its text tower knows another vocabulary"),
        ({"model.text.style": dict(causal=True)}, "text.pool 'argmax' there, 'mean' here"),
        (
            {"model.text.heads": 4, "model.width": 8},
            "text.heads 2 there, 4 here; width 16 there, 8 here; its sizes: --cfg-options "
            "model.text.heads=2 model.width=16$",
        ),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(
    first_run: str, shards: Path, tmp_path: Path, change: dict, message: str
) -> None:
    texts = [f"{n} zebra, quince, umbrella: {CAPTIONS[n % 4]}" for n in range(24)]
    words = Tokenizer.train(texts, 300)
    vocabulary = DualEncoder.from_pretrained(first_run).tokenizer.vocab_size
    cfg = config(shards, schedule=dict(steps=1, warmup=0))
    cfg.model.init_from = first_run
    cfg.merge_from_dict(change)
    if "tokenizer" in change:
        assert words.vocab_size == vocabulary  # or the weights would not fit
        cfg.tokenizer = dict(load=str(words.save(tmp_path / "mine")))
    with pytest.raises(ValueError, match=message):
        train(cfg)


def test_a_locked_tower_comes_from_somewhere(shards: Path) -> None:
    cfg = config(shards)
    cfg.model.locked = "vision"
    with pytest.raises(ValueError, match=r"locked='vision' would keep random weights.*init_from"):
        complete(cfg)


def test_a_tokenizer_is_loaded_from_a_folder(tmp_path: Path) -> None:
    mine = Tokenizer.train(CAPTIONS, 280)
    mine.save(tmp_path / "mine")
    found = make_tokenizer(tmp_path / "work", dict(load=str(tmp_path / "mine")), [])
    assert found.to_json() == mine.to_json()
    with pytest.raises(FileNotFoundError):
        make_tokenizer(tmp_path / "other", dict(load=str(tmp_path / "none.json")), [])


# ------------------------------------------------------------------ a tiny run and its hooks


@pytest.fixture(autouse=True)
def config_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No yapf, which mmengine runs over every config text: most of a tiny run's time."""
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **kwargs: (text, True))


def train(cfg: Config) -> Runner:
    mmengine_patches.install()
    complete(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def scalars(work_dir: str | Path) -> list[dict]:
    (file,) = Path(work_dir).glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_leaves_a_verified_folder_of_its_last_checkpoint(shards: Path) -> None:
    cfg = config(shards)
    runner = train(cfg)
    work = Path(cfg.work_dir)
    run = run_folder.verify(work)
    assert run.path.name == "run-4" and (work / "run").is_symlink()
    assert not (work / "run-2").exists()
    assert run.config["samples_seen"] == 32
    assert run.config["objective"]["type"] == "Sparc"
    model = DualEncoder.from_pretrained(work / "run")
    for name, value in runner.model.encoder.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert model.tokenizer.to_json() == (work / "tokenizer.json").read_text()
    assert run.weights("objective.").keys() == runner.model.objective.state_dict().keys()


def test_the_log_says_what_is_trained_on(shards: Path) -> None:
    cfg = config(shards, log_level="INFO")
    with tarfile.open(shards / "train-000001.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("notes.md"))
    tars = [f"{shards}/train-00000{n}.tar" for n in range(2)]
    cfg.data.sources = [dict(shards=tars[0], name="first"), dict(shards=tars[1], weight=3)]
    train(cfg)
    log = next(Path(cfg.work_dir).rglob("*.log")).read_text()
    assert "source first: 12 pairs, 1 tars, weight 1" in log
    assert f"source {tars[1]}: 12 pairs, 1 tars, weight 3" in log
    assert "1 members of the shards are in no pair" in log


def test_throughput_and_waiting_are_logged_and_plausible(shards: Path) -> None:
    cfg = config(shards)
    train(cfg)
    logged = [line for line in scalars(cfg.work_dir) if "pairs_per_second" in line]
    assert logged
    for line in logged:
        assert 0 < line["pairs_per_second"] < 1e5
        assert 0 <= line["data_wait_percent"] <= 100


def test_the_rates_of_a_window_are_its_sums_over_its_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """16 pairs in the last two steps, of 1 and 9 s, are 1.6 pairs/s; the mean of both is 4.4.
    Saving between two steps is no waiting for data.
    """
    clock = iter([-9.0, -5.0, 0.0, 0.5, 1.0, 8.0, 10.0])  # ends, and arrivals of a batch
    monkeypatch.setattr(hooks.time, "perf_counter", lambda: next(clock))
    hub = MessageHub.get_instance("throughput")
    log = SimpleNamespace(window_size=2)
    monkeypatch.setattr(hooks.flops, "per_pair", lambda model, batch: 5e11)
    hook = hooks.ThroughputHook()
    runner = SimpleNamespace(message_hub=hub, log_processor=log, model=None)
    batch = range(8)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, batch)
    for _ in range(3):
        hook.before_train_iter(runner, 0, batch)
        hook.after_train_iter(runner, 0, batch)
    assert hub.get_scalar("train/pairs_per_second").current() == pytest.approx(1.6)
    assert hub.get_scalar("train/data_wait_percent").current() == pytest.approx(75)
    assert hub.get_scalar("train/tflops").current() == pytest.approx(0.8)
    others = (hooks.RunFolderHook, CheckpointHook, RandomStateHook)
    assert all(
        get_priority(hook.priority) > get_priority(other.priority) for other in others
    )  # its clock stops when they are done


def test_bad_samples_of_the_last_steps_are_listed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first rank; the others count and keep none."""
    written = []
    for rank in range(2):
        monkeypatch.setattr(hooks, "rank", lambda rank=rank: rank)
        hub = MessageHub.get_instance("health")
        runner = SimpleNamespace(message_hub=hub, iter=0)
        hook = hooks.DataHealthHook(max_bad=1.0, interval=3)
        hook.health = DataHealth(tmp_path / f"rank{rank}.jsonl", max_bad=1.0)
        for step in range(5):
            runner.iter = step
            bad = BadSample("a.tar", f"{step}", "not an image")
            hook.after_train_iter(runner, 0, SkippingBatch([bad, bad]))
        assert hook.health.bad == 6
        (hook.gather_state if rank else hook.after_train)(runner)
        assert hook.health.bad == 10 and hook.health.seen == 50
        written.append(hook.health)
    keys = [json.loads(line)["key"] for line in written[0].file.read_text().splitlines()]
    assert keys == ["0", "1", "2", "3", "4"]
    assert not written[1].file.exists() and not written[1]._listed


def test_the_list_of_bad_samples_ends_somewhere_and_the_count_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MOST_LISTED", 3)
    found = DataHealth(tmp_path / "bad.jsonl", max_bad=1.0)
    for step in range(9):
        found.update([BadSample("a.tar", f"{step}", "not an image")], seen=1)
    assert len(found.file.read_text().splitlines()) == 3 and found.bad == 9


class SkippingBatch(list):
    """Eight samples, `skipped` was met on the way."""

    def __init__(self, skipped: list[BadSample]) -> None:
        super().__init__(range(8))
        self.skipped = skipped


def bad_config(tmp_path: Path, **hook: Any) -> Config:
    write_shards(samples(24, bad=(3, 17)), tmp_path / "shards", 12, "train-")
    cfg = config(tmp_path / "shards")
    cfg.schedule.steps = 6
    for one in cfg.custom_hooks:
        if one.type == "sparc.DataHealthHook":
            one.update(interval=3, **hook)
    return cfg


def test_bad_samples_are_replaced_counted_and_listed_once(tmp_path: Path) -> None:
    cfg = bad_config(tmp_path, max_bad=0.5)
    runner = train(cfg)
    assert runner.iter == 6
    listed = [
        json.loads(line)
        for line in (Path(cfg.work_dir) / "bad_samples.jsonl").read_text().splitlines()
    ]
    assert sorted(row["key"] for row in listed) == ["0003", "0017"]
    assert {row["reason"] for row in listed} == {"not an image"}
    assert {Path(row["shard"]).name for row in listed} == {"train-000000.tar", "train-000001.tar"}
    # two of 24, seen twice each in 48: at least once per visit, more when one replaces another
    assert scalars(cfg.work_dir)[-1]["skipped_samples"] >= 4


def test_too_many_bad_samples_stop_the_run_with_their_number_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "FIRST_LOOK", 20)
    cfg = bad_config(tmp_path, max_bad=0.01)
    cfg.schedule.steps = 50
    with pytest.raises(
        TooManyBadSamples, match=r"of \d+ samples are bad \(not an image: \d\).*raise max_bad"
    ):
        train(cfg)
    assert not list(Path(cfg.work_dir).glob("iter_50.pth"))


@OBJECTIVES.register_module(force=True)
class NanFrom(Objective):
    """A loss that is not a number from its `step`-th call on."""

    coupled_features = ("image", "text")

    def __init__(self, step: int, until: int = 10**9) -> None:
        super().__init__()
        self.step, self.until, self.calls = step, until, 0

    def coupled(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        bad = self.step <= self.calls <= self.until
        factor = torch.nan if bad else 1.0
        return {"toy_loss": factor * (features.image.square().mean() + features.text.mean())}

    def scores(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        return image.image @ text.text.T


@HOOKS.register_module(force=True)
class Weights(Hook):
    """Keeps a copy of the weights after every step."""

    seen: list[dict[str, Tensor]]

    def before_train(self, runner: Runner) -> None:
        type(self).seen = []

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.seen.append({k: v.clone() for k, v in runner.model.state_dict().items()})


def nan_config(shards: Path, patience: int, **objective: int) -> Config:
    cfg = config(shards)
    cfg.schedule.steps = 8
    cfg.model.objective = dict(type="NanFrom", **objective)
    hooks = [h for h in cfg.custom_hooks if h.type != "sparc.NonFiniteHook"]
    cfg.custom_hooks = [
        dict(type="Weights", priority="VERY_HIGH"),
        *hooks,
        dict(type="sparc.NonFiniteHook", patience=patience),
    ]
    return cfg


def test_a_loss_that_stays_nan_stops_the_run_after_patience_and_spoils_no_weight(
    shards: Path,
) -> None:
    cfg = nan_config(shards, patience=3, step=3)
    with pytest.raises(NonFiniteRun, match=r"3 steps in a row .*nonfinite_rank0\.json"):
        train(cfg)
    text = (Path(cfg.work_dir) / "nonfinite_rank0.json").read_text()

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    record = json.loads(text, parse_constant=no_constant)
    assert record["step"] == 5 and record["losses"]["toy_loss"] == "nan"
    assert len(record["keys"]) == 8 and record["keys"][0].startswith("train-00000")
    first, second, *rest = Weights.seen
    assert len(rest) == 3
    assert any(not torch.equal(first[k], second[k]) for k in first)
    for state in rest:
        assert all(torch.equal(state[k], second[k]) for k in second)


def test_a_few_nan_steps_are_passed_over(shards: Path) -> None:
    cfg = nan_config(shards, patience=3, step=3, until=4)
    runner = train(cfg)
    assert runner.iter == 8 and runner.message_hub.get_info("skipped_steps") == 2
    assert not (Path(cfg.work_dir) / "nonfinite_rank0.json").exists()
    last = run_folder.open_run(cfg.work_dir).weights()
    assert all(value.isfinite().all() for value in last.values())


def test_the_hook_leaves_other_optimizer_wrappers_alone() -> None:
    NonFiniteHook(patience=1).after_train_iter(SimpleNamespace(optim_wrapper=object()), 0)
