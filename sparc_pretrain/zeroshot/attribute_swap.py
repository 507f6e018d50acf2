"""Which of two captions is the image's: its own, or the same with two colours exchanged.

"A red star and a blue gear" against "a blue star and a red gear": the words are the same, so a bag
of words is at chance (as in Winoground, Thrush et al., arXiv 2204.03162, and ARO's attribution,
Yuksekgonul et al., arXiv 2210.01936).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.metric import Metric
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.grouping import group_patches
from sparc_pretrain.types import TextFeatures
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.outcome import Outcome

# English's basic colour terms (Berlin and Kay), and one that the built-in scenes have beside them
COLOURS = ("black", "white", "red", "green", "yellow", "blue", "brown", "orange", "pink", "purple")
COLOURS += ("grey", "gray", "teal")
COLOURED = re.compile(rf"\b(?:(an?) )?({'|'.join(COLOURS)})\b", re.IGNORECASE)
METRICS = (
    Metric("swap_accuracy", headline=True, title="colours in their places", words="as trained"),
    Metric("swap_grouped", title="colours in their places, by words", words="mean over tokens"),
    Metric("chance_swap", higher_is_better=None, words="by chance"),
)


def swapped(caption: str) -> str | None:
    """The caption with its two colours exchanged and their articles right; None for one that has
    not exactly two colour words, which differ.
    """
    found = list(COLOURED.finditer(caption))
    if len(found) != 2 or found[0][2].lower() == found[1][2].lower():
        return None
    first, second = found
    parts = (caption[: first.start()], caption[first.end() : second.start()])
    return (
        parts[0]
        + _said(first, second[2])
        + parts[1]
        + _said(second, first[2])
        + (caption[second.end() :])
    )


def _said(place: re.Match[str], colour: str) -> str:
    if not (article := place[1]):
        return colour
    right = "an" if colour[0].lower() in "aeiou" else "a"
    return f"{right.capitalize() if article[0].isupper() else right} {colour}"


def grouped_similarity(text: TextFeatures, patches: Tensor) -> Tensor:
    """Mean over a caption's tokens, special ones apart, of the cosine with what they gather (SPARC,
    eqs. 2-5) in the image of the same row: text.tokens [B,T,D], patches [B,P,D] -> [B].
    """
    grouped, _ = group_patches(text.tokens, patches)
    cosine = torch.cosine_similarity(text.tokens.float(), grouped, dim=-1)
    words = text.mask & ~text.special
    return (cosine * words).sum(dim=1) / words.sum(dim=1).clamp(min=1)


def pairs_of(data: encode.CaptionedImages) -> list[tuple[int, str, str]]:
    """(row of the image, caption, the same swapped) of every caption that can be.

    Raises ValueError where none can.
    """
    told = zip(data.image_of_text, data.captions, strict=True)
    found = [(row, text, other) for row, text in told if (other := swapped(text))]
    if not found:
        raise ValueError("no caption has exactly two colours to exchange")
    return found


@torch.no_grad()
def evaluate(
    model: DualEncoder,
    objective: Objective,
    pairs: list[tuple[int, str, str]],
    data: encode.CaptionedImages,
    resize: str = "crop",
    batch_size: int = 64,
) -> Outcome:
    """How often the own caption scores above the swapped one; equal scores count half.

    `swap_accuracy` scores as the model was trained; `swap_grouped`, where texts and patches share a
    space, by `grouped_similarity` of contextual tokens and g_v(patches).
    """
    won: dict[str, list[Tensor]] = {"swap_accuracy": []}
    if objective.shares_space:
        won["swap_grouped"] = []
    kept = {*encode.reads_of((objective,)), "patches", "tokens"}
    for start in range(0, len(pairs), batch_size):
        rows, own, other = zip(*pairs[start : start + batch_size], strict=True)
        files = [data.files[row] for row in rows]
        how = (kept, resize, len(files), objective, data.boxes)
        (image,) = encode.encode_images(model, files, *how)
        (text,) = encode.encode_texts(model, [*own, *other], kept, 2 * len(own))
        right, wrong = objective.scores(image, text).split(len(own), dim=1)
        won["swap_accuracy"].append(_above(right.diagonal(), wrong.diagonal()))
        if objective.shares_space:
            both = grouped_similarity(text, image.patches.repeat(2, 1, 1))
            won["swap_grouped"].append(_above(*both.split(len(own))))
    items = {name: torch.cat(found).tolist() for name, found in won.items()}
    return Outcome(
        metrics={name: sum(x) / len(x) for name, x in items.items()} | {"chance_swap": 0.5},
        protocol={"pairs": len(pairs), "swapped": "two colours", "read": encode.read_by(objective)},
        items=items,
        owners=[row for row, *_ in pairs],
        declared=METRICS,
    )


def _above(own: Tensor, other: Tensor) -> Tensor:
    return ((own > other).double() + (own == other).double() / 2).cpu()
