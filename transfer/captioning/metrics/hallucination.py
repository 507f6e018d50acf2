"""CHAIR-style object hallucination (Rohrbach et al., EMNLP 2018, arXiv 1809.02156), where a set
says which objects its images show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparc_pretrain import json_file
from sparc_pretrain.data.coco_file import read_coco


class ObjectWords:
    """Finds objects in captions, by the words for them.

    Args:
        synonyms: category -> its words; lower case; a word may be several. Plurals are found too,
            regular ones and those that textblob knows (knives, people, mice), as CHAIR finds them
            by the same rules of `pattern`. The longest match counts: "hot dog" is no dog.
    """

    def __init__(self, synonyms: Mapping[str, Sequence[str]]) -> None:
        self.category: dict[str, str] = {}
        for name, words in synonyms.items():
            for word in (name, *words):
                for form in _forms(word.lower().strip()):
                    self.category.setdefault(form, name)
        longest_first = sorted(self.category, key=len, reverse=True)
        self.pattern = re.compile(rf"\b({'|'.join(map(re.escape, longest_first))})\b")

    def __call__(self, text: str) -> list[str]:
        """The categories that `text` names, in order, with repetitions."""
        return [self.category[found] for found in self.pattern.findall(text.lower())]


def read_synonyms(file: str | Path) -> dict[str, list[str]]:
    """A file with a line per category: its name, then other words for it, separated by commas (the
    format of CHAIR's synonyms.txt). Raises FileNotFoundError, ValueError for an empty file.
    """
    path = Path(file)
    rows = [
        [word.strip() for word in line.split(",") if word.strip()]
        for line in json_file.read_text(path).splitlines()
    ]
    found = {row[0]: row[1:] for row in rows if row}
    if not found:
        raise ValueError(f"{path} has no line 'category, word, word, ...'")
    return found


def read_objects(file: str | Path) -> tuple[dict[str, set[str]], list[str]]:
    """(image file name -> categories in it, all categories) of a COCO instances JSON.

    Raises FileNotFoundError; ValueError naming the file for what is not COCO.
    """
    data = read_coco(file, boxes=False)
    categories = {one["id"]: one["name"] for one in data.categories}
    names = {one["id"]: one.get("file_name") for one in data.images}
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{file}: an image has no file_name")
    found: dict[str, set[str]] = {name: set() for name in names.values()}
    for one in data.annotations:
        found[names[one["image_id"]]].add(categories[one["category_id"]])
    return found, list(categories.values())


def chair(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    objects: Sequence[set[str]],
    words: ObjectWords,
) -> tuple[dict[str, float], list[tuple[int, int]]]:
    """`CHAIR-i`: share of the object mentions whose object is not in the image; `CHAIR-s`: share of
    the captions with one; `object-recall`: share of the objects in images that captions name.

    In the image is what its instances or its references say. Returns the numbers, 0 to 1 (0 when
    there is nothing to count), and (false, all) mentions of each caption.
    """
    rows, named, there = [], 0, 0
    for candidate, texts, own in zip(candidates, references, objects, strict=True):
        truth = own | {category for text in texts for category in words(text)}
        mentions = words(candidate)
        rows.append((sum(one not in truth for one in mentions), len(mentions)))
        named += len(own & set(mentions))
        there += len(own)
    false, mentions = (sum(column) for column in zip(*rows, strict=True))
    wrong = sum(row[0] > 0 for row in rows)
    found = {
        "CHAIR-i": false / max(mentions, 1),
        "CHAIR-s": wrong / len(rows),
        "object-recall": named / max(there, 1),
    }
    return found, rows


def _forms(word: str) -> set[str]:
    """A word and its plurals: textblob's "kine" is no reason to miss cows."""
    from textblob.en.inflect import pluralize

    if word.endswith(("s", "x", "ch", "sh")):
        regular = f"{word}es"
    elif word.endswith("y") and word[-2:-1] not in "aeiou":
        regular = f"{word[:-1]}ies"
    else:
        regular = f"{word}s"
    return {word, regular, pluralize(word)}
