"""Colours exchanged in captions: the texts, the similarity against a loop, and who is at chance."""

from pathlib import Path

import pytest
import torch

from sparc_pretrain.data.scenes import COLOURS as PAINTS
from sparc_pretrain.data.scenes import write_scenes
from sparc_pretrain.types import TextFeatures
from sparc_pretrain.zeroshot import attribute_swap, encode
from sparc_pretrain.zeroshot.attribute_swap import COLOURS, evaluate, pairs_of, swapped
from tests.commands import ROOT, call


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a brown fish and an orange cup on snow", "an orange fish and a brown cup on snow"),
        ("An orange cup, two red stars", "A red cup, two orange stars"),
        ("the red car left of the blue one", "the blue car left of the red one"),
        ("a red star and a red gear", None),
        ("a red star", None),
        ("a red, a blue and a green star", None),
        ("a reddish star and a bluebird", None),
    ],
)
def test_two_colours_change_places_with_their_articles(caption, wanted):
    assert swapped(caption) == wanted
    assert wanted is None or swapped(wanted) == caption


def test_the_colours_of_the_scenes_are_known():
    assert set(PAINTS) <= set(COLOURS)


def test_the_grouped_similarity_is_the_mean_over_words_of_a_loop():
    g = torch.Generator().manual_seed(0)
    tokens, patches = torch.randn(2, 4, 3, generator=g), torch.randn(2, 5, 3, generator=g)
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    special = torch.zeros_like(mask)
    special[:, 0] = True
    none = torch.empty(2, 0)
    text = TextFeatures(text=none, tokens=tokens, token_states=none, mask=mask, special=special)
    wanted = []
    for b in range(2):
        found = []
        for t in range(4):
            if mask[b, t] and not special[b, t]:
                score = patches[b] @ tokens[b, t]
                score = (score - score.min()) / (score.max() - score.min())
                weight = torch.where(score >= 1 / 5, score, 0)
                grouped = (weight / weight.sum()) @ patches[b]
                found.append(torch.cosine_similarity(tokens[b, t], grouped, dim=0).item())
        wanted.append(sum(found) / len(found))
    assert attribute_swap.grouped_similarity(text, patches).tolist() == pytest.approx(wanted)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swap")
    write_scenes(out, 1, 16, 48, level="easy")
    return out


def test_the_other_way_round_it_is_right_as_often_as_it_was_wrong(scenes):
    model, objective = encode.load(ROOT / "assets/sparc-scenes-tiny")
    data = encode.CaptionedImages.read(
        scenes / "images/val", scenes / "annotations/captions_val.json"
    )
    pairs = pairs_of(data)
    found = evaluate(model, objective, pairs, data, batch_size=5)
    turned = [(row, other, own) for row, own, other in pairs]
    other = evaluate(model, objective, turned, data, batch_size=64)
    for name in ("swap_accuracy", "swap_grouped"):
        assert found.metrics[name] + other.metrics[name] == pytest.approx(1)
        assert len(found.items[name]) == len(pairs) == len(found.owners)
    same = [(row, own, own) for row, own, _ in pairs]  # what cannot be told apart counts half
    assert evaluate(model, objective, same, data).metrics["swap_accuracy"] == 0.5


def test_the_command_writes_it_and_refuses_captions_without_colours(scenes, tmp_path):
    words = ["zeroshot", ROOT / "assets/sparc-scenes-tiny", "swap", "--images"]
    words += [scenes / "images/val", "--out", tmp_path / "swap.json", "--captions"]
    assert call(*words, scenes / "annotations/captions_val.json")[0] == 0
    assert '"swap_accuracy"' in (tmp_path / "swap.json").read_text()
    name = next((scenes / "images/val").iterdir()).name
    (tmp_path / "plain.csv").write_text(f"filepath,title\n{name},a fish\n")
    code, said = call(*words, tmp_path / "plain.csv")
    assert code == 2 and "no caption has exactly two colours" in said
