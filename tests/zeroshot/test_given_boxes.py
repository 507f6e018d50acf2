"""Models of one stream read by boxes that are given, or by cells."""

import json

import pytest
import torch
from torchvision.io import encode_jpeg

from sparc_pretrain.data import images
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.tags import tagged
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.zeroshot import box_reading, encode, retrieval
from sparc_pretrain.zeroshot.given_boxes import joined, read_boxes, regions_of
from sparc_pretrain.zeroshot.patch_reader import PatchReader
from sparc_pretrain.zeroshot.reranking import matcher
from tests.commands import call, refusal
from tests.models import TEXT, VISION, encoder, pretrainer
from tests.zeroshot.test_reranking import phrase
from tests.zeroshot.test_terms import run_folder_of, scenes  # noqa: F401  a fixture

WORDS = ["a red star", "two blue fish", "a house"]
FUSION = dict(layers=1, heads=2, dropout=0.0)


@pytest.fixture
def files(tmp_path):
    g = torch.Generator().manual_seed(0)
    for n in range(3):
        pixels = torch.randint(0, 256, (3, 40, 60), generator=g, dtype=torch.uint8)
        (tmp_path / f"{n}.jpg").write_bytes(encode_jpeg(pixels).numpy().tobytes())
    boxes = [(0, [0, 0, 60, 40]), (0, [20, 10, 10, 10]), (0, [0, 0, 5, 40]), (1, [15, 5, 30, 30])]
    content = dict(
        images=[dict(id=n, file_name=f"{n}.jpg", width=60, height=40) for n in range(3)],
        annotations=[
            dict(id=i, image_id=n, category_id=1, bbox=box) for i, (n, box) in enumerate(boxes)
        ],
        categories=[dict(id=1, name="star")],
    )
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return tmp_path


def test_boxes_are_those_of_the_picture_as_it_is_read_and_cells_where_none_is_seen(files):
    given, paths = read_boxes(files / "boxes.json"), [files / f"{n}.jpg" for n in range(3)]
    assert given["0.jpg"][0].tolist() == [0, 0, 60, 40]  # the largest first
    found = regions_of(paths, [(40, 60)] * 3, given, "squash")
    assert found.valid.sum(dim=1).tolist() == [3, 1, 16]
    assert found.box[1, 0].tolist() == pytest.approx([0.25, 0.125, 0.75, 0.875])
    found = regions_of(paths, [(40, 60)] * 3, given, "crop")  # 10..50 x 0..40
    assert found.valid.sum(dim=1).tolist() == [2, 1, 16]  # the strip at the edge is not seen
    assert found.box[0, 1].tolist() == pytest.approx([0.25, 0.25, 0.5, 0.5])
    both = joined([found.rows(slice(0, 1)), found.rows(slice(1, 3))])
    assert torch.equal(both.box, found.box) and torch.equal(both.valid, found.valid)


@pytest.mark.parametrize("kind", ["Uniter", "Oscar", "Kaleido"])
def test_retrieval_reads_all_pairs_with_and_without_boxes(files, kind):
    words = Tokenizer.train(WORDS * 3, 290).with_mask()
    options = dict(mask_id=words.mask_id, word_ids=list(words.word_ids), fusion=FUSION)
    objective = pretrainer(
        dict(type=kind, **options, **(dict(length=9) if kind == "Oscar" else {})), layers=0
    ).objective.eval()
    model = encoder(words).eval()
    paths = [files / f"{n}.jpg" for n in range(3)]
    plain = encode.CaptionedImages(paths, WORDS, [0, 1, 2])
    boxed = encode.CaptionedImages(paths, WORDS, [0, 1, 2], read_boxes(files / "boxes.json"))
    scores = [encode.scores(model, objective, data, batch_size=2) for data in (plain, boxed)]
    assert scores[0].shape == (3, 3)
    moved = (scores[0] - scores[1]).abs().amax(dim=1) > 1e-6
    assert moved.tolist() == ([False] * 3 if kind == "Kaleido" else [True, True, False])
    found = retrieval.evaluate(model, objective, boxed, best=2, batch_size=2)
    assert not any("pooled_" in name for name in found.metrics) and "i2t_R@1" in found.metrics
    assert found.protocol["fused_pairs"] >= 3 and kind in found.protocol["read_by"]
    with pytest.raises(ValueError, match="no space that both share"):
        PatchReader.of(objective)


def test_grounding_of_one_stream_is_what_it_can_tell(files):
    from sparc_pretrain.data.sets.phrases import PhraseImage
    from sparc_pretrain.zeroshot.grounding_run import evaluate

    words = Tokenizer.train(WORDS * 3, 290).with_mask()
    options = dict(mask_id=words.mask_id, word_ids=list(words.word_ids), fusion=FUSION)
    model = encoder(words).eval()
    data = [PhraseImage(files / f"{n}.jpg", 60, 40, [phrase(10, 10, 50, 30)]) for n in range(2)]
    for kind, keys in (
        ("Uniter", {"box_pointing", "other_image_pointing", "attention_pointing"}),
        ("Oscar", {"attention_pointing"}),
    ):
        objective = pretrainer(dict(type=kind, **options), layers=0).objective.eval()
        found = evaluate(model, data, objective=objective)
        pointing = {name for name in found.metrics if name.endswith("pointing")}
        assert keys <= pointing and "chance_random_patch_pointing" in pointing
        assert not any(name.startswith(("local", "phrase")) for name in pointing)
        assert ("box_pointing" in pointing) == (kind == "Uniter")
    kaleido = pretrainer(dict(type="Kaleido", **options), layers=0).objective.eval()
    with pytest.raises(ValueError, match="Kaleido neither predicts boxes nor tells"):
        box_reading.outcome(model, kaleido, data)


def test_the_boxes_that_a_demo_draws_are_those_that_grounding_judges(files):
    from sparc_pretrain.data.sets.phrases import PhraseImage
    from sparc_pretrain.page.answers import Answers
    from sparc_pretrain.zeroshot.grounding import box_iou

    words = Tokenizer.train(WORDS * 3, 290).with_mask()
    options = dict(mask_id=words.mask_id, word_ids=list(words.word_ids), fusion=FUSION)
    model = encoder(words).eval()
    one = pretrainer(dict(type="Uniter", **options), layers=0).objective.eval()
    asked, photo = phrase(0, 0, 60, 40), files / "0.jpg"
    answers = Answers(None, model, one, [photo])
    [(text, box)] = answers.boxes(encode.open_image(photo), asked.text)
    judged = box_reading.evaluate(model, one, [PhraseImage(photo, 60, 40, [asked])])
    share = box_iou(torch.tensor(box, dtype=torch.float64), asked.boxes[0].double())
    assert text == asked.text and judged["box_box_IoU"][0] == pytest.approx(share, abs=1e-6)
    assert 0 <= box[0] < box[2] <= 60 and 0 <= box[1] < box[3] <= 40 and share > 0
    with pytest.raises(ValueError, match="no vectors by which to look among many"):
        answers.images("a dog")
    blind = pretrainer(dict(type="Oscar", **options), layers=0).objective.eval()
    with pytest.raises(ValueError, match="one stream"):
        Answers(None, model, blind).boxes(encode.open_image(photo), asked.text)


def test_class_names_of_given_boxes_are_oscars_tags_behind_each_caption(files):
    words = Tokenizer.train([*WORDS, "star"] * 3, 290).with_mask()
    text = TextTower(**TEXT | dict(layers=0, vocab_size=words.vocab_size, max_tokens=24))
    model = DualEncoder(VisionTower(**VISION), text, 16, tokenizer=words).eval()
    options = dict(mask_id=words.mask_id, word_ids=list(words.word_ids), fusion=FUSION)
    oscar = pretrainer(dict(type="Oscar", **options), layers=0).objective.eval()
    given, paths = read_boxes(files / "boxes.json"), [files / f"{n}.jpg" for n in range(3)]
    regions = regions_of(paths, [(40, 60)] * 3, given, "squash", model)
    names = [
        words.decode(row[mask])
        for row, mask in zip(*(regions.tags.ids, regions.tags.mask), strict=True)
    ]
    assert names == ["star star star", "star", ""]
    seen = regions_of(paths[:1], [(40, 60)], given, "crop", model).tags
    assert words.decode(seen.ids[0][seen.mask[0]]) == "star star"  # of one nothing is seen
    both = joined([regions.rows(slice(0, 1)), regions.rows(slice(1, 3))])
    assert torch.equal(both.tags.ids, regions.tags.ids) and both.tags.tower is text
    pixels = torch.stack([images.eval_resize(encode.open_image(f), 32, "squash") for f in paths])
    said = ["a red star", "a house", "two blue fish"]
    with torch.no_grad():
        image, caption = model.image_features(pixels), model.text_features(*model.tokenize(said))
        image.regions = regions
        found = oscar.begin(image, caption)
        tokens, real = oscar.image_tokens(image)
        for row, caption_text in enumerate(said):
            ids = [*words.encode(caption_text).ids, *regions.tags.ids[row][regions.tags.mask[row]]]
            own = len(words.encode(caption_text).ids)
            segment = torch.tensor([[0] * own + [1] * (len(ids) - own)])
            ids = torch.tensor([[int(i) for i in ids]])
            states = text(ids, torch.ones_like(ids).bool())
            mask = torch.ones_like(ids).bool()
            one = (tokens[row : row + 1], real[row : row + 1])
            wanted = oscar.fusion(states, mask, *one, segment=segment)[0][0, 0]
            torch.testing.assert_close(found[row], wanted)
        regions.tags.longest = 6  # a caption of five tokens leaves room for one of its tags
        states, mask, segment = tagged(caption.token_states, caption.mask, regions)
        assert mask.sum(dim=1).max() <= 6 and segment[0].sum() >= 1
        image.regions = regions_of(paths, [(40, 60)] * 3, given, "squash")
        apart = (oscar.begin(image, caption) - found).abs().amax(dim=1) > 1e-6
    assert apart.tolist() == [True, True, False]
    boxed = encode.CaptionedImages(paths, WORDS, [0, 1, 2], given)
    scores = encode.scores(model, oscar, boxed, "squash", batch_size=2)
    again = retrieval.evaluate(model, oscar, boxed, best=3, resize="squash", batch_size=2)
    judged = matcher(model, oscar, boxed, "squash", 2)(torch.arange(3), torch.arange(3))
    assert not judged.requires_grad  # or the graphs of all pairs are held
    torch.testing.assert_close(judged, scores.diagonal(), atol=2e-3, rtol=0)
    assert "names are the tags" in again.protocol["read_by"]


@pytest.mark.parametrize("task", ["segmentation", "regions"])
def test_dense_tasks_refuse_models_without_a_shared_space_in_a_line(task, scenes, tmp_path):  # noqa: F811
    run = run_folder_of("Uniter", {}, tmp_path / "w")
    given = ["--images", scenes / "images/val", "--out", tmp_path / "m.json"]
    given += ["--annotations", scenes / "annotations/instances_val.json"]
    if task == "segmentation":
        maps, classes = scenes / "ade/annotations/validation", scenes / "ade/classes.json"
        given[-1:] = [maps, "--classes", classes]
        given[1] = scenes / "ade/images/validation"
    line = refusal(call("zeroshot", run, task, *given))
    assert "no space that both share" in line
