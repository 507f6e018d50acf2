"""The whole way, tiny: scenes, shards, pre-training, zero-shot, detector, segmentor, captioner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint
from sparc_pretrain.run_folder import RunFolder
from tests.commands import ROOT, call, command

QUICKSTART = ROOT / "configs" / "quickstart"
TINY = [
    "schedule.steps=3",
    "schedule.warmup=1",
    "tokenizer.train=400",
    "data.global_batch=16",
    "data.image_size=64",
    "model.vision.overrides.depth=2",
    "model.vision.overrides.embed_dim=48",
    "model.vision.overrides.num_heads=2",
    "model.text.width=32",
    "model.text.layers=1",
    "model.text.heads=2",
    "model.width=16",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder; while it is used, config texts are left as they are: yapf takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **kwargs: (text, True))
        yield tmp_path_factory.mktemp("path")


@pytest.fixture(scope="module")
def scenes(place: Path) -> Path:
    numbers = ["--level", "easy", "--train", "48", "--val", "16", "--size", "64"]
    code, said = call("data", "scenes", "--out", place / "scenes", *numbers)
    assert code == 0, said
    return place / "scenes"


@pytest.fixture(scope="module")
def run(place: Path, scenes: Path) -> RunFolder:
    """The run folder that the real command leaves."""
    work = place / "sparc"
    sources = f"data.sources={scenes}/shards/train-*.tar"
    words = [QUICKSTART / "sparc.py", "--work-dir", work, "--cfg-options", sources, *TINY]
    done = command("pretrain", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert call("verify", work, work / "iter_3.pth") == (0, "")
    return run_folder.open_run(work)


def options(scenes: Path, task: str) -> list[str]:
    """Overrides that put a quickstart config on `scenes`, for a few steps of small images."""
    splits = ("train", "val", "test")
    root = scenes / "ade" if task == "seg" else f"{scenes}/"
    found = [f"{split}_dataloader.dataset.data_root={root}" for split in splits]
    found += [f"{split}_dataloader.batch_size=8" for split in splits]
    # another seed than pre-training's, whose initial weights would be the same
    found += ["randomness.seed=5", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
    found.append("default_hooks.checkpoint.interval=2")
    if task == "det":
        found.append("model.test_cfg.score_thr=0")
        for split in splits:
            step = 2 if split == "train" else 1
            found.append(f"{split}_dataloader.dataset.pipeline.{step}.scale=(64,64)")
        for split in ("val", "test"):
            truth = scenes / "annotations" / "instances_val.json"
            found.append(f"{split}_evaluator.ann_file={truth}")
            found.append(f"{split}_evaluator.outfile_prefix={scenes.parent}/det-{split}")
    if task == "seg":
        found.append("model.data_preprocessor.size=(64,64)")
    if task == "caption":
        found += [f"{split}_dataloader.dataset.size=64" for split in splits]
        found += ["model.language_model.n_layer=1", "model.max_tokens=12"]
    return found


@pytest.fixture(scope="module")
def fine_tuned(place: Path, scenes: Path, run: RunFolder) -> dict[str, Path]:
    """task -> work dir of a model that was fine-tuned on the run, with the tool."""
    found = {}
    for task in ("det", "seg", "caption"):
        work = place / task
        code, said = call(
            *["train", QUICKSTART / f"{task}.py", "--backbone", run.path, "--work-dir", work],
            *["--cfg-options", *options(scenes, task), f"experiment_name={place.name}-{task}"],
        )
        assert code == 0, said
        found[task] = work
    return found


def record(work: Path) -> dict:
    return json.loads((work / "metrics.json").read_text())


def test_pretraining_leaves_a_run_that_was_trained_on_all_its_pairs(run: RunFolder) -> None:
    assert run.config["samples_seen"] == 48 and run.config["vision"]["width"] == 48
    assert run_folder.verify(run.path.parent / "run").sha256 == run.sha256


def test_zero_shot_retrieval_says_which_run_it_is_of(run: RunFolder, scenes: Path) -> None:
    captions = scenes / "annotations" / "captions_val.json"
    words = ["retrieval", "--images", scenes / "images" / "val", "--captions", captions]
    code, said = call("zeroshot", run.path.parent, *words)
    assert code == 0, said
    written = record(run.path.parent / "zeroshot")
    assert written["task"] == "retrieval" and written["backbone"]["sha256"] == run.sha256
    assert written["protocol"]["images"] == 16
    recalls = {name: value for name, value in written["metrics"].items() if "R@" in name}
    assert recalls and all(0 <= value <= 1 for value in recalls.values())
    assert any(value > 0 for value in recalls.values())


@pytest.mark.parametrize(
    ("task", "kind", "metric"),
    [("det", "detection", "coco/bbox_AP"), ("seg", "segmentation", "mIoU"),
     ("caption", "captioning", "caption/CIDEr")],
)  # fmt: skip
def test_every_task_leaves_its_metrics_with_the_identity_of_the_run(
    fine_tuned: dict[str, Path], run: RunFolder, task: str, kind: str, metric: str
) -> None:
    written = record(fine_tuned[task])
    assert (written["task"], written["backbone"]["sha256"]) == (kind, run.sha256)
    assert written["backbone"]["objective"] == "Sparc" and metric in written["metrics"]
    assert written["config"].endswith(f"configs/quickstart/{task}.py")
    assert checkpoint.find_valid(fine_tuned[task]) is not None


def test_the_backbones_started_from_the_run_and_only_the_captioners_stayed(
    fine_tuned: dict[str, Path], run: RunFolder
) -> None:
    pretrained = run.weights("vision.")
    for task, work in fine_tuned.items():
        state = checkpoint.load(checkpoint.find_valid(work))["state_dict"]
        prefix = "backbone.tower."
        tuned = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        assert tuned.keys() == pretrained.keys()
        moved = max((tuned[k] - pretrained[k]).abs().max().item() for k in tuned)
        assert moved < 0.02, task  # a few steps away from the run, not random
        assert (moved == 0) == (task == "caption")


def test_testing_the_detectors_checkpoint_repeats_the_validation_of_training(
    fine_tuned: dict[str, Path], scenes: Path, run: RunFolder, place: Path
) -> None:
    work = fine_tuned["det"]
    code, said = call(
        *["test", work / "det.py", work / "iter_2.pth", "--work-dir", place / "det-tested"],
        *["--cfg-options", f"experiment_name={place.name}-tested"],
    )
    assert code == 0, said
    tested, validated = record(place / "det-tested"), record(work)
    assert tested["metrics"] == validated["metrics"]
    assert tested["backbone"]["sha256"] == run.sha256
    assert tested["checkpoint"].endswith("iter_2.pth")
    rows = [json.loads(Path(f"{place}/det-{s}.bbox.json").read_text()) for s in ("val", "test")]
    assert rows[0] == rows[1] and len(rows[0]) > 100
    assert len(list((work / "pictures").glob("*.png"))) == 8


def test_a_checkpoint_names_its_run_also_when_the_config_does_not(
    fine_tuned: dict[str, Path], scenes: Path, run: RunFolder, place: Path
) -> None:
    work = fine_tuned["seg"]
    vision = [f"model.backbone.vision.{k}={run.config['vision'][k]}" for k in ("width", "img_size")]
    overrides = [
        f"model.backbone.vision.overrides.{k}" for k in ("depth", "embed_dim", "num_heads")
    ]
    vision += [f"{name}={value}" for name, value in zip(overrides, (2, 48, 2), strict=True)]
    code, said = call(
        *["test", QUICKSTART / "seg.py", work / "iter_2.pth", "--work-dir", place / "seg-tested"],
        *["--cfg-options", *options(scenes, "seg"), *vision, "model.neck.in_channels=48"],
        f"experiment_name={place.name}-seg-tested",
    )
    assert code == 0, said
    tested = record(place / "seg-tested")
    assert tested["backbone"]["sha256"] == run.sha256
    assert tested["metrics"] == record(work)["metrics"]


def test_a_baseline_from_scratch_has_the_architecture_and_no_ancestry(
    scenes: Path, run: RunFolder, place: Path
) -> None:
    work = place / "scratch"
    code, said = call(
        *["train", QUICKSTART / "caption.py", "--backbone", run.path, "--from-scratch"],
        *["--work-dir", work, "--cfg-options", *options(scenes, "caption")],
        f"experiment_name={place.name}-scratch",
    )
    assert code == 0, said
    assert record(work)["backbone"] is None
    state = checkpoint.load(work / "iter_2.pth")["state_dict"]
    name = "net.blocks.0.attn.qkv.weight"
    pretrained = run.weights("vision.")[name]
    assert state[f"backbone.tower.{name}"].shape == pretrained.shape
    assert not torch.allclose(state[f"backbone.tower.{name}"], pretrained, atol=0.02)


@pytest.mark.parametrize("task", ["det", "seg"])
def test_predictions_are_drawn_on_any_image(
    fine_tuned: dict[str, Path], scenes: Path, place: Path, task: str
) -> None:
    work = fine_tuned[task]
    photo = next((scenes / "images" / "val").glob("*.jpg"))
    words = [work / f"{task}.py", checkpoint.find_valid(work), photo, "--out-dir", place / "drawn"]
    code, said = call("predict", *words)
    assert code == 0, said
    with Image.open(place / "drawn" / f"{photo.stem}.png") as drawn:
        assert drawn.size == (64, 64)
    code, said = call("predict", *words[:2], place / "missing.jpg")
    assert code == 2 and "missing.jpg" in said
