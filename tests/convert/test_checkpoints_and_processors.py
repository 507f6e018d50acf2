"""Which of a checkpoint's weights are taken, and what a Hugging Face folder says of pixels."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from sparc_pretrain.convert.files import read_weights
from sparc_pretrain.convert.hf_processor import merged, pixels
from sparc_pretrain.convert.load_hf import load_hf
from sparc_pretrain.convert.parts import assemble, difference
from tests.commands import call, refusal
from tests.convert import sources

ZEROS, ONES = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
HALF = ((0.5,) * 3, (0.5,) * 3)


def saved(path, checkpoint):
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", ""]
)
def test_what_compile_and_ddp_put_before_names_is_cut_off_in_any_order(tmp_path, prefix):
    file = saved(tmp_path / "a.pth", {"state_dict": {f"{prefix}{k}": v for k, v in ONES.items()}})
    assert list(read_weights(file)[0]) == ["w"]
    inside = {"vision._orig_mod.w": torch.ones(1), "module.w": torch.ones(1)}
    assert list(read_weights(saved(file, inside))[0]) == ["vision.w", "module.w"]


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_state_dict"])
def test_the_moving_average_is_taken_as_timm_does_and_the_choice_is_told(tmp_path, key):
    averaged = {f"module.{k}": v for k, v in ONES.items()} | {"steps": torch.tensor(3)}
    file = saved(tmp_path / "a.pth", {"state_dict": ZEROS, key: averaged, "epoch": 3})
    found, (note,) = read_weights(file)
    assert torch.equal(found["w"], ONES["w"]) and list(found) == ["w"]
    assert key in note and "--raw takes 'state_dict'" in note
    assert torch.equal(read_weights(file, average=False)[0]["w"], ZEROS["w"])
    assert read_weights(file, average=True)[1] == []
    plain = saved(tmp_path / "b.pth", {"model": ZEROS})
    assert read_weights(plain)[1] == []
    with pytest.raises(ValueError, match="no moving average: its keys are model"):
        read_weights(plain, average=True)
    only = saved(tmp_path / "c.pth", {key: ONES})
    with pytest.raises(ValueError, match="holds only a moving average"):
        read_weights(only, average=False)


def test_a_file_whose_weights_are_elsewhere_is_refused_with_its_keys(tmp_path):
    file = saved(tmp_path / "dino.pth", {"student": ZEROS, "teacher": ONES, "epoch": 1})
    argv = ["convert", file, tmp_path / "run", "--arch", "vit_tiny_patch16_224"]
    line = refusal(call(*argv))
    assert "its keys are student, teacher, epoch" in line and ".safetensors" in line
    assert "--ema and --raw" in refusal(call("convert", tmp_path, tmp_path / "run", "--ema"))


def test_a_vision_tower_with_its_projection_is_converted_whole(tmp_path):
    config = transformers.CLIPVisionConfig(
        **sources.VISION, intermediate_size=50, projection_dim=16
    )
    model = sources.randomised(transformers.CLIPVisionModelWithProjection(config))
    model.save_pretrained(tmp_path / "clip")
    parts = load_hf(str(tmp_path / "clip"))
    run = assemble(parts)
    assert run.width == 16 and difference(parts, run) < 1e-5


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("nested", [False, True])
def test_mean_and_std_are_read_from_either_file_also_nested(tmp_path, name, nested):
    sources.clip().save_pretrained(tmp_path)
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}
    (tmp_path / name).write_text(json.dumps({"image_processor": said} if nested else said))
    parts = load_hf(str(tmp_path))
    assert (parts.mean, parts.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert parts.interpolation == "bilinear" and not any("mean" in note for note in parts.notes)


def test_two_processors_that_disagree_are_refused(tmp_path):
    sources.clip().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0]}')
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"image_mean": [1,1,1]}}')
    line = refusal(call("convert", tmp_path, tmp_path / "run"))
    assert "processor_config.json says image_mean=[1, 1, 1], preprocessor_config.json" in line
    assert merged({"a": {"resample": 3}, "b": {"image_processor": {"resample": 3}}}) == {
        "resample": 3
    }


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"do_normalize": False, "do_rescale": False, "image_mean": [0.1, 0.2, 0.3]},
        {"image_mean": 0.3, "image_std": 0.2},
    ],
)
def test_pixels_are_those_of_transformers_own_processor(said):
    family = {"image_mean": list(HALF[0]), "image_std": list(HALF[1])}
    size = {"do_resize": False, "do_center_crop": False}
    theirs = transformers.CLIPImageProcessor(**{**family, **said}, **size)
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    wanted = torch.as_tensor(theirs(image, return_tensors="pt").pixel_values[0]).float()
    ours = pixels(said, *HALF, 3)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (ours.mean, ours.std))
    torch.testing.assert_close((image / 255 - mean) / std, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "said",
    [{"image_mean": [1, 2]}, {"image_std": [0, 1, 1]}, {"resample": 9}, {"rescale_factor": 0},
     {"image_mean": [float("nan")] * 3}, {"image_std": "x"}],
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(said):
    with pytest.raises(ValueError, match=next(iter(said))):
        pixels(said, *HALF, 3)


def test_sizes_beyond_the_weights_beside_them_are_refused_before_they_are_built(tmp_path):
    sources.clip().save_pretrained(tmp_path / "hf")
    sources.timm_model("vit_tiny_patch16_224", img_size=64, **sources.SMALL)
    path = tmp_path / "hf" / "config.json"
    config = json.loads(path.read_text())
    for key, value in (("num_hidden_layers", 10**9), ("hidden_size", 2**30)):
        forged = {**config, "vision_config": {**config["vision_config"], key: value}}
        path.write_text(json.dumps(forged))
        assert "larger than the weights there" in refusal(
            call("convert", tmp_path / "hf", tmp_path / "run")
        )
