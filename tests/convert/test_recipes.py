"""Every recipe takes a converted folder: dense maps, windows, training, the captioner's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparc_pretrain.convert.from_hf import from_hf
from sparc_pretrain.convert.from_open_clip import from_open_clip
from sparc_pretrain.convert.from_timm import from_timm
from sparc_pretrain.convert.parts import assemble, write
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metrics_file import ancestry
from sparc_pretrain.run_folder import open_run
from sparc_pretrain.zeroshot import encode
from tests.convert import sources
from transfer.backbone import SparcViT

MAKERS = {
    "openai": lambda: from_open_clip(sources.OPEN_CLIP["openai"](), "openai"),
    "siglip": lambda: from_hf(sources.siglip(), "siglip"),
    "dinov2": lambda: from_hf(sources.hf("Dinov2WithRegisters"), "dinov2"),
    "patch14": lambda: from_timm(sources.TIMM["registers"](), "patch14"),
    "norm_after_pool": lambda: from_timm(sources.TIMM["norm_after_pool"](), "norm_after_pool"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    work = tmp_path_factory.mktemp("runs")
    made = {}
    for name, make in MAKERS.items():
        parts = make()
        made[name] = write(parts, assemble(parts), work / name).path
    return made


def backbone(run: Path, **options) -> SparcViT:
    model = SparcViT(run=str(run), **options)
    model.init_weights()
    return model.eval()


@torch.inference_mode()
@pytest.mark.parametrize("name", MAKERS)
def test_maps_are_the_patch_states_without_class_and_register_tokens(runs, name):
    model, dense = DualEncoder.from_pretrained(runs[name]), backbone(runs[name], patch=None)
    size = model.vision.img_size
    image = torch.randn(1, 3, size, size)
    (found,) = dense(image)
    side = size // model.vision.patch
    assert found.shape == (1, model.vision.width, side, side)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), model.vision(image))
    (wide,) = dense(torch.randn(1, 3, size, 2 * size))
    assert wide.shape[-2:] == (side, 2 * side) and wide.isfinite().all()


@pytest.mark.parametrize("name", MAKERS)
def test_a_converted_backbone_trains_at_16_pixels_with_windows_and_uses_every_weight(runs, name):
    dense = SparcViT(run=str(runs[name]), window=2, global_blocks=(1,), out_indices=(0, 1))
    dense.init_weights()
    assert dense.stride == 16
    maps = dense.train()(torch.randn(2, 3, 96, 64))
    assert [tuple(m.shape[-2:]) for m in maps] == [(6, 4), (6, 4)]
    sum(m.square().mean() for m in maps).backward()
    unused = [n for n, p in dense.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []  # DDP would wait for them


def test_a_frozen_embedding_takes_its_tokens_with_it(runs):
    dense = SparcViT(run=str(runs["dinov2"]), frozen=1)
    trained = {n for n, p in dense.named_parameters() if p.requires_grad}
    assert trained and all(n.startswith(("tower.net.blocks.1", "tower.net.norm.")) for n in trained)


def test_zero_shot_tasks_read_a_converted_pair_by_the_cosine(runs):
    model, objective = encode.load(runs["openai"])
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    ids = torch.randint(2, 50, (3, 9))
    mask = torch.ones_like(ids, dtype=torch.bool)
    scores = objective.scores(model.image_features(image), model.text_features(ids, mask, mask))
    wanted = model.encode_image(image, True) @ model.encode_text(ids, mask, True).T
    torch.testing.assert_close(scores, wanted)


def test_a_record_names_a_converted_backbone(runs):
    assert ancestry(open_run(runs["openai"]))["objective"] == "Clip"
    assert ancestry(open_run(runs["dinov2"]))["objective"] is None
    card = (runs["dinov2"] / "README.md").read_text()
    assert "transformers: dinov2" in card and "# dinov2 backbone" in card
