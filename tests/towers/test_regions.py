"""Boxes on the grid of patches."""

import math

import pytest
import torch

from sparc_pretrain.towers import regions
from tests.models import encoder


def some(count: int = 60, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    ends = torch.rand(count, 2, 2, generator=g, dtype=torch.float64).sort(dim=1).values
    return ends.flatten(1)  # x0 y0 x1 y1


@pytest.mark.parametrize("grid", [(4, 6), (7, 7), (1, 3)])
def test_a_box_covers_the_cells_that_it_touches(grid):
    h, w = grid
    found = regions.box_cells(some(), grid).unflatten(-1, grid)
    for box, cells in zip(some().tolist(), found, strict=True):
        x0, y0, x1, y1 = box
        wanted = torch.zeros(grid, dtype=torch.bool)
        rows = slice(math.floor(y0 * h), math.ceil(y1 * h))
        wanted[rows, math.floor(x0 * w) : math.ceil(x1 * w)] = True
        assert torch.equal(cells, wanted)


def test_a_box_whose_edges_lie_on_cells_covers_these_alone_in_float32():
    for count in range(2, 33):
        for first in range(count):
            for end in range(first + 1, count + 1):
                edge = torch.tensor([first / count, 0, end / count, 1])
                cells = regions.box_cells(edge, (1, count))
                assert cells.tolist() == [first <= k < end for k in range(count)]


def test_every_box_has_a_cell_and_the_whole_image_all():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
    assert regions.box_cells(boxes, (4, 4)).sum(dim=1).tolist() == [1, 1, 1, 16]
    assert regions.box_cells(some().reshape(3, 4, 5, 4), (2, 3)).shape == (3, 4, 5, 6)


def test_the_mean_inside_equals_the_loop_and_is_0_of_no_cell():
    states = torch.randn(2, 12, 5, dtype=torch.float64)
    cells = torch.rand(2, 7, 12) < 0.3
    cells[0, 0] = False
    found = regions.pool_cells(states, cells)
    for b in range(2):
        for k in range(7):
            inside = states[b][cells[b, k]]
            wanted = inside.mean(dim=0) if len(inside) else torch.zeros(5, dtype=torch.float64)
            assert torch.allclose(found[b, k], wanted, atol=1e-12)


def bilinear(map_hw: torch.Tensor, y: float, x: float) -> torch.Tensor:
    h, w = map_hw.shape[:2]
    if y < -1 or y > h or x < -1 or x > w:
        return torch.zeros_like(map_hw[0, 0])
    y, x = min(max(y, 0.0), h - 1), min(max(x, 0.0), w - 1)
    top, left = math.floor(y), math.floor(x)
    down, right = min(top + 1, h - 1), min(left + 1, w - 1)
    b, r = y - top, x - left
    return (
        map_hw[top, left] * (1 - b) * (1 - r)
        + map_hw[top, right] * (1 - b) * r
        + map_hw[down, left] * b * (1 - r)
        + map_hw[down, right] * b * r
    )


def test_region_states_average_one_sample_per_cell_of_the_boxes_side():
    grid, boxes = (4, 6), some(10).reshape(2, 5, 4)
    states = torch.randn(2, 24, 3, dtype=torch.float64)
    found = regions.region_states(states, boxes, grid)
    for b in range(2):
        map_hw = states[b].unflatten(0, grid)
        for r in range(5):
            x0, y0, x1, y1 = (boxes[b, r] * torch.tensor([6, 4, 6, 4])).tolist()
            rows, columns = math.ceil(y1 - y0), math.ceil(x1 - x0)
            samples = [
                bilinear(
                    map_hw,
                    y0 + (i + 0.5) * (y1 - y0) / rows - 0.5,
                    x0 + (j + 0.5) * (x1 - x0) / columns - 0.5,
                )
                for i in range(rows)
                for j in range(columns)
            ]
            assert torch.allclose(found[b, r], torch.stack(samples).mean(dim=0), atol=1e-9)


def test_geometry_is_corners_sides_and_area():
    boxes = torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=torch.float64)
    wanted = [0.1, 0.2, 0.4, 0.8, 0.3, 0.6, 0.18]
    assert regions.geometry(boxes).tolist() == pytest.approx(wanted)


def test_the_concept_of_the_whole_image_is_the_images_own_vector():
    model = encoder().double().eval()
    features = model.image_features(torch.randn(3, 3, 32, 32, dtype=torch.float64))
    box = some(6).reshape(3, 2, 4)
    box[:, 0] = torch.tensor([0, 0, 1, 1])
    valid = torch.ones(3, 2, dtype=torch.bool)
    concept = model.concept_features(features.patch_states, box, valid)
    assert torch.allclose(concept[:, 0], features.image, atol=1e-12)
    cells = regions.box_cells(box[:, 1], (4, 4))
    for b in range(3):
        mean = features.patch_states[b][cells[b]].mean(dim=0)
        wanted = model.adapters.g_v(model.adapters.h_v(mean))
        assert torch.allclose(concept[b, 1], wanted, atol=1e-12)


def test_a_concept_that_is_not_there_is_finite_whatever_its_box_holds():
    model = encoder().eval()
    states = model.image_features(torch.randn(1, 3, 32, 32)).patch_states
    box = torch.full((1, 2, 4), torch.nan)
    found = model.concept_features(states, box, torch.zeros(1, 2, dtype=torch.bool))
    assert found.isfinite().all()
