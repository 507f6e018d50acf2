"""CLIP's loss, the global term of the others too: gradients, invariances, how it is read."""

from __future__ import annotations

import pytest
import torch

from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.objectives.contrastive import info_nce
from tests.objectives.loops import cosine, features, globals_, nce, slopes


def by_loops(image, text, scale):
    table = [[scale * cosine(v, t) for t in text.tolist()] for v in image.tolist()]
    return nce(table, table)


def test_the_loss_and_its_gradient_equal_slow_loops():
    made, batch = features()
    made.image.requires_grad_()
    objective = Clip().double()
    loss = objective(made, batch)["global_loss"]
    loss.backward()
    scale = objective.temperature().item()
    assert loss.item() == pytest.approx(by_loops(made.image, made.text, scale), abs=1e-12)
    places = [(0, 0), (1, 2), (2, 1)]
    wanted = slopes(lambda v: by_loops(v, made.text, scale), made.image, places)
    assert [made.image.grad[p].item() for p in places] == pytest.approx(wanted, abs=1e-6)
    assert objective.temperature.log_scale.grad != 0


def test_gradcheck_of_embeddings_and_scale():
    image, text = (x.requires_grad_() for x in globals_())
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(info_nce, (image, text, scale))


def test_permuting_the_batch_does_not_change_the_loss():
    image, text = globals_(4)
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(info_nce(image[order], text[order], 3.0), info_nce(image, text, 3.0))
    assert info_nce(image[order], text, 3.0) != info_nce(image, text, 3.0)
