"""SigLIP's loss against slow loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from sparc_pretrain.objectives import siglip
from tests.objectives.loops import cosine, features, globals_, slopes


def by_loops(image, text, scale, bias):
    total = 0.0
    for i, v in enumerate(image.tolist()):
        for j, t in enumerate(text.tolist()):
            sign = 1 if i == j else -1
            total += math.log(1 + math.exp(-sign * (scale * cosine(v, t) + bias)))
    return total / len(image)


def test_the_loss_and_its_gradient_equal_slow_loops():
    image, text = globals_(4)
    image.requires_grad_()
    loss = siglip.sigmoid_loss(image, text, 3.0, -2.0)
    loss.backward()
    assert loss.item() == pytest.approx(by_loops(image, text, 3.0, -2.0), abs=1e-12)
    places = [(0, 0), (2, 1), (3, 2)]
    wanted = slopes(lambda v: by_loops(v, text, 3.0, -2.0), image, places)
    assert [image.grad[p].item() for p in places] == pytest.approx(wanted, abs=1e-8)


def test_gradcheck_of_embeddings_scale_and_bias():
    image, text = (x.requires_grad_() for x in globals_())
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (3.0, -2.0))
    assert torch.autograd.gradcheck(siglip.sigmoid_loss, (image, text, scale, bias))


def test_permuting_the_batch_does_not_change_the_loss():
    image, text = globals_(4)
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(
        siglip.sigmoid_loss(image[order], text[order], 3.0, -2.0),
        siglip.sigmoid_loss(image, text, 3.0, -2.0),
    )
    assert siglip.sigmoid_loss(image[order], text, 3.0, -2.0) != siglip.sigmoid_loss(
        image, text, 3.0, -2.0
    )


def test_scale_and_bias_start_at_ten_and_minus_ten_and_are_learned():
    made, batch = features()
    objective = siglip.Siglip().double()
    losses = objective(made, batch)
    assert losses["scale"].item() == pytest.approx(10, rel=1e-6)
    assert losses["bias"].item() == -10
    losses["global_loss"].backward()
    assert objective.bias.grad != 0 and objective.temperature.log_scale.grad != 0


def test_the_scale_may_go_beyond_clips_bound_up_to_a_thousand():
    objective, (made, batch) = siglip.Siglip().double(), features()
    for log_scale, scale in ((math.log(500), 500), (9.0, 1000)):
        objective.temperature.log_scale.data.fill_(log_scale)
        assert objective(made, batch)["scale"].item() == pytest.approx(scale, rel=1e-6)
