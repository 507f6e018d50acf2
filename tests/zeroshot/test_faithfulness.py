"""K-Precision against a slow count, and which words are nouns and adjectives."""

from __future__ import annotations

import random
import socket

import pytest
import torch

from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.zeroshot import faithfulness
from sparc_pretrain.zeroshot.encode import CaptionedImages
from sparc_pretrain.zeroshot.faithfulness import content_tokens, k_precision
from tests.zeroshot.oracle_model import NAMES, oracle, paint


def by_loops(candidate: str, references: list[str]) -> float:
    """Every candidate token strikes out one equal token of the references."""
    known = [w for text in references for w in text.split() if w not in ("a", "an", "the")]
    said = [w for w in candidate.split() if w not in ("a", "an", "the")]
    found = 0
    for word in said:
        if word in known:
            known.remove(word)
            found += 1
    return found / len(said) if said else 0.0


def test_k_precision_equals_a_slow_count():
    draw = random.Random(0)
    words = ["a", "the", "dog", "cat", "runs", "red", "on", "an"]

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(0, 6)))

    candidates = [text() for _ in range(200)]
    references = [[text() for _ in range(draw.randint(0, 3))] for _ in range(200)]
    wanted = [by_loops(c, r) for c, r in zip(candidates, references, strict=True)]
    for candidate, texts, value in zip(candidates, references, wanted, strict=True):
        assert k_precision([candidate], [texts]) == value
    assert k_precision(candidates, references) == pytest.approx(sum(wanted) / len(wanted))
    assert 0 in wanted and 1 in wanted


@pytest.mark.parametrize(
    ("candidate", "references", "value"),
    [
        ("A dog runs.", ["the dog, it RUNS!"], 1.0),
        ("dog dog dog", ["dog", "a dog"], 2 / 3),  # the references are one text: two dogs
        ("a cat's tail", ["cats tail"], 1.0),  # an apostrophe goes, the word stays whole
        ("\u201cdog\u201d \u2013 dog", ["dog"], 1 / 2),  # typographic marks are punctuation too
        ("the a an ...", ["the a an"], 0.0),
        ("", ["dog"], 0.0),
        ("dog", [], 0.0),
        ("another theory", ["other ory"], 0.0),  # articles go as words, not as letters
    ],
)
def test_k_precision_by_hand(candidate, references, value):
    assert k_precision([candidate], [references]) == pytest.approx(value)


def test_the_mean_is_over_items_not_over_tokens():
    assert k_precision(["dog", "a cat on big grass"], [["dog"], ["x"]]) == 0.5


def test_content_words_are_the_nouns_and_adjectives_of_captions():
    caption = "A young man in a red shirt is quickly riding the bikes near two large trees."
    assert content_tokens(caption) == ["young", "man", "red", "shirt", "bikes", "large", "trees"]
    assert content_tokens("three small dogs run over it with her") == ["small", "dogs"]
    assert content_tokens("the of and") == [] == content_tokens("...")


def test_content_words_leave_the_other_words_of_the_candidate_out():
    candidate, references = "a red dog is quickly running", [["a dog sleeps on red grass"]]
    assert k_precision([candidate], references) == 2 / 5
    assert k_precision([candidate], references, content_words=True) == 1.0
    assert k_precision(["she runs away"], [["she runs away"]], content_words=True) == 0.0


def test_tagging_needs_no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "socket", refuse)
    faithfulness._tagger.cache_clear()
    assert content_tokens("a blue car") == ["blue", "car"]


@pytest.mark.parametrize(("candidates", "references"), [([], []), (["a"], []), (["a"], [[], []])])
def test_lists_that_do_not_fit_are_refused(candidates, references):
    with pytest.raises(ValueError, match="one list for each candidate"):
        k_precision(candidates, references)


def test_the_first_of_equal_captions_is_retrieved_and_nan_refused():
    assert faithfulness.retrieved(torch.tensor([[0.0, 1, 1], [0, 0, 0]])) == [1, 0]
    with pytest.raises(ValueError, match="NaN"):
        faithfulness.retrieved(torch.tensor([[0.0, torch.nan]]))


def test_an_image_without_a_caption_is_named_and_a_single_one_has_no_chance(tmp_path):
    paint(tmp_path / "a.png", torch.zeros(8, 8).int().numpy())
    paint(tmp_path / "b.png", torch.ones(8, 8).int().numpy())
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(ValueError, match=r"b\.png has no caption"):
        faithfulness.evaluate(oracle(), Clip(), CaptionedImages(files, ["a dog"], [0]))
    found = faithfulness.evaluate(oracle(), Clip(), CaptionedImages(files[:1], ["a dog"], [0]))
    assert found.metrics["K_P"] == 1.0 and "chance_K_P" not in found.metrics


def test_a_model_that_retrieves_its_own_captions_is_faithful(tmp_path):
    files = [tmp_path / f"{name}.png" for name in NAMES]
    for k, file in enumerate(files):
        paint(file, torch.full((8, 8), k).numpy())
    captions = [text for name in NAMES for text in (f"the {name}", f"there it is, a {name}")]
    data = CaptionedImages(files, captions, [i // 2 for i in range(len(captions))])
    found = faithfulness.evaluate(oracle(), Clip(), data)
    assert found.metrics["K_P"] == found.metrics["K_Pna"] == found.metrics["pooled_K_P"] == 1.0
    assert found.metrics["chance_K_P"] == found.metrics["chance_K_Pna"] == 0.0
    assert found.items["K_P"] == [1.0] * 6 and found.owners == list(range(6))
