"""Class names -> prompts, as CLIP (arXiv 2103.00020, sec. 3.1.4) and OWL-ViT word them."""

from __future__ import annotations

import re
from collections.abc import Sequence

# CLIP's seven best (its notebook Prompt_Engineering_for_ImageNet): the ensemble at test time.
BEST = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def templates(source: str | Sequence[str]) -> tuple[str, ...]:
    """Templates with one '{}' each: 'best' (CLIP's seven), 'clip' (CLIP's eighty for ImageNet, from
    the open_clip package), or a list.

    Raises ValueError for an unknown name, an empty list, or a template without '{}'.
    """
    if source == "best":
        return BEST
    if source == "clip":
        import open_clip  # only here: it takes seconds to import

        return tuple(wording("{}") for wording in open_clip.OPENAI_IMAGENET_TEMPLATES)
    if isinstance(source, str):
        raise ValueError(f"templates are 'best', 'clip' or a list of texts, not {source!r}")
    found = tuple(source)
    without = [text for text in found if text.count("{}") != 1]
    if without or not found:
        raise ValueError(f"templates need one '{{}}' each for the class name: {without[:3]}")
    return found


def spoken(name: str) -> str:
    """'frying_pan' -> 'frying pan': a category's name as a caption would have it. What stands in
    parentheses stays, because it tells classes apart in training; `zeroshot.prompts.spoken` leaves
    it out where it need not.
    """
    return " ".join(name.replace("_", " ").split())


def same_thing(name: str) -> str:
    """A name as it is compared between data sets: lower case, no underscores, hyphens or what
    stands in parentheses ('bow_(weapon)' -> 'bow').
    """
    bare = re.sub(r"\(.*?\)", " ", name.lower())
    return " ".join(re.sub(r"[_\-/]", " ", bare).split())
