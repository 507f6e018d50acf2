"""Towers: shapes, padding, resizing, windows, and building again from a config."""

import pytest
import torch

from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower, resample_patch

TINY = dict(embed_dim=32, depth=4, num_heads=2)


@pytest.fixture
def vision():
    torch.manual_seed(0)
    return VisionTower("vit_tiny_patch16_224", 64, overrides=TINY).eval()


def test_patch_states_have_one_row_per_patch_and_no_class_token(vision):
    assert vision(torch.randn(2, 3, 64, 64)).shape == (2, 16, 32)
    assert vision(torch.randn(1, 3, 96, 32)).shape == (1, 12, 32)
    assert (vision.width, vision.patch, vision.depth) == (32, 16, 4)


def test_the_last_map_is_the_patch_states(vision):
    image = torch.randn(2, 3, 64, 96)
    first, last = vision.maps(image, (0, -1))
    assert first.shape == last.shape == (2, 32, 4, 6)
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), vision(image))


def test_one_window_over_the_whole_map_is_global_attention(vision):
    image = torch.randn(1, 3, 64, 64)
    (whole,), (windowed,) = vision.maps(image, (-1,)), vision.maps(image, (-1,), window=4)
    torch.testing.assert_close(windowed, whole)


def test_windows_do_not_see_each_other_and_global_blocks_do(vision):
    image = torch.randn(1, 3, 64, 64)
    changed = image.clone()
    changed[..., :32, :32] += 1  # the top left window of two by two patches
    (a,), (b,) = (vision.maps(x, (-1,), window=2) for x in (image, changed))
    torch.testing.assert_close(a[..., 2:, 2:], b[..., 2:, 2:])
    assert (a[..., :2, :2] - b[..., :2, :2]).abs().max() > 1e-3
    (a,), (b,) = (vision.maps(x, (-1,), window=2, global_blocks=(1,)) for x in (image, changed))
    assert (a[..., 2:, 2:] - b[..., 2:, 2:]).abs().max() > 1e-4


def test_windows_that_do_not_divide_the_map_are_padded(vision):
    (maps,) = vision.maps(torch.randn(1, 3, 80, 48), (-1,), window=4)
    assert maps.shape == (1, 32, 5, 3) and maps.isfinite().all()


def test_gradient_checkpointing_changes_nothing(vision):
    vision.train()
    image = torch.randn(2, 3, 64, 64)
    gradients = []
    for recompute in (False, True):
        vision.grad_checkpointing = recompute
        vision.zero_grad()
        vision(image).square().mean().backward()
        gradients.append([p.grad.clone() for p in vision.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_vision_tower_is_built_again_from_its_config(vision):
    again = VisionTower.from_config(vision.config())
    again.load_state_dict(vision.state_dict())
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again.eval()(image), vision(image))


def test_a_config_that_timm_would_build_differently_is_refused(vision):
    with pytest.raises(ValueError, match="width"):
        VisionTower.from_config({**vision.config(), "width": 48})


def test_an_unknown_arch_is_refused_with_near_names():
    with pytest.raises(ValueError, match="vit_tiny_patch16_224"):
        VisionTower("vit_tiny_patch17_224")


def test_out_of_range_maps_are_refused(vision):
    with pytest.raises(ValueError, match="4 blocks"):
        vision.maps(torch.randn(1, 3, 64, 64), (7,))


def test_patches_are_resampled_to_another_size():
    small = VisionTower("vit_tiny_patch16_224", 64, overrides={**TINY, "patch_size": 8})
    large = VisionTower("vit_tiny_patch16_224", 128, overrides=TINY)
    large.load_state_dict(resample_patch(small.state_dict(), 8, 16))
    constant = torch.ones(1, 3, 64, 64)
    torch.testing.assert_close(  # a constant image looks the same to both patch embeddings
        small.net.patch_embed(constant)[0, 0, 0],
        large.net.patch_embed(constant)[0, 0, 0],
        atol=1e-4,
        rtol=1e-3,
    )


@pytest.fixture
def text():
    torch.manual_seed(0)
    return TextTower(50, width=32, layers=2, heads=2, max_tokens=12).eval()


def test_padding_does_not_change_token_states_or_their_mean(text):
    ids = torch.randint(1, 50, (2, 5))
    mask = torch.ones(2, 5, dtype=torch.bool)
    longer = torch.cat([ids, torch.full((2, 4), 7)], 1)
    longer_mask = torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], 1)
    states, padded = text(ids, mask), text(longer, longer_mask)
    torch.testing.assert_close(padded[:, :5], states)
    torch.testing.assert_close(text.pool(padded, longer_mask), text.pool(states, mask))


def test_the_text_tower_is_bidirectional(text):
    ids = torch.randint(1, 50, (1, 6))
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 50
    mask = torch.ones(1, 6, dtype=torch.bool)
    assert (text(ids, mask)[0, 0] - text(changed, mask)[0, 0]).abs().max() > 1e-4


def test_captions_that_are_too_long_are_refused(text):
    with pytest.raises(ValueError, match="13 tokens"):
        text(torch.ones(1, 13, dtype=torch.long), torch.ones(1, 13, dtype=torch.bool))


def test_a_text_tower_is_built_again_from_its_config(text):
    again = TextTower.from_config(text.config())
    again.load_state_dict(text.state_dict())
    ids, mask = torch.randint(1, 50, (1, 6)), torch.ones(1, 6, dtype=torch.bool)
    torch.testing.assert_close(again.eval()(ids, mask), text(ids, mask))
    with pytest.raises(ValueError, match="causal"):
        TextTower.from_config({**text.config(), "causal": True})
