"""The local terms a few pairs at a time, with the gradient of a grouping written out: equal to the
formula line by line.
"""

import weakref

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparc_pretrain.objectives import chunked, grouping, sparc
from sparc_pretrain.objectives.contrastive import Temperature
from sparc_pretrain.types import Batch, Features


def made(pairs=6, tokens=5, patches=7, width=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    values = [
        torch.randn(pairs, n, width, generator=generator, dtype=dtype).requires_grad_()
        for n in (patches, tokens)
    ]
    lengths = torch.arange(pairs)[:, None] % tokens + 1
    return *values, torch.arange(tokens) < lengths


def features_of(patches, tokens, mask):
    empty = torch.zeros(len(mask), 0)
    parts = dict(image=empty, patch_states=empty, text=empty, token_states=empty)
    parts |= {name: empty for name in Features.__dataclass_fields__ if name == "words"}
    parts |= dict(mask=mask, special=torch.zeros_like(mask), patches=patches, tokens=tokens)
    ids = torch.arange(mask.numel()).view(mask.shape)
    keys = [str(i) for i in range(len(mask))]
    return Features(**parts), Batch(empty, ids, mask, parts["special"], keys)


@pytest.mark.parametrize("sigma", [0.0, 1 / 7, 0.5])
def test_the_written_out_gradient_of_a_grouping_is_that_of_finite_differences(sigma):
    patches, tokens, _ = made(pairs=2)

    def direction(tokens, patches):
        return chunked.GroupDirection.apply(tokens, patches, sigma, 1e-6)[0]

    assert torch.autograd.gradcheck(direction, (tokens, patches))


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(reduction="token"),
        dict(threshold=0.0),
        dict(threshold=0.4),
        dict(threshold=1.5),
        dict(detach=True),
        dict(alignment="softmax"),
    ],
    ids=str,
)
def test_the_loss_and_its_gradients_equal_the_formula_line_by_line(options, monkeypatch):
    monkeypatch.setattr(chunked, "CELLS", 2 * 5 * 11)  # two pairs at a time
    patches, tokens, mask = made()
    objective = sparc.Sparc(global_weight=0, local_weight=2.0, **options).double()
    found = objective(*features_of(patches, tokens, mask))["local_loss"]
    leaves = [patches, tokens, objective.temperature.log_scale]
    wanted = 2 * sparc.fine_grained_loss(patches, tokens, mask, objective.temperature(), **options)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    pairs = [torch.autograd.grad(3 * loss, leaves) for loss in (found, wanted)]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_a_row_without_preference_passes_no_gradient():
    patches, tokens, mask = made()
    with torch.no_grad():
        patches[0] = patches[0, :1]
    objective = sparc.Sparc(global_weight=0).double()
    objective(*features_of(patches, tokens, mask))["local_loss"].backward()
    assert patches.grad.isfinite().all() and not patches.grad[0].any()


def test_the_log_says_what_the_weights_of_the_formula_say(monkeypatch):
    monkeypatch.setattr(chunked, "CELLS", 1)  # one pair at a time
    patches, tokens, mask = made()
    log = sparc.Sparc()._local(*(f := features_of(patches, tokens, mask))[:1], patches, f[1], f[1])
    _, weights = grouping.group_patches(tokens, patches)
    kept = (weights > 0).double().mean(dim=-1)[mask].mean()
    entropy = torch.special.entr(weights).sum(dim=-1)[mask].mean()
    assert log["patches_kept"].item() == pytest.approx(kept.item())
    assert log["alignment_entropy"].item() == pytest.approx(entropy.item())


def test_memory_between_the_passes_is_that_of_the_gradients_at_any_batch():
    """What stays for the backward pass: one gradient of each input, no [B,T,P] and no [B,T,T]."""

    def kept(pairs):
        saved = []
        patches, tokens, mask = made(pairs)

        def pack(x):
            saved.append(weakref.ref(x))
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = sparc.Sparc(global_weight=0).double()(*features_of(patches, tokens, mask))
        alive = {x.data_ptr(): x.numel() for ref in saved if (x := ref()) is not None}
        assert loss and len(alive) < len(saved)
        return sum(alive.values()) - patches.numel() - tokens.numel()

    assert kept(32) == kept(4) < 10


def test_a_few_pairs_are_worked_on_at_a_time_and_groups_stay_whole():
    tokens, patches = torch.empty(64, 77, 512), torch.empty(64, 196, 512)
    assert chunked.pairs_at_a_time(tokens, patches) == 8
    assert chunked.pairs_at_a_time(tokens, patches, group=32) == 32
    assert chunked.pairs_at_a_time(torch.empty(1, 9999, 512), patches) == 1


def test_padding_of_longer_captions_elsewhere_in_the_batch_is_not_computed(monkeypatch):
    monkeypatch.setattr(chunked, "CELLS", 1)

    def work(mask):
        patches, tokens, _ = made()
        with FlopCounterMode(display=False) as counted:
            sparc.Sparc(global_weight=0).double()(*features_of(patches, tokens, mask))
        return counted.get_total_flops()

    _, _, mask = made()
    assert work(mask) < 0.7 * work(torch.ones_like(mask))


def test_without_gradients_none_are_made_and_a_second_backward_pass_is_refused():
    inputs = features_of(*made())
    objective = sparc.Sparc(global_weight=0).double()
    with torch.no_grad():
        assert not objective(*inputs)["local_loss"].requires_grad
    loss = objective(*inputs)["local_loss"]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run a second time"):
        loss.backward()


def test_a_frozen_side_gets_no_gradient_and_costs_none():
    patches, tokens, mask = made()
    scale = Temperature()().detach()

    def term(patches, mask, tokens, scale):
        return (scale * tokens[mask].sum(),)

    (loss,) = chunked.sum_over_pairs(term, [patches.detach()], [mask, tokens], [scale], 2)
    loss.backward()
    assert patches.grad is None and tokens.grad[mask].eq(scale).all()
