"""Learning rates step by step, as the Runner's schedulers give them."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from sparc_pretrain.pretraining.schedules import schedulers


def rates(steps: int, *arguments, **options) -> list[float]:
    """The rate of every step, from 1.0 at the top."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with DefaultScope.overwrite_default_scope("mmengine"):
        built = [
            PARAM_SCHEDULERS.build(phase, default_args={"optimizer": optimizer})
            for phase in schedulers(steps, *arguments, **options)
        ]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in built:
            scheduler.step()
    return found


def test_a_cosine_ends_at_zero() -> None:
    found = rates(20, 5)
    assert found[0] == pytest.approx(1e-3) and found[4] == pytest.approx(1.0)
    wanted = [(1 + math.cos(math.pi * n / 15)) / 2 for n in range(15)]
    assert found[5:] == pytest.approx(wanted)


def test_a_constant_rate_cools_down_in_the_last_steps_alone() -> None:
    found = rates(20, 4, "constant", cool_down=5)
    assert found[4:15] == pytest.approx([1.0] * 11)
    assert found[15:] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert rates(6, 0, "constant") == [1.0] * 6


def test_one_over_the_square_root_goes_on_from_the_warm_up_and_cools_down() -> None:
    found = rates(40, 8, "rsqrt")
    assert found[8:] == pytest.approx([math.sqrt(8 / (8 + n)) for n in range(32)])
    cooled = rates(40, 8, "rsqrt", cool_down=10)
    assert cooled[:30] == pytest.approx(found[:30])  # a longer training is the same until then
    assert cooled[-1] == pytest.approx(0.0) and cooled[33] < found[33]


def test_a_warm_up_of_two_steps_rises_and_may_end_where_the_cool_down_begins() -> None:
    assert rates(6, 2) == pytest.approx([1e-3, *rates(5, 1)])
    assert rates(5, 1)[0] == 1.0 and rates(5, 0)[0] == 1.0
    met = rates(10, 4, "constant", cool_down=6)
    assert max(met) == met[4] == pytest.approx(1.0) and met[-1] == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(shape="linear"), "use one of cosine, constant, rsqrt"),
        (dict(cool_down=3), "is for 'constant' and 'rsqrt'"),
        (dict(shape="constant", cool_down=8), "must fit into steps=10"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schedulers(10, 4, **options)
