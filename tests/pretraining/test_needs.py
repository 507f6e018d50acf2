"""What an objective needs of its data is asked for, and looked for, before anything is built."""

import numpy as np
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


def test_class_names_are_those_of_the_config_or_made_once_from_the_sources(tmp_path):
    elems = [dict(box=[1, 1, 9, 9], label=name) for name in ("star", "car")]
    source = dict(shards=shards(tmp_path, dict(captions=["x"], elems=elems)))

    def adopted(fields, **objective):
        data, model = dict(fields=fields), dict(objective=dict(type="Uniter", **objective))
        cfg = Config(dict(work_dir=str(tmp_path / "w"), data=data, model=model))
        needs.adopt_labels(cfg, [source])
        return cfg.data.fields.get("labels"), cfg.model.objective.get("labels")

    assert adopted({}, tasks=dict(mrc=1)) == (["car", "star"], ["car", "star"])
    assert (tmp_path / "w/labels.json").is_file()
    source["shards"] = "gone"  # they are read from the work dir
    assert adopted({}, weights=dict(mrc_kl=1)) == (["car", "star"], ["car", "star"])
    assert adopted(dict(labels=["b"]), tasks=dict(mrc=1)) == (["b"], ["b"])
    assert adopted({}, tasks=dict(mlm=1)) == (None, None)


def test_vectors_of_regions_from_files_are_asked_for(tmp_path):
    files = dict(type="Uniter", regions="files")
    with pytest.raises(ValueError, match=r"set data.fields.region_files=dict"):
        needs.check(files, Fields(regions=9), [dict(shards=shards(tmp_path, BOXED))])
    (tmp_path / "npz").mkdir()
    told = dict(kind="npz", path=str(tmp_path / "npz"))
    source = dict(shards=shards(tmp_path / "b", "a star", "another"))
    fields = Fields(regions=9, crop="none", region_files=told)
    with pytest.raises(ValueError, match="no region vectors of 0 in npz"):
        needs.check(files, fields, [source])
    vectors = dict(features=np.ones((9, 2048)), norm_bb=np.tile([0.1, 0.1, 0.5, 0.5], (9, 1)))
    np.savez(tmp_path / "npz/1.npz", **vectors)  # of one image is enough to begin
    assert needs.check(files, fields, [source]) == []
    np.savez(tmp_path / "npz/0.npz", **vectors | dict(features=np.ones((9, 2054))))
    (tmp_path / "npz/1.npz").unlink()
    with pytest.raises(ValueError, match=r"0\.npz: features of \(9, 2054\).*wanted \[n,2048\]"):
        needs.check(files, fields, [source])
    with pytest.raises(ValueError, match=r"region_width is 1024, .*width 2048: they are"):
        needs.check(files | dict(region_width=1024), fields, [source])
    with pytest.raises(ValueError, match="needs regions"):
        needs.check(files, Fields(crop="none", region_files=told), [])


def test_what_is_more_than_is_asked_for_and_images_without_boxes_are_told_once(tmp_path):
    elems = [dict(box=[1, 1, 9, 9], label="red star")] * 4
    tagged = dict(captions=["a"], elems=elems)
    source = dict(shards=shards(tmp_path / "a", tagged, BOXED))
    lines = needs.check(dict(type="Oscar"), Fields(tags=5, regions=3), [source])
    assert "images have up to 4 boxes: the first 3 are regions" in lines
    assert "images have up to 8 words of tags: their first 5 tokens are kept" in lines
    assert not [line for line in lines if "drawn" in line]
    assert not [
        line
        for line in needs.check(dict(type="Oscar"), Fields(tags=8, regions=4), [source])
        if "up to" in line
    ]
    plain = dict(shards=shards(tmp_path / "b", "a star", "another"))
    with pytest.raises(ValueError, match="needs 'elems' with 'box'"):
        needs.check(dict(type="Uniter"), Fields(regions=3), [plain])
    lines = needs.check(dict(type="Uniter"), Fields(regions=3, without_boxes="grid"), [plain])
    assert lines[0] == "images without boxes have 4 x 4 cells as regions"


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
