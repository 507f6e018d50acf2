"""Pictures of terms: the plan, the patches and the hard negatives are those of the model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sparc_pretrain.objectives.mosaic import SLICES
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.box_pictures import COLOURS, LINE, MARGIN, SIDE
from sparc_pretrain.zeroshot.terms import drawings, pairs
from tests.commands import call
from tests.zeroshot.test_terms import run_folder_of, scenes  # noqa: F401  a fixture

NUMBERS = dict(concepts=5, regions=36, tags=20)


def batch_of(kind, scenes, folder):  # noqa: F811
    """(model, objective, 6 held-out pairs with their draws)."""
    model, objective = encode.load(run_folder_of(kind, {}, folder))
    data = pairs.dataset_of(model, objective, str(scenes / "shards/boxes-val-*.tar"), NUMBERS)
    batch = pairs.batches(data, 6, 0)[0]
    batch.views = objective.views(batch, 0)
    return model, objective, batch


def test_the_pictures_are_of_the_captions_that_are_read(scenes, tmp_path, monkeypatch):  # noqa: F811
    asked, real = [], pairs.dataset_of
    monkeypatch.setattr(pairs, "dataset_of", lambda *a: (asked.append(a[4:]), real(*a))[1])
    folder = run_folder_of("Xvlm", {}, tmp_path / "w")
    argv = ("--shards", scenes / "shards/boxes-val-*.tar", "--batch-size", "6", "--visits", "1")
    argv += ("--caption", "longest", "--pictures", "1", "--out", tmp_path / "out" / "m.json")
    code, said = call("zeroshot", folder, "terms", *argv)
    assert not code, said
    assert asked == [("longest",), ("longest",)]


@pytest.mark.parametrize(
    ("kind", "count"), [("Xvlm", 2), ("Uniter", 2), ("Kaleido", 2), ("Oscar", 0)]
)
def test_the_command_draws_the_first_pairs(kind, count, scenes, tmp_path):  # noqa: F811
    folder, out = run_folder_of(kind, {}, tmp_path / "w"), tmp_path / "out" / "metrics.json"
    argv = ("--shards", scenes / "shards/boxes-val-*.tar", "--batch-size", "6", "--visits", "1")
    code, said = call("zeroshot", folder, "terms", *argv, "--pictures", "2", "--out", out)
    assert not code, said
    assert json.loads(out.read_text())["task"] == "terms"
    drawn = sorted((out.parent / "pictures").glob("*.png"))
    assert [file.stem for file in drawn] == [f"{kind.lower()}_{n:02d}" for n in range(count)]
    for file in drawn:
        with Image.open(file) as one:
            assert one.width == 2 * (SIDE + 2 * MARGIN) and one.height > SIDE // 2


def test_a_words_mass_is_a_row_and_its_most_has_a_frame(scenes, tmp_path):  # noqa: F811
    mass = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.75]])
    table = np.asarray(drawings.plan_table(mass, ["star", "house"]))
    width = (SIDE - drawings.LABEL) // 4
    for row, best in enumerate((1, 3)):
        top = LINE * (row + 1)
        for column in range(4):
            left = drawings.LABEL + column * width
            inner = table[top + LINE // 2, left + width // 2].tolist()
            edge = table[top, left + width // 2].tolist()
            assert (edge == list(COLOURS[0])) is (column == best)
            assert (inner == [255] * 3) is (mass[row, column].item() == 0)
    assert table[LINE + LINE // 2, drawings.LABEL + width + width // 2].tolist() == list(COLOURS[1])
    model, objective, batch = batch_of("Uniter", scenes, tmp_path / "w")
    shown, real = [], drawings.plan_table

    def kept(mass, words):
        shown.append((mass, words))
        return real(mass, words)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(drawings, "plan_table", kept)
        assert len(drawings.plans(model, objective, batch, 3)) == 3
    image = model.image_features(batch.image)
    image.regions = batch.regions
    text = model.text_features(batch.ids, batch.mask, batch.special)
    plan, seen = objective.plan(image, text)
    for row, (mass, words) in enumerate(shown):
        assert mass.shape == (len(words), int(seen.valid[row].sum()))
        said = batch.caption[row].replace(",", " ,").replace(".", " .").split()
        assert words and words == said[: len(words)]
        torch.testing.assert_close(mass.sum(dim=1), torch.ones(len(words)))
        first = plan[row, 1 : 1 + int((batch.word[row] == 0).sum())].sum(dim=0)
        first = first[seen.valid[row]]
        torch.testing.assert_close(mass[0], (first / first.sum()).detach())


def test_the_frames_are_round_the_patches_that_were_changed(scenes, tmp_path):  # noqa: F811
    _, objective, batch = batch_of("Kaleido", scenes, tmp_path / "w")
    whole = torch.arange(3 * 8 * 8).view(3, 8, 8)
    tiles = whole.unflatten(2, (2, 4)).unflatten(1, (2, 4)).permute(1, 3, 0, 2, 4).flatten(0, 1)
    assert torch.equal(drawings.tiled(tiles), whole)
    changed = {level: 0 for level in range(1, 6)}
    shown = [(step, row) for step in range(4) for row in range(6)]
    for step, row in shown:
        batch.views = objective.views(batch, step)
        one = batch.rows(slice(row, row + 1))
        if not one.views.drawn["match"][0]:
            continue
        for level in range(1, 6):
            own = objective.cut(one.image, one.views.drawn["boxes"], level)[0]
            given = one.views.images[f"level{level}"][0]
            apart = (own != given).flatten(1).any(dim=1)
            said = drawings._changed(one, level)
            if level == 5:  # its vector is hidden, not its pixels
                hidden = one.views.drawn["patches"][0, SLICES[4]]
                assert torch.equal(said, hidden) and not apart.any()
            else:
                assert not (apart & ~said).any()
            changed[level] += int(said.sum())
    assert all(changed.values())
    drawn = drawings.mosaics(None, objective, batch, 9)
    assert len(drawn) == int(batch.views.drawn["match"].sum())
    half = SIDE + 2 * MARGIN
    red = (drawn[0] == np.array(COLOURS[0])).all(axis=-1)
    assert red[:, half:].any() and not red[:, :half].any()


def test_a_hard_negative_is_the_nearest_of_another_image_and_text(scenes, tmp_path, monkeypatch):  # noqa: F811
    model, objective, batch = batch_of("Xvlm", scenes, tmp_path / "w")
    said = []
    monkeypatch.setattr(drawings, "sheet", lambda *columns: said.append(columns))
    with torch.no_grad():
        drawings.negatives(model, objective, batch, 6)
        image = model.image_features(batch.image)
        text = model.text_features(batch.ids, batch.mask, batch.special)
        scores = objective.scores(image, text)
    for row, ((_, left), (photo, right)) in enumerate(said):
        others = [n for n in range(6) if n != row and batch.caption[n] != batch.caption[row]]
        text_of = max(others, key=lambda n: scores[row, n].item())
        image_of = max(others, key=lambda n: scores[n, row].item())
        assert left[0][0].endswith(batch.caption[row])
        assert left[1][0].endswith(f"hard text: {batch.caption[text_of]}")
        assert "hard image" in right[0][0]
        pixels = np.asarray(photo.resize((48, 48))).astype(float)
        near = [np.abs(pixels - x).mean() for x in _small(batch.image)]
        assert int(np.argmin(near)) == image_of


def _small(images):
    return [np.asarray(drawings._photo(one).resize((48, 48))).astype(float) for one in images]
