"""The contrast of a large batch in blocks over columns: equal to the whole matrix, which is never
there.
"""

import pytest
import torch

from sparc_pretrain.objectives.contrastive import info_nce
from sparc_pretrain.objectives.siglip import sigmoid_loss
from tests.objectives.loops import kept_sizes

SIZE, WIDTH = 40, 5


def made():
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(SIZE, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2)]
    values += [torch.tensor(9.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)]
    return [value.requires_grad_() for value in values]


LOSSES = {
    "info_nce": lambda image, text, scale, bias, block: info_nce(image, text, scale, block),
    "siglip": sigmoid_loss,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("block", [1, 7 * SIZE, SIZE * SIZE - 1])
def test_blocks_give_the_loss_and_the_gradients_of_the_whole_matrix(loss, block):
    image, text, scale, bias = made()
    found, wanted = (loss(image, text, scale, bias, limit) for limit in (block, SIZE * SIZE))
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    leaves = [image, text, scale, bias][: 4 if loss is sigmoid_loss else 3]
    both = [torch.autograd.grad(value, leaves) for value in (found, wanted)]
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_no_matrix_of_all_pairs_is_kept(loss):
    assert max(kept_sizes(lambda: loss(*made(), SIZE * SIZE))) == SIZE * SIZE
    assert max(kept_sizes(lambda: loss(*made(), 8 * SIZE))) < SIZE * SIZE / 4
