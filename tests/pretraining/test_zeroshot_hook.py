"""Classification while pre-training: the tool's numbers, and a training left as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from sparc_pretrain import run_folder
from sparc_pretrain.data.scenes import CATEGORIES
from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.pretraining.zeroshot_hook import ZeroShotHook
from sparc_pretrain.zeroshot.classification import read_labelled
from tests.commands import ROOT, call, refusal
from tests.zeroshot.oracle_model import NAMES, oracle, paint

LEAF = """
_base_ = {base!r}
tokenizer = dict(train=400)
schedule = dict(steps=3, warmup=1)
data = dict(sources={sources!r}, global_batch=8, image_size=32, max_tokens=24)
model = dict(
    vision=dict(overrides=dict(embed_dim=24, depth=2, num_heads=2)),
    text=dict(width=16, layers=1, heads=2), width=16)
custom_hooks = [*_base_.custom_hooks{hook}]
"""
HOOK = ", dict(type='sparc.ZeroShotHook', images={images!r}, interval=2, suffixes=['nice'])"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """Scenes, and a folder per class; config texts are left as they are: yapf takes long."""
    folder = tmp_path_factory.mktemp("hook")
    numbers = ["--train", "16", "--val", "6", "--size", "48"]
    assert call("data", "scenes", "--out", folder / "scenes", *numbers)[0] == 0
    for number, photo in enumerate(sorted((folder / "scenes" / "images" / "val").iterdir())):
        target = folder / "classes" / CATEGORIES[number % 3]
        target.mkdir(parents=True, exist_ok=True)
        (target / photo.name).write_bytes(photo.read_bytes())
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in every run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **kwargs: (text, True))
        yield folder
    torch.set_num_threads(before)


def pretrain(place: Path, name: str, hook: str) -> tuple[int, str]:
    config = place / f"{name}.py"
    base = str(ROOT / "configs" / "quickstart" / "sparc.py")
    sources = str(place / "scenes" / "shards" / "train-*.tar")
    config.write_text(LEAF.format(base=base, sources=sources, hook=hook))
    options = ["--cfg-options", f"experiment_name={place.name}-{name}"]
    return call("pretrain", config, "--work-dir", place / name, *options)


def test_the_hook_writes_what_the_tool_says_and_leaves_the_training_as_it_is(place):
    hook = HOOK.format(images=str(place / "classes"))
    for name, words in (("with", hook), ("without", "")):
        code, said = pretrain(place, name, words)
        assert code == 0, said
    rows = [json.loads(line) for line in (place / "with" / "zeroshot.jsonl").open()]
    assert [row["step"] for row in rows] == [2, 3]  # at the interval, and at the end
    out = place / "tool" / "metrics.json"
    words = ["--images", place / "classes", "--suffix", "nice", "--out", out]
    assert call("zeroshot", place / "with", "classification", *words) == (0, "")
    told = json.loads(out.read_text())["metrics"]
    assert {k: rows[1][k] for k in ("top1", "top5", "mean_per_class")} == pytest.approx(
        {k: told[k] for k in ("top1", "top5", "mean_per_class")}
    )
    scalars = next((place / "with").glob("*/vis_data/scalars.json")).read_text().splitlines()
    logged = [json.loads(line) for line in scalars if "zeroshot/top1" in line]
    assert [row["step"] for row in logged] == [2, 3]
    weights = [run_folder.verify(place / n).path / run_folder.WEIGHTS for n in ("with", "without")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_data_set_that_is_not_there_ends_the_run_before_it_starts(place):
    line = refusal(pretrain(place, "gone", HOOK.format(images=str(place / "none"))))
    assert "no folder" in line and not list((place / "gone").glob("iter_*"))


class Whole(nn.Module):
    """What the hook sees of a Pretrainer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.objective = oracle(), Clip()


@pytest.mark.parametrize("processes", [1, 2, 3, 20])
def test_processes_share_the_images_and_agree(tmp_path, monkeypatch, processes):
    for k, name in enumerate(NAMES):
        for number in range(2):
            shown = k if number else (k + 1) % 6  # the first picture of every class is mislabelled
            paint(tmp_path / name / f"{number}.png", torch.full((8, 8), shown).numpy())
    hook = ZeroShotHook(str(tmp_path))
    hook.data = read_labelled(tmp_path)
    model = Whole().train()
    parts = []
    place = "sparc_pretrain.pretraining.zeroshot_hook."
    monkeypatch.setattr(place + "world_size", lambda: processes)
    monkeypatch.setattr(place + "gather_objects", lambda part: parts.append(part) or [part] * 1)
    for number in range(processes):
        monkeypatch.setattr(place + "rank", lambda number=number: number)
        if number < processes - 1:
            if number < 12:
                hook.measure(model)
            continue
        monkeypatch.setattr(place + "gather_objects", lambda part: [*parts, part])
        found = hook.measure(model)
    assert found == {"top1": 0.5, "top5": pytest.approx(0.5), "mean_per_class": 0.5}
    assert model.training


def test_an_interval_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="interval"):
        ZeroShotHook("x", interval=0)
