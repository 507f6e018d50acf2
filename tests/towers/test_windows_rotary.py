"""Windows of a tower with rotary positions."""

from __future__ import annotations

import pytest
import torch

from sparc_pretrain.towers.rotary import of_windows
from sparc_pretrain.towers.vision import VisionTower
from sparc_pretrain.towers.windows import windowed

SMALL = dict(embed_dim=32, depth=2, num_heads=2, patch_size=8)


def tower(arch: str) -> VisionTower:
    torch.manual_seed(0)
    made = VisionTower(arch, 64, overrides=SMALL)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return made.eval()


@pytest.mark.parametrize("arch", ["vit_small_patch16_dinov3", "eva02_base_patch14_224"])
def test_one_window_over_the_map_is_attention_over_the_map(arch: str) -> None:
    made, image = tower(arch), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (whole,) = made.maps(image, (-1,))
        (one,) = made.maps(image, (-1,), window=8)
        (four,) = made.maps(image, (-1,), window=4)
    torch.testing.assert_close(one, whole, atol=1e-4, rtol=1e-4)
    assert (four - whole).abs().max() > 1e-3


def test_each_window_has_the_angles_of_its_place() -> None:
    """Registers are not turned, so that attention to them depends on where a patch is."""
    made, (h, w, side) = tower("vit_small_patch16_dinov3"), (5, 6, 2)
    block, rope = made.net.blocks[0], made.net.rope.get_embed(shape=(h, w))
    found = of_windows(rope, h, w, side)
    grid = rope.unflatten(0, (h, w))
    assert found.shape[:2] == (9, 4)
    assert torch.equal(found[5], grid[2:4, 4:6].flatten(0, 1))
    assert torch.equal(found[6], grid[[4, 4]][:, 0:2].flatten(0, 1))  # beyond the last row
    x = torch.randn(2, made.prefix + h * w, 32)
    y = windowed(block, x, h, w, side, found)
    normed = block.norm1(x)
    window = normed[:, made.prefix :].unflatten(1, (h, w))[:, 2:4, 4:6].flatten(1, 2)
    alone = block.attn(torch.cat([normed[:, : made.prefix], window], 1), found[5])
    part = x[:, made.prefix :].unflatten(1, (h, w))[:, 2:4, 4:6].flatten(1, 2)
    expected = part + block.gamma_1 * alone[:, made.prefix :]
    expected = expected + block.gamma_2 * block.mlp(block.norm2(expected))
    told = y[:, made.prefix :].unflatten(1, (h, w))[:, 2:4, 4:6].flatten(1, 2)
    torch.testing.assert_close(told, expected, atol=1e-5, rtol=1e-5)


def test_a_window_larger_than_the_map_is_padded() -> None:
    made, image = tower("vit_small_patch16_dinov3"), torch.randn(1, 3, 40, 24)
    (found,) = made.maps(image, (-1,), window=7)
    assert found.shape == (1, 32, 5, 3) and found.isfinite().all()
