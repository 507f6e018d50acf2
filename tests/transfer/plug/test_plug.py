"""A run folder put into a config: architecture, pixels, widths, tokenizer, ancestry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metrics_file import ancestry
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from transfer.plug import adopt_own, explain, plug

MEAN, STD = (0.25, 0.5, 0.75), (0.125, 0.25, 0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> run_folder.RunFolder:
    """A run of width 24, with statistics of its own and a tokenizer."""
    torch.manual_seed(0)
    overrides = dict(embed_dim=24, depth=2, num_heads=2)
    words = Tokenizer.train(["a red star", "two blue fish"], 300)
    model = DualEncoder(
        VisionTower("vit_tiny_patch16_224", 32, overrides=overrides),
        TextTower(vocab_size=words.vocab_size, width=24, layers=1, heads=2, max_tokens=10),
        16,
        mean=MEAN,
        std=STD,
        tokenizer=words,
    )
    extra = {"objective": {"type": "Sparc"}, "samples_seen": 640}
    return model.save_pretrained(tmp_path_factory.mktemp("work") / "run", extra)


def config(**parts: Any) -> Config:
    backbone = dict(type="sparc.SparcViT", vision=dict(arch="vit_base_patch16_224", width=768))
    pixels = dict(type="DetDataPreprocessor", mean=[1.0] * 3, std=[2.0] * 3)
    model = dict(type="Any", data_preprocessor=pixels, backbone=backbone)
    return Config(dict(model={**model, **parts}))


def test_the_backbone_is_the_runs_and_the_pixels_are_read_as_it_reads_them(run) -> None:
    cfg = plug(config(), run.path)
    assert cfg.model.backbone.vision == run.config["vision"]
    assert Path(cfg.model.backbone.run) == run.path
    assert cfg.model.data_preprocessor.mean == pytest.approx([63.75, 127.5, 191.25])
    assert cfg.model.data_preprocessor.std == pytest.approx([31.875, 63.75, 127.5])


def test_other_options_of_the_backbone_stay(run) -> None:
    cfg = config()
    cfg.model.backbone.update(out_indices=(0, 1), frozen=True)
    plug(cfg, run.path)
    assert (cfg.model.backbone.out_indices, cfg.model.backbone.frozen) == ((0, 1), True)


def test_the_ancestry_is_the_runs_identity(run) -> None:
    cfg = plug(config(), run.path.parent)  # the work dir
    assert cfg.ancestry == ancestry(run)
    assert cfg.ancestry["sha256"] == run.sha256 and len(run.sha256) == 64
    assert (cfg.ancestry["objective"], cfg.ancestry["samples_seen"]) == ("Sparc", 640)


def test_from_scratch_keeps_the_architecture_and_leaves_weights_and_ancestry_out(run) -> None:
    cfg = plug(config(), run.path, scratch=True)
    assert cfg.model.backbone.vision == run.config["vision"]
    assert cfg.model.backbone.run is None and cfg.ancestry is None


def test_a_pyramid_takes_the_new_width_and_heads_behind_it_keep_theirs(run) -> None:
    neck = dict(type="sparc.SimplePyramid", in_channels=768, out_channels=768)
    cfg = plug(config(neck=neck, decode_head=dict(in_channels=[768] * 4)), run.path)
    assert (cfg.model.neck.in_channels, cfg.model.neck.out_channels) == (24, 768)
    assert cfg.model.decode_head.in_channels == [768] * 4


def test_a_neck_that_passes_the_width_on_takes_the_heads_with_it(run) -> None:
    heads = dict(
        neck=dict(type="Feature2Pyramid", embed_dim=768, rescales=[4, 2, 1, 0.5]),
        decode_head=dict(in_channels=[768] * 4, channels=512),
        auxiliary_head=[dict(in_channels=768, channels=256)],
    )
    cfg = plug(config(**heads), run.path)
    assert cfg.model.neck.embed_dim == 24
    assert cfg.model.decode_head.in_channels == [24] * 4 and cfg.model.decode_head.channels == 512
    assert cfg.model.auxiliary_head[0].in_channels == 24


def test_a_linear_head_follows_in_all_its_widths(run) -> None:
    head = dict(type="FCNHead", in_channels=768, channels=768, num_convs=0)
    cfg = plug(config(decode_head=head, neck=None), run.path)
    assert (cfg.model.decode_head.in_channels, cfg.model.decode_head.channels) == (24, 24)


def test_a_model_inside_another_gets_the_backbone_too(run) -> None:
    inner = config().model
    cfg = plug(Config(dict(model=dict(type="Teacher", detector=inner))), run.path)
    assert cfg.model.detector.backbone.vision.width == 24


def test_a_captioner_speaks_the_runs_tokens_unless_told_otherwise(run) -> None:
    new, ready = dict(model_type="gpt2"), dict(pretrained="work_dirs/lm")
    cfg = plug(config(language_model=new, tokenizer=None), run.path)
    assert Path(cfg.model.tokenizer) == run.path / "tokenizer.json"
    cfg = plug(config(language_model=new, tokenizer="mine.json"), run.path)
    assert cfg.model.tokenizer == "mine.json"
    assert plug(config(language_model=ready, tokenizer=None), run.path).model.tokenizer is None


def test_a_config_without_a_backbone_is_refused_with_the_remedy(run) -> None:
    with pytest.raises(ValueError, match=r"sparc\.SparcViT.*configs/det/sparc_coco\.py"):
        plug(config(backbone=None), run.path)


def test_patches_and_strides_that_do_not_go_together_are_told_with_both_sides(
    run, tmp_path: Path
) -> None:
    neck = dict(type="sparc.SimplePyramid", in_channels=768, in_stride=32)
    with pytest.raises(ValueError, match=r"model\.neck makes strides .4, 8, 16, 32. from"):
        plug(config(neck=neck), run.path)
    odd = dict(type="sparc.SimplePyramid", in_channels=768, in_stride=14)
    cfg = config(neck=odd)
    cfg.model.backbone.patch = 14
    with pytest.raises(ValueError, match=rf"patches of {run.path} give maps of stride 14"):
        plug(cfg, run.path)


def test_images_smaller_than_a_patch_are_refused(run) -> None:
    cfg = config()
    cfg.model.data_preprocessor.size = (8, 64)
    with pytest.raises(ValueError, match=r"size \[8, 64\] is smaller than one patch of .*16 px"):
        plug(cfg, run.path)


def test_a_config_that_fits_already_has_few_changes_and_each_says_why(run) -> None:
    neck = dict(type="sparc.SimplePyramid", in_channels=768, out_channels=64)
    changes = explain(config(neck=neck), run.path)
    assert [change.path for change in changes] == [
        "model.backbone.vision",
        "model.neck.in_channels",
        "model.data_preprocessor.mean",
        "model.data_preprocessor.std",
        "model.data_preprocessor.bgr_to_rgb",
    ]
    assert str(changes[1]) == "model.neck.in_channels: 768 -> 24  (the run's width)"


def test_a_damaged_run_is_refused_before_the_config_is_touched(run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    for file in run.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / run_folder.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    cfg = config()
    with pytest.raises(run_folder.InvalidRunFolder, match="damaged"):
        plug(cfg, copy)
    assert cfg.model.backbone.vision.width == 768 and "ancestry" not in cfg
    with pytest.raises(FileNotFoundError, match="no run folder"):
        plug(cfg, tmp_path / "nowhere")


def test_a_run_named_in_the_config_itself_is_written_down_as_well(run) -> None:
    cfg = config(backbone=dict(type="sparc.SparcViT", run=str(run.path)))
    assert adopt_own(cfg)
    assert cfg.ancestry == ancestry(run) and cfg.model.backbone.vision == run.config["vision"]
    assert adopt_own(cfg) == []
    plain = config()
    assert adopt_own(plain) == [] and "ancestry" not in plain
