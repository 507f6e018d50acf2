"""The interactive view of words on patches: readings -> one HTML file, or a part of a page."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from sparc_pretrain.page.truth import Truth, boxes_of, is_minor, points_into
from sparc_pretrain.zeroshot.readings import TITLES, Reading

SIDE = 900  # the longer one of a picture inside the file, pixels
SMALLEST = 360  # smaller pictures are enlarged to this, so that heat is drawn smoothly
DIGITS = 4  # of weights
HALVES = re.compile("[\ud800-\udfff]")  # of characters, which no encoding can write


@cache
def part(name: str) -> Markup:
    """A style or script of this folder, for a page's head or foot."""
    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


@cache
def environment(folder: Path = Path(__file__).parent) -> Environment:
    """Templates of a folder, usually this one; what is put into them is printable, and escaped."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_written,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def printable(text: str) -> str:
    """`text` with a replacement character for each byte that was not UTF-8: Python keeps those of
    a file's name, and of a command line, as halves of characters.
    """
    return HALVES.sub("\N{REPLACEMENT CHARACTER}", text)


def _written(value: Any) -> str:
    """A value as templates write it: here every name of a file enters a page."""
    text = printable(str(value))
    return Markup(text) if isinstance(value, Markup) else text


def fragment(
    caption: str,
    image: Tensor,
    others: Sequence[Tensor],
    readings: Sequence[Reading],
    names: Sequence[str],
    side: int = SIDE,
    truth: Sequence[Truth] = (),
) -> Markup:
    """The viewer of one captioned image, for a page that has `viewer.css` and `viewer.js`.

    Args:
        image, others: [3,H,W] uint8, as given to `readings.read`. names: of all of them.
        side: the longer one of each picture in the page, pixels. truth: what is known of where
            the caption's words are in `image`; a word that is lit has its boxes outlined.

    Raises ValueError for a caption that no reading finds a word in.
    """
    if not readings:
        raise ValueError("the caption has no words")
    pictures = []
    for number, (one, name) in enumerate(zip((image, *others), names, strict=True)):
        src, size = _picture(one, side)
        alt = "Another image, for comparison" if number else f"The photo of the caption: {caption}"
        pictures.append({"src": src, "alt": alt, "name": name, "size": size})
    grid = list(readings[0].own[0].weights.shape)
    data = {
        "grid": grid,
        "pictures": pictures,
        "readings": [_reading(one, caption, truth) for one in readings],
    }
    first = pictures[0]
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return Markup(
        environment()
        .get_template("viewer.html")
        .render(
            data=Markup(text),
            src=first["src"],
            alt=first["alt"],
            size=first["size"],
            caption=caption,
            truth=bool(truth),
        )
    )


def page(viewer: Markup, run: str, measured: str) -> str:
    """The viewer as a file of its own. run: what is said of the model; measured: how often it is
    right, or that nobody measured it.
    """
    return (
        environment()
        .get_template("words.html")
        .render(
            design=part("design.css"),
            viewer_css=part("viewer.css"),
            viewer_js=part("viewer.js"),
            viewer=viewer,
            run=run,
            measured=measured,
        )
    )


def told(found: dict[str, float] | None) -> str:
    """What was measured of a run (see `readings.measured`), as a sentence."""
    if found is None:
        return (
            "How often this model's words point at the right place was not measured: "
            "sparc zeroshot RUN grounding does."
        )
    of = f" of {found['phrases']:,}" if "phrases" in found else ""
    centre = f", the picture's centre in {found['centre']:.1%}" if "centre" in found else ""
    return (
        f"Measured on held-out images: {found['pointing']:.1%}{of} phrases point into their "
        f"object; a random patch does in {found['chance']:.1%}{centre}."
    )


def _reading(one: Reading, caption: str, truth: Sequence[Truth]) -> dict[str, Any]:
    """A reading for the script: of `caption` the words, what stands before each, and the rest. No
    places in it: Python counts characters, JavaScript two for an emoji.
    """
    words, at = [], 0
    for number, word in enumerate(one.own):
        seen = [word, *(other[number] for other in one.others)]
        boxes = boxes_of(word, truth)
        words.append(
            {
                "before": caption[at : word.start].strip(),
                "text": word.word,
                "pieces": word.pieces,
                "minor": is_minor(word.word),
                "boxes": [] if boxes is None else boxes.double().round(decimals=DIGITS).tolist(),
                "hits": boxes is not None and points_into(word, boxes),
                "out": one.stands_out(number),
                "seen": [
                    {
                        "weights": [round(w, DIGITS) for w in view.weights.flatten().tolist()],
                        "peak": round(view.peak, 2),
                        "score": round(view.score, 4),
                    }
                    for view in seen
                ],
            }
        )
        at = word.end
    rest = caption[at:].strip()
    return {"title": TITLES[one.name], "trained": one.trained, "words": words, "rest": rest}


def _picture(image: Tensor, side: int) -> tuple[str, tuple[int, int]]:
    photo = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    longer = max(photo.size)
    factor = min(1, side / longer) if longer > SMALLEST else SMALLEST / longer
    size = tuple(max(1, round(n * factor)) for n in photo.size)
    file = io.BytesIO()
    photo.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), size
