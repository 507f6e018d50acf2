"""Folders of Hugging Face bring sizes and weights, and choose no code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from sparc_pretrain.convert.hf_config import read_config
from sparc_pretrain.convert.load_hf import load_hf
from sparc_pretrain.data.tokenizer import Tokenizer
from tests.convert import sources
from transfer.captioning.language_model.loading import load_language_model, wrap

KERNEL = "nobody/attention-that-is-code"


def say(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, *(v for k, v in config.items() if k.endswith("_config"))):
        part.update(entries)
    path.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "clip"
    sources.clip().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "gpt"
    words = Tokenizer.train(["a red kite over the hill"] * 3, 270)
    config = transformers.GPT2Config(vocab_size=270, n_embd=16, n_layer=1, n_head=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    wrap(words).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_attention_is_never_the_kernel_that_a_file_names(clip, gpt, key):
    for folder in (clip, gpt):
        say(folder, **{key: KERNEL}, experts_implementation=KERNEL)
    parts = [read_config(str(clip)), read_config(str(clip)).vision_config, read_config(str(gpt))]
    assert {part._attn_implementation for part in parts} == {None}
    assert load_hf(str(clip)).vision.width == sources.VISION["hidden_size"]
    model, _, _ = load_language_model(dict(pretrained=str(gpt)))
    assert model.config._attn_implementation in ("sdpa", "eager")
    model, _, _ = load_language_model(dict(architecture=str(gpt)))
    assert model.config._attn_implementation in ("sdpa", "eager")


def test_quantised_weights_and_code_of_the_folder_are_refused(clip, gpt, tmp_path):
    canary = tmp_path / "canary"
    for folder in (clip, gpt):
        (folder / "own.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
        say(folder, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"})
    with pytest.raises(OSError, match=r"clip cannot be loaded"):
        load_hf(str(clip))
    with pytest.raises(ValueError, match=r"gpt' cannot be read"):
        load_language_model(dict(pretrained=str(gpt)))
    say(clip, model_type="clip", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(OSError, match="quantised weights"):
        load_hf(str(clip))
    assert not canary.exists()
