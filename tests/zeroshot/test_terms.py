"""What each term has learnt: which words and regions count, each number against a loop, the
controls, and the task of tools/zeroshot.py.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub

from sparc_pretrain import run_folder
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.objectives.mosaic import SLICES
from sparc_pretrain.pretraining.batch_features import features_of
from sparc_pretrain.pretraining.pretrainer import Pretrainer
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.terms import pairs, readings, run
from tests.commands import ROOT, call
from tests.models import TEXT, VISION, concept_batch, pretrainer, region_batch

FUSION = dict(layers=1, heads=2, dropout=0.0)
SHARED = dict(mask_id=39, word_ids=[3, 39], fusion=FUSION)
ASKED = readings.Asked([[n] for n in range(3, 20)], list("abcd"))


def made_of(kind: str, batch, **options):
    """(objective, batch with its draws of step 0, features), in float64."""
    torch.manual_seed(0)
    made = pretrainer(dict(type=kind, **SHARED, **options), layers=int(kind == "Xvlm")).double()
    made.eval()
    batch.views = made.objective.views(batch, 0)
    return made.objective, batch, features_of(made.encoder, made.objective, batch)


def constant_words(monkeypatch, owner, answer: int, name: str = "forward") -> None:
    """Whatever is hidden, `answer` is said."""

    def said(states, *_):
        return torch.eye(40, dtype=states.dtype)[answer].expand(len(states), -1)

    monkeypatch.setattr(owner, name, said)


# ------------------------------------------------------------------ pairs


def test_words_are_found_where_all_their_tokens_stand_in_a_row():
    ids = torch.tensor([[1, 5, 6, 7, 5, 6, 2], [6, 7, 9, 9, 5, 0, 0]])
    words = [[5, 6, 7], [9], [5, 9]]
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for row, line in enumerate(ids.tolist()):
        for word in words:
            for at in range(len(line)):
                if line[at : at + len(word)] == word:
                    wanted[row, at : at + len(word)] = True
    assert wanted.sum() == 5
    assert torch.equal(pairs.where_said(ids, words), wanted)
    assert torch.equal(pairs.where_said(ids[None], words), wanted[None])


def test_elsewhere_the_image_its_boxes_and_its_caption_are_the_next_ones_and_no_word_is():
    batch = region_batch(4)
    batch.caption = list("pqrs")
    other, blank = pairs.elsewhere(batch), pairs.unseen(batch)
    for b in range(4):
        n = (b + 1) % 4
        assert torch.equal(other.image[b], batch.image[n])
        assert torch.equal(other.regions.box[b], batch.regions.box[n])
        assert torch.equal(other.regions.label[b], batch.regions.label[n])
        assert torch.equal(other.saliency[b], batch.saliency[n])
        assert other.caption[b] == batch.caption[n]
    for name in ("ids", "mask", "draw", "image_id"):
        assert torch.equal(getattr(other, name), getattr(batch, name))
    assert blank.image.unique().tolist() == [127.0]
    assert torch.equal(blank.regions.box, other.regions.box)


# ------------------------------------------------------------------ numbers


def hidden_words(ids, shown, chosen) -> list[int]:
    """The hidden tokens that count, by loops."""
    rows = zip(ids.tolist(), shown.tolist(), chosen.tolist(), strict=True)
    return [
        token
        for row in rows
        for token, seen, asked in zip(*row, strict=True)
        if asked and seen == 39 and 3 <= token < 20
    ]


@pytest.mark.parametrize("answer", [5, 11])
def test_hidden_words_count_that_are_asked_for_and_hidden(monkeypatch, answer):
    objective, batch, features = made_of(
        "Uniter", region_batch(8, dtype=torch.float64), labels=list("abcd")
    )
    said = hidden_words(batch.ids, batch.views.texts["masked"].ids, batch.views.drawn["words"])
    constant_words(monkeypatch, objective.word_head, answer)
    found = readings.of_uniter(objective, features, batch, ASKED)["mlm_accuracy"]
    assert said and found.number == pytest.approx(said.count(answer) / len(said))
    assert found.chance == pytest.approx(max(map(said.count, said)) / len(said))

    objective, batch, features = made_of("Xvlm", concept_batch(8, dtype=torch.float64))
    shape = batch.concepts.ids.flatten(0, 1)
    said = hidden_words(
        shape,
        batch.views.texts["masked"].ids.flatten(0, 1),
        batch.views.drawn["chosen"].flatten(0, 1),
    )
    constant_words(monkeypatch, objective, answer, "word_logits")
    found = readings.of_xvlm(objective, features, batch, ASKED)["mlm_accuracy"]
    assert said and found.number == pytest.approx(said.count(answer) / len(said))


def test_masked_tags_and_words_are_those_of_rows_with_their_own_tags(monkeypatch):
    objective, batch, features = made_of("Oscar", region_batch(16, dtype=torch.float64))
    drawn, shown = batch.views.drawn, batch.views.texts["joined"].ids
    own = drawn["kind"] == 0
    for name, segment in (("mtl_word_accuracy", 0), ("mtl_tag_accuracy", 1)):
        chosen = drawn["chosen"] & own[:, None] & (drawn["segment"] == segment)
        said = hidden_words(drawn["right"], shown, chosen)
        constant_words(monkeypatch, objective.word_head, said[-1])
        found = readings.of_oscar(objective, features, batch, ASKED)[name]
        assert found.number == pytest.approx(said.count(said[-1]) / len(said)), name
        assert found.chance == pytest.approx(max(map(said.count, said)) / len(said)), name


def test_a_region_counts_whose_class_its_caption_names():
    objective, batch, features = made_of(
        "Uniter", region_batch(8, dtype=torch.float64), labels=list("abcd")
    )
    batch.caption = ["a b"] * 8
    hidden, label = batch.views.drawn["regions"], batch.regions.label
    named = [
        n
        for n, h in zip(label.flatten().tolist(), hidden.flatten().tolist(), strict=True)
        if h and n in (1, 2)
    ]
    found = readings.of_uniter(objective, features, batch, ASKED)["mrc_accuracy"]
    assert named and found.chance == pytest.approx(max(map(named.count, named)) / len(named))


def test_what_is_explained_of_hidden_vectors_is_measured_from_their_mean(monkeypatch):
    objective, batch, features = made_of(
        "Uniter", region_batch(8, dtype=torch.float64), labels=list("abcd")
    )
    wanted = objective.seen(features, batch).state[batch.views.drawn["regions"]]
    share = 0.25  # of the way from the mean to the truth

    def regress(states, weight, truth, count):
        guess = truth.mean(dim=0) * (1 - share) + truth * share
        return {"mrfr_loss": readings.regression_loss(guess, truth, "released", count)}

    monkeypatch.setattr(objective.region_heads, "regress", regress)
    found = readings.of_uniter(objective, features, batch, ASKED)["mrfr_explained"]
    error = total = 0.0
    mean = [sum(column) / len(wanted) for column in zip(*wanted.tolist(), strict=True)]
    for row in wanted.tolist():
        for value, middle in zip(row, mean, strict=True):
            error += ((middle * (1 - share) + value * share) - value) ** 2
            total += (middle - value) ** 2
    assert found.number == pytest.approx(1 - error / total) and found.chance == 0


def test_grey_and_blank_are_held_against_the_mean_and_against_what_is_left_of_the_patch():
    batch = region_batch(8, dtype=torch.float64)
    batch.image = batch.image.mean(dim=1, keepdim=True) + batch.image / 10  # hardly any colour
    objective, batch, features = made_of("Kaleido", batch)
    found = readings.of_kaleido(objective, features, batch, ASKED)
    told = objective(features, batch)
    drawn, views = batch.views.drawn, features.views
    rows = drawn["match"].nonzero()[:, 0].tolist()

    def softmax(vector):
        mean = sum(vector) / len(vector)
        variance = sum((v - mean) ** 2 for v in vector) / len(vector)
        powers = [math.exp((v - mean) / math.sqrt(variance + 1e-5)) for v in vector]
        return [p / sum(powers) for p in powers]

    def divergence(one, other):
        return sum(p * math.log(p / q) for p, q in zip(one, other, strict=True))

    for name, level in (("grey", 4), ("blank", 5)):
        wanted, kept = [], []
        for b in rows:
            places = drawn["patches"][b, SLICES[level - 1]].nonzero()[:, 0].tolist()
            for number, place in enumerate(places):
                if name == "grey":
                    clean = views["clean"].patch_states[b, number]
                    left = views["level4"].patch_states[b, place].tolist()
                else:
                    clean = views["level5"].patch_states[b, place]
                    left = [0.0] * len(clean)
                wanted.append(softmax(clean.tolist()))
                kept.append(softmax(left))
        mean = [sum(column) / len(wanted) for column in zip(*wanted, strict=True)]
        worst = sum(divergence(w, mean) for w in wanted) / len(wanted)
        left = sum(divergence(w, k) for w, k in zip(wanted, kept, strict=True)) / len(wanted)
        value = found[f"{name}_explained"]
        assert value.number == pytest.approx(1 - told[f"{name}_loss"].item() / worst)
        assert value.chance == pytest.approx(max(0, 1 - left / worst))
        assert value.chance > 0.5 or name == "blank"


# ------------------------------------------------------------------ verdicts


def row_of(own, elsewhere, chance=0.5):
    def values(numbers):
        return [[{"itm_accuracy": readings.Value(n, chance)}] for n in numbers]

    return run._row("itm_accuracy", {"own": values(own), "elsewhere": values(elsewhere)})


def test_a_term_holds_that_is_clearly_above_chance_and_its_control():
    good, worse = [0.8, 0.81, 0.79], [0.6, 0.62, 0.58]
    row = row_of(good, worse)
    assert row["holds"] and row["value"] == pytest.approx(0.8) and row["chance"] == 0.5
    # differences .2, .19, .21: mean .2, deviation .01, t of 2 degrees 4.3027
    assert row["above"]["elsewhere"] == pytest.approx(0.2 - 4.30265 * 0.01 / 3**0.5, abs=1e-6)
    assert not row_of(good, good)["holds"]  # the image does not matter
    assert not row_of(good, worse, chance=0.8)["holds"]
    assert not row_of([0.9, 0.5, 0.1], [0.4, 0.4, 0.4], 0.3)["holds"]  # by luck


# ------------------------------------------------------------------ the task


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("terms")
    argv = ("--train", "1", "--val", "12", "--size", "48", "--level", "easy")
    assert call("data", "scenes", "--out", out, *argv)[0] == 0
    return out


OBJECTIVES = [
    ("Xvlm", {}, {"itc_gain", "itm_accuracy", "box_IoU"}),
    ("Uniter", dict(labels=["star", "house"]), {"itm_accuracy", "wra_gap", "mrfr_explained"}),
    ("Oscar", {}, {"pollution_accuracy", "mtl_tag_accuracy"}),
    ("Kaleido", {}, {"rotation_accuracy", "grey_explained", "blank_explained"}),
]


def run_folder_of(kind: str, options: dict, folder: Path) -> Path:
    """An untrained run of an objective."""
    words = Tokenizer.train(["a red star and a blue house on snow"] * 5, 300).with_mask()
    folder.mkdir()
    words.save(folder)
    MessageHub.get_current_instance().update_info("iter", 0)
    text = TEXT | dict(layers=int(kind == "Xvlm"), vocab_size=words.vocab_size, max_tokens=24)
    objective = dict(type=kind, fusion=FUSION, **options)
    made = Pretrainer(VISION, text, objective, 16, tokenizer=str(folder / "tokenizer.json"))
    run_folder.write(folder / "run", made.run_config(8), made.run_weights(), words.to_json())
    return folder / "run"


def test_pairs_come_with_any_caption_or_with_the_longest(scenes, tmp_path):
    model, objective = encode.load(run_folder_of("Xvlm", {}, tmp_path / "w"))
    shards, numbers = str(scenes / "shards/boxes-val-*.tar"), {"concepts": 1}
    said = json.loads((scenes / "annotations/captions_val.json").read_text())
    told = [row["caption"] for row in said["annotations"]]
    longest = [max(told[n : n + 5], key=len) for n in range(0, len(told), 5)]
    data = {
        which: pairs.dataset_of(model, objective, shards, numbers, which)
        for which in ("any", "longest")
    }
    for visit in range(3):
        assert [data["longest"][(n, visit)]["caption"] for n in range(12)] == longest
    assert [data["any"][(n, 0)]["caption"] for n in range(12)] != longest


@pytest.mark.parametrize(("kind", "options", "wanted"), OBJECTIVES)
def test_the_command_writes_every_term_with_its_controls(kind, options, wanted, scenes, tmp_path):
    folder, out = run_folder_of(kind, options, tmp_path / "w"), tmp_path / "out" / "metrics.json"
    shards = scenes / "shards/boxes-val-*.tar"
    argv = ("terms", "--shards", shards, "--batch-size", "6", "--visits", "2", "--out", out)
    code, said = call("zeroshot", folder, *argv, "--caption", "longest")
    assert not code, said
    found = json.loads(out.read_text())
    assert found["protocol"]["caption"] == "longest"
    assert found["task"] == "terms" and found["protocol"]["pairs"] == 12
    assert found["metrics"].keys() >= wanted | {f"{name}_elsewhere" for name in wanted}
    rows = json.loads(out.with_name("terms.json").read_text())
    assert {row["term"] for row in rows} >= wanted
    for row in rows:
        assert set(row["above"]) == {"chance", *run.AGAINST[row["term"]]}
        assert found["protocol"]["holds"][row["term"]] is row["holds"]
    assert not all(row["holds"] for row in rows)  # it has learnt nothing


def test_what_guesses_states_of_a_tower_that_is_gone_is_not_read(scenes, tmp_path):
    model, objective = encode.load(run_folder_of("Uniter", {}, tmp_path / "w"))
    objective.target = "frozen"
    shards = str(scenes / "shards/boxes-val-*.tar")
    found = run.evaluate(model, objective, shards, dict(regions=5), visits=1, batch_size=6)
    assert found.protocol["unread"] == ["mrfr_explained"]
    assert "itm_accuracy" in found.metrics
    assert not any("mrfr" in name for name in found.metrics)


def test_a_run_without_such_terms_and_missing_shards_are_told_in_a_line(scenes, tmp_path):
    shipped, out = ROOT / "assets/sparc-scenes-tiny", ("--out", tmp_path / "m.json")
    shards = scenes / "shards/boxes-val-*.tar"
    code, said = call("zeroshot", shipped, "terms", "--shards", shards, *out)
    assert code == 2 and "Sparc has no terms to read" in said and said.count("\n") == 1
    code, said = call("zeroshot", shipped, "terms", "--shards", scenes / "no-*.tar", *out)
    assert code == 2 and said.count("\n") == 1
