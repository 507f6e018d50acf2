"""Captions of the built-in scenes against what is in the scenes, exactly.

A caption is read with the grammar of `sparc_pretrain.data.scenes.captions`, leniently: articles may
lack, attributes come in any order, punctuation is not looked at. Each of its statements is true or
false of a scene:

objects      a mention of a category: there is one
colours      a mention with a colour: there is such a pair of category and colour
phrases      a mention with any attributes: one object has all of them
counts       "two stars", "five objects": exactly as many
relations    "a red star left of a gear": a pair of objects that fit both phrases stands like that
backgrounds  "on grass": it does
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparc_pretrain.data.scenes import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    SIZES,
    TEXTURES,
    caption_facts,
    render_scene,
)
from sparc_pretrain.data.scenes.captions import NUMBERS, RELATIONS, ObjectFact, SceneFacts, plural
from sparc_pretrain.data.scenes.files import VAL_START, VERSION, level_in
from transfer.captioning.metrics import intervals

KINDS = ("objects", "colours", "phrases", "counts", "relations", "backgrounds")
ATTRIBUTE_OF = {word: "size" for word in SIZES}
ATTRIBUTE_OF |= {word: "colour" for word in COLOURS} | {word: "texture" for word in TEXTURES}
CATEGORY_OF = {word: name for name in CATEGORIES for word in (name, plural(name))}
GLUE = frozenset(("and", "is", "are"))


def _any(words: Sequence[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_NUMBER = _any(NUMBERS[1:])
_PATTERN = re.compile(
    rf"\b(?:(?P<relation>{_any(RELATIONS)})"
    rf"|(?:on |in )?(?:the )?(?P<background>{_any(BACKGROUNDS)})"
    rf"|(?P<total>{_NUMBER}) objects?"
    rf"|(?:(?P<number>{_NUMBER}) |an? )?(?P<said>(?:(?:{_any(list(ATTRIBUTE_OF))}) )*)"
    rf"(?P<category>{_any(list(CATEGORY_OF))})"
    r"|(?P<other>\w+))\b"
)


@dataclass(frozen=True)
class Mention:
    """Objects in a caption: `text`, as written; `said`, (attribute, word) pairs."""

    text: str
    category: str
    said: tuple[tuple[str, str], ...] = ()
    number: int | None = None

    def fits(self, fact: ObjectFact) -> bool:
        """Whether `fact` is of the category and has all that is said."""
        named = fact.category == self.category
        return named and all(getattr(fact, attribute) == word for attribute, word in self.said)


@dataclass
class Claims:
    """What a caption says; `stray` are the words that belong to no statement."""

    mentions: list[Mention] = field(default_factory=list)
    relations: list[tuple[Mention, str, Mention]] = field(default_factory=list)
    backgrounds: list[str] = field(default_factory=list)
    totals: list[int] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Statement:
    """One of KINDS, its words, and whether it is true."""

    kind: str
    text: str
    true: bool


def parse(caption: str) -> Claims:
    """What `caption` says of a scene; any text can be read."""
    claims = Claims()
    last = topic = None  # the mention before, and the subject of the relation before
    waiting: tuple[Mention, str] | None = None  # for the object of a relation
    after_and = False
    for match in _PATTERN.finditer(" ".join(re.findall(r"\w+", caption.lower()))):
        text, said = match.group(), match.groupdict()
        if said["category"]:
            last = _mention(text, said)
            claims.mentions.append(last)
            if waiting is not None:
                claims.relations.append((*waiting, last))
                topic, waiting = waiting[0], None
        elif said["relation"]:
            # "a star is left of a gear and above a car": the star is
            subject = topic if after_and and topic else last
            if subject is None or waiting is not None:
                claims.stray.append(text)
            else:
                waiting = (subject, text)
        elif said["background"]:
            claims.backgrounds.append(said["background"])
        elif said["total"]:
            claims.totals.append(NUMBERS.index(said["total"]))
        elif text not in GLUE:
            claims.stray.append(text)
        after_and = text == "and"
    if waiting is not None:
        claims.stray.append(waiting[1])
    return claims


def judge(claims: Claims, facts: SceneFacts) -> list[Statement]:
    """The statements of `claims`, each true or false of a scene."""
    found = []
    for one in claims.mentions:
        alike = [fact for fact in facts.objects if fact.category == one.category]
        fitting = [fact for fact in alike if one.fits(fact)]
        found.append(Statement("objects", one.text, bool(alike)))
        colours = {word for attribute, word in one.said if attribute == "colour"}
        if colours:
            true = any({fact.colour} == colours for fact in alike)
            found.append(Statement("colours", one.text, true))
        if one.said:
            found.append(Statement("phrases", one.text, bool(fitting)))
        if one.number is not None:
            found.append(Statement("counts", one.text, len(fitting) == one.number))
    for number in claims.totals:
        text = f"{NUMBERS[number]} objects"
        found.append(Statement("counts", text, len(facts.objects) == number))
    for subject, name, target in claims.relations:
        true = any(
            relation.name == name
            and subject.fits(facts.objects[relation.subject])
            and target.fits(facts.objects[relation.target])
            for relation in facts.relations
        )
        found.append(Statement("relations", f"{subject.text} {name} {target.text}", true))
    for background in claims.backgrounds:
        found.append(Statement("backgrounds", background, background == facts.background))
    return found


class SceneTruth:
    """The facts of the scenes of a data set, made again by the generator.

    Args: file: its scenes.json.

    Raises FileNotFoundError; ValueError for a file that is no scenes.json or of other drawings.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        try:
            told = json.loads(self.file.read_text(encoding="utf-8"))["arguments"]
            self.version, self.seed, self.size = told["version"], told["seed"], told["size"]
            self.counts, self.level = (told["train"], told["val"]), level_in(told).name
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is no scenes.json: {error!r}") from None
        if self.version != VERSION:
            raise ValueError(f"{file} is of version {self.version} of the scenes, not {VERSION}")
        self.known: dict[str, SceneFacts] = {}

    def __call__(self, image: str) -> SceneFacts:
        """The facts of `image`, NNNNNN.jpg. Raises ValueError for an image that is none of them."""
        if image not in self.known:
            stem = Path(image).stem
            index = int(stem) if stem.isascii() and stem.isdigit() else -1
            train, val = self.counts
            if not (0 <= index < train or VAL_START <= index < VAL_START + val):
                raise ValueError(f"{image} is none of the scenes of {self.file}")
            self.known[image] = caption_facts(render_scene(self.seed, index, self.size, self.level))
        return self.known[image]


def score(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    facts: Sequence[SceneFacts],
    resamples: int = 0,
) -> tuple[dict[str, float], list[list[Statement]]]:
    """Numbers of all captions, 0 to 1, and the statements of each.

    `scene-KIND`: share of the statements of a kind that are true, NaN when there is none;
    `scene-true`: of all (a phrase says no more than its category and its attributes do);
    `scene-recall`: share of the categories named in an image's references that its caption names;
    `scene-captions`: share of the captions that say something, nothing false, and have no stray
    word. `NAME_elsewhere`: the same captions on the scene of the next image, which is what a
    captioner gets that does not look. `scene-statements` and `scene-stray`: statements, and stray
    words, per caption. With `resamples`, `NAME_low` and `NAME_high`: bootstrap over images.

    Raises ValueError when a reference is false: these are other scenes.
    """
    claims = [parse(caption) for caption in captions]
    named = [[parse(text) for text in texts] for texts in references]
    for texts, own, about in zip(references, named, facts, strict=True):
        for text, one in zip(texts, own, strict=True):
            false = [statement.text for statement in judge(one, about) if not statement.true]
            if false:
                raise ValueError(
                    f"{false[0]!r} of the reference {text!r} is not so in the scene: scenes.json"
                    " and the captions are not of one data set"
                )
    judged = [judge(one, about) for one, about in zip(claims, facts, strict=True)]
    others = [*facts[1:], *facts[:1]]
    elsewhere = [judge(one, about) for one, about in zip(claims, others, strict=True)]
    parts = {f"scene-{kind}": _counts(judged, kind) for kind in KINDS}
    parts["scene-true"] = sum(_counts(judged, kind) for kind in KINDS if kind != "phrases")
    parts["scene-recall"] = _recall(claims, named)
    parts["scene-captions"] = _all_true(judged, claims)
    totals: dict[str, float] = {}
    for name, part_whole in parts.items():
        totals[name] = _share(part_whole)
        if resamples:
            ends = intervals.ratio_interval(*part_whole.T, resamples)
            totals[f"{name}_low"], totals[f"{name}_high"] = ends
    for kind in KINDS:
        totals[f"scene-{kind}_elsewhere"] = _share(_counts(elsewhere, kind))
    totals["scene-captions_elsewhere"] = _share(_all_true(elsewhere, claims))
    totals["scene-statements"] = sum(map(len, judged)) / len(judged)
    totals["scene-stray"] = sum(len(one.stray) for one in claims) / len(claims)
    return totals, judged


def _mention(text: str, said: dict[str, str | None]) -> Mention:
    words = tuple((ATTRIBUTE_OF[word], word) for word in said["said"].split())
    number = None if said["number"] is None else NUMBERS.index(said["number"])
    return Mention(text, CATEGORY_OF[said["category"]], words, number)


def _counts(judged: Sequence[list[Statement]], kind: str) -> np.ndarray:
    """[images,2]: true statements of a kind, and all of them."""
    own = [[statement.true for statement in row if statement.kind == kind] for row in judged]
    return np.array([(sum(row), len(row)) for row in own], dtype=float)


def _recall(claims: Sequence[Claims], named: Sequence[Sequence[Claims]]) -> np.ndarray:
    """[images,2]: categories of the references that the caption names, and all of them."""
    rows = []
    for one, texts in zip(claims, named, strict=True):
        wanted = {mention.category for text in texts for mention in text.mentions}
        rows.append((len(wanted & {mention.category for mention in one.mentions}), len(wanted)))
    return np.array(rows, dtype=float)


def _all_true(judged: Sequence[list[Statement]], claims: Sequence[Claims]) -> np.ndarray:
    """[images,2]: whether all of a caption is true and understood, and 1."""
    rows = zip(judged, claims, strict=True)
    true = [bool(row) and all(s.true for s in row) and not one.stray for row, one in rows]
    return np.array([(one, 1) for one in true], dtype=float)


def _share(part_whole: np.ndarray) -> float:
    part, whole = part_whole.sum(0)
    return float(part / whole) if whole else float("nan")
