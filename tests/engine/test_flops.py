"""The operations of a training step, counted, against a formula by hand."""

from __future__ import annotations

import pytest
import torch

from sparc_pretrain.engine import flops
from tests.models import TEXT, VISION, batch, pretrainer


def of_blocks(tokens: int, width: int, layers: int) -> float:
    """Multiplications and additions of a forward pass of transformer blocks: projections of
    attention (4 w^2) and MLP (8 w^2) for every token, and scores and sums over all pairs of tokens.
    """
    return layers * (2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width)


def test_the_operations_of_a_pair_are_those_of_the_formula():
    model, made = pretrainer(dict(type="Clip")), batch(6)
    patches = (32 // 8) ** 2
    length = made.mask[:2].sum(dim=1).max().item()  # of the two captions that are counted
    width, depth = VISION["overrides"]["embed_dim"], VISION["overrides"]["depth"]
    wanted = 2 * patches * 3 * 8 * 8 * width + of_blocks(patches, width, depth)
    wanted += of_blocks(length, TEXT["width"], TEXT["layers"])
    adapters = 2 * 16 * (2 * patches * width + length * width)  # at most: g_v, h_v, g_t
    found = flops.per_pair(model, made)
    assert 3 * 0.9 * wanted < found < 3 * 1.1 * (wanted + 2 * adapters)


def test_counting_changes_no_random_number_and_keeps_no_gradient():
    model, made = pretrainer(dict(type="Sparc")), batch(6)
    before = torch.get_rng_state()
    flops.per_pair(model.train(), made)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(weight.grad is None for weight in model.parameters())


def test_counting_compiles_nothing():
    model, made, compiled = pretrainer(dict(type="Clip")), batch(6), []

    def backend(graph, inputs):
        compiled.append(1)
        return graph.forward

    model.encoder.vision.compile(backend=backend)
    wanted = flops.per_pair(pretrainer(dict(type="Clip")), made)
    assert flops.per_pair(model, made) == pytest.approx(wanted) and not compiled


def test_the_rate_of_a_product_is_its_operations_over_its_time(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(flops.time, "perf_counter", lambda: float(next(clock)))
    assert flops.product_rate.__wrapped__("cpu", torch.float32, 32) == 2 * 32**3
