"""What samples carry beside image and caption: concepts, tags, regions, saliency."""

import json

import numpy as np
import pytest
import torch
from torchvision.io import encode_jpeg

from sparc_pretrain import chance
from sparc_pretrain.data.dataset import PairDataset, TooManyBadSamples, collate
from sparc_pretrain.data.elements import text_key
from sparc_pretrain.data.fields import Fields
from sparc_pretrain.data.shards import write_shards
from sparc_pretrain.data.tokenizer import Tokenizer

WORDS = ["a red star", "the blue car left of it", "a house", "star car house", "two things"]
TOKENIZER = Tokenizer.train(WORDS * 3, 300)


def picture(width: int = 60, height: int = 40) -> bytes:
    """Red on white: the object is at 15..45 x 8..24."""
    pixels = torch.full((3, height, width), 255, dtype=torch.uint8)
    pixels[1:, 8:24, 15:45] = 0
    return encode_jpeg(pixels, quality=100).numpy().tobytes()


STAR = {"box": [15, 8, 30, 16], "text": ["a red star", "star"], "label": "star"}
CAR = {"box": [0, 30, 10, 10], "text": "the blue car", "label": "car"}
TEXTLESS = {"box": [50, 0, 10, 10], "label": "house"}


def shards(folder, *members):
    """A tar with one picture per member: a dict, or a caption."""
    pairs = [
        (f"{n:03d}", picture(), "jpg", m if isinstance(m, dict) else [m])
        for n, m in enumerate(members)
    ]
    return write_shards(pairs, folder)[0]


def dataset(folder, *members, fields=None, **options) -> PairDataset:
    options = dict(image_size=32, max_tokens=12) | options
    return PairDataset(shards(folder, *members), TOKENIZER, fields=fields, **options)


def said(concepts, b: int, k: int) -> str:
    return TOKENIZER.decode(concepts.ids[b, k][concepts.mask[b, k]])


def test_words_and_keys_are_always_there_and_the_rest_is_not(tmp_path):
    batch = collate([dataset(tmp_path, "a red star")[0]])
    assert batch.draw.tolist() == [chance.key_of("shard-000000:000")]
    assert batch.word[batch.special].tolist() == [-1, -1]
    assert batch.word[0, 1:-1].tolist() == [0, 1, 2]
    optional = ("concepts", "tags", "regions", "saliency", "image_id", "product_id")
    assert all(getattr(batch, name) is None for name in optional)


def test_concepts_have_the_caption_first_and_boxes_of_the_crop(tmp_path):
    members = [dict(captions=["two things"], image_id="x/1", elems=[STAR, CAR, TEXTLESS])]
    data = dataset(tmp_path, *members, "a house", fields=dict(concepts=3, crop="none"))
    batch = collate([data[0], data[1]])
    found = batch.concepts
    assert found.valid.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert found.box[0, 0].tolist() == [0, 0, 1, 1] and found.box.dtype == torch.float32
    assert said(found, 0, 0) == "two things" and said(found, 1, 0) == "a house"
    rows = {said(found, 0, k): found.box[0, k].tolist() for k in (1, 2)}
    assert rows["the blue car"] == pytest.approx([0, 0.75, 1 / 6, 1])
    star = next(text for text in rows if "star" in text)
    assert rows[star] == pytest.approx([0.25, 0.2, 0.75, 0.6])
    assert not found.mask[~found.valid].any()
    assert found.text_id[0, 0] == text_key("two things")
    assert batch.image_id.tolist() == [chance.key_of("x/1"), chance.key_of("shard-000000:001")]
    assert torch.equal(batch.image_id, batch.product_id)


def test_boxes_stay_on_their_object_in_every_crop_and_mirror(tmp_path):
    data = dataset(
        tmp_path,
        dict(captions=["two things"], elems=[STAR]),
        fields=dict(concepts=2),
        flip=0.5,
        image_size=64,
    )
    boxes = set()
    for visit in range(25):
        batch = collate([data[0, visit]])
        x0, y0, x1, y1 = (batch.concepts.box[0, 1] * 64).tolist()
        boxes.add((round(x0), round(y0)))
        red = batch.image[0, 1] < 100
        rows, columns = torch.nonzero(red.any(dim=1))[:, 0], torch.nonzero(red.any(dim=0))[:, 0]
        drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert [x0, y0, x1, y1] == pytest.approx([float(v) for v in drawn], abs=2.5)
    assert len(boxes) > 15


def test_an_image_is_not_mirrored_when_a_text_says_left_or_right(tmp_path):
    left = dict(CAR, text="the car left of it")
    members = [dict(captions=["two things"], elems=[one]) for one in (CAR, left)]
    members += [dict(captions=["two", "a star right of it"], elems=[CAR])]
    members += [dict(captions=["two"], elems=[CAR], tags=["left"])]
    data = dataset(tmp_path, *members, fields=dict(concepts=1, crop="none"), flip=1.0)
    starts = [data[n]["concepts"]["box"][1, 0].item() for n in range(4)]
    assert starts == pytest.approx([5 / 6, 0, 0, 0])


def test_a_text_of_several_boxes_makes_no_concept_unless_asked(tmp_path):
    twins = [STAR, dict(STAR, box=[0, 0, 5, 5], text=["Star"])]
    member = dict(captions=["two things"], elems=twins)
    found = dataset(tmp_path / "a", member, fields=dict(concepts=4, crop="none"))[0]
    assert found["concepts"]["text_id"][1:] == [text_key("a red star")]
    each = dict(concepts=4, crop="none", several="each")
    assert len(dataset(tmp_path / "b", member, fields=each)[0]["concepts"]["box"]) == 3


def test_boxes_mostly_outside_of_the_crop_are_left_out(tmp_path):
    fields = Fields(concepts=5, min_visible=0.5)
    data = dataset(tmp_path, dict(captions=["x"], elems=[STAR]), fields=dict(concepts=5))
    found = data._elements(data.shard_sets[0].read(0), torch.zeros(3, 40, 60))
    for width, kept in ((29, 0), (30, 0), (31, 1)):  # 14, 15, 16 of 30 pixels
        made = fields.sample(found, None, "", (0, 0, 40, width), False, TOKENIZER, 12, None)
        assert len(made["concepts"]["box"]) == 1 + kept


def test_at_most_k_concepts_are_drawn_each_as_often(tmp_path):
    elems = [dict(box=[n, 0, 9, 9], text=f"a {word}") for n, word in enumerate("abcdef")]
    data = dataset(
        tmp_path, dict(captions=["x"], elems=elems), fields=dict(concepts=2, crop="none")
    )
    drawn = [data[0, visit]["concepts"]["text_id"][1:] for visit in range(300)]
    count = {text_key(e["text"]): sum(text_key(e["text"]) in d for d in drawn) for e in elems}
    assert all(len(set(d)) == 2 for d in drawn)
    assert all(abs(n - 100) < 35 for n in count.values())
    assert data[0, 3]["concepts"]["text_id"] == data[0, 3]["concepts"]["text_id"]


def test_evaluation_takes_the_first_of_everything(tmp_path):
    member = dict(captions=["two things", "x"], elems=[STAR, CAR])
    data = dataset(tmp_path, member, fields=dict(concepts=1), train=False, resize="squash")
    found = data[0]["concepts"]
    assert found["text_id"] == [text_key("two things"), text_key("a red star")]
    assert found["box"][1].tolist() == pytest.approx([0.25, 0.2, 0.75, 0.6])


def test_a_source_of_boxes_only_has_no_caption_to_match(tmp_path):
    data = dataset(tmp_path, dict(elems=[STAR]), "a house", fields=dict(concepts=1, crop="none"))
    batch = collate([data[0], data[1]])
    assert batch.concepts.valid.tolist() == [[False, True], [True, False]]
    assert not batch.concepts.mask[0, 0].any() and batch.mask[0].sum() == 2


def test_tags_are_joined_cut_and_end_with_the_end(tmp_path):
    member = dict(captions=["x"], elems=[STAR, TEXTLESS, CAR])
    data = dataset(tmp_path, member, dict(captions=["x"], tags=["house"] * 9), fields=dict(tags=4))
    tags = collate([data[0], data[1]]).tags
    assert TOKENIZER.decode(tags.ids[0][tags.mask[0]]) == "star house car"[: len("star house car")]
    assert tags.ids.shape[1] == 4 and (tags.ids[:, -1] == TOKENIZER.eos_id).all()
    assert TOKENIZER.bos_id not in tags.ids and tags.text_id[0] == text_key("star house car")


def test_regions_are_cut_by_order_and_named_by_the_vocabulary(tmp_path):
    member = dict(captions=["x"], elems=[STAR, CAR, TEXTLESS])
    fields = dict(regions=2, crop="none", labels=["car", "star"])
    regions = collate([dataset(tmp_path / "a", member, fields=fields)[0]]).regions
    assert regions.label.tolist() == [[2, 1]] and regions.valid.all()
    assert regions.box[0, 0].tolist() == pytest.approx([0.25, 0.2, 0.75, 0.6])
    with pytest.raises(TooManyBadSamples, match="no boxes"):
        dataset(tmp_path / "b", "a house", fields=dict(regions=2))[0]
    with pytest.raises(TooManyBadSamples, match="no tags"):
        dataset(tmp_path / "d", "a house", fields=dict(tags=5))[0]
    grid = dict(regions=20, without_boxes="grid")
    regions = collate([dataset(tmp_path / "c", "a house", fields=grid)[0]]).regions
    assert regions.valid.sum() == 16 and regions.box[0, 1].tolist() == [0.25, 0, 0.5, 0.25]


def test_saliency_is_a_box_of_the_crop_or_the_whole_image(tmp_path):
    member = dict(captions=["x"], saliency=[15, 8, 30, 16])
    data = dataset(tmp_path, member, "y", fields=dict(saliency=True, crop="none"))
    found = collate([data[0], data[1]]).saliency
    assert found[0].tolist() == pytest.approx([0.25, 0.2, 0.75, 0.6])
    assert found[1].tolist() == [0, 0, 1, 1]


def test_bad_boxes_are_bad_samples_with_their_reason(tmp_path):
    good = dict(captions=["x"], elems=[STAR])
    bad = dict(captions=["x"], elems=[STAR, dict(box=[1, 2, 3])])
    other = dict(captions=["x"], width=500, height=375, elems=[STAR])
    data = dataset(tmp_path, good, bad, other, fields=dict(concepts=1))
    reasons = {s.reason for n in (1, 2) for v in range(9) for s in data[n, v]["skipped"]}
    assert reasons == {
        "box 1 is [1, 2, 3], not four numbers",
        "boxes are of 500 x 375, the image has 60 x 40",
    }


def test_a_run_without_fields_sees_what_it_saw_before(tmp_path):
    """Pixels and captions of data that has boxes, when nothing asks for them."""
    plain = dataset(tmp_path / "a", dict(captions=["x", "a house"]), flip=0.5)
    boxed = dict(captions=["x", "a house"], elems=[STAR])
    boxed = dataset(tmp_path / "b", boxed, flip=0.5)
    for visit in range(5):
        one, other = plain[0, visit], boxed[0, visit]
        assert torch.equal(one["image"], other["image"]) and one["ids"] == other["ids"]


def test_texts_of_boxes_teach_the_tokenizer(tmp_path):
    path = shards(tmp_path, dict(captions=["x"], elems=[STAR], tags=["log"]), "a house")
    assert list(PairDataset.captions(path)) == ["x", "a red star", "star", "log", "a house"]


def test_fields_that_cannot_be_are_refused():
    for wrong, name in (
        (dict(concepts=-1), "concepts=-1"),
        (dict(crop="middle"), "crop='middle'"),
        (dict(several="all"), "several='all'"),
        (dict(min_visible=1.0), "min_visible"),
        (dict(boxes=3), "data.fields.boxes is unknown"),
    ):
        with pytest.raises(ValueError, match=name):
            Fields.of(wrong)
    assert Fields.of(None) is None and Fields.of({}) is None


def test_batches_are_moved_and_cut_with_all_their_parts(tmp_path):
    member = dict(captions=["two things"], elems=[STAR, CAR])
    fields = dict(concepts=2, tags=5, regions=3, saliency=True)
    data = dataset(tmp_path, *[member] * 4, fields=fields)
    batch = collate([data[n] for n in range(4)])
    parts = batch.chunk(2)
    for name in ("concepts", "tags", "regions"):
        whole, first = getattr(batch, name), getattr(parts[0], name)
        for key, value in vars(whole).items():
            if value is not None:
                assert torch.equal(getattr(first, key), value[:2]), (name, key)
    assert torch.equal(parts[1].saliency, batch.saliency[2:]) and parts[1].key == batch.key[2:]
    moved = batch.to("meta")
    assert moved.concepts.box.is_meta and moved.draw.is_meta and moved.regions.state is None
    assert json.dumps(np.shape(batch.concepts.ids)[:2]) == "[4, 3]"
