"""MGCA's terms against slow loops in float64, their invariances, and what goes wrong in ports."""

from __future__ import annotations

import math

import pytest
import torch

from sparc_pretrain.objectives import mgca
from tests.objectives.loops import (
    cosine,
    dot,
    features,
    globals_,
    mix,
    nce,
    padded,
    pairs,
    slopes,
    softmax,
    surprise,
)


def alignment_by_loops(queries, attended, mask, scale):
    total = 0.0
    for q, o, m in zip(queries, attended, mask, strict=True):
        q, o = q[m].tolist(), o[m].tolist()
        for j in range(len(q)):
            there = surprise([scale * cosine(q[j], x) for x in o], j)
            back = surprise([scale * cosine(o[j], x) for x in q], j)
            total += (there + back) / 2 / len(q)
    return total / len(queries)


def sinkhorn_by_loops(scores, epsilon, iterations):
    """SwAV's code: Q [K][B], prototypes share the samples evenly, samples sum to 1."""
    q = [[math.exp(x / epsilon) for x in column] for column in zip(*scores, strict=True)]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        q = [[x / sum(row) / len(q) for x in row] for row in q]
        sums = [sum(column) for column in zip(*q, strict=True)]
        q = [[x / s / len(sums) for x, s in zip(row, sums, strict=True)] for row in q]
    return [[x / sum(column) for x in column] for column in zip(*q, strict=True)]


def prototypes_by_loops(image, text, prototypes, scale, epsilon=0.05, iterations=3, fixed=None):
    """`fixed`: the assignments of unmoved embeddings, through which no gradient flows."""
    tables = [[[cosine(z, c) for c in prototypes] for z in side] for side in (image, text)]
    targets = fixed or [sinkhorn_by_loops(t, epsilon, iterations) for t in tables]
    loss = 0.0
    for target, table in ((targets[0], tables[1]), (targets[1], tables[0])):
        for q, row in zip(target, table, strict=True):
            logits = [scale * s for s in row]
            loss += sum(share * surprise(logits, k) for k, share in enumerate(q))
    return loss / 2 / len(image)


def test_the_token_alignment_equals_slow_loops():
    queries, _, mask = pairs(patches=4)
    attended = pairs(seed=5)[1]
    found = mgca.token_alignment(queries, attended, mask, 6.0)
    assert found.item() == pytest.approx(alignment_by_loops(queries, attended, mask, 6.0))


def test_gradcheck_of_the_token_alignment():
    queries, attended, mask = pairs(batch=2, patches=4)
    queries.requires_grad_()
    attended.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, o: mgca.token_alignment(q, o, mask, 6.0), (queries, attended)
    )


def test_negatives_of_the_token_alignment_are_of_the_same_sample():
    queries, attended, mask = pairs(patches=4)
    alone = [
        mgca.token_alignment(queries[[i]], attended[[i]], mask[[i]], 6.0).item() for i in range(3)
    ]
    found = mgca.token_alignment(queries, attended, mask, 6.0).item()
    assert found == pytest.approx(sum(alone) / 3)


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.3, 1), (0.5, 5)])
def test_sinkhorn_equals_swavs_loops_and_balances(epsilon, iterations):
    scores = pairs(batch=1, tokens=6, width=4)[1][0].tanh()
    found = mgca.sinkhorn(scores, epsilon, iterations)
    wanted = sinkhorn_by_loops(scores.tolist(), epsilon, iterations)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(found.sum(1), torch.ones(6, dtype=torch.float64))
    even = mgca.sinkhorn(scores, epsilon, 300).sum(0)
    torch.testing.assert_close(even, torch.full((4,), 1.5, dtype=torch.float64), rtol=0.01, atol=0)


def test_the_prototype_loss_and_its_gradient_equal_slow_loops():
    image, text = globals_(4)
    prototypes = globals_(5, seed=7)[0].requires_grad_()
    image.requires_grad_()
    loss = mgca.prototype_loss(image, text, prototypes, 5.0)
    loss.backward()
    lists = [x.tolist() for x in (image, text, prototypes)]
    assert loss.item() == pytest.approx(prototypes_by_loops(*lists, 5.0), abs=1e-12)
    fixed = [
        sinkhorn_by_loops([[cosine(z, c) for c in lists[2]] for z in side], 0.05, 3)
        for side in lists[:2]
    ]
    places = [(0, 0), (1, 2), (3, 1)]
    for value, make in (
        (image, lambda x: (x.tolist(), *lists[1:])),
        (prototypes, lambda x: (*lists[:2], x.tolist())),
    ):
        wanted = slopes(
            lambda x, make=make: prototypes_by_loops(*make(x), 5.0, fixed=fixed), value, places
        )
        assert [value.grad[p].item() for p in places] == pytest.approx(wanted, abs=1e-7)


def test_a_tiny_epsilon_does_not_overflow():
    image, text = (x.float() for x in globals_(4))
    loss = mgca.prototype_loss(image, text, globals_(5, seed=7)[0].float(), 5.0, epsilon=1e-3)
    assert loss.isfinite()


def attend_by_loops(attention, queries, keys):
    """One head of scaled dot-product attention between projected queries and keys."""
    inner = attention.heads
    d = inner.embed_dim
    projections = zip(inner.in_proj_weight.split(d), inner.in_proj_bias.split(d), strict=True)
    (wq, bq), (wk, bk), (wv, bv) = ((w.tolist(), b.tolist()) for w, b in projections)

    def linear(weight, bias, x):
        return [dot(w, x) + b for w, b in zip(weight, bias, strict=True)]

    ks, vs = [linear(wk, bk, x) for x in keys], [linear(wv, bv, x) for x in keys]
    out = []
    for query in queries:
        q = linear(wq, bq, query)
        weights = softmax([dot(q, k) / math.sqrt(d) for k in ks])
        out.append(
            linear(inner.out_proj.weight.tolist(), inner.out_proj.bias.tolist(), mix(weights, vs))
        )
    return out


def test_all_three_losses_equal_slow_loops():
    torch.manual_seed(0)
    made, batch = features()
    objective = mgca.Mgca(width=3, local_width=2, prototypes=5).double()
    losses = {k: v.item() for k, v in objective(made, batch).items()}
    scales = [losses[k] for k in ("scale", "token_scale", "prototype_scale")]
    assert scales == pytest.approx([1 / 0.07, 10, 5], rel=1e-5)
    table = [[scales[0] * cosine(v, t) for t in made.text.tolist()] for v in made.image.tolist()]
    assert losses["instance_loss"] == pytest.approx(nce(table, table))
    lists = [x.tolist() for x in (made.image, made.text, objective.prototypes)]
    assert losses["prototype_loss"] == pytest.approx(prototypes_by_loops(*lists, scales[2]))
    with torch.no_grad():
        patches = objective.project_patches(made.patches)
        tokens = objective.project_tokens(made.tokens)
    wanted = 0.0
    for b in range(3):
        t, v = tokens[b][made.mask[b]], patches[b]
        for q, k, attention in (
            (t, v, objective.tokens_to_patches),
            (v, t, objective.patches_to_tokens),
        ):
            o = torch.tensor(attend_by_loops(attention, q.tolist(), k.tolist()), dtype=q.dtype)
            every = torch.ones(1, len(q), dtype=torch.bool)
            wanted += alignment_by_loops(q[None], o[None], every, scales[1]) / 2 / 3
    assert losses["token_loss"] == pytest.approx(wanted, rel=1e-12)


def test_padding_changes_no_term_and_gets_no_gradient():
    torch.manual_seed(0)
    made, batch = features()
    objective = mgca.Mgca(width=3, local_width=2, prototypes=5).double()
    before = objective(made, batch)
    made.tokens, made.mask = padded(made.tokens, made.mask)
    made.tokens.requires_grad_()
    after = objective(made, batch)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-10)
    after["token_loss"].backward()
    assert (made.tokens.grad[~made.mask] == 0).all() and (made.tokens.grad[0, 0] != 0).any()


def test_permuting_the_batch_changes_no_term():
    torch.manual_seed(0)
    made, batch = features()
    objective = mgca.Mgca(width=3, local_width=2, prototypes=5).double()
    before = objective(made, batch)
    order = torch.tensor([2, 0, 1])
    for name in ("image", "text", "patches", "tokens", "mask"):
        setattr(made, name, getattr(made, name)[order])
    for key, value in objective(made, batch).items():
        torch.testing.assert_close(value, before[key])


def test_a_caption_without_real_tokens_is_finite():
    made, batch = features()
    made.mask[1] = False
    losses = mgca.Mgca(width=3, local_width=2, prototypes=5).double()(made, batch)
    assert all(value.isfinite() for value in losses.values())


def test_every_parameter_is_learned():
    made, batch = features()
    objective = mgca.Mgca(width=3, local_width=2, prototypes=5).double()
    losses = objective(made, batch)
    sum(v for k, v in losses.items() if k.endswith("_loss")).backward()
    assert all(p.grad is not None for p in objective.parameters())
    temperatures = [p.grad for n, p in objective.named_parameters() if "temperature" in n]
    assert len(temperatures) == 3 and all(g != 0 for g in temperatures)
    assert mgca.Mgca(width=8).prototypes.shape == (500, 8)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="weights"):
        mgca.Mgca(width=3, token_weight=0)
