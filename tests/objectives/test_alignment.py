"""Which tokens and patches belong together, and which are hidden, against slow loops."""

import pytest
import torch

from sparc_pretrain.objectives.kaleido import aligned_patches, choose_aligned
from sparc_pretrain.objectives.mosaic import patch_boxes
from sparc_pretrain.towers.regions import box_cells


def slow_aligned(weights, mask, boxes, level, grid) -> list:
    found = []
    for b in range(len(weights)):
        cells = box_cells(boxes[b], grid)
        rows = []
        for t in range(weights.shape[1]):
            row = weights[b, t].tolist()
            if not mask[b, t] or not any(row):
                rows.append([-1] * 3)
                continue
            best = []
            for wanted in (3, 4, 5):
                means = {}
                for n in range(55):
                    if level[n] == wanted:
                        inside = [w for w, c in zip(row, cells[n].tolist(), strict=True) if c]
                        means[n] = sum(inside) / len(inside)
                best.append(max(means, key=lambda n: (means[n], -n)))
            rows.append(best)
        found.append(rows)
    return found


def test_a_token_is_aligned_to_the_patch_of_most_weight_at_each_level():
    g = torch.Generator().manual_seed(0)
    weights = torch.rand(3, 5, 36, generator=g, dtype=torch.float64)
    weights[1, 2] = 0
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[2, 3:] = False
    region = torch.tensor([[0.1, 0.2, 0.9, 0.8], [0, 0, 1, 1], [0.3, 0, 0.6, 0.5]]).double()
    boxes, level = patch_boxes(region)
    found = aligned_patches(weights, mask, boxes, level, (6, 6))
    assert found.tolist() == slow_aligned(weights, mask, boxes, level, (6, 6))
    assert (found[1, 2] == -1).all() and (found[2, 3:] == -1).all()


def slow_choice(aligned, candidates, noise, fill, rate) -> tuple[set, set]:
    """Of one row: hidden tokens and patches."""
    tokens = [t for t, c in enumerate(candidates) if c]
    n = len(tokens)
    budget = min(10, max(1, round(rate * (n + 1))), n)
    left, hidden, shown, patches = {3: 1, 4: 2, 5: 3}, [], set(), set()
    known = [t for t in tokens if max(aligned[t]) >= 0]
    for t in sorted(known, key=lambda t: noise[t][0]):
        if noise[t][1] < 0.5:
            if len(hidden) < budget:
                hidden.append(t)
            continue
        for place, level in enumerate((3, 4, 5)):
            patch = aligned[t][place]
            if left[level] and patch >= 0 and patch not in patches:
                patches.add(patch)
                left[level] -= 1
                shown.add(t)
    rest = sorted((t for t in tokens if t not in hidden), key=lambda t: (t in shown, noise[t][0]))
    hidden += rest[: budget - len(hidden)]
    said = {aligned[t][place] for t in hidden for place in range(3)}
    for level, (start, end) in {3: (5, 14), 4: (14, 30), 5: (30, 55)}.items():
        free = [p for p in range(start, end) if p not in patches]
        patches |= set(sorted(free, key=lambda p: (p in said, fill[p]))[: left[level]])
    return set(hidden), patches


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_what_is_hidden_equals_the_loop(rate):
    g = torch.Generator().manual_seed(1)
    size = 40
    candidates = torch.rand(size, 12, generator=g) < 0.8
    candidates[0], candidates[1] = False, True
    aligned = torch.stack(
        [torch.randint(a, b, (size, 12), generator=g) for a, b in ((5, 9), (14, 18), (30, 33))], -1
    )
    aligned[torch.rand(size, 12, generator=g) < 0.3] = -1
    aligned[2] = -1
    noise = torch.rand(size, 12, 2, generator=g, dtype=torch.float64)
    fill = torch.rand(size, 55, generator=g, dtype=torch.float64)
    tokens, patches = choose_aligned(aligned, candidates, noise, fill, rate)
    for b in range(size):
        row = (x[b].tolist() for x in (aligned, candidates, noise, fill))
        wanted = slow_choice(*row, rate)
        assert set(tokens[b].nonzero()[:, 0].tolist()) == wanted[0], b
        assert set(patches[b].nonzero()[:, 0].tolist()) == wanted[1], b
