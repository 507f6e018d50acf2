"""What is true of a scene, and five captions that say parts of it.

Grammar (lower case, about 100 words in all):
    PHRASE    a|an [size] [colour] [texture] category
    PLACE     on grass | in the night sky | ...
    RELATION  left of | right of | above | below | in front of | behind
Every statement is existential ("a red star left of a gear": there is such a pair), except that
numbers are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below", "in front of", "behind")
ATTRIBUTES: tuple[str, ...] = ("size", "colour", "texture")
NUMBERS: tuple[str, ...] = ("no", "one", "two", "three", "four", "five", "six", "seven")
_PLURALS = {
    "fish": "fish",
    "leaf": "leaves",
    "cross": "crosses",
    "cactus": "cactuses",
    "butterfly": "butterflies",
}


@dataclass(frozen=True)
class ObjectFact:
    """One object in words; `area` is what is visible of it, in pixels."""

    category: str
    size: str
    colour: str
    texture: str
    area: int


@dataclass(frozen=True)
class Relation:
    """`subject` and `target` are positions in `SceneFacts.objects`."""

    subject: int
    name: str
    target: int


@dataclass(frozen=True)
class SceneFacts:
    """Everything a caption may say: all objects, and every relation that clearly holds."""

    background: str
    objects: tuple[ObjectFact, ...]
    relations: tuple[Relation, ...]


def plural(category: str) -> str:
    """The word for two or more of `category`."""
    return _PLURALS.get(category, category + "s")


def place(background: str) -> str:
    """The background as it ends, or begins, a sentence."""
    return "in the night sky" if background == "night sky" else f"on {background}"


def _phrase(fact: ObjectFact, attributes: Sequence[str] = ()) -> str:
    words = [getattr(fact, name) for name in ATTRIBUTES if name in attributes] + [fact.category]
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _some(random: Random) -> list[str]:
    """A random subset of the attributes; colour is the one people name most."""
    chances = (0.35, 0.65, 0.35)
    return [a for a, p in zip(ATTRIBUTES, chances, strict=True) if random.random() < p]


def _coloured(random: Random) -> list[str]:
    return ["colour"] if random.random() < 0.6 else []


def short_captions(facts: SceneFacts, random: Random) -> list[str]:
    """Five true captions of few words, some of them equal when little is to be said.

    In this order: the largest object; all of them with colours; categories alone, and where; the
    background first; a pair and its relation where there is one.
    """
    objects = _salient(facts)
    where = place(facts.background)
    end = random.choice(("", f" {where}"))
    captions = [_phrase(objects[0], _coloured(random))]
    captions.append(_listed([_phrase(o, ("colour",)) for o in objects]) + end)
    captions.append(f"{_listed([_phrase(o) for o in objects])} {where}")
    said = objects[: random.randint(1, len(objects))]
    captions.append(f"{where}, {_listed([_phrase(o, _coloured(random)) for o in said])}")
    if facts.relations:
        relation = random.choice(facts.relations)
        subject, target = facts.objects[relation.subject], facts.objects[relation.target]
        one, other = _phrase(subject, _coloured(random)), _phrase(target, _coloured(random))
        captions.append(f"{one} {relation.name} {other}")
    else:
        captions.append(_phrase(random.choice(objects), ("colour",)))
    return captions


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _counted(objects: Sequence[ObjectFact]) -> list[str]:
    """ "two stars", "a gear", ... in the order in which the categories first appear."""
    names = [fact.category for fact in objects]
    groups = []
    for name in dict.fromkeys(names):
        first = objects[names.index(name)]
        count = names.count(name)
        groups.append(f"{NUMBERS[count]} {plural(name)}" if count > 1 else _phrase(first))
    return groups


def _salient(facts: SceneFacts) -> list[ObjectFact]:
    return sorted(facts.objects, key=lambda fact: -fact.area)


def _short(facts: SceneFacts, random: Random) -> str:
    objects = _salient(facts)[: random.choice((1, 1, 2))]
    return _listed([_phrase(fact, _some(random)) for fact in objects])


def _pair(facts: SceneFacts, random: Random) -> str:
    end = random.choice(("", " " + place(facts.background)))
    if not facts.relations:
        first, second = _salient(facts)[:2]
        return f"{_phrase(first, _some(random))} and {_phrase(second, _some(random))}{end}"
    relation = random.choice(facts.relations)
    subject, target = facts.objects[relation.subject], facts.objects[relation.target]
    return (
        f"{_phrase(subject, _some(random))} {relation.name} {_phrase(target, _some(random))}{end}"
    )


def _full(facts: SceneFacts, random: Random) -> str:
    phrases = [_phrase(fact, ATTRIBUTES) for fact in _salient(facts)]
    return f"{_listed(phrases)} {place(facts.background)}"


def _place_first(facts: SceneFacts, random: Random) -> str:
    objects = _salient(facts)
    if random.random() < 0.5:
        things = _counted(objects)
        things = things[: random.randint(1, len(things))]
    else:
        things = [_phrase(fact, _some(random)) for fact in objects[: random.randint(1, 2)]]
    return f"{place(facts.background)}, {_listed(things)}"


def _long(facts: SceneFacts, random: Random) -> str:
    pairs = {frozenset((r.subject, r.target)) for r in facts.relations}
    if len(pairs) < 2 or random.random() < 0.4:
        start = f"{NUMBERS[len(facts.objects)]} objects {place(facts.background)}: "
        if random.random() < 0.5:
            return start + _listed(_counted(_salient(facts)))
        return start + _listed([_phrase(fact, _some(random)) for fact in _salient(facts)])
    first = random.choice(facts.relations)
    used = {first.subject, first.target}
    second = random.choice([r for r in facts.relations if {r.subject, r.target} != used])
    subject, target = facts.objects[first.subject], facts.objects[first.target]
    text = (
        f"{_phrase(subject, _some(random))} is {first.name} {_phrase(target, _some(random))} and "
    )
    if second.subject != first.subject:
        text += f"{_phrase(facts.objects[second.subject], _some(random))} is "
    return text + f"{second.name} {_phrase(facts.objects[second.target], _some(random))}"


def write_captions(facts: SceneFacts, random: Random) -> list[str]:
    """Five true captions with five different numbers of words, the full list being the longest.

    In this order: one or two objects; a pair and its relation; the full list; the background first;
    two relations, or the number of objects and what they are.
    """
    kinds: tuple[Callable[[SceneFacts, Random], str], ...] = (
        _short,
        _pair,
        _full,
        _place_first,
        _long,
    )
    full = _full(facts, random)
    captions = {2: full}
    lengths = {len(full.split())}
    for kind in (0, 1, 3, 4):
        # ends: each of the four can take at least four lengths below that of the full list, and at
        # most three of these are taken by the others
        while True:
            text = kinds[kind](facts, random)
            if len(text.split()) not in lengths and len(text.split()) < len(full.split()):
                break
        lengths.add(len(text.split()))
        captions[kind] = text
    return [captions[kind] for kind in sorted(captions)]
