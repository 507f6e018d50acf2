"""The page of words: its size, its cards, and photos of any shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparc_pretrain.zeroshot.alignment import WordWeights
from sparc_pretrain.zeroshot.alignment_sheet import CARD, sheet
from sparc_pretrain.zeroshot.readings import Reading


def words(count: int, score: float = 0.5) -> list[WordWeights]:
    weights = torch.zeros(4, 4)
    weights[0, 0] = 1
    return [WordWeights(f"word{i}", 0, 4, weights, score) for i in range(count)]


def reading(told: list[WordWeights], *elsewhere: float) -> Reading:
    others = [[replace(word, score=score) for word in told] for score in elsewhere]
    return Reading("tokens", True, told, others)


def cards(page) -> int:
    """Runs of card-coloured pixels in the first column of the cards' rims, by their upper edge."""
    white = (page == CARD).all(axis=-1)
    starts = white[:, 1:] & ~white[:, :-1]
    rows = starts.sum(axis=1)
    return int(rows.max())


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (2000, 300), (300, 3000), (8, 8)])
@pytest.mark.parametrize("count", [1, 9])
def test_photos_of_any_shape_give_a_page_of_the_asked_width(size, count):
    image = torch.full((3, *size), 90, dtype=torch.uint8)
    page = sheet(image, "a caption " * 20, reading(words(count), 0.2), width=700)
    assert page.shape[1] == 700 and page.shape[2] == 3 and page.dtype.name == "uint8"
    assert page.shape[0] < 4000


def test_more_words_take_more_rows_and_every_word_has_a_card():
    image = torch.full((3, 60, 80), 90, dtype=torch.uint8)
    few, many = (sheet(image, "text", reading(words(count), 0.2), 1000) for count in (3, 11))
    assert many.shape[0] > 2 * few.shape[0] * 0.8
    assert cards(few) >= 4


@pytest.mark.parametrize("number", [0, 4, 10])
def test_every_word_is_written_with_what_it_finds_more_than_elsewhere(number):
    image = torch.full((3, 60, 80), 90, dtype=torch.uint8)

    def drawn(told: list[WordWeights], *elsewhere: float):
        return sheet(image, "text", reading(told, *elsewhere), 1000)

    told = words(11)
    before, weaker = drawn(told, 0.2), drawn(told, 0.4)
    assert (before != weaker).any() and (before.shape == weaker.shape)
    changed = [dict(word="other"), dict(score=0.9), dict(pieces=3)]
    for one in changed:
        other = list(told)
        other[number] = replace(told[number], **one)
        page = drawn(other, 0.2)
        assert page.shape != before.shape or (page != before).any(), one


def test_what_was_measured_stands_below_the_cards():
    image = torch.full((3, 60, 80), 90, dtype=torch.uint8)
    without = sheet(image, "text", reading(words(3)), 600)
    told = sheet(image, "text", reading(words(3)), 600, "85.7% of phrases point there. " * 4)
    assert told.shape[0] > without.shape[0]
    assert (told[: without.shape[0] - 60] == without[:-60]).all()


def test_the_heat_lies_where_the_weights_are():
    image = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    page = sheet(image, "text", reading(words(1)), 600).astype(int)
    colourful = (page.max(axis=-1) - page.min(axis=-1)) > 60
    rows, columns = colourful[90:].nonzero()  # below the legend
    assert len(rows) > 50 and columns.min() > 300  # in the second card alone


def test_a_page_that_is_too_narrow_is_refused():
    with pytest.raises(ValueError, match="at least 360"):
        sheet(torch.zeros(3, 9, 9).byte(), "text", words(1), 100)
