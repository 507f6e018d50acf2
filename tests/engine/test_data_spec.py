"""A run resumes on the data it was trained on, or is told what has changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain.engine import checkpoint
from sparc_pretrain.pretraining import data_spec


class Annotated:
    """What mm data sets have in common."""

    def __init__(self, names: list[str], ann_file: str = "") -> None:
        self.names, self.ann_file = names, ann_file

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def get_data_info(self, index: int) -> dict:
        return {"img_path": f"/somewhere/{self.names[index]}"}


class Wrapped:
    """mm's RepeatDataset and its kind."""

    def __init__(self, dataset: Any, times: int = 1) -> None:
        self.dataset, self.times = dataset, times

    def __len__(self) -> int:
        return self.times * len(self.dataset)


def spec_of(dataset: Any, batch: int = 2, seed: int = 0) -> dict[str, str]:
    loader = DataLoader(dataset, batch_size=batch)
    return data_spec.describe(SimpleNamespace(train_dataloader=loader, seed=seed, cfg={}))


def test_the_content_of_the_annotation_file_counts_and_not_where_it_lies(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.json").write_text("{}")
    first, second = (Annotated(["x"], str(tmp_path / f / "train.json")) for f in ("a", "b"))
    assert spec_of(Wrapped(first)) == spec_of(Wrapped(second))
    (tmp_path / "b" / "train.json").write_text("{} ")
    assert spec_of(first)["data set"] != spec_of(second)["data set"]


def test_without_an_annotation_file_the_names_of_the_images_count() -> None:
    assert spec_of(Annotated(["a", "b"])) == spec_of(Annotated(["a", "b"]))
    assert spec_of(Annotated(["a", "b"])) != spec_of(Annotated(["a", "c"]))


def test_every_data_set_of_a_concatenation_counts() -> None:
    parts = SimpleNamespace(datasets=[Annotated(["a"]), Annotated(["b"])])
    loader = SimpleNamespace(batch_sampler=None, batch_size=2, dataset=parts)
    spec = data_spec.describe(SimpleNamespace(train_dataloader=loader, seed=0, cfg={}))
    assert {"data set", "data set 1"} <= spec.keys()
    assert spec["data set"] != spec["data set 1"]


def test_shards_bring_a_fingerprint_and_a_tokenizer() -> None:
    tokenizer = SimpleNamespace(to_json=lambda: "{}")
    dataset = SimpleNamespace(fingerprint="abc*1 seed 0", tokenizer=tokenizer)
    sampler = SimpleNamespace(draw_size=1)
    loader = SimpleNamespace(batch_sampler=None, batch_size=2, dataset=dataset, sampler=sampler)
    cfg = Config(dict(schedule=dict(steps=9, warmup=2), optim_wrapper=dict(optimizer=dict(lr=0.1))))
    runner = SimpleNamespace(train_dataloader=loader, seed=0, cfg=cfg)
    spec = data_spec.describe(runner)
    dataset.scale, sampler.draw_size = (0.5, 1.0), 2  # other crops, and mode='alternate'
    cfg.schedule.steps = 20  # the schedulers of a checkpoint would go on to the end of the old one
    other = data_spec.describe(runner)
    differ = {key for key in other if other[key] != spec.get(key)}
    assert differ == {"how samples are read", "samples of a source in a row", "schedule"}
    cfg.optim_wrapper.optimizer.lr = 0.2
    differ = {key for key, value in data_spec.describe(runner).items() if value != other[key]}
    assert differ == {"optimizer", "schedule"}
    assert spec["objective"] == "none"
    assert other["schedule"] == "20 steps, 2 of warm-up, rate 0.1"
    assert spec["global batch"] == "2"  # kept by any number of processes
    assert spec["data set"] == "abc*1 seed 0" and len(spec["tokenizer"]) == data_spec.SHOWN


def test_the_differences_are_named_with_the_way_to_accept_them() -> None:
    saved = {"global batch": "8", "seed": "0", "gone": "x"}
    with pytest.raises(ValueError, match=r"global batch 8 -> 4.*allow_changes=True") as caught:
        data_spec.check(saved, {"global batch": "4", "seed": "0", "new": "y"})
    assert "seed" not in str(caught.value) and "\n" not in str(caught.value)
    data_spec.check(None, {"seed": "0"})  # a checkpoint from before there were specs
    data_spec.check({"gone": "x"}, {"new": "y"})


def test_a_run_on_other_data_is_refused_unless_it_is_told_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_run.train(tmp_path, steps=5)
    saved = checkpoint.load(tmp_path / "iter_5.pth")[data_spec.KEY]
    assert saved == {"seed": "7", "samples": "64"}
    monkeypatch.setattr(toy_run.Numbers, "__len__", lambda self: 48)
    with pytest.raises(ValueError, match="samples 64 -> 48"):
        toy_run.train(tmp_path, steps=7, resume="auto")
    toy_run.train(tmp_path, steps=7, resume="auto", checkpoint=dict(interval=1, allow_changes=True))
    assert checkpoint.load(tmp_path / "iter_7.pth")[data_spec.KEY]["samples"] == "48"
    json.dumps(saved)  # plain text: nothing that loading could execute
