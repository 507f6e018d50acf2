"""Where position embeddings start."""

import math

import pytest
import torch

from sparc_pretrain.towers.vision import VisionTower

TINY = dict(embed_dim=32, depth=1, num_heads=2)


def tower(**more):
    torch.manual_seed(0)
    overrides = {**TINY, **more.pop("overrides", {})}
    return VisionTower("vit_tiny_patch16_224", 64, overrides=overrides, **more)


def codes(row, column, width):
    """Rows in the first half, columns in the second; in each, sines, then cosines."""
    numbers = []
    for place in (row, column):
        angles = [place / 10000 ** (4 * i / width) for i in range(width // 4)]
        numbers += [*map(math.sin, angles), *map(math.cos, angles)]
    return torch.tensor(numbers)


def test_sines_and_cosines_of_row_and_column():
    found = tower(pos_embed_init="sincos").net.pos_embed
    assert found.requires_grad and found.shape == (1, 16, 32)
    for place in range(16):
        torch.testing.assert_close(found[0, place], codes(place // 4, place % 4, 32))
    assert found.square().mean().sqrt().item() == pytest.approx(0.5**0.5, abs=1e-5)


def test_class_and_register_tokens_start_at_zero():
    found = tower(
        pos_embed_init="sincos", overrides=dict(class_token=True, reg_tokens=2)
    ).net.pos_embed
    prefix = found.shape[1] - 16
    assert not found[0, :prefix].any() and found[0, prefix:].any(dim=1).all()


def test_nothing_else_changes_and_no_run_folder_says_it():
    normal, sincos = tower(), tower(pos_embed_init="sincos")
    ours = sincos.state_dict()
    for name, weight in normal.state_dict().items():
        assert torch.equal(weight, ours[name]) == (name != "net.pos_embed"), name
    assert normal.config() == sincos.config()


@pytest.mark.parametrize(
    "more, words",
    [
        (dict(pos_embed_init="sin"), "none of"),
        (dict(pos_embed_init="sincos", overrides=dict(embed_dim=34)), "4 does not divide"),
        (dict(pos_embed_init="sincos", overrides=dict(pos_embed="none")), "no position embeddings"),
    ],
)
def test_what_cannot_be_is_refused(more, words):
    with pytest.raises(ValueError, match=words):
        tower(**more)
