"""PACL against slow loops in float64, its invariances, and what goes wrong in ports."""

from __future__ import annotations

import pytest
import torch

from sparc_pretrain.objectives import pacl
from tests.objectives.loops import (
    cosine,
    dot,
    features,
    globals_,
    kept_sizes,
    mix,
    nce,
    pairs,
    slopes,
    softmax,
)


def unit(v):
    return [x / dot(v, v) ** 0.5 for x in v]


def by_loops(patches, text):
    """S of every image and caption, with the pooled vector written out."""
    table = []
    for image in patches.tolist():
        row = []
        for caption in text.tolist():
            weights = softmax([cosine(v, caption) for v in image])
            pooled = mix(weights, [unit(v) for v in image])
            row.append(dot(pooled, unit(caption)))
        table.append(row)
    return table


def test_the_similarity_equals_slow_loops_that_pool_the_vectors():
    patches, text = pairs()[0], globals_()[1]
    torch.testing.assert_close(
        pacl.patch_similarity(patches, text),
        torch.tensor(by_loops(patches, text), dtype=torch.float64),
    )


def test_gradcheck():
    patches, text = pairs(batch=2)[0].requires_grad_(), globals_(2)[1].requires_grad_()
    assert torch.autograd.gradcheck(pacl.patch_similarity, (patches, text))


def test_the_loss_and_its_gradient_equal_slow_loops():
    torch.manual_seed(0)
    made, batch = features()
    made.text.requires_grad_()
    objective = pacl.Pacl(width=3).double()
    loss = objective(made, batch)["local_loss"]
    loss.backward()
    scale = objective.temperature().item()
    skip, (first, _, second) = objective.embedder.skip, objective.embedder.body

    def linear(layer, x):
        rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        return [dot(w, x) + b for w, b in rows]

    def embed(v):
        inner = linear(second, [max(0.0, x) for x in linear(first, v)])
        return [a + b for a, b in zip(linear(skip, v), inner, strict=True)]

    vectors = [[embed(v) for v in image] for image in made.patches.tolist()]
    embedded = torch.tensor(vectors, dtype=torch.float64)

    def slow(text):
        table = [[scale * s for s in row] for row in by_loops(embedded, text)]
        return nce(table, table)

    assert loss.item() == pytest.approx(slow(made.text.detach()), abs=1e-12)
    places = [(0, 0), (1, 2), (2, 1)]
    assert [made.text.grad[p].item() for p in places] == pytest.approx(
        slopes(slow, made.text, places), abs=1e-6
    )
    assert objective.temperature.log_scale.grad != 0  # learned, not fixed
    assert all(p.grad is not None and (p.grad != 0).any() for p in objective.parameters())


def test_lengths_of_vectors_do_not_matter_and_the_pooled_vector_is_not_unit():
    patches, text = pairs()[0], globals_()[1]
    found = pacl.patch_similarity(patches, text)
    torch.testing.assert_close(pacl.patch_similarity(3 * patches, 0.1 * text), found)
    # two orthogonal patches pooled evenly are shorter than 1: cosine with their middle is below 1
    halves = torch.eye(2, dtype=torch.float64)[None]
    middle = torch.ones(1, 2, dtype=torch.float64)
    assert pacl.patch_similarity(halves, middle).item() == pytest.approx(0.5**0.5)


def test_permuting_images_patches_and_captions_permutes_the_similarity():
    patches, text = pairs()[0], globals_()[1]
    order, other = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    found = pacl.patch_similarity(patches[order][:, torch.randperm(5)], text[other])
    torch.testing.assert_close(found, pacl.patch_similarity(patches, text)[order][:, other])


def test_nothing_as_large_as_pairs_times_patches_times_width_is_made():
    patches, text = torch.randn(6, 7, 50, requires_grad=True), torch.randn(6, 50)
    sizes = kept_sizes(lambda: pacl.patch_similarity(patches, text))
    assert max(sizes) <= max(patches.numel(), 6 * 6 * 7)


def test_captions_are_read_as_a_whole_so_padding_plays_no_part():
    made, batch = features()
    objective = pacl.Pacl(width=3).double()
    loss = objective(made, batch)["local_loss"]
    made.tokens = torch.full_like(made.tokens, torch.nan)
    torch.testing.assert_close(objective(made, batch)["local_loss"], loss)


def test_the_model_is_read_through_the_embedder_in_float32():
    torch.manual_seed(0)
    made, _ = features()
    objective = pacl.Pacl(width=3)
    half = made.patches.bfloat16()
    embedded = objective.embedder(half.float())
    torch.testing.assert_close(objective.dense_patches(half), embedded)
    made.patches, made.text = half, made.text.float()
    wanted = pacl.patch_similarity(embedded, made.text)
    torch.testing.assert_close(objective.scores(made, made), wanted)
