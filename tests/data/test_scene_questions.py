"""Questions and statements about scenes: true, balanced, and the same every time."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict

import pytest

from sparc_pretrain.data.scenes import caption_facts, render_scene, write_scenes
from sparc_pretrain.data.scenes.questions import KINDS, STATUS, statements, vqa_file
from transfer.captioning.vqa import read_vqa


@pytest.fixture(scope="module", params=["easy", "hard"])
def scenes(request):
    drawn = (render_scene(3, n, 48, request.param) for n in range(150))
    return [(n, f"{n}.jpg", caption_facts(scene)) for n, scene in enumerate(drawn)]


def answers(facts, question: str) -> set[str]:
    """All that is true, read off the words of a question."""
    objects = facts.objects
    if found := re.fullmatch(r"what colour is the (.+)\?", question):
        return {o.colour for o in objects if o.category == found[1]}
    if question == "how many objects are there?":
        return {str(len(objects))}
    if found := re.fullmatch(r"what is the (.+) object\?", question):
        return {o.category for o in objects if o.colour == found[1]}
    if found := re.fullmatch(r"is there an? (\w+) (.+)\?", question):
        there = any((o.colour, o.category) == found.groups() for o in objects)
        return {"yes" if there else "no"}
    name, target = re.fullmatch(
        r"what is (left of|right of|above|below|in front of|behind) the (.+)\?", question
    ).groups()
    return {
        objects[r.subject].category
        for r in facts.relations
        if r.name == name and objects[r.target].category == target
    }


def test_each_question_has_one_true_answer(scenes):
    file = vqa_file(scenes, "x")
    known = {image: facts for image, _, facts in scenes}
    kinds = Counter()
    for asked, said in zip(file["questions"], file["annotations"], strict=True):
        assert asked["question_id"] == said["question_id"]
        wanted = answers(known[asked["image_id"]], asked["question"])
        assert wanted == {said["multiple_choice_answer"]} == {said["answers"][0]["answer"]}
        meant = re.search(r"the (.+)\?", asked["question"].replace(" object?", "?"))
        things = [word for o in known[asked["image_id"]].objects for word in (o.colour, o.category)]
        assert not meant or things.count(meant[1]) == 1  # "the" means one
        kinds[said["question_type"]] += 1
    assert set(kinds) == set(KINDS) and min(kinds.values()) > 40


def test_no_answer_is_commoner_than_told_and_yes_is_as_frequent_as_no(scenes):
    file = vqa_file(scenes, "x")
    count = defaultdict(Counter)
    for said in file["annotations"]:
        count[said["question_type"]][said["multiple_choice_answer"]] += 1
    for kind, own in count.items():
        share = max(own.values()) / own.total()
        assert file["info"]["chance"][kind] == pytest.approx(share, abs=1e-4)
    assert file["info"]["chance"]["yes/no"] < 0.6 and file["info"]["chance"]["colour"] < 0.2
    assert vqa_file(scenes, "x") == file != vqa_file(scenes, "y")


def test_an_answer_commoner_than_the_mean_is_thinned_out(scenes):
    sizes = Counter(len(facts.objects) for _, _, facts in scenes)
    often = sizes.most_common(1)[0][0]
    rare = [row for row in scenes if len(row[2].objects) != often][:4]
    skewed = [row for row in scenes if len(row[2].objects) == often] + rare
    said = Counter(
        row["multiple_choice_answer"]
        for row in vqa_file(skewed, "x")["annotations"]
        if row["question_type"] == "count"
    )
    assert said[str(often)] == -(-len(skewed) // len(said)) < sizes[often]


def test_a_no_is_of_a_colour_and_a_category_that_are_both_there(scenes):
    file, known = vqa_file(scenes, "x"), {image: facts for image, _, facts in scenes}
    for asked, said in zip(file["questions"], file["annotations"], strict=True):
        if said["multiple_choice_answer"] == "no":
            colour, category = re.fullmatch(
                r"is there an? (\w+) (.+)\?", asked["question"]
            ).groups()
            objects = known[asked["image_id"]].objects
            assert colour in {o.colour for o in objects} and category in {
                o.category for o in objects
            }


def test_statements_are_labelled_right_and_their_words_tell_nothing(scenes):
    rows = statements(scenes, "x")
    known = {name: facts.objects for _, name, facts in scenes}
    colours = {o.colour for objects in known.values() for o in objects}
    count = defaultdict(list)
    for row in rows:
        said, thing = re.fullmatch(
            r"(both|exactly one|neither) images? shows? an? (.+)", row["sentence"]
        ).groups()
        words = thing.removesuffix(" object")
        colour, _, category = (
            words.partition(" ") if words.split()[0] in colours else ("", "", words)
        )
        shown = sum(
            any(colour in ("", o.colour) and category in ("", o.category) for o in known[name])
            for name in row["images"]
        )
        assert row["label"] == str(shown == {"both": 2, "exactly one": 1, "neither": 0}[said])
        assert len(set(row["images"])) == 2
        count[said].append(row["label"] == "True")
    assert set(count) == set(STATUS) and len(rows) > 0.9 * len(scenes)
    for labels in count.values():
        assert 0.3 < sum(labels) / len(labels) < 0.7
    assert statements(scenes, "x") == rows


def test_scenes_bring_the_files_and_old_ones_get_them(tmp_path):
    how = dict(train=6, val=3, size=48, level="easy")
    write_scenes(tmp_path, **how)
    folder = tmp_path / "annotations"
    items, left_out = read_vqa(folder / "vqa_val.json", folder / "vqa_val.json", "{}")
    assert not left_out and {name for name, _, _ in items} <= {
        f"{500000 + n}.jpg" for n in range(3)
    }
    files = [folder / f"vqa_{split}.json" for split in ("train", "val")]
    files += [folder / f"nlvr_{split}.jsonl" for split in ("train", "val")]
    before = [file.read_bytes() for file in files]
    assert json.loads(before[2].splitlines()[0])["label"] in ("True", "False")
    for file in files:
        file.unlink()  # as data written before there were any
    write_scenes(tmp_path, **how)
    assert [file.read_bytes() for file in files] == before
