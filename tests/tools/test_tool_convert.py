"""tools/convert.py: what it writes, and every refusal as one line with exit code 2."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sparc_pretrain.convert import hub
from sparc_pretrain.convert.load_open_clip import _preprocessing
from sparc_pretrain.convert.parts import relative
from sparc_pretrain.dual_encoder import DualEncoder
from tests.commands import call, refusal
from tests.convert import sources

SMALL = ["embed_dim=48", "depth=2", "num_heads=2"]


def convert(*argv) -> str:
    """The refusal of a conversion."""
    return refusal(call("convert", *argv))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A timm file, an open_clip file with its config, and a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("files")
    vit = sources.timm_model("vit_tiny_patch16_224", img_size=64, **sources.SMALL)
    save_file(vit.state_dict(), folder / "vit.safetensors")
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in vit.state_dict().items()}}, folder / "vit.pt"
    )
    clip = sources.OPEN_CLIP["openai"]()
    save_file(clip.state_dict(), folder / "clip.safetensors")
    cfg = dict(
        embed_dim=16, quick_gelu=True, vision_cfg=sources.OPEN_VISION, text_cfg=sources.OPEN_TEXT
    )
    (folder / "clip.json").write_text(json.dumps(cfg))
    sources.siglip().save_pretrained(folder / "siglip")
    return folder


def test_a_file_of_weights_becomes_a_run_folder_that_verifies_and_goes_out_again(
    files, tmp_path, capsys
):
    image = torch.randn(2, 3, 64, 64)
    vit = sources.timm_model("vit_tiny_patch16_224", img_size=64, **sources.SMALL)
    for name in ("vit.safetensors", "vit.pt"):
        out = tmp_path / name.replace(".", "_")
        code, said = call(
            "convert", files / name, out, "--arch", "vit_tiny_patch16_224", "--set", *SMALL
        )
        assert code == 0, said
        model = DualEncoder.from_pretrained(out)
        assert model.vision.img_size == 64  # as its position embeddings say
        with torch.inference_mode():
            assert relative(model.encode_image(image), vit(image)) < 1e-5
        assert call("verify", out)[0] == 0
    assert "without a text tower, features differ by" in capsys.readouterr().out
    assert call("convert", out, tmp_path / "out", "--to", "timm")[0] == 0
    assert (tmp_path / "out/README.md").exists()


def test_an_open_clip_file_and_a_hugging_face_folder_bring_their_text_towers(files, tmp_path):
    clip, siglip = tmp_path / "clip", tmp_path / "siglip"
    source = [files / "clip.safetensors", clip, "--arch", files / "clip.json"]
    assert call("convert", *source)[0] == 0
    assert DualEncoder.from_pretrained(clip).text.style.pool == "argmax"
    assert call("convert", files / "siglip", siglip)[0] == 0
    assert DualEncoder.from_pretrained(siglip).text.style.fixed_length
    assert (
        call("convert", files / "siglip/model.safetensors", siglip, "--vision-only", "--force")[0]
        == 0
    )
    assert DualEncoder.from_pretrained(siglip).text is None


def test_a_file_that_the_library_would_not_load_is_not_taken_for_the_one_it_would(files, tmp_path):
    folder = files / "siglip"
    (folder / "ema.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    said = convert(folder / "ema.safetensors", tmp_path / "run")
    assert "would load model.safetensors" in said and "--arch" in said


def test_a_file_of_a_timm_folder_is_that_folder(files, tmp_path):
    arch = ["--arch", "vit_tiny_patch16_224", "--set", *SMALL]
    assert call("convert", files / "vit.safetensors", tmp_path / "run", *arch)[0] == 0
    assert call("convert", tmp_path / "run", tmp_path / "timm", "--to", "timm")[0] == 0
    again = tmp_path / "again"
    code, said = call("convert", tmp_path / "timm" / "model.safetensors", again)
    assert code == 0, said
    assert DualEncoder.from_pretrained(again).vision.img_size == 64


def test_a_file_takes_its_mean_and_std_from_the_weights_of_its_arch(files, tmp_path, capsys):
    half = [0.5, 0.5, 0.5]
    cfg = json.loads((files / "clip.json").read_text())
    preprocess = dict(mean=half, std=half, resize_mode="squash")
    (tmp_path / "clip.json").write_text(json.dumps(dict(model_cfg=cfg, preprocess_cfg=preprocess)))
    source = [files / "clip.safetensors", tmp_path / "run", "--arch"]
    assert call("convert", *source, tmp_path / "clip.json")[0] == 0
    assert "--resize squash" in capsys.readouterr().out
    assert DualEncoder.from_pretrained(tmp_path / "run").mean.flatten().tolist() == half
    assert call("convert", *source, files / "clip.json", "--force")[0] == 0
    assert "mean and std are CLIP's" in capsys.readouterr().out
    found, note = _preprocessing("ViT-B-16-SigLIP", "")
    assert list(found["mean"]) == half and "ViT-B-16-SigLIP" in note
    found, note = _preprocessing("ViT-L-14", "")
    assert found == {} and "2 kinds" in note and "--arch ViT-L-14:TAG" in note
    found, note = _preprocessing("ViT-L-14", "openai")
    assert found["mean"][0] == pytest.approx(0.4815, abs=1e-4)
    with pytest.raises(ValueError, match="no weights ViT-L-14:nobody"):
        _preprocessing("ViT-L-14", "nobody")


def test_nothing_is_overwritten_without_force(files, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/kept").write_text("x")
    said = convert(files / "siglip", tmp_path / "run")
    assert "exists" in said and "--force" in said
    assert (tmp_path / "run/kept").exists()


@pytest.mark.parametrize(
    ("arch", "near"),
    [("vit_tinny_patch16_224", "vit_tiny_patch16_224"), ("ViT-B-166", "ViT-B-16")],
)
def test_an_unknown_arch_is_refused_with_the_nearest_name(files, tmp_path, arch, near):
    assert near in convert(files / "vit.safetensors", tmp_path / "run", "--arch", arch)


def test_an_arch_that_is_no_plain_vit_is_refused(files, tmp_path):
    said = convert(files / "vit.safetensors", tmp_path / "run", "--arch", "resnet50")
    assert "not a plain Vision Transformer" in said


def test_a_file_without_arch_and_an_unknown_source_are_refused(files, tmp_path):
    assert "--arch" in convert(files / "vit.safetensors", tmp_path / "run")
    assert "did you mean 'ViT-B-16'" in convert("ViT-B-16x", tmp_path / "run")
    assert "no file or folder" in convert(tmp_path / "absent.safetensors", tmp_path / "run")
    assert "use ViT-B-16:TAG of ['openai'" in convert("ViT-B-16:nobody", tmp_path / "run")


def test_weights_that_do_not_fit_are_named_with_the_fix(files, tmp_path):
    argv = [files / "vit.safetensors", tmp_path / "run", "--arch", "deit_tiny_patch16_224"]
    said = convert(*argv, "--set", *SMALL, "init_values=0.1")
    assert "4 keys missing ['blocks.0.ls1.gamma'" in said and "--arch deit_tiny" in said
    said = convert(*argv, "--set", *SMALL, "reg_tokens=2")
    assert "does not fit deit_tiny_patch16_224" in said and "--arch deit_tiny" in said
    said = convert(*argv, "--set", "depth=1")
    assert "12 unknown ['blocks.1." in said and "other shapes ['cls_token" in said
    cfg = json.loads((files / "clip.json").read_text())
    cfg["text_cfg"]["layers"] = 3
    (tmp_path / "deep.json").write_text(json.dumps(cfg))
    argv = [files / "clip.safetensors", tmp_path / "run", "--arch", tmp_path / "deep.json"]
    assert "12 keys missing ['transformer.resblocks.2" in convert(*argv)
    assert not (tmp_path / "run").exists()


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    with open(tmp_path / "bad.pt", "wb") as file:
        pickle.dump({"weight": Trap()}, file)
    torch.save({"weight": torch.zeros(1), "extra": Trap()}, tmp_path / "zip.pt")
    for name in ("bad.pt", "zip.pt"):
        said = convert(tmp_path / name, tmp_path / "run", "--arch", "vit_tiny_patch16_224")
        assert "nothing but plain data is ever loaded" in said and ".safetensors" in said
    assert not (tmp_path / "ran").exists()


def test_a_hugging_face_folder_with_weights_missing_is_refused(files, tmp_path):
    folder = tmp_path / "siglip"
    sources.siglip().save_pretrained(folder)
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    gone = next(k for k in weights if "post_layernorm.weight" in k)
    del weights[gone]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    said = convert(folder, tmp_path / "run")
    assert "1 keys missing" in said and "post_layernorm.weight" in said
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "bert; converted are" in convert(folder, tmp_path / "run")


def test_a_name_that_cannot_be_fetched_is_one_line(tmp_path, monkeypatch):
    import timm
    import transformers

    def offline(*args, **options):
        raise RuntimeError("Cannot reach the hub\nCheck your connection")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    said = convert("someone/clip", tmp_path / "run")
    assert "Cannot reach the hub Check your connection" in said and "download its folder" in said
    monkeypatch.setattr(timm, "create_model", offline)
    said = convert("vit_tiny_patch16_224.augreg_in21k", tmp_path / "run")
    assert "Cannot reach the hub" in said and "--arch" in said


def test_a_run_folder_coming_in_and_options_going_out_are_refused(files, tmp_path):
    run = tmp_path / "run"
    assert call("convert", files / "siglip", run)[0] == 0
    assert "--to" in convert(run, tmp_path / "other")
    assert "--arch" in convert(run, tmp_path / "other", "--to", "timm", "--arch", "x")
    said = convert(run, tmp_path / "other", "--to", "open_clip")
    assert "no timm name builds this one" in said and not (tmp_path / "other").exists()
    assert "no run folder" in convert(tmp_path / "nowhere", tmp_path / "other", "--to", "timm")


def test_push_uploads_what_was_written(files, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(hub, "push_to_hub", lambda *a, **k: pushed.append((a, k)) or "address")
    argv = [files / "siglip", tmp_path / "run", "--push", "someone/run"]
    assert call("convert", *argv)[0] == 0
    assert pushed == [((str(tmp_path / "run"), "someone/run"), {"private": True})]
