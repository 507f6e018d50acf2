"""Towers: shapes, padding, resizing, windows, and building again from a config."""

import json

import pytest
import torch

from sparc_pretrain.towers.text import TextStyle, TextTower
from sparc_pretrain.towers.vision import VisionTower, resample_patch
from sparc_pretrain.towers.windows import windowed as attend_in_windows

TINY = dict(embed_dim=32, depth=4, num_heads=2)


@pytest.fixture
def vision():
    torch.manual_seed(0)
    return VisionTower("vit_tiny_patch16_224", 64, overrides=TINY).eval()


def test_patch_states_have_one_row_per_patch_and_no_class_token(vision):
    assert vision(torch.randn(2, 3, 64, 64)).shape == (2, 16, 32)
    assert vision(torch.randn(1, 3, 96, 32)).shape == (1, 12, 32)
    assert (vision.width, vision.patch, vision.depth) == (32, 16, 4)


def test_an_image_size_that_patches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="images of 100 px do not divide into patches of 16"):
        VisionTower("vit_tiny_patch16_224", 100, overrides=dict(depth=1))


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


def test_windows_that_do_not_divide_the_map_are_padded_with_zeros_at_the_right_and_bottom(vision):
    """ViTDet's windows by hand: each patch attends to those of its window, and to the padding."""
    block, (h, w, window) = vision.net.blocks[0], (5, 3, 4)
    x = torch.randn(2, h * w, 32)
    wanted = torch.empty_like(x)
    for one in range(2):
        normed = block.norm1(x[one]).reshape(h, w, 32)
        for top in (0, 4):
            cells = torch.zeros(window, window, 32)
            seen = normed[top : top + window]
            cells[: len(seen), :w] = seen
            told = block.attn(cells.reshape(1, window * window, 32))[0].reshape(window, window, 32)
            wanted[one].reshape(h, w, 32)[top : top + window] = told[: len(seen), :w]
    wanted = x + wanted
    wanted = wanted + block.mlp(block.norm2(wanted))
    torch.testing.assert_close(attend_in_windows(block, x, h, w, window), wanted)


@pytest.mark.parametrize("read", ["states", "maps"])
def test_gradient_checkpointing_computes_blocks_twice_and_changes_nothing(read):
    """Neither the gradients nor what is dropped at random; nothing is computed twice without."""
    torch.manual_seed(0)
    vision = VisionTower("vit_tiny_patch16_224", 64, drop_path_rate=0.5, overrides=TINY).train()
    image = torch.randn(2, 3, 64, 64)
    computed = []
    for block in vision.net.blocks:
        block.register_forward_pre_hook(lambda *_: computed.append(1))
    gradients, counts = [], []
    for recompute in (False, 1, True):
        vision.grad_checkpointing = recompute
        vision.zero_grad()
        computed.clear()
        torch.manual_seed(1)
        found = vision(image) if read == "states" else vision.maps(image, (-1,))[0]
        found.square().mean().backward()
        gradients.append([p.grad.clone() for p in vision.parameters() if p.grad is not None])
        counts.append(len(computed))
    assert counts == [vision.depth, vision.depth + 1, 2 * vision.depth]
    for plain, *recomputed in zip(*gradients, strict=True):
        assert all(torch.equal(plain, again) for again in recomputed)
    computed.clear()
    with torch.no_grad():
        vision(image)
    assert len(computed) == vision.depth


@pytest.mark.parametrize("registers", [0, 2])
def test_patches_are_dropped_in_training_and_never_from_a_map_or_a_run_folder(registers):
    """FLIP: a share of the patches is left out, class and register tokens never are."""
    torch.manual_seed(0)
    overrides = {**TINY, "class_token": registers > 0, "reg_tokens": registers}
    vision = VisionTower("vit_tiny_patch16_224", 64, overrides=overrides, patch_drop_rate=0.5)
    image = torch.randn(2, 3, 64, 64)
    vision.train()
    assert vision(image).shape == (2, 8, 32)
    assert vision(image, prefix=True).shape == (2, 8 + vision.prefix, 32)
    (trained,) = vision.maps(image, (-1,))
    states = vision.eval()(image)
    assert states.shape == (2, 16, 32)
    torch.testing.assert_close(trained.flatten(2).transpose(1, 2), states)
    again = VisionTower.from_config(vision.config()).train()
    assert "drop" not in json.dumps(vision.config()) and again(image).shape == (2, 16, 32)


def test_a_run_folder_of_before_that_says_what_its_training_dropped_is_read():
    config = VisionTower("vit_tiny_patch16_224", 64, overrides=TINY).config()
    old = {**config, "overrides": {**TINY, "patch_drop_rate": 0.5}}
    assert VisionTower.from_config(old).train()(torch.randn(1, 3, 64, 64)).shape == (1, 16, 32)


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
def registers():
    torch.manual_seed(0)
    overrides = dict(class_token=True, reg_tokens=2, global_pool="token", **TINY)
    return VisionTower("vit_tiny_patch16_224", 64, overrides=overrides).eval()


def test_class_and_register_tokens_come_first_and_are_not_patches(registers):
    image = torch.randn(2, 3, 64, 64)
    tokens = registers(image, prefix=True)
    assert tokens.shape == (2, 3 + 16, 32) and registers.prefix == 3
    assert torch.equal(registers(image), tokens[:, 3:])
    assert torch.equal(registers.pool(tokens), tokens[:, 0])
    assert registers.config()["pool"] == "cls"
    (last,) = registers.maps(image, (-1,))
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), tokens[:, 3:])


def test_an_average_never_counts_class_or_register_tokens():
    overrides = dict(class_token=True, reg_tokens=2, **TINY)
    tower = VisionTower("vit_tiny_patch16_224", 64, overrides=overrides).eval()
    tokens = tower(torch.randn(2, 3, 64, 64), prefix=True)
    torch.testing.assert_close(tower.pool(tokens), tokens[:, 3:].mean(dim=1))


def test_one_window_is_global_attention_for_class_and_register_tokens_too(registers):
    image = torch.randn(1, 3, 64, 64)
    (whole,), (windowed,) = (registers.maps(image, (-1,), window=w) for w in (0, 4))
    torch.testing.assert_close(windowed, whole)


def test_prefix_tokens_are_updated_by_the_mean_over_windows(registers):
    image = torch.randn(1, 3, 64, 64)
    x, (h, w), _ = registers._embed(image)
    block = registers.net.blocks[0]
    tokens, y = x[:, :3], x[:, 3:].reshape(1, 4, 4, 32)
    updates = []
    for row in (0, 2):
        for column in (0, 2):
            part = y[:, row : row + 2, column : column + 2].reshape(1, 4, 32)
            part = torch.cat([tokens, part], dim=1)
            updates.append(block.attn(block.norm1(part))[:, :3])
    wanted = tokens + sum(updates) / 4
    wanted = wanted + block.mlp(block.norm2(wanted))
    torch.testing.assert_close(attend_in_windows(block, x, h, w, 2)[:, :3], wanted)


def test_norm_epsilon_and_packed_swiglu_are_said_in_json():
    overrides = dict(norm_eps=1e-3, mlp_layer="swiglu_packed", act_layer="silu", **TINY)
    tower = VisionTower("vit_tiny_patch16_224", 64, overrides=overrides)
    assert tower.net.norm.eps == tower.net.blocks[1].norm2.eps == 1e-3
    assert type(tower.net.blocks[0].mlp).__name__ == "GluMlp"
    again = VisionTower.from_config(json.loads(json.dumps(tower.config())))
    again.load_state_dict(tower.state_dict())


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("beit_base_patch16_224", r"timm.models.beit\) is not a plain Vision Transformer"),
        ("vit_small_patch16_rope_mixed_224", "angles of its own"),
        ("eva02_enormous_patch14_clip_224", "EvaBlockPostNorm"),
    ],
)
def test_a_transformer_of_another_kind_is_refused(arch, words):
    with pytest.raises(ValueError, match=words), torch.device("meta"):
        VisionTower(arch)


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
    assert set(text.config()) == {*text.settings, "causal", "pool"}  # as older run folders have it
    with pytest.raises(ValueError, match="pool 'middle'"):
        TextTower.from_config({**text.config(), "pool": "middle"})


def styled(**style) -> TextTower:
    torch.manual_seed(0)
    tower = TextTower(50, width=32, layers=2, heads=2, max_tokens=8, style=TextStyle(**style))
    return tower.eval()


def test_a_causal_token_does_not_see_what_follows():
    tower = styled(causal=True, pool="argmax")
    ids = torch.randint(1, 50, (1, 6))
    changed = ids.clone()
    changed[0, 4] = (ids[0, 4] + 1) % 50
    mask = torch.ones(1, 6, dtype=torch.bool)
    a, b = tower(ids, mask), tower(changed, mask)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert (a[:, 4:] - b[:, 4:]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("style", "where"), [(dict(pool="argmax"), 3), (dict(pool="eos", eos_id=7), 1)]
)
def test_the_end_token_is_found_among_the_real_ones(style, where):
    tower = styled(causal=True, **style)
    ids = torch.tensor([[3, 7, 5, 40, 49]])
    mask = torch.tensor([[True, True, True, True, False]])
    states = tower(ids, mask)
    assert torch.equal(tower.pool(states, mask, ids), states[:, where])
    with pytest.raises(ValueError, match="needs the token ids"):
        tower.pool(states, mask)


def test_the_begin_token_is_pooled_and_padding_is_not_read_for_it():
    tower = styled(pool="first")
    ids = torch.tensor([[3, 7, 5, 40, 49]])
    mask = torch.tensor([[True, True, True, True, False]])
    states = tower(ids, mask)
    assert states.shape == (1, 5, 32)
    assert torch.equal(tower.pool(states, mask), states[:, 0])
    changed = tower(torch.tensor([[3, 7, 5, 40, 1]]), mask)
    torch.testing.assert_close(changed[:, 0], states[:, 0])
    assert tower.config()["pool"] == "first"


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_any_tower_can_be_read_from_left_to_right(pool):
    tower = styled(pool=pool)
    ids, mask = torch.randint(1, 50, (2, 6)), torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    whole = tower(ids, mask, causal=True)
    assert whole.shape == (2, 6, 32)
    for row, length in ((0, 6), (1, 4)):
        for end in range(1, length + 1):
            alone = tower(ids[row : row + 1, :end], mask[row : row + 1, :end], causal=True)
            torch.testing.assert_close(alone[0], whole[row, :end])
    assert (tower(ids, mask)[:, 0] - whole[:, 0]).abs().max() > 1e-4


def test_a_tower_that_reads_its_padding_always_has_its_length():
    tower = styled(pool="last", pad_id=1)
    ids = torch.tensor([[3, 4, 5], [6, 7, 30]])
    mask = torch.tensor([[True] * 3, [True, True, False]])
    padded = torch.tensor([[3, 4, 5, 1, 1, 1, 1, 1], [6, 7, 1, 1, 1, 1, 1, 1]])
    states = tower(ids, mask)
    assert states.shape == (2, 8, 32)
    torch.testing.assert_close(states, tower(padded, torch.ones_like(padded, dtype=torch.bool)))
    assert torch.equal(tower.pool(states, mask), states[:, -1])


@pytest.mark.parametrize("causal", [True, False])
def test_a_styled_text_tower_is_built_again_from_its_config(causal):
    tower = styled(causal=causal, pool="last", act="quick_gelu", norm_eps=1e-5, mlp_width=40)
    again = TextTower.from_config(json.loads(json.dumps(tower.config())))
    again.load_state_dict(tower.state_dict())
    ids, mask = torch.randint(1, 50, (1, 6)), torch.ones(1, 6, dtype=torch.bool)
    torch.testing.assert_close(again.eval()(ids, mask), tower(ids, mask))
    assert again.style == tower.style
    with pytest.raises(ValueError, match="eos_id"):
        TextStyle(pool="eos")


def test_patches_are_dropped_in_training_only_never_from_maps_and_no_config_says_so():
    torch.manual_seed(0)
    tower = VisionTower("vit_tiny_patch16_224", 64, overrides=TINY, patch_drop_rate=0.5).train()
    image = torch.randn(2, 3, 64, 64)
    assert tower(image).shape[1] == 8 and tower.eval()(image).shape[1] == 16
    maps = tower.maps(image, (0, 1))
    for found, wanted in zip(tower.train().maps(image, (0, 1)), maps, strict=True):
        assert found.shape[-2:] == (4, 4) and torch.equal(found, wanted)
    assert "patch_drop" not in str(tower.config())
    with pytest.raises(ValueError, match=r"belongs to training.*set vision\.patch_drop_rate"):
        VisionTower("vit_tiny_patch16_224", 64, overrides=dict(patch_drop_rate=0.5))


def test_only_arguments_of_an_architecture_are_overrides():
    for overrides, words in (
        (dict(checkpoint_path="x.pth"), "takes no 'checkpoint_path': allowed are"),
        (dict(dept=2), "did you mean 'depth'"),
        (dict(depth=True), "depth=True is no value"),
        (dict(depth=1 << 40), "is no value"),
        (dict(act_layer="os.system"), "is no value"),
        (dict(init_values=float("nan")), "is no value"),
    ):
        with pytest.raises(ValueError, match=words):
            VisionTower("vit_tiny_patch16_224", 64, overrides=overrides)
