"""Two-step retrieval and boxes as they are read."""

import json

import pytest
import torch
from torchvision.io import encode_jpeg

from sparc_pretrain.data.sets.phrases import Phrase, PhraseImage, read_phrases
from sparc_pretrain.zeroshot import box_reading
from sparc_pretrain.zeroshot.reranking import rerank, scale_of
from tests.models import masked_objective, pretrainer


def test_the_best_come_first_in_the_order_of_the_match_and_the_rest_keep_theirs():
    g = torch.Generator().manual_seed(0)
    scores, truth = (torch.randn(6, 9, generator=g, dtype=torch.float64) for _ in range(2))
    asked = []

    def match(images, texts):
        asked.extend(zip(images.tolist(), texts.tolist(), strict=True))
        return truth[images, texts]

    for k in (1, 3, 9, 20):
        asked.clear()
        to_text, to_image = rerank(scores, match, k)
        assert len(asked) == len(set(asked)) <= 6 * min(k, 9) + 9 * min(k, 6)
        for found, plain, right in (
            *zip(to_text, scores, truth, strict=True),
            *zip(to_image.T, scores.T, truth.T, strict=True),
        ):
            order = sorted(range(len(plain)), key=lambda j: -plain[j])
            best = sorted(order[:k], key=lambda j: -right[j])
            assert found.argsort(descending=True).tolist() == best + order[k:]


def test_what_drew_the_negatives_is_given_back():
    """Of texts whose negatives were drawn by q, the ideal match is log p - log q: q put back, the
    order is that of p, and without it another.
    """
    g = torch.Generator().manual_seed(1)
    scores, right = (torch.randn(5, 7, generator=g, dtype=torch.float64) for _ in range(2))
    right, scale = right.log_softmax(dim=1), 4.0
    odds = right - (scale * scores).log_softmax(dim=1)
    by_both, _ = rerank(scores, lambda i, t: odds[i, t], 7, scale)
    alone, _ = rerank(scores, lambda i, t: odds[i, t], 7)
    assert torch.equal(by_both.argsort(dim=1), right.argsort(dim=1))
    assert not torch.equal(alone.argsort(dim=1), right.argsort(dim=1))
    objective = pretrainer(masked_objective("Xvlm")).objective
    assert scale_of(objective, "match") == 0
    assert scale_of(objective, "both") == pytest.approx(objective.temperature().item())
    with pytest.raises(ValueError, match="by 'sum': use one of match, both"):
        scale_of(objective, "sum")


def test_equal_matches_stay_equal_and_a_k_of_0_is_refused():
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    found, _ = rerank(scores, lambda i, t: torch.full((len(i),), -5.0), 2)
    assert found[0, 0] == found[0, 1] > found[0, 2]
    with pytest.raises(ValueError, match="at least 1"):
        rerank(scores, lambda i, t: i, 0)


def phrase(*box: float) -> Phrase:
    return Phrase("a dog", 0, 5, torch.tensor([box], dtype=torch.float64), [], ())


def test_the_constant_box_is_the_one_that_finds_most(monkeypatch):
    sizes, real = [], box_reading.box_iou
    monkeypatch.setattr(
        box_reading, "box_iou", lambda a, b: (sizes.append(len(a) * len(b)), real(a, b))[1]
    )
    images = [
        PhraseImage(None, 100, 50, [phrase(10, 10, 50, 40), phrase(12, 10, 52, 40)]),
        PhraseImage(None, 200, 100, [phrase(20, 20, 100, 80), phrase(190, 90, 200, 100)]),
    ]
    box = box_reading.constant_box(images)
    assert torch.allclose(box, torch.tensor([0.1, 0.2, 0.5, 0.8]).double(), atol=0.03)
    monkeypatch.setattr(box_reading, "PAIRS", 9)  # two at a time of five, four truths each
    assert torch.equal(box_reading.constant_box(images), box)
    assert sizes == [20, 8, 8, 4]


def test_a_predicted_box_is_scored_by_its_centre_and_its_overlap():
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    found = box_reading._box_values(torch.tensor([0.0, 0, 30, 10]).double(), truth)
    assert found == {"pointing": 0.0, "box_recall": 1.0, "box_IoU": 1.0}
    found = box_reading._box_values(torch.tensor([2.0, 2, 8, 8]).double(), truth)
    assert found["pointing"] == 1 and found["box_IoU"] == pytest.approx(36 / 300)


def test_referring_expressions_are_read_and_their_pickle_is_not(tmp_path):
    pixels = torch.zeros(3, 40, 60, dtype=torch.uint8)
    (tmp_path / "1.jpg").write_bytes(encode_jpeg(pixels).numpy().tobytes())
    image = {"id": 5, "file_name": "1.jpg", "width": 60, "height": 40, "caption": "left dog"}
    mdetr = {"images": [image], "annotations": [{"image_id": 5, "bbox": [1, 2, 10, 20]}]}
    entry = {"image": "1.jpg", "text": "left dog", "bbox": [1, 2, 10, 20]}
    xvlm = [entry | {"width": 60, "height": 40}]
    for data in (mdetr, xvlm):
        (tmp_path / "refs.json").write_text(json.dumps(data))
        (found,) = read_phrases(tmp_path, tmp_path / "refs.json")
        assert found.phrases[0].text == "left dog"
        assert found.phrases[0].boxes.tolist() == [[1, 2, 11, 22]]
    (tmp_path / "refs(unc).p").write_bytes(b"\x80\x04N.")
    with pytest.raises(ValueError, match=r"refs\(unc\).p is a pickle.*refexp_coco_format"):
        read_phrases(tmp_path, tmp_path / "refs(unc).p")
    (tmp_path / "refs.json").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="an expression has no 'width'"):
        read_phrases(tmp_path, tmp_path / "refs.json")
