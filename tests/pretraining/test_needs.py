"""What an objective needs of its data is asked for, and looked for, before anything is built."""

import pytest
import torch
from mmengine.config import Config
from torchvision.io import encode_jpeg

from sparc_pretrain.data.fields import Fields
from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.pretraining import needs
from sparc_pretrain.pretraining.recipe import make_tokenizer
from tests.commands import ROOT, call, refusal

XVLM = dict(type="Xvlm")
BOXED = dict(captions=["a"], elems=[dict(box=[1, 1, 9, 9], text="a red star")] * 2)


def shards(folder, *members):
    image = encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8)).numpy().tobytes()
    pairs = [
        (f"{n}", image, "jpg", m if isinstance(m, dict) else [m]) for n, m in enumerate(members)
    ]
    return str(write_shards(pairs, folder)[0])


def test_a_field_that_the_config_does_not_ask_for_is_named():
    for fields in (None, Fields(tags=3)):
        with pytest.raises(ValueError) as refused:
            needs.check(XVLM, fields, [])
        assert str(refused.value) == (
            "objective Xvlm needs concepts (boxes with texts): set data.fields.concepts, 5 in the "
            "paper"
        )


def test_shards_without_boxes_are_refused_with_the_command(tmp_path):
    source = dict(shards=shards(tmp_path, "a star", dict(captions=["x"], elems=[dict(text="b")])))
    with pytest.raises(
        ValueError, match=r"needs 'elems' with 'text' and 'box'.*tools/data.py boxes"
    ):
        needs.check(XVLM, Fields(concepts=5), [source])


def test_a_source_of_captions_beside_one_of_boxes_is_told(tmp_path):
    sources = [
        dict(shards=shards(tmp_path / "a", "a star", "b"), weight=2, name="captions"),
        dict(shards=shards(tmp_path / "b", BOXED, "b"), weight=1, name="boxes"),
    ]
    lines = needs.check(XVLM, Fields(concepts=1), sources)
    assert lines[0].startswith("captions: 0 %") and lines[1].startswith("boxes: 50 %")
    assert "33 % of the batches" in lines[2] and "up to 2 boxes: 1 are drawn" in lines[3]
    assert needs.check(dict(type="Clip"), None, sources) == []


def test_the_tool_says_it_in_one_line(tmp_path):
    argv = [
        ROOT / "configs/quickstart/sparc.py",
        "--objective",
        "xvlm",
        "--work-dir",
        tmp_path / "w",
    ]
    source = shards(tmp_path / "a", *["a star"] * 4)
    line = refusal(call("pretrain", *argv, "--cfg-options", f"data.sources={source}"))
    assert "set data.fields.concepts" in line


def test_a_tokenizer_without_a_mask_token_gets_one_after_all_others(tmp_path):
    plain = Tokenizer.train(["a red star", "two fish"] * 3, 300)
    plain.save(tmp_path / "plain")
    ids, last = plain.encode("a red star").ids, plain.vocab_size
    spec = dict(load=str(tmp_path / "plain"))
    made = make_tokenizer(tmp_path / "work", dict(spec), [], mask=True)
    assert made.mask_id == last and made.vocab_size == last + 1
    assert made.encode("a red star").ids == ids and made.encode("[MASK]").ids.count(last) == 0
    assert made.with_mask().vocab_size == last + 1
    low, high = made.word_ids
    assert not {made.bos_id, made.eos_id, made.pad_id, last} & set(range(low, high))
    with pytest.raises(ValueError, match=r"of model.init_from.*has no mask token"):
        make_tokenizer(tmp_path / "other", dict(spec), [], mask=True, fixed=True)
    assert Config(dict(tokenizer=dict(train=9, mask=True))).tokenizer.mask
