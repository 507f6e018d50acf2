"""Files of before the moves and the mended weight decay, made at 8ce4f2d, are still read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sparc_pretrain import run_folder
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.engine import checkpoint
from sparc_pretrain.engine.optim import GuardedOptimWrapper
from sparc_pretrain.engine.plain_data import load
from sparc_pretrain.pretraining.pretrainer import Pretrainer
from sparc_pretrain.report.records import gather
from sparc_pretrain.study.store import read_record
from sparc_pretrain.zeroshot import encode

OLD = Path(__file__).parent / "fixtures" / "8ce4f2d"
SENTENCE, TEXT = "a red star on sand", [0.7586513, 0.0239168, -0.6052489, 0.3021533]
IMAGE = [0.0859965, 0.0404942, -0.1028465, 0.0569306]  # as the code of then embedded them


def pretrainer() -> Pretrainer:
    config = run_folder.open_run(OLD / "run").config
    vision, text = dict(config["vision"]), dict(config["text"])
    built = {key: vision[key] for key in ("arch", "img_size", "overrides")}
    towers = {key: text[key] for key in ("vocab_size", "width", "layers", "heads", "max_tokens")}
    return Pretrainer(built, towers, dict(type="Sparc"), width=16)


@torch.no_grad()
def test_a_run_folder_embeds_images_and_texts_as_it_did() -> None:
    model = DualEncoder.from_pretrained(OLD / "run")
    pixels = (torch.arange(3 * 32 * 32) % 256).view(1, 3, 32, 32).to(torch.uint8)
    found = model.encode_text([SENTENCE])[0, :4], model.encode_image(pixels)[0, :4]
    torch.testing.assert_close(found[0], torch.tensor(TEXT), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], torch.tensor(IMAGE), rtol=1e-5, atol=1e-6)
    _, objective = encode.load(OLD / "run")
    assert type(objective).__name__ == "Sparc"


def test_the_weights_of_a_checkpoint_are_those_of_its_run_folder(tmp_path: Path) -> None:
    assert checkpoint.verify(OLD / "iter_4.pth") is None
    model = pretrainer()
    model.load_state_dict(load(OLD / "iter_4.pth")["state_dict"])
    run = run_folder.open_run(OLD / "run").weights()
    assert all(torch.equal(value, run[name]) for name, value in model.run_weights().items())


def test_an_optimizer_in_which_everything_decayed_is_not_resumed() -> None:
    model = pretrainer()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=matrices), dict(params=rest, weight_decay=0.0)]
    wrapper = GuardedOptimWrapper(optimizer=torch.optim.AdamW(groups))
    with pytest.raises(ValueError, match=r"has 1 parameter group\(s\), this one 2.*init_from=RUN"):
        wrapper.load_state_dict(load(OLD / "iter_4.pth")["optimizer"])


def test_the_record_of_an_evaluation_and_a_cell_of_a_study_are_read(tmp_path: Path) -> None:
    shutil.copy(OLD / "metrics.json", tmp_path)
    (one,) = gather([tmp_path]).evaluations
    assert one.kind == "retrieval" and one.start == "SPARC" and one.metrics["t2i_R@5"] == 1.0
    (tmp_path / "cells").mkdir()
    shutil.copy(OLD / "study/sparc-0.json", tmp_path / "cells")
    record = read_record(tmp_path, "sparc-0")
    assert record["metrics"] == json.loads((OLD / "study/sparc-0.json").read_text())["metrics"]
    assert all(isinstance(v, float) for items in record["items"].values() for v in items)
