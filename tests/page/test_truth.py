"""What a phrase file knows of a caption, outlined where its words are lit."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparc_pretrain.data.sets.phrases import Phrase, PhraseImage
from sparc_pretrain.page import truth, viewer
from sparc_pretrain.zeroshot.alignment import WordWeights
from sparc_pretrain.zeroshot.readings import Reading
from tests.browser import asked

CAPTION = "a fish above a cup"
AT_5 = torch.tensor([[0.7, 0.55, 1.0, 0.95]])  # round patch 5 of 2 x 3


def word(text: str, patch: int, score: float) -> WordWeights:
    weights = torch.full((2, 3), 0.02)
    weights.view(-1)[patch] = 0.9
    start = CAPTION.index(text)
    return WordWeights(text, start, start + len(text), weights, score, 1)


def phrase(text: str, boxes: Tensor, sentence: str = CAPTION) -> Phrase:
    start = sentence.index(text)
    return Phrase(sentence, start, start + len(text), boxes, [], ())


def test_boxes_of_a_caption_are_shares_of_the_image_and_belong_to_the_words_of_their_phrase():
    photo = PhraseImage(
        Path("photo.jpg"),
        60,
        40,
        [
            phrase("a cup", torch.tensor([[42.0, 22.0, 60.0, 38.0]])),
            phrase("a fish", torch.tensor([[0.0, 0.0, 30.0, 40.0]]), sentence="a fish on snow"),
        ],
    )
    [found] = truth.of_caption(photo, CAPTION)
    torch.testing.assert_close(found.boxes, AT_5)
    for text, of in (("cup", found.boxes), ("fish", None), ("above", None)):
        assert truth.boxes_of(word(text, 0, 0.1), [found]) is of, text
    assert truth.boxes_of(word("cup", 0, 0.1), [truth.Truth(0, len("a fish"), AT_5)]) is None
    article = CAPTION.index("a cup")
    assert truth.boxes_of(WordWeights("a", article, article + 1, AT_5, 0.1, 1), [found]) is None


@pytest.mark.parametrize(
    ("box", "inside"),
    [([0.7, 0.55, 1.0, 0.95], True), ([0.84, 0.0, 1.0, 1.0], False), ([0, 0, 1, 0.7], False)],
)
def test_a_word_points_into_a_box_that_holds_the_centre_of_its_strongest_patch(box, inside):
    assert truth.points_into(word("cup", 5, 0.1), torch.tensor([box])) is inside


def test_the_outline_is_drawn_on_the_box_alone_and_into_a_copy():
    picture = np.full((80, 120, 3), 90, dtype=np.uint8)
    drawn = truth.outlined(picture, AT_5)
    assert (picture == 90).all()
    assert (drawn[44, 84:118] == 255).all() and (drawn[44:76, 84] == 255).all()
    assert (drawn[50:70, 90:110] == 90).all() and (drawn[:40] == 90).all()
    assert (truth.outlined(picture, None) == picture).all()


@pytest.mark.parametrize(("patch", "said"), [(5, "on what it names"), (0, "beside what it names")])
def test_the_viewer_opens_on_a_word_whose_place_is_known_and_outlines_it(tmp_path, patch, said):
    own, other = (
        [word("fish", 1, 0.9 if mine else 0.1), word("cup", patch, 0.5 if mine else 0.4)]
        for mine in (True, False)
    )
    image = torch.full((3, 40, 60), 120, dtype=torch.uint8)
    start = CAPTION.index("a cup")
    known = [truth.Truth(start, len(CAPTION), AT_5)]
    part = viewer.fragment(
        CAPTION, image, [image], [Reading("words", True, own, [other])], ["one", "two"], truth=known
    )
    page = tmp_path / "words.html"
    page.write_text(viewer.page(part, "a run", ""), encoding="utf-8")
    script = """
    const c = document.querySelector("canvas"), pen = c.getContext("2d");
    const white = () => {
      let most = 0; // along the box's upper side
      for (let x = .72; x < .98; x += .005) {
        const pixel = pen.getImageData(x * c.width, .55 * c.height, 1, 1).data;
        most = Math.max(most, Math.min(...pixel));
      }
      return most;
    };
    const on = document.querySelector("[aria-pressed=true].word").innerText, mine = white();
    const told = document.querySelector(".told").innerText;
    document.querySelectorAll(".pictures button")[1].click(); const other = white();
    const there = document.querySelector(".told").innerText;
    document.title = JSON.stringify([on, mine, told, other, there]);
    """
    on, mine, told, other, there = json.loads(html.unescape(asked(page, script)))
    assert on.strip() == "cup" and mine > 240 and said in told
    assert other < 240 and "what it names" not in there
    assert "dashed: what the word names" in page.read_text(encoding="utf-8")
