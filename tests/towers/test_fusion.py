"""FusionEncoder: what is hidden has no influence, and images are read once."""

import math

import pytest
import torch

from sparc_pretrain.towers.fusion import TAGS, FusionEncoder
from sparc_pretrain.towers.fusion_pairs import fuse
from sparc_pretrain.towers.regions import places_of


def fusion(mode: str = "cross", dropout: float = 0.1) -> FusionEncoder:
    torch.manual_seed(0)
    model = FusionEncoder(width=8, layers=2, heads=2, image_width=6, mode=mode, dropout=dropout)
    return model.double().eval()


def sides(texts: int = 3, images: int = 3) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    text, image = torch.randn(texts, 5, 8).double(), torch.randn(images, 7, 6).double()
    text_mask = torch.arange(5) < torch.tensor([5, 3, 2] * texts)[:texts, None]
    image_mask = torch.rand(texts, 7) < 0.6
    image_mask[:, 0] = True
    return text, text_mask, image, image_mask


@pytest.mark.parametrize("mode", ["cross", "joint"])
def test_what_is_hidden_has_no_influence_to_the_bit(mode):
    model, (text, text_mask, image, image_mask) = fusion(mode), sides()
    found, seen = model(text, text_mask, image, image_mask)
    text, image = text.clone(), image.clone()
    text[~text_mask], image[~image_mask] = 1e3, -1e3
    again, seen_again = model(text, text_mask, image, image_mask)
    assert torch.equal(found[text_mask], again[text_mask]) and found.shape == text.shape
    if mode == "joint":
        assert torch.equal(seen[image_mask], seen_again[image_mask])
    else:
        assert seen is None and seen_again is None


@pytest.mark.parametrize("mode", ["cross", "joint"])
def test_every_real_token_and_every_seen_patch_has_influence(mode):
    model, (text, text_mask, image, image_mask) = fusion(mode), sides()
    text, image = text.requires_grad_(), image.requires_grad_()
    model(text, text_mask, image, image_mask)[0][:, 0, 0].sum().backward()
    assert torch.equal(text.grad.abs().sum(dim=-1) > 0, text_mask)
    assert torch.equal(image.grad.abs().sum(dim=-1) > 0, image_mask)


def test_a_text_whose_image_is_hidden_adds_nothing_from_it():
    model, (text, text_mask, image, image_mask) = fusion(), sides()
    image_mask = torch.zeros_like(image_mask)
    found, _ = model(text, text_mask, image.fill_(torch.nan), image_mask)
    assert not found.isnan().any()
    for block in model.blocks:  # the same as no cross-attention at all
        block.cross.out.weight.data.zero_()
    assert torch.equal(found, model(text, text_mask, torch.zeros_like(image), image_mask)[0])


def test_an_image_is_read_once_for_all_its_texts():
    model, (text, text_mask, image, image_mask) = fusion(), sides(6, 2)
    owner = torch.tensor([0, 1, 1, 0, 0, 1])
    calls = []
    for block in model.blocks:
        block.cross.key.register_forward_hook(lambda *args: calls.append(args[2].shape[0]))
    shared, _ = model(text, text_mask, image, image_mask, owner)
    assert calls == [2, 2]
    apart, _ = model(text, text_mask, image[owner], image_mask)
    assert torch.allclose(shared, apart, atol=1e-12)
    read, _ = model(text, text_mask, model.read(image), image_mask, owner)
    assert torch.equal(shared, read)


@pytest.mark.parametrize("images", [6, 20])  # 20: most of them in no pair
@pytest.mark.parametrize("block", [1, 4, 5, 17, 256])
def test_pairs_of_tables_are_fused_as_each_by_itself_and_an_image_is_read_once_a_block(
    images, block, monkeypatch
):
    model, (text, text_mask, image, _) = fusion(), sides(4, images)
    text, image = text.requires_grad_(), image.requires_grad_()
    g = torch.Generator().manual_seed(2)
    cells = torch.rand(9, 7, generator=g) < 0.7
    of_text, of_image, of_cells = (torch.randint(0, n, (17,), generator=g) for n in (4, 6, 9))
    reads, real = [], model.read
    monkeypatch.setattr(model, "read", lambda x: (reads.append(len(x)), real(x))[1])
    tables = (text, text_mask, image, cells)
    found = fuse(model, *tables, of_text, of_image, of_cells, block)
    there = of_image.sort().values.split(block)
    all_of_them = images <= 17 <= block
    assert reads == ([images] if all_of_them else [len(set(part.tolist())) for part in there])
    alone = [
        model(*(x[n][None] for x, n in zip(tables, (t, t, i, c), strict=True)))[0]
        for t, i, c in zip(of_text, of_image, of_cells, strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-12)
    weight = torch.randn(found.shape, generator=g, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((one * weight).sum(), (text, image))
        for one in (found, torch.cat(alone))
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("mode", ["cross", "joint"])
def test_causal_words_do_not_see_what_follows_and_tags_see_no_word(mode):
    model, (text, _, image, image_mask) = fusion(mode), sides()
    mask = torch.ones(3, 5, dtype=torch.bool)
    segment = torch.tensor([[0, 0, 0, TAGS, TAGS]]).expand(3, -1) if mode == "joint" else None
    text = text.requires_grad_()
    found, _ = model(text, mask, image, image_mask, segment=segment, causal=True)
    words = 3 if mode == "joint" else 5
    for place in range(5):
        seen = torch.autograd.grad(found[:, place, 0].sum(), text, retain_graph=True)[0]
        seen = (seen.abs().sum(dim=(0, 2)) > 0).tolist()
        own = [k <= place for k in range(words)] if place < words else [False] * words
        assert seen == own + [True] * (5 - words)


def test_cross_weights_are_those_of_the_last_layer():
    model, (text, text_mask, image, image_mask) = fusion(dropout=0.0), sides()
    weights = model.cross_weights(text, text_mask, image, image_mask)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(3, 5).double())
    assert not weights[~image_mask[:, None].expand_as(weights)].any()
    last = model.blocks[-1]
    inside = {}
    last.cross.query.register_forward_hook(lambda m, x, y: inside.update(query=y))
    last.cross.key.register_forward_hook(lambda m, x, y: inside.update(key=y))
    model(text, text_mask, image, image_mask)
    slow = torch.zeros(3, 5, 7, dtype=torch.float64)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        score = inside["query"][..., part] @ inside["key"][..., part].transpose(1, 2) / 2
        slow += score.masked_fill(~image_mask[:, None], -torch.inf).softmax(dim=-1) / 2
    assert torch.allclose(weights, slow, atol=1e-12)


def test_another_mode_and_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="mode 'late'"):
        FusionEncoder(width=8, layers=1, heads=2, image_width=8, mode="late")
    with pytest.raises(ValueError, match="3 heads do not divide the width 8"):
        FusionEncoder(width=8, layers=1, heads=3, image_width=8)


def test_weights_start_as_wide_as_berts_at_its_width_and_wider_below():
    for width in (96, 768):
        made = FusionEncoder(width=width, layers=1, heads=2, image_width=width)
        spread = made.blocks[0].cross.key.weight.std().item()
        assert spread == pytest.approx(0.02 * (768 / width) ** 0.5, rel=0.1)


def test_places_tell_equal_patches_apart_and_are_of_square_images_read_by_texts():
    text, text_mask, *_ = sides(2, 2)
    image = torch.ones(2, 16, 8).double()
    first, last = (torch.arange(16).expand(2, -1) == n for n in (0, 15))
    for places in (False, True):
        torch.manual_seed(0)
        made = FusionEncoder(8, 2, 2, 8, places=places).double().eval()
        found = [made(text, text_mask, image, seen)[0] for seen in (first, last)]
        assert torch.equal(*found) != places
    code = places_of(image)
    x, y = 3, 2  # frequencies 1 and 1/100, as in MAE
    wanted = [f(at * w) for at in (x, y) for f in (math.sin, math.cos) for w in (1, 0.01)]
    assert sorted(code[y * 4 + x].tolist()) == pytest.approx(sorted(wanted), abs=1e-6)
    with pytest.raises(ValueError, match="places are of mode 'cross'"):
        FusionEncoder(8, 1, 2, None, mode="joint", places=True)
