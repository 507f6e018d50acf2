"""The viewer of words on patches, in a real browser; and the colours of all pages."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from sparc_pretrain.page import viewer
from sparc_pretrain.zeroshot.alignment import WordWeights
from sparc_pretrain.zeroshot.readings import Reading
from tests.browser import asked
from tests.commands import ROOT, call

CAPTION = "a </script> <b>fish</b> & a cup"
SAY = "document.title = JSON.stringify(%s)"


def word(text: str, patch: int, score: float, pieces: int = 1) -> WordWeights:
    """A word with all its weight on one of 2 x 3 patches."""
    weights = torch.zeros(2, 3)
    weights.view(-1)[patch] = 1
    start = CAPTION.index(text)
    return WordWeights(text, start, start + len(text), weights, score, pieces)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two words: 'fish' on patch 1 of its own image, 'cup' on patch 5 of every image."""
    own = [word("fish", 1, 0.5), word("cup", 5, 0.3, 3)]
    other = [word("fish", 4, 0.1), word("cup", 5, 0.4, 3)]
    phrase = [word("a cup", 2, 0.2)]
    readings = [
        Reading("words", True, own, [other]),
        Reading("phrase", False, phrase, [phrase]),
    ]
    image = torch.full((3, 40, 60), 120, dtype=torch.uint8)
    part = viewer.fragment(CAPTION, image, [image], readings, ["own.jpg", "other.jpg"])
    file = tmp_path_factory.mktemp("page") / "words.html"
    text = viewer.page(part, "a run", viewer.told({"pointing": 0.777, "chance": 0.155}))
    file.write_text(text, encoding="utf-8")
    return file


def test_the_file_needs_nothing_from_outside_and_markup_in_a_caption_stays_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "<b>fish" not in text and text.count("</script>") == 2
    assert "77.7% phrases point into their object; a random patch does in 15.5%" in text


def test_it_opens_on_the_word_that_its_image_sets_apart_most(page: Path) -> None:
    """Of those above every other image alone: 'cup' is gathered better elsewhere."""
    script = (
        """
    const word = document.querySelectorAll(".word")[0];
    const c = document.querySelector("canvas"), at = (x, y) =>
      c.getContext("2d").getImageData(x * c.width, y * c.height, 1, 1).data[3];
    """
        + SAY
        % (
            "[word.getAttribute('aria-pressed'), at(.5, .25) > 60, at(.9, .9), "
            "document.querySelector('.told').innerText, document.querySelector('.words').innerText]"
        )
    )
    pressed, lit, dark, told, words = json.loads(_text(asked(page, script)))
    assert pressed == "true" and lit and dark == 0
    assert "fish" in told and "+0.40" in told and "above every other image" in told
    assert "<b>" in words and "Point at another word" in told


def test_a_clicked_word_is_put_out_by_another_click(page: Path) -> None:
    script = (
        """
    const [first, cup] = document.querySelectorAll(".word");
    const lit = () => document.querySelector(".stage").classList.contains("lit");
    cup.click(); const other = [lit(), first.getAttribute("aria-pressed")]; cup.click();
    """
        + SAY % "[...other, lit(), document.querySelector('.told').innerText]"
    )
    other, first, after, told = json.loads(_text(asked(page, script)))
    assert other and first == "false" and not after and told.startswith("Point at a word")


def test_hovering_lights_a_word_until_the_pointer_leaves(page: Path) -> None:
    script = (
        """
    const stage = document.querySelector(".stage"), word = document.querySelectorAll(".word")[1];
    const send = (name) => word.dispatchEvent(new PointerEvent(name, {pointerType: "mouse"}));
    document.querySelector(".word").click(); // it opens with this one lit
    send("pointerenter"); const during = stage.classList.contains("lit");
    const told = document.querySelector(".told").innerText;
    send("pointerleave");
    """
        + SAY % "[during, stage.classList.contains('lit'), told]"
    )
    during, after, told = json.loads(_text(asked(page, script)))
    assert during and not after
    assert "3 pieces" in told and "\u22120.10" in told and "not above every other image" in told


def test_a_clicked_patch_marks_the_words_that_gather_it(page: Path) -> None:
    script = (
        """
    const stage = document.querySelector(".stage"), box = stage.getBoundingClientRect();
    stage.dispatchEvent(new MouseEvent("click", {clientX: box.left + box.width * .99,
      clientY: box.top + box.height * .99, bubbles: true}));
    """
        + SAY
        % (
            "[[...document.querySelectorAll('.word.gathers')].map((w) => w.innerText), "
            "document.querySelector('.told').innerText]"
        )
    )
    words, told = json.loads(_text(asked(page, script)))
    assert words == ["cup 100 %"] and "Row 2, column 3" in told


def test_the_control_the_readings_and_the_keyboard_work(page: Path) -> None:
    script = (
        """
    const key = (to, k) => to.dispatchEvent(new KeyboardEvent("keydown", {key: k, bubbles: true}));
    const stage = document.querySelector(".stage");
    const words = () => [...document.querySelectorAll(".word.gathers")].map((w) => w.innerText);
    key(stage, "o"); const control = document.querySelector(".where").innerText;
    key(stage, "ArrowDown"); const first = words(); key(stage, "ArrowRight"); const next = words();
    key(stage, "ArrowRight"); const edge = words(); key(stage, "Escape");
    document.querySelectorAll(".readings button")[1].click();
    """
        + SAY
        % (
            "[control, first, next, edge, words(), [...document.querySelectorAll('.word')].map("
            "(w) => w.innerText.trim()), [...document.querySelectorAll('[aria-pressed=true]')].map("
            "(b) => b.innerText)]"
        )
    )
    control, first, following, edge, none, words, pressed = json.loads(_text(asked(page, script)))
    assert "other.jpg" in control and "habit, not seen" in control
    assert first == ["fish 100 %"] and following == edge == ["cup 100 %"] and none == []
    assert words == ["a cup"] and pressed == ["another", "Phrases"]


def in_words(caption: str, *texts: str) -> str:
    """The viewer of a caption in which `texts` are the words that are read."""
    places = [(text, caption.index(text)) for text in texts]
    weights = torch.full((2, 3), 1 / 6)
    own = [WordWeights(text, at, at + len(text), weights, 0.5) for text, at in places]
    image = torch.full((3, 40, 60), 120, dtype=torch.uint8)
    return viewer.fragment(caption, image, [], [Reading("words", True, own, [])], ["own.jpg"])


def test_words_after_an_emoji_are_whole_and_the_script_gets_no_places_in_the_caption() -> None:
    """JavaScript counts two for an emoji, Python one: each gets the texts, cut once."""
    part = in_words("\U0001f525 a cat, on \U0001f408 snow \U0001f525!", "cat", "snow")
    [told] = re.findall(r'<script type="application/json">(.*?)</script>', part)
    [reading] = json.loads(told)["readings"]
    assert [(one["before"], one["text"]) for one in reading["words"]] == [
        ("\U0001f525 a", "cat"),
        (", on \U0001f408", "snow"),
    ]
    assert reading["rest"] == "\U0001f525!"
    assert not any({"start", "end"} & one.keys() for one in reading["words"])


def test_a_browser_shows_a_caption_with_an_emoji_as_it_is(tmp_path: Path) -> None:
    part = in_words("\U0001f525 a cat, on \U0001f408 snow \U0001f525!", "cat", "snow")
    file = tmp_path / "emoji.html"
    file.write_text(viewer.page(part, "a run", ""), encoding="utf-8")
    script = SAY % "[...document.querySelector('.words').children].map((e) => e.innerText.trim())"
    assert json.loads(_text(asked(file, script))) == [
        "\U0001f525 a",
        "cat",
        ", on \U0001f408",
        "snow",
        "\U0001f525!",
    ]


def test_every_picture_and_control_has_a_name_and_fits_a_phone(page: Path) -> None:
    script = SAY % (
        "[[...document.images].map((i) => i.alt), "
        "document.documentElement.scrollWidth <= innerWidth, "
        "[...document.querySelectorAll('button')].every((b) => b.innerText.trim() && "
        "b.getBoundingClientRect().height >= 40)]"
    )
    alts, fits, reachable = json.loads(_text(asked(page, script, "--window-size=500,900")))
    assert all(alts) and fits and reachable


def _text(title: str) -> str:
    return title.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def luminance(colour: str) -> float:
    """Relative luminance of '#rrggbb' (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_is_read_on_every_ground(mode: int) -> None:
    css = str(viewer.part("design.css"))
    found = dict(re.findall(r"--([\w-]+): (#\w{6})", css.split("@media screen")[mode]))
    grounds = [n for n in found if n in ("paper", "card") or n.endswith("-fill")]
    inks = set(found) - set(grounds) - {"line"}
    assert {"ink", "soft", "accent", "good", "bad", "clip", "chance"} <= inks and len(grounds) == 5
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for ground in grounds:
        for ink in inks if ground in ("paper", "card") else {"ink", "soft"}:
            assert contrast(found[ink], found[ground]) >= 4.5, (ink, ground)


@pytest.mark.parametrize(
    ("name", "caption"), [(b"\xe9t\xe9.jpg", "a fish"), (b"photo.jpg", "a fish \udce9t\udce9")]
)
def test_align_writes_its_page_of_a_name_or_a_caption_that_is_not_utf8(
    tmp_path, monkeypatch, capsys, name, caption
):
    monkeypatch.chdir(tmp_path)
    photos = [Path(os.fsdecode(name)), Path("other.jpg")]
    for photo in photos:
        Image.new("RGB", (64, 64), (90, 120, 60)).save(photo)
    code, said = call("align", "sparc-scenes-tiny", photos[0], caption, "--others", photos[1])
    assert code == 0, said
    page = Path(f"{photos[0].stem}_words.html").read_text(encoding="utf-8")
    assert "\N{REPLACEMENT CHARACTER}t\N{REPLACEMENT CHARACTER}" in page
    assert "written to" in capsys.readouterr().out


def test_align_writes_picture_and_page_with_what_the_model_was_measured_to_do(tmp_path, capsys):
    from sparc_pretrain.data.scenes import write_scenes

    write_scenes(tmp_path / "easy", 1, 3, 64, seed=7, level="easy")
    photo = sorted((tmp_path / "easy/images/val").iterdir())[0]
    out = tmp_path / "words.png"
    code, said = call("align", "sparc-scenes-tiny", photo, "a zzyzx fish", "--out", out)
    assert code == 0, said
    printed = capsys.readouterr().out
    assert "above every one of 2 other images (by chance 1 word in 3 is)" in printed
    assert re.search(r"zzyzx .*in \d pieces", printed)
    assert not re.search(r"fish .*pieces", printed)
    assert "91.4% of 2,206 phrases point into their object; a random patch does in 15.5%" in printed
    page = (tmp_path / "words.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") >= 3 and "91.4%" in page
    assert ROOT.as_posix() not in page
