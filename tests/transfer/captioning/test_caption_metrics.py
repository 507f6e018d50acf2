"""Caption scores against pycocoevalcap's own numbers, and its tokens without Java."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from mmengine.structures import BaseDataElement

from sparc_pretrain.registry import METRICS
from transfer.captioning.metrics.evaluator import CaptionMetric
from transfer.captioning.metrics.ptb import PTBTokenizer, tokenize
from transfer.captioning.metrics.scores import NAMES, score

REFERENCE = (
    Path(__file__).parents[4] / "shared/data/eval_refs/captions/coco_fakecap126_vs_refs.json"
)
real = pytest.mark.skipif(
    not REFERENCE.is_file(), reason="the reference scores in ../shared/data are not here"
)
THEIR_NAMES = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr")

# what CoreNLP 3.4.1 and pycocoevalcap's list of punctuation make of a text
TOKENS = {
    "A man's dog, (wet).": "a man 's dog -lrb- wet -rrb-",
    "They're  can't\tdon\u2019t isn't I'LL": "they 're ca n't do n't is n't i 'll",
    "cannot gonna WANNA gimme 'tis": "can not gon na wan na gim me 't is",
    "the boys' rock 'n' roll, rock'n'roll o'clock": "the boys rock 'n' roll rock 'n' roll o'clock",
    "\"hello\" 'hello' \u201chello\u201d \u2018hello\u2019 ``hi''": "hello hello hello hello hi",
    "well-dressed T-shirt - a -- b--c — d": "well-dressed t-shirt a b c d",
    "Mr. Smith of St. Louis, U.S. Navy, etc.": "mr. smith of st. louis u.s. navy etc.",
    "sits on a bench.A man in a.": "sits on a bench.a man in a.",
    "plan B. The dog, plan B. he": "plan b the dog plan b. he",
    "no. 5 but no. It is no.": "no. 5 but no it is no",
    "skating/skiing and/or 1/2 a / b": "skating/skiing and/or 1/2 a / b",
    "22 3/4 cups": "22\u00a03/4 cups",
    "10,000 3.5 5:30pm 1980's #5 $5 5%": "10,000 3.5 5:30 pm 1980 's # 5 $ 5 5 %",
    "R&B AT&T black & white &amp; a&b": "r&b at&t black & white & a & b",
    "wow!! what?! yes! ok? ... a; b: c": "wow !! what ?! yes ok a b c",
    "café 日本 🙂 1½": "café 日本 1 1/2",
    "www.google.com google.com a@b.com": "www.google.com google.com a@b.com",
    " . , ": "",
    "": "",
}


@pytest.mark.parametrize("text", TOKENS)
def test_tokens_are_those_of_the_original(text: str) -> None:
    assert PTBTokenizer()(text) == TOKENS[text]


def test_tokens_with_punctuation_keep_every_letter_of_a_plain_text() -> None:
    text = "a dog , two cats -- and a bird ; all of them ( wet ) !"
    assert tokenize(text) == text.replace("(", "-lrb-").replace(")", "-rrb-").split()


def test_a_degenerate_caption_is_tokenised_in_no_time() -> None:
    started = time.process_time()
    for text in ("a" * 20_000 + "'", "." * 3000, "a." * 2000, "1-" * 2000, "a'" * 3000):
        PTBTokenizer()(text)
    assert time.process_time() - started < 5


@real
def test_every_reference_caption_has_the_reference_tokens() -> None:
    items = json.loads(REFERENCE.read_text())["items"]
    texts = [text for item in items for text in [*item["refs"], item["cand"]]]
    expected = [text for item in items for text in [*item["refs_tok"], item["cand_tok"]]]
    assert len(texts) > 700
    assert PTBTokenizer().tokenize(texts) == expected


@real
@pytest.mark.parametrize("tokenized", [True, False], ids=["from tokens", "from raw text"])
def test_scores_are_those_of_pycocoevalcap(tokenized: bool) -> None:
    reference = json.loads(REFERENCE.read_text())
    suffix = "_tok" if tokenized else ""
    totals, items = score(
        [item["cand" + suffix] for item in reference["items"]],
        [item["refs" + suffix] for item in reference["items"]],
        tokenized=tokenized,
        per_item=True,
    )
    for ours, theirs in zip(NAMES, THEIR_NAMES, strict=True):
        assert totals[ours] == pytest.approx(reference["corpus"][theirs], abs=1e-12)
        expected = [item["scores"][theirs] for item in reference["items"]]
        assert items[ours] == pytest.approx(expected, abs=0.6e-8)  # written with 8 decimals


def test_scores_by_hand() -> None:
    # "a cat sat" against "a cat ran": 2 of 3 words, 1 of 2 pairs; longest common part 2 of 3
    totals, items = score(
        ["a cat sat", "the red bus"], [["a cat ran"], ["the red bus"]], per_item=True
    )
    assert items["BLEU-1"][0] == pytest.approx(2 / 3, abs=1e-6)
    assert items["BLEU-2"][0] == pytest.approx((2 / 3 * 1 / 2) ** 0.5, abs=1e-6)
    assert items["ROUGE-L"] == pytest.approx([2 / 3, 1])
    assert totals["BLEU-1"] == pytest.approx(5 / 6, abs=1e-6)
    assert totals["ROUGE-L"] == pytest.approx(5 / 6)
    # 1-, 2- and 3-grams match, there are no 4-grams: 10 * 3/4
    assert items["CIDEr"][1] == pytest.approx(7.5)


def test_scoring_prints_nothing(capsys: pytest.CaptureFixture) -> None:
    score(["a dog", "a cat"], [["a dog"], ["the cat"]])
    assert capsys.readouterr().out == ""


def test_an_empty_caption_scores_zero_and_one_image_has_no_cider() -> None:
    _, items = score(["", "..."], [["a dog"], ["a cat"]], per_item=True)
    for name in NAMES:
        assert items[name] == pytest.approx([0, 0], abs=1e-12)
    assert score(["a dog"], [["a dog"]])["CIDEr"] == 0


def test_an_item_whose_references_hold_no_word_scores_zero_and_the_others_what_they_score() -> None:
    totals, items = score(
        ["a cat", "a big dog", "a cow"], [["\U0001f600", "..."], ["a big dog"], ["two cows"]],
        per_item=True,
    )  # fmt: skip
    for name in NAMES:
        assert items[name][0] == pytest.approx(0, abs=1e-9)
    assert items["ROUGE-L"][1] == pytest.approx(1) and totals["ROUGE-L"] > 0.3


def test_captions_are_kept_whatever_the_scores_of_them_raise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = CaptionMetric(outfile_prefix=f"{tmp_path}/")
    rows = [dict(image="a.jpg", caption="a cat", references=["\U0001f600"]),
            dict(image="b.jpg", caption="a dog", references=["a big dog"])]  # fmt: skip
    assert metric.compute_metrics(rows)["ROUGE-L"] > 0
    written = json.loads((tmp_path / "captions.json").read_text())
    assert [row["caption"] for row in written] == ["a cat", "a dog"]
    assert written[0]["scores"]["ROUGE-L"] == 0
    (tmp_path / "captions.json").unlink()

    def broken(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("transfer.captioning.metrics.evaluator.score", broken)
    with pytest.raises(MemoryError):
        metric.compute_metrics(rows)
    assert len(json.loads((tmp_path / "captions.json").read_text())) == 2


@pytest.mark.parametrize(
    "candidates,references,error,message",
    [
        ([], [], ValueError, "no captions"),
        (["a"], [["a"], ["b"]], ValueError, "1 captions but references for 2"),
        (["a"], [[]], ValueError, "item 0 .* no reference"),
        (["a"], ["a dog"], TypeError, "list of reference strings"),
        ([None], [["a dog"]], TypeError, "item 0: expected one string"),
    ],
)
def test_captions_that_cannot_be_scored_are_an_error(
    candidates: list, references: list, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        score(candidates, references)


def test_the_metric_scores_what_it_was_given_and_keeps_the_captions(tmp_path: Path) -> None:
    metric = METRICS.build(dict(type="sparc.CaptionMetric", outfile_prefix=f"{tmp_path}/pictures/"))
    captions = ["A dog runs.", "Two cats."]
    references = [["a dog runs", "the dog"], ["two cats", "some cats", "cats"]]
    for i, (caption, texts) in enumerate(zip(captions, references, strict=True)):
        sample = BaseDataElement(metainfo={"image": f"{i}.jpg", "references": texts})
        sample.set_field(caption, "prediction", dtype=str)
        metric.process({}, [sample.to_dict()])
    found = metric.evaluate(2)
    assert found == {f"caption/{k}": v for k, v in score(captions, references).items()}
    rows = json.loads((tmp_path / "pictures" / "captions.json").read_text())
    assert [row["caption"] for row in rows] == captions
    assert [row["image"] for row in rows] == ["0.jpg", "1.jpg"]
    assert [row["references"] for row in rows] == references
    assert set(rows[0]["scores"]) == set(NAMES)
