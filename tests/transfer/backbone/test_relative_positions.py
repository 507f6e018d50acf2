"""Decomposed relative positions against loops in float64, and in a SparcViT."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from sparc_pretrain import run_folder
from tests.transfer.backbone.test_backbone import make_run
from transfer.backbone import SparcViT
from transfer.backbone.relative_positions import RelativePositions, between

VISION = dict(
    arch="vit_tiny_patch16_224",
    img_size=64,
    width=24,
    overrides=dict(embed_dim=24, depth=4, num_heads=2),
)


GLOBAL = (1, 3)


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """`module` with random tables."""
    for name, weight in module.named_parameters():
        if name.endswith(("rows", "columns")):
            torch.nn.init.normal_(weight)
    return module


def test_the_bias_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    positions = filled(RelativePositions(3, 4)).double()
    query = torch.randn(2, 2, 12, 3, dtype=torch.float64)
    found = positions(query, (3, 4))
    rows = torch.nn.functional.interpolate(positions.rows.T[None], 5, mode="linear")[0].T
    for i in range(12):
        for j in range(12):
            (y, x), (v, u) = divmod(i, 4), divmod(j, 4)
            expected = (
                query[:, :, i] @ rows[y - v + 2] + query[:, :, i] @ positions.columns[x - u + 3]
            )
            torch.testing.assert_close(found[:, :, i, j], expected)


def test_a_table_of_the_right_length_is_read_as_it_is() -> None:
    table = torch.arange(5.0)[:, None]
    assert between(table, 3)[..., 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


@pytest.mark.parametrize("window", [0, 2])
def test_a_tower_starts_as_it_was_and_its_attention_is_that_of_the_formula(window: int) -> None:
    torch.manual_seed(0)
    plain = SparcViT(vision=VISION, window=window, global_blocks=GLOBAL).eval()
    model = SparcViT(
        vision=VISION, window=window, global_blocks=GLOBAL, relative_positions=4
    ).eval()
    weights = {**model.state_dict(), **plain.state_dict()}
    model.load_state_dict(weights)
    image = torch.randn(1, 3, 48, 80)  # 3 x 5 patches, padded in windows
    torch.testing.assert_close(model(image)[0], plain(image)[0], atol=1e-5, rtol=1e-4)
    filled(model)
    assert not torch.allclose(model(image)[0], plain(image)[0], atol=1e-3)
    attention = model.tower.net.blocks[0].attn  # with windows: a local one
    grid = (2, 2) if window else (3, 5)
    first = model.tower.prefix
    count = first + grid[0] * grid[1]
    x = torch.randn(2, count, 24)
    q, k, v = attention.qkv(x).unflatten(2, (3, 2, 12)).permute(2, 0, 3, 1, 4)
    logits = q @ k.mT * 12**-0.5
    logits[:, :, first:, first:] += attention.relative(q[:, :, first:], grid)
    expected = attention.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-4)


def test_the_tables_learn_and_a_copy_has_its_own() -> None:
    model = SparcViT(vision=VISION, window=2, global_blocks=GLOBAL, relative_positions=4)
    twin = copy.deepcopy(model)  # as a moving average makes one
    filled(twin)
    model(torch.randn(1, 3, 64, 64))[0].square().sum().backward()
    names = [n for n, p in model.named_parameters() if ".attn.relative." in n]
    assert len(names) == 8
    for name in names:
        weight = model.get_parameter(name)
        assert weight.grad.abs().sum() > 0 and not weight.any(), name
        assert twin.get_parameter(name).any()


def test_a_run_without_them_is_taken_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    model = SparcViT(run=str(run), relative_positions=4)
    model.init_weights()
    for name, value in run_folder.open_run(run).weights("vision.").items():
        if "patch_embed" not in name:
            torch.testing.assert_close(model.tower.state_dict()[name], value)
