"""Run folders as models of timm, transformers and open_clip, equal to 1e-5 or refused."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from torch import Tensor
from transformers import AutoBackbone, AutoImageProcessor, AutoModel
from transformers.models.auto import auto_factory

from sparc_pretrain.convert.export import export
from sparc_pretrain.convert.from_hf import from_hf
from sparc_pretrain.convert.from_open_clip import from_open_clip
from sparc_pretrain.convert.from_timm import from_timm, load_timm
from sparc_pretrain.convert.load_hf import load_hf
from sparc_pretrain.convert.load_open_clip import load_open_clip
from sparc_pretrain.convert.parts import Parts, assemble, difference, relative, write
from sparc_pretrain.convert.to_hf import to_hf
from sparc_pretrain.convert.to_open_clip import to_open_clip
from sparc_pretrain.convert.to_timm import to_timm
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from tests.convert import sources
from tests.models import encoder

CLOSE = 1e-5


class SomeHub:
    """A hub that has every repository."""

    def repo_exists(self, name: str) -> bool:
        return True


def own_run(folder: Path) -> Path:
    """What pre-training writes: no class token, averaged, h_v."""
    words = Tokenizer.train(["a small red star", "a large blue house on grass"] * 5, 300)
    model = sources.randomised(encoder(words))
    model.objective_config = {"type": "Sparc"}
    model.save_pretrained(folder)
    return folder


def converted(parts: Parts, folder: Path) -> Path:
    write(parts, assemble(parts), folder)
    return folder


def everything(folder: Path) -> dict[str, Path]:
    made = {"own": own_run(folder / "own")}
    for name, make in sources.TIMM.items():
        made[f"timm {name}"] = converted(from_timm(make(), name), folder / f"timm_{name}")
    for name, make in sources.HF.items():
        made[f"hf {name}"] = converted(from_hf(make(), name), folder / f"hf_{name}")
    for name, make in sources.OPEN_CLIP.items():
        made[f"oc {name}"] = converted(from_open_clip(make(), name), folder / f"oc_{name}")
    return made


TO_TIMM = [
    "own",
    *(f"timm {name}" for name in ("deit3", "registers", "swiglu", "siglip", "norm_after_pool")),
    *("timm dinov3", "timm eva02", "timm pe_core"),
    *("hf clip", "hf siglip", "hf vit", "oc avg_no_pre_norm"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    return everything(tmp_path_factory.mktemp("runs"))


def image_for(model: DualEncoder) -> Tensor:
    size = model.vision.img_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
@pytest.mark.parametrize("name", TO_TIMM)
def test_a_run_folder_is_a_timm_model(runs, name, tmp_path):
    export(runs[name], tmp_path / "out", to_timm, "timm")
    model = DualEncoder.from_pretrained(runs[name])
    image = image_for(model)
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    tokens = model.vision(image, prefix=True)
    assert relative(again.forward_features(image), tokens) < CLOSE
    assert relative(again(image), model.vision.pool(tokens)) < CLOSE
    assert list(again.pretrained_cfg["mean"]) == model.config()["mean"]
    assert not {"license", "hf_hub_id", "tag"} & {
        k
        for k, v in json.loads((tmp_path / "out/config.json").read_text())["pretrained_cfg"].items()
        if v
    }  # those of the arch are of other weights
    back = load_timm(str(tmp_path / "out"))
    assert relative(assemble(back).vision(image), model.vision(image)) < CLOSE


HF_CLASSES = {
    "own": "SiglipVisionModel",
    "timm vit_tiny": "Dinov2Model",
    "timm deit3": "Dinov2Model",
    "timm registers": "Dinov2WithRegistersModel",
    "timm swiglu": "Dinov2Model",
    "timm siglip": "SiglipVisionModel",
    "timm gap": "SiglipVisionModel",
    "timm norm_after_pool": "TimmWrapperModel",
    "timm quickgelu": "CLIPVisionModel",
    "hf clip": "CLIPModel",
    "hf clip_gelu": "CLIPModel",
    "hf siglip": "SiglipModel",
    "hf dinov2": "Dinov2Model",
    "hf dinov2_with_registers": "Dinov2WithRegistersModel",
    "hf dinov2_swiglu": "Dinov2Model",
    "oc openai": "CLIPModel",
    "oc layer_scale": "TimmWrapperModel",
    "oc siglip": "TimmWrapperModel",
    "oc timm_linear": "Dinov2Model",
}


@torch.inference_mode()
@pytest.mark.parametrize("name", HF_CLASSES)
def test_a_run_folder_is_a_transformers_model(runs, name, tmp_path, monkeypatch):
    export(runs[name], tmp_path / "out", to_hf, "transformers")
    model = DualEncoder.from_pretrained(runs[name])
    image = image_for(model)
    again = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert type(again).__name__ == HF_CLASSES[name]
    vision = getattr(again, "vision_model", again)
    states = vision(pixel_values=image).last_hidden_state
    if HF_CLASSES[name].startswith("CLIP"):
        states = vision.post_layernorm(states)
    assert relative(states, model.vision(image, prefix=True)) < CLOSE
    if HF_CLASSES[name] in ("CLIPModel", "SiglipModel"):
        ids = torch.randint(model.text.settings["vocab_size"], (2, model.text.max_tokens))
        ids[:, -1] = model.text.settings["vocab_size"] - 1
        found = again.get_text_features(input_ids=ids).pooler_output
        assert relative(found, model.encode_text(ids)) < CLOSE
        found = again.get_image_features(pixel_values=image).pooler_output
        assert relative(found, model.encode_image(image)) < CLOSE
    if HF_CLASSES[name].startswith("Dinov2"):
        # AutoBackbone asks the hub whether the name exists, even for a folder
        monkeypatch.setattr(auto_factory, "hf_api", SomeHub)
        backbone = AutoBackbone.from_pretrained(str(tmp_path / "out"), out_indices=[1, 2]).eval()
        maps = backbone(pixel_values=image).feature_maps
        for found, wanted in zip(maps, model.vision.maps(image, (0, 1)), strict=True):
            assert relative(found, wanted) < CLOSE
    if HF_CLASSES[name] != "TimmWrapperModel":
        processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
        assert list(processor.image_mean) == model.config()["mean"]
    back = load_hf(str(tmp_path / "out"))
    assert relative(assemble(back).vision(image), model.vision(image)) < CLOSE


def test_the_tokenizer_goes_with_a_pair_of_towers(tmp_path, monkeypatch):
    words = Tokenizer.train(["a small red star"] * 5, 300)
    monkeypatch.setitem(sources.OPEN_TEXT, "vocab_size", words.vocab_size)
    parts = from_open_clip(sources.OPEN_CLIP["openai"](), "openai")
    parts.tokenizer = words
    converted(parts, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", to_hf, "transformers")
    again = Tokenizer.load(tmp_path / "out")
    assert again.encode("a red star").ids == words.encode("a red star").ids


@torch.inference_mode()
@pytest.mark.parametrize(
    "name",
    [
        "hf clip",
        "hf clip_gelu",
        "oc openai",
        "oc laion",
        "oc layer_scale",
        "oc avg_no_pre_norm",
        "oc siglip",
        "oc timm_linear",
    ],
)
def test_a_run_folder_is_an_open_clip_model(runs, name, tmp_path):
    export(runs[name], tmp_path / "out", to_open_clip, "open_clip")
    model = DualEncoder.from_pretrained(runs[name])
    image = image_for(model)
    again, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    ids = torch.randint(model.text.settings["vocab_size"], (2, model.text.max_tokens))
    if model.text.style.eos_id is not None:
        ids[:, -1] = model.text.style.eos_id
    assert relative(again.eval().encode_image(image), model.encode_image(image)) < CLOSE
    assert relative(again.encode_text(ids), model.encode_text(ids)) < CLOSE
    assert list(preprocess.transforms[-1].mean) == model.config()["mean"]
    parts = load_open_clip(str(tmp_path / "out"))
    assert difference(parts, assemble(parts)) < CLOSE


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("own", r"h_v, the non-linear head.*averages its tokens"),
        ("timm gap", "no text tower"),
        ("hf siglip", "no timm name builds this one"),
    ],
)
def test_what_open_clip_cannot_hold_is_refused_with_the_reason(runs, name, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        export(runs[name], tmp_path / "out", to_open_clip, "open_clip")
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_an_own_run_of_a_stock_size_has_a_timm_name_for_open_clip():
    from sparc_pretrain.convert.to_open_clip import timm_name
    from sparc_pretrain.towers.vision import VisionTower

    with torch.device("meta"):
        tower = VisionTower("vit_base_patch16_224", 224)
    assert timm_name(tower.net, tower.arch, 224) == "vit_base_patch16_siglip_gap_224"
    with torch.device("meta"):
        tower = VisionTower("vit_base_patch16_224", 224, overrides=dict(depth=11))
    assert timm_name(tower.net, tower.arch, 224) is None


def test_the_card_names_the_origin_the_identity_and_how_to_load_it(runs, tmp_path):
    for library, writer in (
        ("timm", to_timm),
        ("transformers", to_hf),
        ("open_clip", to_open_clip),
    ):
        done = export(runs["hf clip"], tmp_path / library, writer, library)
        text = (tmp_path / library / "README.md").read_text()
        assert f"library_name: {library}" in text and "transformers: clip" in text
        assert done.usage in text and done.architecture in text
