"""What a tower does not have to compute: padding of shorter captions, and convolutions that are
matrix products.
"""

from itertools import combinations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparc_pretrain.towers.lengths import caption_lengths, group_cost, length_groups
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower

LENGTHS = torch.tensor([3, 12, 4, 12, 3, 9, 2, 12])


def captions(lengths=LENGTHS):
    torch.manual_seed(1)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.randint(1, 50, mask.shape) * mask, mask


@pytest.fixture
def text():
    torch.manual_seed(0)
    return TextTower(50, width=32, layers=2, heads=2, max_tokens=16).double()


def test_no_other_cut_by_length_computes_fewer_tokens():
    ordered = LENGTHS.sort().values.tolist()
    for cost in (0, 2, 7, 40):
        best = min(
            sum((j - i) * ordered[j - 1] + cost for i, j in zip((0, *cut), (*cut, 8), strict=True))
            for parts in range(8)
            for cut in combinations(range(1, 8), parts)
        )
        groups = length_groups(LENGTHS, cost)
        assert sum(len(rows) * end + cost for rows, end in groups) == best
        assert torch.cat([rows for rows, _ in groups]).sort().values.tolist() == list(range(8))
        assert all(LENGTHS[rows].max() == end for rows, end in groups)


def test_captions_of_one_length_are_not_cut_and_an_empty_one_counts_as_one_token():
    assert [(len(rows), end) for rows, end in length_groups(torch.full((5,), 7), 0.0)] == [(5, 7)]
    assert [(len(rows), end) for rows, end in length_groups(torch.tensor([0, 0]), 0.0)] == [(2, 1)]


def test_a_length_ends_at_the_last_real_token_also_behind_a_hole():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    assert caption_lengths(mask).tolist() == [2, 3, 0]


def test_a_group_costs_a_wide_tower_fewer_tokens():
    assert group_cost(192) == 60 and group_cost(768) == 60 / 16


def test_grouped_captions_have_the_states_and_gradients_of_captions_read_alone(text, monkeypatch):
    monkeypatch.setattr("sparc_pretrain.towers.text.group_cost", lambda width: 1.0)
    ids, mask = captions()
    direction = torch.randn(8, 12, 32, dtype=torch.float64) * mask[..., None]
    (text(ids, mask) * direction).sum().backward()
    together = {name: weight.grad.clone() for name, weight in text.named_parameters()}
    states = text(ids, mask)
    text.zero_grad()
    for row, end in enumerate(LENGTHS.tolist()):
        alone = text(ids[row : row + 1, :end], mask[row : row + 1, :end])
        torch.testing.assert_close(states[row, :end], alone[0], rtol=1e-12, atol=1e-12)
        (alone * direction[row, :end]).sum().backward()
    for name, weight in text.named_parameters():
        torch.testing.assert_close(together[name], weight.grad, rtol=1e-10, atol=1e-12)


def test_the_padding_of_longer_captions_is_not_computed(text, monkeypatch):
    """Multiplications of one pass: those of the real tokens, when a group costs nothing."""
    monkeypatch.setattr("sparc_pretrain.towers.text.group_cost", lambda width: 0.0)
    ids, mask = captions()
    with FlopCounterMode(display=False) as grouped:
        text(ids, mask)
    alone = 0
    for row, end in enumerate(LENGTHS.tolist()):
        with FlopCounterMode(display=False) as one:
            text(ids[row : row + 1, :end], mask[row : row + 1, :end])
        alone += one.get_total_flops()
    assert grouped.get_total_flops() == alone


@pytest.mark.parametrize("causal", [False, True])
def test_plain_attention_on_a_cpu_equals_the_fused_one_in_float64(causal, monkeypatch):
    torch.manual_seed(0)
    style = dict(causal=causal)
    tower = TextTower(50, width=32, layers=2, heads=2, max_tokens=16, style=style).double()
    ids, mask = captions()
    plain = tower(ids, mask)
    monkeypatch.setattr("sparc_pretrain.towers.text.PLAIN", "sdpa")
    fused = tower(ids, mask)
    torch.testing.assert_close(plain[mask], fused[mask], rtol=1e-12, atol=1e-12)


def test_a_caption_without_a_real_token_has_finite_states_and_gradients(text):
    ids, mask = captions(torch.tensor([4, 0, 2]))
    text(ids, mask).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in text.parameters())


def test_patches_are_embedded_by_a_matrix_product_that_equals_the_convolution():
    torch.manual_seed(0)
    tower = VisionTower("vit_tiny_patch16_224", 64, overrides=dict(depth=1)).double()
    image = torch.randn(2, 3, 64, 32, dtype=torch.float64)
    with FlopCounterMode(display=False) as counted:
        patches = tower._patches(image)
    wanted = tower.net.patch_embed(image)
    torch.testing.assert_close(patches, wanted, rtol=1e-12, atol=1e-12)
    assert {str(op) for op in counted.get_flop_counts()["Global"]} == {"aten.addmm"}
