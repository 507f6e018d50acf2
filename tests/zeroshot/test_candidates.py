"""Retrieval among a few drawn candidates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.candidates import among, draw, evaluate, read_products, told
from sparc_pretrain.zeroshot.encode import CaptionedImages
from sparc_pretrain.zeroshot.pace import Pace
from tests.commands import call, refusal
from tests.models import saved

CATEGORIES = ("bag", "shoe", "hat")


def data(images: int = 24) -> CaptionedImages:
    """Two captions each, in no order of their images."""
    owners = torch.arange(images).repeat(2).tolist()
    files = [Path(f"{n}.png") for n in range(images)]
    return CaptionedImages(files, [f"text {n}" for n in range(2 * images)], owners)


def products(images: int = 24) -> dict[str, tuple[str, str]]:
    """Eight images of each category; neighbours by three show one product."""
    kinds = [CATEGORIES[n % 3] for n in range(images)]
    return {f"{n}.png": (f"{kind}-{n // 6}", kind) for n, kind in enumerate(kinds)}


def test_candidates_are_of_other_products_and_of_the_same_category_first():
    found, known = data(), products()
    for count in (3, 7, 12):
        owners = (range(24), found.image_of_text)
        for which, owner in zip(draw(found, count, known), owners, strict=True):
            assert which.shape == (48, count - 1)
            for query, row in enumerate(which.tolist()):
                own = known[f"{found.image_of_text[query]}.png"]
                others = [known[f"{owner[item]}.png"] for item in row]
                assert own[0] not in [product for product, _ in others]
                assert len(set(row)) == count - 1
                of_kind = sum(kind == own[1] for _, kind in others)
                there = 6 if owner == range(24) else 12
                assert of_kind == min(count - 1, there)


def test_they_are_drawn_evenly_and_alike_for_every_model_and_order():
    found = data()
    images, texts = draw(found, 5, None)
    again = draw(found, 5, None)
    assert torch.equal(images, again[0]) and torch.equal(texts, again[1])
    assert images[:, 0].unique().numel() > 12 and not torch.equal(images, texts)
    owners = [23 - i for i in found.image_of_text]
    turned = CaptionedImages(found.files[::-1], found.captions, owners)
    assert torch.equal(23 - draw(turned, 5, None)[0], images)
    few = draw(data(3), 101, None)
    assert [which.shape for which in few] == [(6, 3), (6, 6)]
    assert [(which >= 0).sum(dim=1).unique().tolist() for which in few] == [[2], [4]]


def test_the_recall_is_that_of_slow_loops_and_ties_count_against():
    found, known = data(), products()
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (24, 48), generator=g).float()
    others = draw(found, 7, known)
    asked = []

    def score(images, texts):
        asked.append(len(images))
        return scores[images, texts]

    metrics = among(found, score, others)
    assert asked == [48 * 13]
    for way, which in (("t2i", others[0]), ("i2t", others[1])):
        for k in (1, 5, 10):
            right = 0
            for query, owner in enumerate(found.image_of_text):
                own = scores[owner, query]
                rivals = [
                    scores[one, query] if way == "t2i" else scores[owner, one]
                    for one in which[query].tolist()
                ]
                right += sum(rival >= own for rival in rivals) < k
            assert metrics[f"among_{way}_R@{k}"] == pytest.approx(right / 48)
    assert told(found, 7, known, others) == dict(candidates=7, fewest_others=6, same_category=1.0)
    constant = among(found, lambda i, t: torch.zeros(len(i)), others)
    assert constant["among_t2i_R@1"] == constant["among_i2t_R@5"] == 0


def test_files_of_products(tmp_path):
    file = tmp_path / "products.json"
    file.write_text(json.dumps({"a/0.png": "bag-3-red", "1.png": ["sku-7", "shoe"]}))
    assert read_products(file) == {"0.png": ("bag-3-red", "bag"), "1.png": ("sku-7", "shoe")}
    file.write_text(json.dumps([{"file_name": "0.png", "sample": {"product_id": "star-red"}}]))
    assert read_products(file) == {"0.png": ("star-red", "star")}
    for bad in ([1], {"0.png": 3}, {"0.png": ["a", "b", "c"]}, [{"file_name": "x"}]):
        file.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=r"products\.json: no products of images"):
            read_products(file)
    with pytest.raises(ValueError, match=r"--candidates 1: at least 2"):
        draw(data(), 1, None)
    with pytest.raises(ValueError, match=r"23 images have no product, 1\.png first"):
        draw(data(), 5, {"0.png": ("a", "b")})


def test_the_first_images_are_kept_with_their_captions():
    found = data(5).first(2)
    assert found.files == [Path("0.png"), Path("1.png")]
    assert found.captions == ["text 0", "text 1", "text 5", "text 6"]
    assert found.image_of_text == [0, 1, 0, 1]


def test_the_time_of_all_pairs_is_said_after_the_first_block(monkeypatch):
    said = []
    monkeypatch.setattr("sparc_pretrain.zeroshot.pace.print_log", lambda text, _: said.append(text))
    pace = Pace(1000)
    for _ in range(4):
        pace.count(250)
    assert len(said) == 1 and said[0].startswith("1,000 pairs to fuse, ")
    Pace(250).count(250)  # no more than a block
    assert len(said) == 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    (place / "img").mkdir()
    g = torch.Generator().manual_seed(0)
    rows = []
    for n in range(6):
        pixels = torch.randint(0, 255, (32, 32, 3), generator=g).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(place / "img" / f"{n}.png")
        rows += [f"{n}.png\ta red dog {n}", f"{n}.png\tthe sky {n}"]
    (place / "captions.tsv").write_text("\n".join(rows))
    (place / "products.json").write_text(json.dumps({f"{n}.png": f"a-{n}" for n in range(6)}))
    return place


@pytest.mark.parametrize("kind", ["Xvlm", "Kaleido"])
def test_the_tool_reads_a_run_among_candidates(kind, pictures, tmp_path):
    run = saved(kind, tmp_path / "run", ["a red dog", "the sky"], layers=int(kind == "Xvlm"))
    given = ["--images", pictures / "img", "--captions", pictures / "captions.tsv"]
    out = tmp_path / "metrics.json"
    options = ["--candidates", "4", "--products", pictures / "products.json", "--out", out]
    assert call("zeroshot", run, "retrieval", *given, *options)[0] == 0
    record = json.loads(out.read_text())
    assert set(record["metrics"]) == {
        f"among_{way}_R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)
    }
    assert record["metrics"]["among_t2i_R@5"] == 1  # of four
    assert record["protocol"]["chance_R@1"] == 0.25 and record["protocol"]["candidates"] == 4
    model, objective = encode.load(run)
    read = CaptionedImages.read(pictures / "img", pictures / "captions.tsv")
    whole = encode.scores(model, objective, read)
    others = draw(read, 4, read_products(pictures / "products.json"))
    slow = among(read, lambda i, t: whole[i, t], others)
    assert evaluate(model, objective, read, 4).metrics == pytest.approx(slow)
    assert call("zeroshot", run, "retrieval", *given, "--limit", "3", "--out", out)[0] == 0
    record = json.loads(out.read_text())
    assert record["protocol"]["images"] == record["protocol"]["limit"] == 3
    for wrong, words in (
        (["--candidates", "4", "--rerank", "2"], "goes without --protocol and --rerank"),
        (["--products", pictures / "products.json"], "give both"),
        (["--rerank-by", "both"], "--rerank-by says how --rerank K orders: give both"),
        (["--limit", "0"], "at least 1"),
    ):
        assert words in refusal(call("zeroshot", run, "retrieval", *given, *wrong, "--out", out))
