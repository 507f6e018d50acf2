"""Checkpoints of other libraries become run folders that say the same, to 1e-5."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparc_pretrain import run_folder
from sparc_pretrain.convert.from_hf import from_hf
from sparc_pretrain.convert.from_open_clip import from_open_clip
from sparc_pretrain.convert.from_timm import from_timm
from sparc_pretrain.convert.parts import Parts, assemble, difference, relative, write
from sparc_pretrain.dual_encoder import DualEncoder
from tests.convert import sources

CLOSE = 1e-5


def through_a_folder(parts: Parts, folder: Path) -> DualEncoder:
    write(parts, assemble(parts), folder)
    run_folder.verify(folder)
    return DualEncoder.from_pretrained(folder)


def images(model: DualEncoder) -> Tensor:
    size = model.vision.img_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def check(said: sources.Said, model: DualEncoder, image: Tensor) -> None:
    """Every feature of the model is the source's, to 1e-5 of its largest value."""
    tokens = model.vision(image, prefix=True)
    found = [model.vision(image), model.vision.pool(tokens), model.encode_image(image)]
    wanted = [said.patches, said.pooled, said.embedding]
    for name, a, b in zip(("patches", "pooled", "embedding"), found, wanted, strict=True):
        assert a.shape == b.shape and relative(a, b) < CLOSE, name
    (last,) = model.vision.maps(image, (-1,))
    assert relative(last.flatten(2).transpose(1, 2), said.patches) < CLOSE
    assert said.patches.std() > 1e-2 and said.pooled.std() > 1e-2  # not a comparison of zeros


@torch.inference_mode()
@pytest.mark.parametrize("name", sources.TIMM)
def test_features_of_a_timm_model_survive(name, tmp_path):
    source = sources.TIMM[name]()
    model = through_a_folder(from_timm(source, name), tmp_path / "run")
    image = images(model)
    check(sources.say_timm(source, image), model, image)
    assert model.text is None and model.objective_config == {}


@torch.inference_mode()
@pytest.mark.parametrize("name", sources.HF)
def test_features_of_a_transformers_model_survive(name, tmp_path):
    source = sources.HF[name]()
    model = through_a_folder(from_hf(source, name), tmp_path / "run")
    image = images(model)
    check(sources.say_hf(source, image), model, image)


@torch.inference_mode()
@pytest.mark.parametrize("name", sources.OPEN_CLIP)
def test_features_of_an_open_clip_model_survive(name, tmp_path):
    source = sources.OPEN_CLIP[name]()
    model = through_a_folder(from_open_clip(source, name), tmp_path / "run")
    image = images(model)
    check(sources.say_open_clip(source, image), model, image)


def captions(tower: nn.Module, end: int, pad: int) -> tuple[Tensor, Tensor]:
    """ids and mask of captions of 3, 6 and all tokens, framed by a begin and `end`."""
    ids = torch.randint(2, end - 1, (3, tower.max_tokens), generator=torch.Generator())
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, length in enumerate((3, 6, tower.max_tokens)):
        ids[row, length - 1] = end
        ids[row, length:] = pad
        mask[row, :length] = True
    return ids, mask


def check_text(wanted: Tensor, model: DualEncoder, ids: Tensor, mask: Tensor) -> None:
    assert relative(model.encode_text(ids), wanted) < CLOSE  # padded by the caller, no mask
    assert relative(model.encode_text(ids, mask), wanted) < CLOSE
    short = model.encode_text(ids[:2, :6], mask[:2, :6])  # padded to the longest, as we batch
    assert relative(short, wanted[:2]) < CLOSE
    features = model.text_features(ids[:2, :6], mask[:2, :6], mask[:2, :6])
    assert features.tokens.shape[:2] == (2, 6)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "pad"),
    [("clip", 39), ("clip_gelu", 0), ("siglip", 1), ("metaclip_2", 1), ("siglip2", 0)],
)
def test_text_embeddings_of_transformers_survive(name, pad, tmp_path):
    source = sources.HF[name]()
    model = through_a_folder(from_hf(source, name), tmp_path / "run")
    ids, mask = captions(model.text, 39, pad)
    check_text(source.get_text_features(input_ids=ids).pooler_output, model, ids, mask)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "end", "pad"), [("openai", 49, 0), ("siglip", 49, 0), ("timm_linear", 7, 0)]
)
def test_text_embeddings_of_open_clip_survive(name, end, pad, tmp_path):
    source = sources.OPEN_CLIP[name]()
    model = through_a_folder(from_open_clip(source, name), tmp_path / "run")
    ids, mask = captions(model.text, max(end, 10), pad)
    ids = torch.where(ids == max(end, 10), end, torch.where(ids == end, 8, ids))
    check_text(source.encode_text(ids), model, ids, mask)


@torch.inference_mode()
def test_strings_are_tokenised_as_open_clip_does(tmp_path):
    import open_clip
    from open_clip.model import CLIP

    text = {**sources.OPEN_TEXT, "vocab_size": 49408, "context_length": 77}
    source = sources.randomised(CLIP(16, sources.OPEN_VISION, text))
    model = through_a_folder(from_open_clip(source, "clip"), tmp_path / "run")
    captions = ["A dog.", "two cats on a mat, and a third one; it's asleep"]
    assert (
        relative(model.encode_text(captions), source.encode_text(open_clip.tokenize(captions)))
        < CLOSE
    )


def test_the_scale_of_a_source_is_the_objectives(tmp_path):
    source = sources.clip()
    with torch.no_grad():
        source.logit_scale.fill_(2.5)
    parts = from_hf(source, "clip")
    run = write(parts, assemble(parts), tmp_path / "run")
    assert run.config["objective"] == {"type": "Clip"}
    assert float(run.weights("objective.")["temperature.log_scale"]) == 2.5


def test_pixel_statistics_and_the_name_of_the_source_are_kept(tmp_path):
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}
    parts = from_hf(sources.siglip(), "some/siglip", processor)
    config = write(parts, assemble(parts), tmp_path / "run").config
    assert config["mean"] == [0.1, 0.2, 0.3] and config["std"] == [0.4, 0.5, 0.6]
    assert config["interpolation"] == "bilinear"
    assert config["source"] == {"library": "transformers", "name": "some/siglip"}
    again = DualEncoder.from_pretrained(tmp_path / "run").config()
    assert {k: again[k] for k in ("mean", "std", "interpolation", "vision", "text")} == {
        k: config[k] for k in ("mean", "std", "interpolation", "vision", "text")
    }


def test_the_config_says_what_the_architecture_promises(tmp_path):
    vision = assemble(from_hf(sources.hf("Dinov2WithRegisters"), "reg")).config()["vision"]
    assert (vision["class_token"], vision["reg_tokens"], vision["pool"]) == (True, 4, "cls")
    vision = assemble(from_hf(sources.siglip(), "s")).config()["vision"]
    assert (vision["class_token"], vision["pool"], vision["act"]) == (False, "map", "GELUTanh")
    vision = assemble(from_hf(sources.clip(), "c")).config()["vision"]
    assert (vision["pre_norm"], vision["act"], vision["patch"]) == (True, "QuickGELU", 8)


def test_a_conversion_that_is_not_equal_is_refused():
    parts = from_timm(sources.TIMM["gap"](), "gap")
    model = assemble(parts)
    assert difference(parts, model) < CLOSE
    with torch.no_grad():
        model.vision.net.blocks[1].norm1.bias[3] += 1e-2
    with pytest.raises(ValueError, match="differ"):
        difference(parts, model)


@pytest.mark.parametrize(
    "arch", ["test_vit4", "vit_relpos_small_patch16_224", "deit_tiny_distilled_patch16_224"]
)
def test_a_timm_model_of_another_kind_is_refused_with_the_reason(arch):
    import timm

    with pytest.raises(ValueError, match=r"layer norms only|plain Vision Transformer"):
        from_timm(timm.create_model(arch, num_classes=0), arch)


def test_a_tower_of_open_clip_that_does_not_fit_is_refused_and_vision_only_is_the_remedy():
    from open_clip.model import CLIP, CustomTextCLIP

    text = {**sources.OPEN_TEXT, "embed_cls": True}
    coca = sources.randomised(CustomTextCLIP(16, sources.OPEN_VISION, text))
    with pytest.raises(ValueError, match=r"class embedding.*--vision-only"):
        from_open_clip(coca, "coca")
    assert assemble(from_open_clip(coca, "coca", vision_only=True)).text is None
    resnet = dict(image_size=64, layers=[1, 1, 1, 1], width=8, patch_size=None)
    with pytest.raises(ValueError, match="ModifiedResNet"):
        from_open_clip(CLIP(16, resnet, sources.OPEN_TEXT), "resnet")
