"""Questions about scenes in the VQA format, and statements about two scenes as NLVR2 has them;
answers are balanced, so that without looking one is no better than the chance that is told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import Any

from sparc_pretrain.data.scenes.captions import ObjectFact, SceneFacts

Json = dict[str, Any]
Asked = tuple[str, str, str]  # kind, question, answer
Facts = Sequence[tuple[int, str, SceneFacts]]  # image id, file name, what is true of it
KINDS = ("colour", "count", "category", "relation", "yes/no")
STATUS = ("both", "exactly one", "neither")  # of two scenes show it
Thing = tuple[str | None, str | None]  # colour, category
TRIES = 40  # things and scenes looked at for a statement of a status


def asked_of(facts: SceneFacts, random: Random) -> list[Asked]:
    """At most one question of each of KINDS; each has one true answer."""
    objects, found = list(facts.objects), []
    category = Counter(o.category for o in objects)
    colour = Counter(o.colour for o in objects)
    if alone := [o for o in objects if category[o.category] == 1]:
        one = random.choice(alone)
        found.append(("colour", f"what colour is the {one.category}?", one.colour))
    found.append(("count", "how many objects are there?", str(len(objects))))
    if alone := [o for o in objects if colour[o.colour] == 1]:
        one = random.choice(alone)
        found.append(("category", f"what is the {one.colour} object?", one.category))
    told: dict[tuple[str, str], set[str]] = defaultdict(set)
    for relation in facts.relations:
        target = objects[relation.target]
        if category[target.category] == 1:
            told[relation.name, target.category].add(objects[relation.subject].category)
    if clear := [(key, names) for key, names in told.items() if len(names) == 1]:
        (name, target), (answer,) = random.choice(clear)
        found.append(("relation", f"what is {name} the {target}?", answer))
    return found + _yes_no(objects, random)


def _yes_no(objects: Sequence[ObjectFact], random: Random) -> list[Asked]:
    """Whether there is an object of a colour and category: of one, or of two objects' mixed."""
    there = {(o.colour, o.category) for o in objects}
    mixed = sorted({(a.colour, b.category) for a in objects for b in objects} - there)
    if not mixed:
        return []
    answer = random.choice(("yes", "no"))
    colour, category = random.choice(sorted(there) if answer == "yes" else mixed)
    return [("yes/no", f"is there a {colour} {category}?", answer)]


def vqa_file(scenes: Facts, seed: str) -> Json:
    """`questions` and `annotations` of the VQA format (one answer each) in one file, and in `info`
    the chance: of each kind of question the share of its commonest answer.

    An answer that is commoner than the mean of its kind is thinned out to it.
    """
    rows: dict[str, list[tuple[int, str, Asked]]] = defaultdict(list)
    for image, name, facts in scenes:
        for asked in asked_of(facts, Random(f"{seed} question {image}")):
            rows[asked[0]].append((image, name, asked))
    kept = []
    for kind in KINDS:
        own = rows[kind]
        count = Counter(asked[2] for _, _, asked in own)
        most = -(-len(own) // max(1, len(count)))
        Random(f"{seed} {kind}").shuffle(own)
        seen: Counter[str] = Counter()
        for row in own:
            seen[row[2][2]] += 1
            if seen[row[2][2]] <= most:
                kept.append(row)
    kept.sort(key=lambda row: (row[0], KINDS.index(row[2][0])))
    questions, annotations = [], []
    for number, (image, name, (kind, question, answer)) in enumerate(kept, start=1):
        place = {"question_id": number, "image_id": image}
        questions.append({**place, "image": name, "question": question})
        said = [{"answer": answer, "answer_id": 1, "answer_confidence": "yes"}]
        about = {"question_type": kind, "multiple_choice_answer": answer, "answers": said}
        annotations.append({**place, **about})
    chance = {kind: _commonest(a[2] for _, _, a in kept if a[0] == kind) for kind in KINDS}
    info = {"description": "built-in scenes", "chance": chance}
    return {"info": info, "questions": questions, "annotations": annotations}


def _commonest(answers: Any) -> float | None:
    count = Counter(answers)
    return round(max(count.values()) / count.total(), 4) if count else None


def statements(scenes: Facts, seed: str) -> list[Json]:
    """Lines of an NLVR2-like file: of each scene and another one a statement that is true of them
    or not, half and half, whatever it says: {identifier, images, sentence, label}.
    """
    shown: dict[Thing, set[int]] = defaultdict(set)  # -> the scenes that show it
    for number, (_, _, facts) in enumerate(scenes):
        for thing in (thing for one in facts.objects for thing in _things(one)):
            shown[thing].add(number)
    found: list[Json] = []
    for number, (image, name, facts) in enumerate(scenes):
        random = Random(f"{seed} statement {image}")
        picked = _pair(facts, number, scenes, shown, random)
        if picked is None:
            continue
        other, thing, status = picked
        label = random.random() < 0.5
        said = status if label else random.choice([s for s in STATUS if s != status])
        sides = [name, scenes[other][1]]
        random.shuffle(sides)
        image_s, verb = ("images", "show") if said == "both" else ("image", "shows")
        words = " ".join(filter(None, (thing[0], thing[1] or "object")))
        words = f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
        row = {"identifier": f"scenes-{image}-0", "images": sides}
        found.append({**row, "sentence": f"{said} {image_s} {verb} {words}", "label": str(label)})
    return found


def _things(one: ObjectFact) -> tuple[Thing, Thing, Thing]:
    """What may be said of an object: its colour, its category, both."""
    return (one.colour, None), (None, one.category), (one.colour, one.category)


def _pair(
    facts: SceneFacts, own: int, scenes: Facts, shown: dict[Thing, set[int]], random: Random
) -> tuple[int, Thing, str] | None:
    """Another scene, a thing, and how many of the two show it. The kind of thing and the status are
    drawn first: each status is as frequent for each kind, so that words alone tell nothing.
    """
    kind, status = random.randrange(3), random.choice(STATUS)
    for _ in range(TRIES):
        teller = random.choice(scenes)[2] if status == "neither" else facts
        thing = _things(random.choice(teller.objects))[kind]
        showing = shown[thing]
        if status == "both":
            others = sorted(showing - {own})
        else:
            others = [] if (own in showing) == (status == "neither") else [*range(len(scenes))]
            others = [n for n in random.sample(others, min(TRIES, len(others))) if n not in showing]
            others = [n for n in others if n != own]
        if others:
            return random.choice(others), thing, status
    return None
