"""Linear probes: the regression, what is read of phrases, and models whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.study import probe
from sparc_pretrain.study.measure import Subject
from tests.zeroshot.oracle_model import COLOURS, NAMES, oracle, paint

SIDE, PATCH = 64, 8
GRASS = torch.tensor(COLOURS[NAMES[0]]) / 255


def test_a_ridge_is_the_least_squares_of_the_rows_and_the_penalty():
    g = torch.Generator().manual_seed(0)
    x = 3 + 5 * torch.randn(40, 6, generator=g, dtype=torch.float64)
    y = torch.randn(40, 2, generator=g, dtype=torch.float64)
    z = ((x - x.mean(0)) / x.std(0)).numpy()
    rows = np.vstack([z, np.sqrt(0.1 * 40) * np.eye(6)])
    told = np.vstack([(y - y.mean(0)).numpy(), np.zeros((6, 2))])
    wanted = z @ np.linalg.lstsq(rows, told, rcond=None)[0] + y.mean(0).numpy()
    found = probe.Ridge(x, y, 0.1)(x)
    assert found.numpy() == pytest.approx(wanted, abs=1e-10)


def test_the_penalty_is_chosen_on_images_that_are_not_fitted():
    """Many useless inputs: a small penalty fits the rows and fails on others."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(120, 90, generator=g, dtype=torch.float64)
    y = x[:, :1] + 2 * torch.randn(120, 1, generator=g, dtype=torch.float64)
    fresh = torch.randn(500, 90, generator=g, dtype=torch.float64)
    errors = {
        s: (probe.Ridge(x, y, s)(fresh) - fresh[:, :1]).square().mean().item()
        for s in probe.STRENGTHS
    }
    chosen = probe.ridge(x, y, torch.arange(120))
    found = (chosen(fresh) - fresh[:, :1]).square().mean().item()
    assert found == pytest.approx(min(errors.values())) and found < errors[1e-4] / 3


def scenes(root: Path, number: int, first: int) -> tuple[str, str]:
    """Pictures of one object on grass, its colour its category; the COCO file beside them."""
    g = np.random.default_rng(first)
    images, annotations = [], []
    for n in range(number):
        width, height = (int(side) for side in 8 * g.integers(1, 5, 2))
        x, y = (int(8 * g.integers(0, (SIDE - side) // 8 + 1)) for side in (width, height))
        label = int(g.integers(1, len(NAMES)))
        drawn = np.zeros((SIDE, SIDE), dtype=int)
        drawn[y : y + height, x : x + width] = label
        paint(root / "images" / f"{first + n}.png", drawn, (1, 1))
        images.append(dict(id=first + n, file_name=f"{first + n}.png", width=SIDE, height=SIDE))
        annotations.append(
            dict(
                id=first + n,
                image_id=first + n,
                category_id=label,
                bbox=[x, y, width, height],
                area=width * height,
                iscrowd=0,
            )
        )
    categories = [dict(id=k, name=NAMES[k]) for k in range(1, len(NAMES))]
    file = root / f"{first}.json"
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return str(root / "images"), str(file)


class Sides(nn.Module):
    """Patches [B,P,6]: how far the drawn object's sides are from their centre, and two zeros."""

    patch, prefix, img_size, width = PATCH, 0, SIDE, 6

    def forward(self, image, prefix=False):
        found = []
        for one in image:
            drawn = (one - GRASS[:, None, None]).abs().sum(dim=0) > 0.1
            rows, columns = drawn.any(dim=1).nonzero(), drawn.any(dim=0).nonzero()
            corner = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            box = torch.tensor([float(v) / SIDE for v in corner])
            centre = (torch.arange(SIDE // PATCH) + 0.5) * PATCH / SIDE
            y, x = torch.meshgrid(centre, centre, indexing="ij")
            sides = box - torch.stack([x, y, x, y], dim=-1).flatten(0, 1)
            found.append(nn.functional.pad(sides, (0, 2)))
        return torch.stack(found)

    def pool(self, states):
        return states.mean(dim=1)


def measured(model, tmp_path, **more):
    images, train = scenes(tmp_path, 80, 1000)
    _, val = scenes(tmp_path, 30, 5000)
    task = probe.probe(images, val, images, train, **more)
    return task(Subject(model, Clip()))


def test_a_backbone_that_knows_colours_names_every_box_and_guesses_its_place(tmp_path):
    found = measured(oracle(SIDE), tmp_path)
    assert found.keys() == {"probe_category", "probe_box_IoU"}
    hits = found["probe_category"]
    assert sum(hits.items) / len(hits.items) == 1 and len(hits.items) == 30
    assert 0.1 < hits.blind["commonest"] < 0.5
    place = found["probe_box_IoU"]
    assert sum(place.items) / 30 == pytest.approx(place.blind["the mean box"], abs=0.1)


def test_a_backbone_that_knows_sides_reads_boxes_exactly_and_guesses_categories(tmp_path):
    model = oracle(SIDE)
    model.vision = Sides()
    found = measured(model, tmp_path)
    assert min(found["probe_box_IoU"].items) > 0.9
    assert found["probe_box_IoU"].blind["the mean box"] < 0.5
    hits = found["probe_category"]
    assert sum(hits.items) / 30 < 0.6


def test_colours_are_those_of_phrases_of_one_object_with_one_colour(tmp_path):
    said = ["a red star", "two red stars", "a blue red car", "a big star", "the green fish"]
    rows = [[[0, 0, 8, 16]], [[0, 0, 8, 8], [8, 8, 8, 8]], [[0, 0, 8, 8]], [[1, 1, 2, 2]]]
    rows.append([[8, 4, 8, 4]])
    record = dict(
        file_name="0.png",
        width=16,
        height=32,
        sentences=[
            dict(text=text, phrases=[dict(chain=n, types=["object"], span=[0, len(text)])])
            for n, text in enumerate(said)
        ],
        boxes={str(n): boxes for n, boxes in enumerate(rows)},
    )
    file = tmp_path / "phrases.json"
    file.write_text(json.dumps([record, {**record, "sentences": []}]))
    for name in ("0.png", "1.png"):
        paint(tmp_path / name, np.zeros((32, 16), dtype=int))
    found = probe.colours(str(tmp_path), str(file), None)
    names = list(probe.COLOURS)
    assert [names[k] for k in found.labels.tolist()] == ["red", "green"]
    assert found.boxes.tolist() == [[0, 0, 0.5, 0.5], [0.5, 0.125, 1, 0.25]]
    assert [p.name for p in found.files] == ["0.png"] and found.owners.tolist() == [0, 0]
    file.write_text(json.dumps([{**record, "boxes": {"3": [[1, 1, 2, 2]]}}]))
    with pytest.raises(ValueError, match="names no colour of one object"):
        probe.colours(str(tmp_path), str(file), None)
