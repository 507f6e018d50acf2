"""What a GPU is not waited for is told one step late, and nothing else changes."""

import pytest
import torch

from sparc_pretrain import step_before
from sparc_pretrain.engine.optim import GuardedOptimWrapper
from sparc_pretrain.step_before import StepBefore


def numbers(step: int) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(float(step)), f"of step {step}": torch.tensor(1.0)}


def test_on_a_cpu_the_numbers_are_those_of_the_step():
    told, given = StepBefore(), [numbers(1), numbers(2)]
    assert [told(one) for one in given] == given


def test_where_one_would_wait_they_are_those_of_the_step_before(monkeypatch):
    monkeypatch.setattr(step_before, "must_wait", lambda values: True)
    told = StepBefore()
    found = [told(numbers(step)) for step in (1, 2, 3)]
    assert [set(one) for one in found] == [{"loss", f"of step {n}"} for n in (1, 1, 2)]
    assert [one["loss"].item() for one in found] == [1.0, 1.0, 2.0]


def steps(gradients: list[float], fused: bool) -> tuple[GuardedOptimWrapper, list[int]]:
    """A weight after steps with these gradients, and the count that was told after each."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.2, fused=fused)
    wrapper, told = GuardedOptimWrapper(optimizer, max_norm=1.0), []
    for gradient in gradients:
        wrapper.update_params((weight * gradient).sum())
        told.append(wrapper.skipped_in_a_row)
    return wrapper, told


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_is_not_finite_is_as_if_it_had_not_been(bad, fused):
    found, told = steps([0.5, bad, bad, 3.0], fused)
    wanted, _ = steps([0.5, 3.0], fused)
    assert told == [0, 1, 2, 0]
    mine, theirs = (one.optimizer.param_groups[0]["params"][0] for one in (found, wanted))
    assert torch.equal(mine, theirs)
    states = [one.optimizer.state[w] for one, w in ((found, mine), (wanted, theirs))]
    for key in ("step", "exp_avg", "exp_avg_sq"):
        assert torch.equal(states[0][key], states[1][key]), key


def test_the_count_of_steps_that_were_skipped_comes_one_step_late_too(monkeypatch):
    monkeypatch.setattr(step_before, "must_wait", lambda values: True)
    assert steps([0.5, float("nan"), float("nan"), 3.0, 1.0], fused=True)[1] == [0, 0, 1, 2, 0]
